"""What every sampler is put through: targets with exact draws, and chains that start from them.

A target is a loss for `oracles.run_sampler`, a way to draw from its posterior exactly, and the
distribution function of each coordinate.
"""

from typing import NamedTuple

import numpy as np
import torch
from oracles import VectorLoss, cross_loss, dkw_bound, normals, quadratic_loss
from scipy import stats

from llc.checkpoints import Keeper
from llc.posterior import LocalPosterior
from llc.sampling import Schedule, sample
from llc.sampling.threads import intra_op_threads
from llc.streams import Stream

FALSE_FAIL = 1e-6
MANY = 4000  # independent chains
NBETA, GAMMA = 10.0, 1.0


class Target(NamedTuple):
    loss: VectorLoss
    start: torch.Tensor  # (MANY, d), exact draws
    distributions: list  # of each coordinate: a function


def gaussian():
    """U = ½ Σ aᵢwᵢ², a = 10h + 1."""
    curvatures = [1.0, 0.1, 0.0]
    precisions = [NBETA * h + GAMMA for h in curvatures]
    scales = torch.tensor(precisions, dtype=torch.float64).rsqrt()
    laws = [stats.norm(scale=float(s)).cdf for s in scales]
    return Target(quadratic_loss(curvatures), normals(MANY, 3, seed=11) * scales, laws)


def skewed():
    """U = Σ 10(e^w − w − 1) + w²/2: steep on one side; drawn by inverting its distribution."""
    loss = VectorLoss(2, lambda w: (w.exp() - w - 1).sum(-1), lambda w: w.exp() - 1)
    grid = np.linspace(-6, 3, 200_001)
    density = np.exp(-NBETA * (np.exp(grid) - grid - 1) - GAMMA / 2 * grid**2)
    mass = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    mass /= mass[-1]
    uniform = torch.rand(MANY, 2, generator=torch.Generator().manual_seed(12), dtype=torch.float64)
    start = torch.from_numpy(np.interp(uniform.numpy(), mass, grid))

    def law(values):
        return np.interp(values, grid, mass)

    return Target(loss, start, [law, law])


def cross_draws(count=MANY, seed=1):
    """Exact draws of exp(−nβ w₁²w₂² − γ‖w‖²/2).

    Given w₁, w₂ is normal of precision 2nβw₁² + γ; w₁ has density ∝ N(0, 1/γ)·(2nβw₁² + γ)^−½,
    drawn by rejection from N(0, 1/γ).
    """
    source = torch.Generator().manual_seed(seed)
    first = torch.randn(15 * count, generator=source, dtype=torch.float64) / GAMMA**0.5
    keep = torch.rand(15 * count, generator=source, dtype=torch.float64)
    first = first[keep < (GAMMA / (2 * NBETA * first**2 + GAMMA)).sqrt()][:count]
    assert len(first) == count
    second = torch.randn(count, generator=source, dtype=torch.float64)
    second /= (2 * NBETA * first**2 + GAMMA).sqrt()
    return torch.stack([first, second], dim=1)


def run(build, loss, *, steps, chains=MANY, start=None, seed=0, nbeta=NBETA, gamma=GAMMA, **rest):
    """Chains around zero, on all data unless `batch_size` is given."""
    zero = {
        name: torch.zeros(1, *shape, dtype=torch.float64) for name, shape in loss.shapes.items()
    }
    with intra_op_threads(1):  # all chains in one group: some tests give all of them a state
        return sample(
            LocalPosterior.around(loss, zero, nbeta, gamma, chains),
            build,
            Schedule(steps, rest.pop("batch_size", loss.num_examples), **rest),
            [Stream(seed, chain) for chain in range(chains)],
            start=None if start is None else {"w": start},
        )


def assert_invariant(build, target, steps):
    """Chains that start from exact draws, and move, still are exact draws `steps` steps later."""
    last = run(build, target.loss, steps=steps, start=target.start).last["w"]
    assert (last - target.start).square().mean() > 0.1 * target.start.square().mean()
    for column, law in enumerate(target.distributions):
        distance = stats.kstest(last[:, column].numpy(), law).statistic
        assert distance < dkw_bound(MANY, FALSE_FAIL)


def assert_cross_invariant(build, steps):
    """The same for the singular w₁²w₂², whose arms no linear scale fits."""
    start = cross_draws()
    last = run(build, cross_loss(), steps=steps, start=start).last["w"]
    assert (last - start).square().mean() > 0.01
    fresh = cross_draws(seed=2)
    for column in (0, 1):
        distance = stats.ks_2samp(last[:, column].numpy(), fresh[:, column].numpy()).statistic
        assert distance < 2 * dkw_bound(MANY, FALSE_FAIL / 2)


class StoppedError(Exception):
    pass


class Stopping(Keeper):
    """Writes after every block, and stops at the one that is told."""

    def __init__(self, path, blocks):
        super().__init__(path, period=0)
        self.blocks = blocks

    def pausing(self):
        return True

    def tick(self):
        super().tick()
        self.blocks -= 1
        if not self.blocks:
            raise StoppedError

"""What the samplers on minibatches share in their tests: one network, and their steps replayed.

The replays are written for one chain in plain algebra, with gradients by autograd.
"""

import torch
from oracles import normals

from llc.models.activations import TANH
from llc.models.mlp import MLPLoss, apply, init
from llc.params import stack, unstack
from llc.posterior import LocalPosterior
from llc.sampling import Schedule, sample
from llc.streams import NormalSource, ShuffledBatches, Stream

WIDTHS, N, CHAINS, NBETA, GAMMA = (3, 4, 2), 20, 3, 6.0, 2.0
STEPS, BATCH = 6, 5
ROUNDING = {"rtol": 1e-9, "atol": 1e-10}
STREAMS = [Stream(7, chain) for chain in range(CHAINS)]


def problem(gamma=GAMMA):
    """A tanh network around a point that is no minimum: its posterior, and ∇L_B of a vector w."""
    source = torch.Generator().manual_seed(0)
    centre = init(WIDTHS, source, torch.float64)
    inputs, targets = normals(N, 3), normals(N, 2, seed=1)
    loss = MLPLoss(inputs, targets, WIDTHS, TANH)
    posterior = LocalPosterior.around(loss, stack([centre]), NBETA, gamma, CHAINS)

    def gradient(w, rows):
        w = w.detach().clone().requires_grad_()
        parts = w.split([leaf.numel() for leaf in centre.values()])
        params = {n: p.view_as(centre[n]) for n, p in zip(centre, parts, strict=True)}
        value = (apply(params, inputs[rows], TANH) - targets[rows]).square().mean()
        return torch.autograd.grad(value, w)[0]

    return posterior, gradient


def vector(params):
    return torch.cat([leaf.flatten() for leaf in params.values()])


def replayed(posterior, size=BATCH, steps=STEPS):
    """The noise (C, K, d) and the batches (K, C, B) that `run` will use."""
    source = NormalSource(STREAMS, posterior.layout.size, steps, posterior.centre.flat)
    noise = source.draw(steps)[:, :, : posterior.layout.size].clone()
    if size == N:
        return noise, torch.arange(N).expand(steps, CHAINS, N)
    return noise, ShuffledBatches(STREAMS, N, size, noise.device).draw(steps).long()


def run(posterior, build, size=BATCH, steps=STEPS):
    return sample(posterior, build, Schedule(steps, size), STREAMS)


def silent(build):
    """The same sampler without noise (its shift stays)."""

    def make(posterior):
        sampler = build(posterior)
        return sampler._replace(noise=sampler.noise._replace(scale=0.0))

    return make


def assert_replay(build, step, *, gamma=GAMMA, size=BATCH):
    """`step(memory, w, ξ, g)` -> (memory, w') of one chain leads where the sampler does.

    g(w) is ∇L_B(w) on the step's batch; the memory is None at first.
    """
    posterior, gradient = problem(gamma)
    noise, indices = replayed(posterior, size)
    last = run(posterior, build, size).last
    for chain in range(CHAINS):
        w, memory = vector(unstack(posterior.centre.leaves, chain)), None
        for k in range(STEPS):
            rows = indices[k, chain]
            memory, w = step(memory, w, noise[chain, k], lambda at, r=rows: gradient(at, r))
        torch.testing.assert_close(vector(unstack(last, chain)), w, **ROUNDING)


def assert_like_optimiser(build, make, *, gamma=GAMMA):
    """Without noise the sampler does what the `torch.optim` optimiser `make(parameters)` does.

    The optimiser descends on L_n + (γ/2nβ)‖w − w*‖².
    """
    posterior, gradient = problem(gamma)
    last = run(posterior, silent(build), N).last
    centre = vector(unstack(posterior.centre.leaves, 0))
    w = centre.clone()
    optimiser = make([w])
    for _ in range(STEPS):
        w.grad = gradient(w, slice(None)) + gamma / NBETA * (w - centre)
        optimiser.step()
    torch.testing.assert_close(vector(unstack(last, 0)), w, **ROUNDING)

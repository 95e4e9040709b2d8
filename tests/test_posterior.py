"""U and ∇U of a stack of chains, against autograd."""

import pytest
import torch
from oracles import normals, quadratic_loss

from llc.models import mlp
from llc.models.mlp import MLPLoss
from llc.params import select, stack, unstack
from llc.posterior import LocalPosterior

WIDTHS, N = (3, 4, 2), 19
ROUNDING = {"rtol": 1e-11, "atol": 1e-12}


def problem(targets=1):
    source = torch.Generator().manual_seed(0)
    centres = stack([mlp.init(WIDTHS, source, torch.float64) for _ in range(2)])
    inputs, answers = normals(N, 3), normals(targets, N, 2, seed=1)
    return centres, inputs, answers, MLPLoss(inputs, answers if targets > 1 else answers[0], WIDTHS)


def potential(params, centre, inputs, targets, nbeta, gamma):
    loss = (mlp.apply(params, inputs) - targets).square().mean()
    pull = sum((params[name] - centre[name]).square().sum() for name in centre)
    return nbeta * loss + gamma / 2 * pull


def test_chains_stand_in_a_row_around_each_centre():
    centres, _, _, loss = problem()
    posterior = LocalPosterior.around(loss, centres, 10.0, 1.0, chains=3)
    assert posterior.chains == 6
    for chain in range(6):
        own = unstack(centres, chain // 3)
        got = unstack(posterior.centre.leaves, chain)
        assert all(torch.equal(own[name], got[name]) for name in own)
    expected = loss.full_data(centres).repeat_interleave(3)
    torch.testing.assert_close(posterior.centre_loss, expected, rtol=0, atol=0)
    posterior.centre.flat.zero_()
    assert all(leaf.abs().sum() > 0 for leaf in centres.values())  # a copy


@pytest.mark.parametrize("batch", [None, 5])
@pytest.mark.parametrize("part", [slice(0, 6), slice(1, 3), slice(3, 6)])
def test_evaluation_is_the_potential_and_its_gradient(part, batch):
    centres, inputs, answers, loss = problem()
    nbeta, gamma = 7.0, 3.0
    whole = LocalPosterior.around(loss, centres, nbeta, gamma, chains=3)
    posterior = whole.select(part)
    chains = range(6)[part]
    here = {name: normals(6, *shape, seed=4) for name, shape in loss.shapes.items()}
    weights = posterior.layout.pack(select(here, part))
    batches = posterior.block(2)
    indices = None
    if batch:
        source = torch.Generator().manual_seed(2)
        indices = torch.randint(N, (2, len(chains), batch), generator=source, dtype=torch.int32)
    batches.load(2, indices)
    before = weights.flat.clone(), posterior.centre.flat.clone()
    got = posterior.evaluate(batches, 1, weights)
    assert torch.equal(weights.flat, before[0])
    assert torch.equal(posterior.centre.flat, before[1])
    for row, chain in enumerate(chains):
        rows = slice(None) if indices is None else indices[1, row].long()
        data = inputs[rows], answers[0, rows]
        own, centre = unstack(here, chain), unstack(centres, chain // 3)
        own = {name: leaf.clone().requires_grad_() for name, leaf in own.items()}
        value = potential(own, centre, *data, nbeta, gamma)
        grads = torch.autograd.grad(value, list(own.values()))
        torch.testing.assert_close(got.potential[row], value.detach(), **ROUNDING)
        loss_here = potential(own, centre, *data, 1.0, 0.0).detach()
        torch.testing.assert_close(got.loss[row], loss_here, **ROUNDING)
        base = potential(centre, centre, *data, 1.0, 0.0)
        torch.testing.assert_close(got.baseline[row], base, **ROUNDING)
        for leaf, grad in zip(got.grad.leaves.values(), grads, strict=True):
            torch.testing.assert_close(leaf[row], grad, **ROUNDING)


def test_each_centre_may_have_targets_of_its_own():
    """`loss` with one set of targets a centre: baselines and L_n(w*) are those of the centre."""
    centres, _, answers, loss = problem(targets=2)
    posterior = LocalPosterior.around(loss, centres, 1.0, 1.0, chains=3)
    assert posterior.chains == 6
    expected = [
        MLPLoss(loss.inputs, answers[c // 3], WIDTHS).full_data(
            select(centres, slice(c // 3, c // 3 + 1))
        )
        for c in range(6)
    ]
    torch.testing.assert_close(posterior.centre_loss, torch.cat(expected), **ROUNDING)
    batches = posterior.block(1)
    batches.load(1, None)
    torch.testing.assert_close(batches.baselines()[0], torch.cat(expected), **ROUNDING)


def test_scale_of_the_parts():
    loss = quadratic_loss([2.0, 0.0])
    zero = {"w": torch.zeros(1, 2, dtype=torch.float64)}
    posterior = LocalPosterior.around(loss, zero, 5.0, 3.0)
    batches = posterior.block(1)
    batches.load(1, None)
    weights = posterior.layout.pack({"w": torch.tensor([[1.0, 2.0]], dtype=torch.float64)})
    got = posterior.evaluate(batches, 0, weights)
    assert float(got.potential) == 5 * 1 + 1.5 * 5
    assert got.grad.flat.tolist() == [5 * 2 + 3, 6]

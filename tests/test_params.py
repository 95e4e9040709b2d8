"""Stacks of parameter sets."""

import pytest
import torch
from oracles import normals

from llc.params import (
    Layout,
    count,
    repeat,
    select,
    squared_distance,
    stack,
    to,
    unstack,
)  # fmt: skip

SHAPES = {"a": (2, 3), "b": (4,), "c": ()}


def some_params(chains, seed=0):
    return {
        name: normals(chains, *shape, seed=seed + i)
        for i, (name, shape) in enumerate(SHAPES.items())
    }


def test_pack_copies_and_its_leaves_are_contiguous_views_of_the_buffer():
    params = some_params(3)
    packed = Layout(SHAPES, 3).pack(params)
    before = {name: leaf.clone() for name, leaf in params.items()}
    for name, leaf in packed.leaves.items():
        torch.testing.assert_close(leaf, params[name], rtol=0, atol=0)
        assert leaf.is_contiguous()
        assert leaf.untyped_storage().data_ptr() == packed.flat.untyped_storage().data_ptr()
    packed.flat.zero_()
    assert all(not leaf.any() for leaf in packed.leaves.values())
    assert all(torch.equal(params[name], before[name]) for name in params)


def test_sizes():
    layout = Layout(SHAPES, 5)
    assert count(SHAPES) == layout.size == 11
    assert layout.total == 55
    views = layout.views(torch.zeros(7, 55))
    assert {name: view.shape for name, view in views.items()} == {
        name: (7, 5, *shape) for name, shape in SHAPES.items()
    }


@pytest.mark.parametrize("shifted", [True, False])
def test_scatter_moves_chain_major_rows_into_every_leaf(shifted):
    chains, steps = 3, 4
    layout = Layout(SHAPES, chains)
    rows = normals(chains, steps, layout.size + 5)  # padding is ignored
    shift = normals(layout.total, seed=9) if shifted else None
    out = torch.full((steps, layout.total), torch.nan, dtype=torch.float64)
    layout.scatter(rows, out, shift, 0.5)
    for k in range(steps):
        leaves = layout.views(out[k])
        base = (
            layout.views(shift) if shifted else {n: torch.zeros_like(v) for n, v in leaves.items()}
        )
        for c in range(chains):
            got = torch.cat([leaves[n][c].flatten() - base[n][c].flatten() for n in SHAPES])
            torch.testing.assert_close(got, 0.5 * rows[c, k, : layout.size], rtol=0, atol=1e-15)


@pytest.mark.parametrize("sets", [1, 3])
def test_rows_may_come_part_by_part_around_shared_or_own_sets(sets):
    chains, steps = 3, 2
    layout = Layout(SHAPES, chains)
    rows, shift = normals(chains, steps, layout.size), normals(sets * layout.size, seed=9)
    whole, parts = torch.zeros(2, steps, layout.total, dtype=torch.float64)
    same = Layout(SHAPES, sets).views(shift)
    own = layout.pack({name: leaf.expand(chains, *leaf.shape[1:]) for name, leaf in same.items()})
    layout.scatter(rows, whole, 0.3 * own.flat, 0.5)
    for group in (slice(0, 2), slice(2, 3)):
        for first in range(0, layout.size, 4):
            few = rows[group, :, first : first + 4]
            layout.scatter(few, parts, shift, 0.5, 0.3, group, first)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-15)


def test_a_stack_that_lies_in_one_buffer_is_not_copied():
    layout = Layout(SHAPES, 1)
    own = layout.pack(some_params(1))
    assert layout.packed(own.leaves).flat.data_ptr() == own.flat.data_ptr()
    views = {name: leaf[0][None] for name, leaf in own.leaves.items()}
    assert torch.equal(layout.packed(views).flat, own.flat)
    assert layout.packed(views).flat.data_ptr() == own.flat.data_ptr()
    parted = some_params(1)
    turned = dict(reversed(own.leaves.items()))
    for params in (parted, {**own.leaves, "b": own.leaves["b"].clone()}, turned):
        assert torch.equal(layout.packed(params).flat, layout.pack(params).flat)
    assert layout.packed(parted).flat.data_ptr() != next(iter(parted.values())).data_ptr()


def test_stack_unstack_select_repeat():
    sets = [unstack(some_params(4), i) for i in range(4)]
    whole = stack(sets)
    for i, one in enumerate(sets):
        assert all(torch.equal(unstack(whole, i)[name], one[name]) for name in SHAPES)
    assert all(torch.equal(select(whole, slice(1, 3))[n], whole[n][1:3]) for n in SHAPES)
    twice = repeat(whole, 2)
    assert all(
        torch.equal(twice[n][2 * i + j], whole[n][i])
        for n in SHAPES
        for i in range(4)
        for j in (0, 1)
    )
    assert to(whole, "cpu", torch.float32)["a"].dtype == torch.float32


def test_squared_distance_is_the_norm_and_leaves_its_arguments_alone():
    params, centre = some_params(3), some_params(3, seed=20)
    before = {name: leaf.clone() for name, leaf in params.items()}
    expected = [sum((params[n][c] - centre[n][c]).square().sum() for n in SHAPES) for c in range(3)]
    torch.testing.assert_close(squared_distance(params, centre), torch.stack(expected))
    assert all(torch.equal(params[name], before[name]) for name in params)
    ahead = {name: torch.stack([leaf, leaf + 1]) for name, leaf in params.items()}
    assert squared_distance(ahead, centre).shape == (2, 3)

"""Random streams: independent of how the work was cut, and uniform."""

import itertools

import pytest
import torch
from scipy.stats import chi2, norm

from llc.streams import PURPOSES, NormalSource, ShuffledBatches, Stream, derived_seed, generator

CPU = torch.device("cpu")
FALSE_FAIL = 1e-6


def batches(n, size, chains=(0,), seed=3):
    return ShuffledBatches([Stream(seed, chain) for chain in chains], n, size, CPU)


def test_streams_differ_by_seed_chain_phase_and_purpose_and_repeat():
    names = [Stream(s, c, p) for s, c, p in itertools.product((0, 1), (0, 1), (0, 1))]
    heads = [
        tuple(torch.rand(4, generator=generator(name, purpose), dtype=torch.float64).tolist())
        for name in names
        for purpose in PURPOSES
    ]
    assert len(set(heads)) == len(heads)
    again = torch.rand(4, generator=generator(names[0], PURPOSES[0]), dtype=torch.float64)
    assert tuple(again.tolist()) == heads[0]


def test_derived_seeds_are_distinct_and_repeat():
    seeds = [derived_seed(seed, index) for seed in (0, 1, 42) for index in range(0, 20_001, 50)]
    assert len(set(seeds)) == len(seeds)
    assert seeds[1] == derived_seed(0, 50)
    generator(Stream(seeds[0]), "noise")  # any of them names a stream


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 3, 16, 17, 100, 1001])
def test_normals_do_not_depend_on_block_lengths_or_on_the_stack(size, dtype):
    like = torch.empty(0, dtype=dtype)
    streams = [Stream(5, chain) for chain in (4, 0, 2)]
    whole = NormalSource(streams, size, 12, like).draw(12).clone()
    cut = NormalSource(streams, size, 7, like)
    pieces = torch.cat([cut.draw(k).clone() for k in (5, 7)], dim=1)
    alone = NormalSource(streams[2:], size, 12, like).draw(12)
    assert torch.equal(whole[..., :size], pieces[..., :size])
    assert torch.equal(whole[2, :, :size], alone[0, :, :size])
    assert not torch.equal(whole[0, :, :size], whole[1, :, :size])


@pytest.mark.parametrize("size", [100, 1001])
def test_normals_of_a_step_in_parts_are_the_same(size, monkeypatch):
    streams = [Stream(5, chain) for chain in range(3)]
    whole = NormalSource(streams, size, 4, torch.empty(0)).draw(4)
    monkeypatch.setattr("llc.streams.PART", 256)
    cut = NormalSource(streams, size, 1, torch.empty(0))
    assert cut.rows.numel() <= 256
    pieces = torch.cat([cut.draw(1) for _ in range(4)], dim=1)
    assert torch.equal(whole[..., :size], pieces[..., :size])


@pytest.mark.parametrize(("steps", "part"), [(4, 2**19), (1, 2**19), (1, 512), (1, 256)])
def test_a_stream_that_comes_again_is_the_same(steps, part, monkeypatch):
    """In one group of chains or in several, over and over again."""
    monkeypatch.setattr("llc.streams.PART", part)
    one, two = Stream(5, 0), Stream(5, 1)
    several = [one, two, one, two, two]
    source, alone = (
        NormalSource(streams, 200, steps, torch.empty(0)) for streams in (several, [one, two])
    )
    for _ in range(3):
        found, expected = source.draw(steps), alone.draw(steps)
        for row, stream in zip(found, several, strict=True):
            assert torch.equal(row, expected[stream.chain])


def test_normals_are_standard_normal():
    draws = NormalSource([Stream(1)], 1000, 100, torch.empty(0)).draw(100)[..., :1000].double()
    n = draws.numel()
    # Five-sigma bounds on mean, variance and fourth moment: false-fail below 2e-6.
    assert abs(draws.mean()) < 5 / n**0.5
    assert abs(draws.var() - 1) < 5 * (2 / n) ** 0.5
    assert abs(draws.pow(4).mean() - 3) < 5 * (96 / n) ** 0.5


@pytest.mark.parametrize(("n", "size"), [(2, 1), (7, 2), (10, 10), (16, 4), (17, 5), (1000, 33)])
def test_an_epoch_visits_every_index_at_most_once_and_drops_the_last_partial_batch(n, size):
    chains, epochs, length = 3, 4, n // size
    source = batches(n, size, range(chains))
    drawn = source.draw(epochs * length).view(epochs, length, chains, size)
    assert int(drawn.min()) >= 0
    assert int(drawn.max()) < n
    for epoch, chain in itertools.product(range(epochs), range(chains)):
        assert len(drawn[epoch, :, chain].unique()) == length * size


@pytest.mark.parametrize(("n", "size"), [(7, 2), (40, 4), (1000, 33)])
def test_batches_do_not_depend_on_draw_lengths_or_on_the_stack(n, size):
    whole = batches(n, size, (0, 1, 2)).draw(60)
    for lengths in ([1] * 60, [25, 35], [n // size] * (60 // (n // size)), [59, 1]):
        source = batches(n, size, (0, 1, 2))
        pieces = torch.cat([source.draw(k) for k in lengths])
        assert torch.equal(pieces, whole[: len(pieces)])
    assert torch.equal(batches(n, size, (2,)).draw(60)[:, 0], whole[:, 2])
    swapped = batches(n, size, (2, 0)).draw(60)
    assert torch.equal(swapped, whole[:, [2, 0]])


def test_batches_go_on_from_a_state_inside_an_epoch():
    source, other = batches(40, 4, (0, 1)), batches(40, 4, (0, 1))
    source.draw(13)
    state = source.state()
    other.draw(2)
    other.restore(state)
    assert torch.equal(other.draw(30), source.draw(30))


def test_epochs_and_chains_differ():
    drawn = batches(1000, 100, (0, 1)).draw(20)
    orders = [tuple(part.flatten().tolist()) for c in (0, 1) for part in drawn[:, c].split(10)]
    assert len(set(orders)) == 4


@pytest.mark.parametrize(("n", "size"), [(10, 3), (17, 4)])
def test_every_index_is_equally_often_in_each_place_of_an_epoch(n, size):
    epochs, length = 20_000, n // size
    drawn = batches(n, size).draw(epochs * length)[:, 0]
    places = drawn.view(epochs, length * size)
    # Epochs are independent, so that each place is a multinomial sample: the chi-square
    # statistic over n−1 degrees of freedom; a Bonferroni share of FALSE_FAIL a place.
    threshold = chi2.isf(FALSE_FAIL / places.shape[1], n - 1)
    for place in places.T:
        counts = torch.bincount(place, minlength=n).double()
        assert ((counts - epochs / n).square() / (epochs / n)).sum() < threshold


@pytest.mark.parametrize(("n", "size", "bias"), [(10, 3, 0.04), (100, 10, 0.0)])
def test_pairs_meet_in_a_batch_equally_often(n, size, bias):
    """Four rounds on a tiny grid are only nearly uniform in pairs: 4 % at n = 10, nil at 100."""
    epochs, length = 20_000, n // size
    drawn = batches(n, size).draw(epochs * length)[:, 0].long()
    meetings = torch.zeros(n * n, dtype=torch.float64)
    for i, j in itertools.combinations(range(size), 2):
        low, high = torch.minimum(drawn[:, i], drawn[:, j]), torch.maximum(drawn[:, i], drawn[:, j])
        meetings += torch.bincount(low * n + high, minlength=n * n)
    pairs = n * (n - 1) // 2
    expected = epochs * length * size * (size - 1) / 2 / pairs
    counts = meetings.view(n, n)[torch.ones(n, n).triu(1).bool()]
    # A pair meets at most once an epoch: binomial, at most Poisson, over independent epochs.
    # Bonferroni over the pairs at FALSE_FAIL, normal approximation at counts above a thousand.
    z = norm.isf(FALSE_FAIL / (2 * pairs))
    assert (counts / expected - 1).abs().max() < bias + z * (1 / expected) ** 0.5


def test_memory_of_an_epoch_grows_with_the_root_of_n():
    source = batches(10**6, 500)
    source.draw(100)
    assert source.tables.shape == (1, 1, 4, 1000)
    source.draw(4000)  # two epochs further
    assert source.tables.shape[1] <= 3

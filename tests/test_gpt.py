"""The small GPT is causal, blind to padding, and runs under `vmap`; its text is what it says."""

import math

import pytest
import torch
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from llc.config import TrainingConfig
from llc.data.text import as_text, proverbs
from llc.library.selection import select_free
from llc.models.gpt import Attention, gpt
from llc.streams import Stream, generator
from llc.training import train_classifier

VOCABULARY, CONTEXT = 11, 12
# One rounding is 1e-16 of numbers of size one; there are some thousand in an output.
ROUNDING = {"rtol": 1e-9, "atol": 1e-12}


def model(**more):
    made = gpt(VOCABULARY, CONTEXT, generator(Stream(3), "model"), width=8, heads=2, **more)
    for leaf in made.parameters():
        leaf.data.mul_(10)  # far from the start, where attention is nearly uniform
    return made.double()


def tokens(count=5, length=CONTEXT, seed=0):
    source = torch.Generator().manual_seed(seed)
    return torch.randint(VOCABULARY, (count, length), generator=source)


def test_the_future_changes_nothing():
    net, here = model(), tokens()
    there = here.clone()
    there[:, 7] = (there[:, 7] + 1) % VOCABULARY
    one, two = net(here), net(there)
    assert torch.equal(one[:, :7], two[:, :7])
    assert not torch.equal(one[:, 7:], two[:, 7:])


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(side):
    net, here = model(), tokens(length=8)
    room = (4, 0) if side == "left" else (0, 4)
    own = slice(4, None) if side == "left" else slice(0, 8)
    padded = torch.nn.functional.pad(here, room, value=3)
    mask = torch.nn.functional.pad(torch.ones_like(here), room)
    outputs = net(padded, mask)
    torch.testing.assert_close(outputs[:, own], net(here), **ROUNDING)
    assert outputs.isfinite().all()


def test_attention_is_pytorchs():
    net = Attention(8, 2).double()
    hidden = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    maps = net.maps.weight.view(3, 2, 4, 8)
    query, key, value = torch.einsum("btw,khdw->kbhtd", hidden, maps)
    mixed = scaled_dot_product_attention(query, key, value, is_causal=True)
    bias = torch.full((6, 6), -math.inf, dtype=torch.float64).triu(1)
    expected = net.out(mixed.transpose(1, 2).flatten(2))
    torch.testing.assert_close(net(hidden, bias), expected, **ROUNDING)


def test_vmap_takes_the_gradients_of_several_chains():
    net, here = model(), tokens()
    own = dict(net.named_parameters())
    stack = {name: torch.stack([leaf, 1.1 * leaf]).detach() for name, leaf in own.items()}

    def loss(weights):
        logits = functional_call(net, weights, (here,))
        return cross_entropy(logits[:, :-1].flatten(0, 1), here[:, 1:].flatten())

    together = vmap(grad(loss))(stack)
    for chain in range(2):
        alone = grad(loss)({name: leaf[chain] for name, leaf in stack.items()})
        for name, leaf in alone.items():
            torch.testing.assert_close(together[name][chain], leaf, **ROUNDING)


def test_the_head_may_be_the_embedding():
    untied, tied = model(), model(tied=True)
    assert tied.head.weight is tied.embed.weight
    sizes = [sum(leaf.numel() for leaf in net.parameters()) for net in (untied, tied)]
    assert sizes[0] - sizes[1] == VOCABULARY * 8


def test_a_head_is_what_silences_it():
    """The parameters of a head at zero, the others do not see it any more: no gradient is left."""
    net, here = model(), tokens()
    free = select_free(net, net.head_of(1, 1))
    assert sum(len(index) for index in free.values()) == 4 * 8 * 4
    for name, index in free.items():
        dict(net.named_parameters())[name].data.view(-1)[index] = 0
    net(here).square().sum().backward()
    maps = net.blocks[1].attention.maps.weight.grad.view(3, 2, 4, 8)
    out = net.blocks[1].attention.out.weight.grad.view(8, 2, 4)
    assert not maps[:, 1].any()
    assert maps[:, 0].any()
    assert not out[:, 1].any()
    assert out[:, 0].any()


def test_the_width_is_shared_evenly():
    with pytest.raises(ValueError, match="width=8: must be a multiple of heads=3"):
        gpt(VOCABULARY, CONTEXT, generator(Stream(0), "model"), width=8, heads=3)


def test_proverbs():
    text = proverbs()
    verses = text.decode(text.tokens).replace("\n\n", "\n").splitlines()
    assert len(verses) == 915  # in 31 chapters
    assert verses[9] == "My son, if sinners entice thee, consent thou not."
    assert (len(text.tokens), text.vocabulary) == (80_001, 60)


def test_windows_lie_side_by_side():
    text = as_text("abcab")
    assert text.decode(text.encode("cab")) == "cab"
    assert text.windows(2)["input_ids"].tolist() == [[0, 1], [2, 0]]
    assert text.windows(3, stride=1)["input_ids"].tolist() == [[0, 1, 2], [1, 2, 0], [2, 0, 1]]
    with pytest.raises(ValueError, match="length=6: must be within 1 and 5"):
        text.windows(6)
    with pytest.raises(ValueError, match="'d', which is not among the characters"):
        text.encode("bad")


def test_it_learns_by_the_loop_that_trains_classifiers():
    """A text that repeats itself: after some steps hardly anything is left to guess."""
    windows = as_text("to and fro, " * 40).windows(CONTEXT + 1, stride=5)["input_ids"]
    net = gpt(VOCABULARY, CONTEXT, generator(Stream(0), "model"), width=16, depth=1, heads=2)
    config = TrainingConfig("adam", 0.01, None, batch_size=20, num_steps=150)
    every = train_classifier(net, windows[:, :-1], windows[:, 1:], config, Stream(0), every=150)
    first, last = (point.losses for point in every)
    assert not len(first)
    assert last[0] == pytest.approx(math.log(VOCABULARY), rel=0.05)
    assert last[-10:].mean() < 0.3

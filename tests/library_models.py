"""Models and data that users of the library bring, small ones."""

import torch
from torch import nn

SMALL = {"num_draws": 40, "epsilon": 1e-4, "companions": False, "progress": False}
EXAMPLES, INPUTS, CLASSES = 60, 5, 3
# Stacks of another size multiply the same numbers in another order: each step rounds differently,
# by some 1e-16 of what it adds, and 40 steps at ε·a < 1 do not amplify that.
ROUNDING = {"rtol": 1e-9, "atol": 1e-12}


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def numbers(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=source(seed), dtype=dtype)


def data(count=EXAMPLES, dtype=torch.float32):
    labels = torch.randint(CLASSES, (count,), generator=source(1))
    return numbers(count, INPUTS, seed=2, dtype=dtype), labels


def filled(module, seed=3, dtype=torch.float32):
    """`module` with parameters that do not depend on torch's global generator."""
    moves = source(seed)
    for leaf in module.parameters():
        leaf.data.copy_(torch.randn(leaf.shape, generator=moves) / 2)
    return module.to(dtype)


def classifier(dtype=torch.float32):
    layers = nn.Linear(INPUTS, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.5)
    return filled(nn.Sequential(*layers, nn.Linear(6, CLASSES)), dtype=dtype)


class TiedLanguageModel(nn.Module):
    """Averages the embeddings so far; its head is its embedding, under a second name."""

    def __init__(self, vocabulary=7, width=4):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.middle = nn.Linear(width, width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        hidden = self.embed(tokens).cumsum(1)
        counts = torch.arange(1, tokens.shape[1] + 1, device=tokens.device).view(1, -1, 1)
        return self.head(torch.tanh(self.middle(hidden / counts)))


def excess(result):
    """L(w) − L(w*) on each draw's batch, in float64."""
    return (result.trace.loss - result.trace.baseline).double()


def everything_of(module):
    """All that a caller could find changed."""
    return {
        "bytes": [leaf.detach().clone() for leaf in module.state_dict().values()],
        "places": [leaf.data_ptr() for leaf in module.state_dict().values()],
        "strides": [leaf.stride() for leaf in module.parameters()],
        "grads": [None if leaf.grad is None else leaf.grad.clone() for leaf in module.parameters()],
        "requires": [leaf.requires_grad for leaf in module.parameters()],
        "training": [part.training for part in module.modules()],
        "hooks": [
            list(hooks.items())
            for part in module.modules()
            for hooks in (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks)
        ],
        "attributes": [sorted(vars(part)) for part in module.modules()],
    }


def assert_same(before, after):
    for key in before:
        assert len(before[key]) == len(after[key])
        for one, other in zip(before[key], after[key], strict=True):
            same = torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
            assert same, key

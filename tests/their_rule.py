"""What devinterp and canonical-interp do at a step, in plain PyTorch, and problems to do it on."""

import math
from functools import partial

import numpy as np
import torch
from library_models import CLASSES, INPUTS, data, filled, source
from scipy import stats
from torch import nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

NBETA, RATE, PULL = 300.0, 1e-2, 4.0  # ε·a of some tenths: a chain forgets in tens of steps
CHAINS, STEPS, BATCH = 12, 600, 20
VOCABULARY, SEQUENCES = 5, 60
PAIRS = data()
TOKENS = torch.randint(VOCABULARY, (SEQUENCES, 6), generator=source(4))


def linear():
    return filled(nn.Linear(INPUTS, CLASSES))


def loader(batch_size=BATCH):
    return DataLoader(TensorDataset(*PAIRS), batch_size=batch_size)


class Bigrams(nn.Module):
    """Logits of the next token by the last."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, VOCABULARY)
        self.bias = nn.Parameter(torch.zeros(VOCABULARY))

    def forward(self, input_ids):
        return self.table(input_ids) + self.bias


def bigrams():
    return filled(Bigrams())


def sequences():
    return [{"input_ids": row.tolist()} for row in TOKENS]


def losses_of_tokens(model, input_ids):
    """(B, T − 1) as devinterp wants it."""
    logits = model(input_ids)[:, :-1]
    return cross_entropy(logits.transpose(1, 2), input_ids[:, 1:], reduction="none")


def of_tokens(model, rows):
    return losses_of_tokens(model, TOKENS[rows]).mean()


def of_classes(model, rows):
    inputs, labels = PAIRS
    return cross_entropy(model(inputs[rows]), labels[rows])


def by_their_rule(
    model, batch_loss, examples, *, kept_out=0, moving=None, sharing=1, rate=RATE, rmsprop=False
):
    """(CHAINS,) nβ(mean L_B(w_t) − L(w*)), with the update that both document:

    Δw = −(lr/2) G (nβ ∇L_B(w) + γ(w − w*)) + √(lr G) ξ.

    batch_loss: (model, indices (B,)) -> the batch's mean. moving: 1 where a parameter moves, 0
    elsewhere. sharing: so many chains see the same batches, and only their mean is returned.
    rmsprop: G is devinterp's 1/(0.1 + √V), V ← 0.99 V + 0.01 g²; without it 1.
    """

    def loss_at(params, rows):
        return batch_loss(partial(functional_call, model, params), rows)

    gradient = vmap(grad_and_value(loss_at))
    centre = {name: leaf.detach() for name, leaf in model.named_parameters()}
    initial = float(loss_at(centre, torch.arange(examples)))
    draws, chains = source(), CHAINS * sharing
    weights = {name: leaf.expand(chains, *leaf.shape).clone() for name, leaf in centre.items()}
    squares = {name: torch.zeros_like(leaf) for name, leaf in weights.items()}
    losses, batches = [], []
    for _ in range(STEPS):
        if not batches:  # whole epochs, over which the noise of L_B(w*) cancels
            orders = [torch.randperm(examples, generator=draws) for _ in range(CHAINS)]
            batches = list(torch.stack(orders).repeat_interleave(sharing, 0).split(BATCH, 1))
        grads, values = gradient(weights, batches.pop())
        losses.append(values)
        for name, leaf in weights.items():
            squares[name] = 0.99 * squares[name] + 0.01 * grads[name] ** 2
            scale = 1 / (0.1 + squares[name].sqrt()) if rmsprop else torch.ones(())
            drift = scale * (NBETA * grads[name] + PULL * (leaf - centre[name]))
            noise = scale.sqrt() * torch.randn(leaf.shape, generator=draws)
            mask = 1.0 if moving is None else moving[name]
            weights[name] = leaf + mask * (-rate / 2 * drift + math.sqrt(rate) * noise)
    llcs = NBETA * (torch.stack(losses[kept_out:]).mean(0) - initial)
    return llcs.view(CHAINS, sharing).mean(1).numpy()


def assert_same_mean(one, other):
    """Of independent numbers: Welch's test, which fails once in a million times by chance."""
    low, high = stats.ttest_ind(one, other, equal_var=False).confidence_interval(1 - 1e-6)
    assert low < 0 < high
    assert high - low < abs(np.mean(other))  # else it could not have failed

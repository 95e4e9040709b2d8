"""Losses of plain modules against autograd on the module itself, chain by chain."""

import threading
from contextlib import nullcontext
from copy import deepcopy

import pytest
import torch
from oracles import normals
from torch import nn
from torch.nn.functional import cross_entropy

import llc.models.modules
from llc.config import SGLDConfig
from llc.data import load_images
from llc.estimate import estimate_one
from llc.models.image_mlp import image_mlp
from llc.models.modules import ModuleLoss, evaluate, predict, weights_of
from llc.models.resnet import resnet18
from llc.params import Layout, select, stack, unstack
from llc.posterior import LocalPosterior
from llc.samplers.sgld import sgld
from llc.sampling import Schedule, sample
from llc.streams import Stream

ROUNDING = {"rtol": 1e-9, "atol": 1e-11}  # float64 through twenty layers
CHAINS, STEPS, EXAMPLES, CLASSES, SIDE = 3, 4, 11, 10, 8


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def make_module(kind, dtype=torch.float64):
    """A network in training mode whose BatchNorm has running statistics of its own."""
    if kind == "mlp":
        return image_mlp([6, 5], source(), CLASSES, 3 * SIDE**2).to(dtype)
    module = resnet18(2, source(), CLASSES).to(dtype)
    module(normals(20, 3, SIDE, SIDE, seed=8).to(dtype))
    return module


def make_data(kind):
    inputs = normals(EXAMPLES, 3, SIDE, SIDE, seed=1)
    if kind == "soft":
        return inputs, normals(EXAMPLES, CLASSES, seed=2).softmax(1)
    return inputs, torch.randint(CLASSES, (EXAMPLES,), generator=source(2))


def points(module, count, seed):
    """Networks around `module`."""
    centre = weights_of(module)
    moves = source(seed)
    return stack(
        [
            {
                name: leaf + 0.1 * torch.randn(leaf.shape, generator=moves, dtype=leaf.dtype)
                for name, leaf in centre.items()
            }
            for _ in range(count)
        ]
    )


def draw_indices(which):
    if which == "all":
        return None
    shape = {"own": (STEPS, CHAINS, 7), "shared": (STEPS, 1, 7), "single": (STEPS, CHAINS, 1)}
    return torch.randint(EXAMPLES, shape[which], generator=source(4), dtype=torch.int32)


def plain(module, weights, inputs, targets):
    """Mean cross-entropy and its gradient, by autograd on a copy of the module."""
    copy = deepcopy(module).eval()
    copy.load_state_dict(weights, strict=False)
    loss = cross_entropy(copy(inputs), targets)
    grads = torch.autograd.grad(loss, list(copy.parameters()))
    return loss.detach(), dict(zip(weights, grads, strict=True))


def state(module):
    """Everything of a module that could change."""
    tensors = {name: leaf.clone() for name, leaf in module.state_dict().items()}
    grads = [None if leaf.grad is None else leaf.grad.clone() for leaf in module.parameters()]
    addresses = [leaf.data_ptr() for leaf in module.parameters()]
    return tensors, grads, addresses, [part.training for part in module.modules()]


def assert_untouched(module, before):
    tensors, grads, addresses, modes = state(module)
    for name, leaf in before[0].items():
        assert torch.equal(tensors[name], leaf)
    for grad, old in zip(grads, before[1], strict=True):
        assert grad is old is None or torch.equal(grad, old)
    assert (addresses, modes) == before[2:]


@pytest.mark.parametrize("chunk", [512, 4])
@pytest.mark.parametrize("targets", ["labels", "soft"])
@pytest.mark.parametrize("which", ["own", "shared", "single", "all"])
@pytest.mark.parametrize("kind", ["resnet18", "mlp"])
def test_losses_baselines_and_gradients(kind, which, targets, chunk, monkeypatch):
    monkeypatch.setattr(llc.models.modules, "CHUNK", chunk)
    module, (inputs, answers) = make_module(kind), make_data(targets)
    loss = ModuleLoss(module, inputs, answers)
    centre = points(module, CHAINS, seed=5)
    block = loss.block(centre, loss.reference(centre), STEPS)
    indices = draw_indices(which)
    block.load(STEPS, indices)
    layout = Layout(loss.shapes, CHAINS)
    stacks = [layout.pack(points(module, CHAINS, seed=10 + step)) for step in range(STEPS)]
    before = [one.flat.clone() for one in stacks]
    outs = [layout.stack(torch.ones_like(one.flat)) for one in stacks]
    for step in (0, 1, 2, 3, 1):  # a step may be asked about again
        outs[step].flat.fill_(1)
        block.add_gradient(step, stacks[step].leaves, outs[step].leaves, -0.7)
    losses, baselines = block.losses(), block.baselines()
    assert losses.shape == baselines.shape == (STEPS, CHAINS)
    assert torch.equal(block.losses(slice(1, 3)), losses[1:3])
    assert torch.equal(block.baselines(slice(1, 3)), baselines[1:3])
    for step in range(STEPS):
        assert torch.equal(stacks[step].flat, before[step])
        for chain in range(CHAINS):
            rows = slice(None)
            if indices is not None:
                rows = indices[step, chain if indices.shape[1] > 1 else 0].long()
            x, y = inputs[rows], answers[rows]
            value, grads = plain(module, unstack(stacks[step].leaves, chain), x, y)
            torch.testing.assert_close(losses[step, chain], value, **ROUNDING)
            for name, grad in grads.items():
                got = outs[step].leaves[name][chain]
                torch.testing.assert_close(got, 1 - 0.7 * grad, **ROUNDING)
            base, _ = plain(module, unstack(centre, chain), x, y)
            torch.testing.assert_close(baselines[step, chain], base, **ROUNDING)


def test_what_was_reported_stays_when_a_step_is_asked_about_again():
    module, data = make_module("mlp"), make_data("labels")
    loss = ModuleLoss(module, *data)
    here, there = points(module, 1, seed=5), points(module, 1, seed=6)
    block = loss.block(here, loss.reference(here), 1)
    block.load(1, None)
    out = {name: torch.zeros_like(leaf) for name, leaf in here.items()}
    block.add_gradient(0, here, out, 1.0)
    reported = block.losses()
    kept = reported.clone()
    block.add_gradient(0, there, out, 1.0)
    assert torch.equal(reported, kept)
    assert not torch.equal(block.losses(), kept)


@pytest.mark.parametrize("which", ["own", "shared", "all"])
def test_one_reference_serves_every_chain(which):
    module, data = make_module("mlp"), make_data("labels")
    loss = ModuleLoss(module, *data)
    weights = points(module, CHAINS, seed=5)
    one = loss.reference(select(weights, slice(0, 1)))
    assert one.shape == (1, EXAMPLES)
    results = []
    for reference in (one, one.repeat_interleave(CHAINS, 0)):
        block = loss.block(weights, reference, STEPS)
        block.load(STEPS, draw_indices(which))
        results.append(block.baselines())
        assert results[-1].shape == (STEPS, CHAINS)
    torch.testing.assert_close(*results, **ROUNDING)


def test_full_data_and_the_order_of_names():
    module, (inputs, labels) = make_module("resnet18"), make_data("labels")
    loss = ModuleLoss(module, inputs, labels)
    weights = points(module, CHAINS, seed=5)
    expected = [plain(module, unstack(weights, c), inputs, labels)[0] for c in range(CHAINS)]
    torch.testing.assert_close(loss.full_data(weights), torch.stack(expected), **ROUNDING)
    backwards = dict(reversed(weights.items()))
    assert torch.equal(loss.full_data(backwards), loss.full_data(weights))
    assert loss.select(slice(0, 1)) is loss.repeat(3) is loss


def test_full_data_accumulates_in_float64():
    module = make_module("mlp", torch.float32)
    inputs, labels = make_data("labels")
    loss = ModuleLoss(module, inputs.float(), labels)
    full = loss.full_data(stack([weights_of(module)]))
    assert full.dtype == torch.float64
    assert loss.reference(stack([weights_of(module)])).dtype == torch.float32


def test_soft_targets_of_its_own_leave_the_entropy():
    module = make_module("resnet18")
    inputs, _ = make_data("labels")
    logits = predict(module, inputs)
    loss = ModuleLoss(module, inputs, logits.softmax(1))
    entropy = -(logits.softmax(1) * logits.log_softmax(1)).sum(1)
    centre = stack([weights_of(module)])
    torch.testing.assert_close(loss.reference(centre)[0], entropy, **ROUNDING)
    # … which is the least that any weights reach: the gradient vanishes there.
    block = loss.block(centre, loss.reference(centre), 1)
    block.load(1, None)
    out = {name: torch.zeros_like(leaf) for name, leaf in centre.items()}
    block.add_gradient(0, centre, out, 1.0)
    torch.testing.assert_close(block.losses(), block.baselines(), **ROUNDING)
    assert max(float(leaf.abs().max()) for leaf in out.values()) < 1e-12


def test_batchnorm_is_frozen_and_the_users_module_untouched():
    module, (inputs, labels) = make_module("resnet18"), make_data("labels")
    module.layer1.eval()  # a mixture of modes stays one
    cross_entropy(module(inputs), labels).backward()
    before = state(module)
    loss = ModuleLoss(module, inputs, labels)
    centre = stack([weights_of(module)])
    reference = loss.reference(centre)
    alone = [
        ModuleLoss(module, inputs[i : i + 1], labels[i : i + 1]).reference(centre)
        for i in range(EXAMPLES)
    ]
    torch.testing.assert_close(reference, torch.cat(alone, 1), **ROUNDING)  # whoever else is there
    posterior = LocalPosterior.around(loss, centre, 5.0, 1.0, 2)
    streams = [Stream(0, chain) for chain in range(2)]
    sample(posterior, lambda part: sgld(part, 1e-3, 2), Schedule(6, 4), streams)
    evaluate(module, inputs, labels)
    assert_untouched(module, before)
    torch.testing.assert_close(loss.reference(centre), reference, rtol=0, atol=0)


def test_later_changes_of_the_users_module_do_not_reach_the_loss():
    module, data = make_module("resnet18"), make_data("labels")
    loss, centre = ModuleLoss(module, *data), stack([weights_of(module)])
    before = loss.reference(centre)
    module(normals(20, 3, SIDE, SIDE, seed=9))  # moves the running statistics
    with torch.no_grad():
        module.fc.weight.zero_()
    assert torch.equal(loss.reference(centre), before)
    assert not any(torch.equal(leaf, centre["fc.weight"][0]) for leaf in module.parameters())


def run(posterior, chains, threads=1, **options):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        streams = [Stream(3, chain) for chain in chains]
        schedule = Schedule(10, 4, distances=True, **options)
        return sample(posterior, lambda part: sgld(part, 1e-3, 3), schedule, streams)
    finally:
        torch.set_num_threads(before)


def assert_same(one, other):
    for name in ("loss", "baseline", "distance", "acceptance"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-7, atol=1e-9)
    for name, leaf in one.last.items():
        torch.testing.assert_close(leaf, other.last[name], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("full", [False, True])
def test_stacking_and_threads_change_nothing(shared, full):
    module = make_module("resnet18")
    loss = ModuleLoss(module, *make_data("labels"))
    options = {"shared_batches": shared, "full_data_trace": full}
    around = [
        LocalPosterior.around(loss, stack([weights_of(module)]), 5.0, 1.0, count)
        for count in (1, 2)
    ]
    both = run(around[1], (0, 1), **options)
    assert not torch.equal(both.loss[0], both.loss[1])
    assert_same(run(around[1], (0, 1), threads=2, **options), both)
    for chain in range(2):
        assert_same(run(around[0], (chain,), **options), both.chains(slice(chain, chain + 1)))


def test_blocks_on_several_threads_do_not_meet():
    module, data = make_module("mlp"), make_data("labels")
    loss = ModuleLoss(module, *data)
    weights = [points(module, 1, seed) for seed in range(2)]
    expected = [loss.full_data(one) for one in weights]
    wrong = []

    def work(mine):
        for _ in range(30):
            if not torch.equal(loss.full_data(weights[mine]), expected[mine]):
                wrong.append(mine)

    threads = [threading.Thread(target=work, args=(mine,)) for mine in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("soft", [False, True])
def test_an_estimate_of_a_resnet_on_digits(soft):
    images = load_images("digits", "", download=False)
    module, inputs = resnet18(4, source()), images.train_inputs[:200]
    targets = predict(module, inputs).softmax(1) if soft else images.train_labels[:200]
    loss = ModuleLoss(module, inputs, targets)
    config = SGLDConfig(
        epsilon=1e-5, gamma=1.0, num_steps=24, num_chains=2, batch_size=50, burn_in_prop=0.5
    )
    estimate = estimate_one(
        loss, weights_of(module), nbeta=40.0, sgld_config=config, companions=False
    )
    assert estimate.trace.loss.shape == (2, 24)
    assert estimate.num_diverged_chains == 0
    assert len(estimate.per_chain) == 2
    score = evaluate(module, inputs, images.train_labels[:200])
    if not soft:
        assert estimate.init_loss == pytest.approx(score.loss, rel=1e-5)
    torch.testing.assert_close(estimate.trace.loss[:, 0], estimate.trace.baseline[:, 0])


@pytest.mark.parametrize("chunk", [512, 4])
def test_evaluation(chunk, monkeypatch):
    monkeypatch.setattr(llc.models.modules, "CHUNK", chunk)
    module, (inputs, labels) = make_module("resnet18"), make_data("labels")
    before = state(module)
    logits = predict(module, inputs)
    assert not logits.requires_grad
    assert_untouched(module, before)
    module.eval()
    torch.testing.assert_close(logits, module(inputs).detach(), **ROUNDING)
    score = evaluate(module, inputs, labels)
    assert score.loss == pytest.approx(float(cross_entropy(logits, labels)))
    assert score.accuracy == pytest.approx(float((logits.argmax(1) == labels).sum()) / EXAMPLES)
    assert not module.training


def test_modes_come_back_after_an_error():
    module = make_module("mlp")
    with pytest.raises(RuntimeError):
        predict(module, torch.zeros(2, 5))
    assert all(part.training for part in module.modules())


def test_autocast_rounds_the_forward_pass_and_nothing_else():
    module = make_module("mlp", torch.float32)
    inputs, labels = make_data("labels")
    exact, rounded = (
        ModuleLoss(module, inputs.float(), labels, precision)
        for precision in (None, torch.bfloat16)
    )
    centre = points(module, CHAINS, seed=5)
    values = []
    for loss in (exact, rounded):
        reference = loss.reference(centre)
        block = loss.block(centre, reference, 1)
        block.load(1, None)
        out = {name: torch.zeros_like(leaf) for name, leaf in centre.items()}
        block.add_gradient(0, centre, out, 1.0)
        assert block.losses().dtype == reference.dtype == torch.float32
        torch.testing.assert_close(block.losses(), block.baselines())  # rounded alike
        values.append((block.losses(), out["1.weight"]))
    (loss, grad), (rough_loss, rough_grad) = values
    assert not torch.equal(loss, rough_loss)
    torch.testing.assert_close(rough_loss, loss, rtol=0.03, atol=0)  # bfloat16: 8 bits
    assert (rough_grad - grad).norm() < 0.1 * grad.norm()
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_a_surrounding_autocast_changes_no_loss(precision):
    module = make_module("mlp", torch.float32)
    inputs, labels = make_data("labels")
    loss = ModuleLoss(module, inputs.float(), labels, precision)
    weights = points(module, CHAINS, seed=5)
    block = loss.block(weights, loss.reference(weights), 1)
    block.load(1, None)
    results = []
    for around in (nullcontext(), torch.autocast("cpu", torch.bfloat16)):
        out = {name: torch.zeros_like(leaf) for name, leaf in weights.items()}
        with around:
            block.add_gradient(0, weights, out, 1.0)
            results.append((block.losses(), loss.full_data(weights)))
    for alone, inside in zip(*results, strict=True):
        assert torch.equal(alone, inside)


def test_a_parameter_that_is_not_used_has_no_gradient():
    module = make_module("mlp")
    module.spare = nn.Linear(2, 2).double()
    module.forward = nn.Sequential(*list(module)[:-1]).forward
    loss = ModuleLoss(module, *make_data("labels"))
    weights = points(module, CHAINS, seed=5)
    block = loss.block(weights, loss.reference(weights), 1)
    block.load(1, None)
    out = {name: torch.ones_like(leaf) for name, leaf in weights.items()}
    block.add_gradient(0, weights, out, 1.0)
    assert (out["spare.weight"] == 1).all()
    assert not (out["1.weight"] == 1).all()


def test_tied_and_frozen_parameters_are_refused():
    data = make_data("labels")
    tied = image_mlp([5, 5], source(), CLASSES, 5)
    tied[3].weight = tied[1].weight
    with pytest.raises(ValueError, match=r"parameter '3\.weight' is tied"):
        ModuleLoss(tied, *data)
    frozen = make_module("mlp")
    frozen[1].bias.requires_grad_(False)
    with pytest.raises(ValueError, match=r"parameter '1\.bias' has requires_grad=False: make it"):
        ModuleLoss(frozen, *data)


@pytest.mark.parametrize(
    "targets",
    [
        torch.zeros(EXAMPLES - 1, dtype=torch.int64),
        torch.zeros(EXAMPLES, dtype=torch.int32),
        torch.zeros(EXAMPLES),
        torch.zeros(EXAMPLES, CLASSES, dtype=torch.int64),
    ],
)
def test_targets_that_do_not_fit_are_refused(targets):
    module, (inputs, _) = make_module("mlp"), make_data("labels")
    with pytest.raises(ValueError, match=r"^targets: .* give int64 labels \(n,\) or class prob"):
        ModuleLoss(module, inputs, targets)


def test_what_a_step_holds():
    loss = ModuleLoss(make_module("mlp"), *make_data("soft"))
    assert loss.numbers_per_step(5) == 5 * (3 * SIDE**2 + CLASSES)
    assert loss.numbers_per_step(EXAMPLES) == 1

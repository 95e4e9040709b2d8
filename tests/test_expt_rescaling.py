"""`expt_rescaling_invariance.py` as a user runs it, and the identity that it rests on."""

import math
import shlex

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from matplotlib.figure import Figure
from recording import one_line_error, recorded

import expt_rescaling_invariance as script
from llc.checkpoints import Keeper
from llc.config import RescalingConfig, SamplerConfig, as_plain, parse
from llc.data import make_inputs
from llc.estimate import estimate_stack
from llc.figures import rescaled_llcs, rescaling_figure
from llc.models import mlp
from llc.params import stack, to
from llc.posterior import LocalPosterior
from llc.reporting.copies import coefficient_of_variation
from llc.samplers.psgld import scaled_sgld
from llc.sampling import Schedule, sample
from llc.streams import Stream, generator
from llc.tracking.commandline import execute

WIDTHS = (4, 6, 5, 3)
SMALL = [
    "widths=[4,6,3]", "num_scales=3", "max_exponent=2", "num_training_data=500",
    "sgld_config.num_steps=120", "sgld_config.num_chains=2", "sgld_config.batch_size=50",
]  # fmt: skip


def run(*arguments: str) -> int:
    return execute(script.ex, ["expt_rescaling_invariance.py", *arguments])


def network(dtype):
    """A network with three layers at noisy targets: the losses at w* do not vanish."""
    source = generator(Stream(3), "model")
    truth = mlp.init(WIDTHS, source, torch.float64)
    inputs = make_inputs("uniform", 400, WIDTHS[0], generator(Stream(3), "data"), torch.float64)
    targets = mlp.apply(stack([truth]), inputs)[0]
    targets = targets + torch.randn(targets.shape, generator=source, dtype=torch.float64)
    return mlp.MLPLoss(inputs.to(dtype), targets.to(dtype), WIDTHS), to(truth, "cpu", dtype)


def chains(loss, truth, scales, gamma=0.0, steps=300):
    """Traces of SGLD with G = T_s² at T_s w*, with the same noise and batches at every scale."""
    rescaling = mlp.rescaling(WIDTHS, torch.tensor(scales).to(loss.inputs))
    centres = {name: leaf * rescaling[name] for name, leaf in truth.items()}
    metric = {name: leaf.square() for name, leaf in rescaling.items()}
    posterior = LocalPosterior.around(loss, centres, 60.0, gamma, chains=2, metric=metric)
    trace = sample(
        posterior,
        lambda part: scaled_sgld(part, 1e-4, part.metric, check_period=20),
        Schedule(steps, 50),
        [Stream(5, chain) for _ in scales for chain in range(2)],
    )
    back = {n: leaf / rescaling[n].repeat_interleave(2, 0) for n, leaf in trace.last.items()}
    return trace, back


def by_scale(values, scales):
    return values.reshape(len(scales), 2, *values.shape[1:])


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 5e-4)], ids=["64", "32"]
)
def test_rescaled_chains_are_images_of_each_other_to_rounding(dtype, tolerance):
    """With the same noise and batches: 300 steps, within 5,000 units in the last place."""
    scales = [1.0, 1e-4, 0.3, 1e4]
    trace, back = chains(*network(dtype), scales)
    for values in (trace.loss, trace.baseline, *back.values()):
        every = by_scale(values, scales)
        assert bool(every.isfinite().all())
        every, first = torch.broadcast_tensors(every, every[:1])
        torch.testing.assert_close(every, first, rtol=tolerance, atol=tolerance)
    one = by_scale(trace.loss, scales)[0]
    assert (one[0] - one[1]).abs().mean() > 0.01 * one.mean()  # chains of their own …
    assert (trace.loss > trace.baseline).double().mean() > 0.9  # … that have left w*


def test_the_closer_looks_are_invariant_too():
    scales = [1.0, 1e-4, 1e4]
    trace, _ = chains(*network(torch.float64), scales, steps=100)
    for values in (trace.acceptance, trace.squared_gradient, trace.energy):
        every, first = torch.broadcast_tensors(by_scale(values, scales), values[:2][None])
        torch.testing.assert_close(every, first, rtol=1e-9, atol=1e-9)


def test_with_localisation_it_is_another_chain():
    scales = [1.0, 10.0]
    trace, _ = chains(*network(torch.float64), scales, gamma=1.0)
    one, other = by_scale(trace.loss, scales)
    assert (one[:, 100:] - other[:, 100:]).abs().mean() > 0.01 * one[:, 100:].mean()


def test_rescaling_leaves_the_function():
    _, truth = network(torch.float64)
    inputs = make_inputs("normal", 50, WIDTHS[0], generator(Stream(1), "data"), torch.float64)
    scales = torch.tensor([1.0, 1e-4, 37.0], dtype=torch.float64)
    rescaling = mlp.rescaling(WIDTHS, scales)
    copies = {name: leaf * rescaling[name] for name, leaf in truth.items()}
    outputs = mlp.apply(copies, inputs)
    torch.testing.assert_close(outputs, outputs[:1].expand_as(outputs), rtol=1e-10, atol=1e-10)
    assert torch.equal(copies["bias1"][2], 37 * truth["bias1"])
    torch.testing.assert_close(copies["weight2"][2], truth["weight2"] / 37, rtol=1e-14, atol=0)
    for name in ("bias2", "weight3", "bias3"):
        assert torch.equal(copies[name], torch.stack([truth[name]] * 3))


def test_a_metric_is_cut_with_the_chains():
    loss, truth = network(torch.float64)
    metric = {n: f.square() for n, f in mlp.rescaling(WIDTHS, torch.tensor([1.0, 3.0])).items()}
    posterior = LocalPosterior.around(loss, stack([truth] * 2), 60.0, 0.0, 2, metric)
    assert posterior.select(slice(1, 3)).metric["weight1"].flatten().tolist() == [1.0, 9.0]
    assert posterior.select(slice(1, 3)).metric["bias3"].flatten().tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("epsilon", "sampler"), [("auto", SamplerConfig()), (1e-4, SamplerConfig("sghmc"))]
)
def test_a_metric_is_refused_where_it_would_be_ignored(epsilon, sampler):
    loss, truth = network(torch.float64)
    sgld = parse(RescalingConfig, {}).sgld_config
    with pytest.raises(ValueError, match="metric: is for SGLD alone"):
        estimate_stack(
            loss,
            stack([truth]),
            nbeta=60.0,
            sgld_config=type(sgld)(epsilon=epsilon, batch_size=50),
            sampler_config=sampler,
            seeds=[0],
            metric={name: torch.ones(1) for name in truth},
        )


def test_defaults_are_the_references():
    config = parse(RescalingConfig, {})
    np.testing.assert_allclose(config.scales, np.logspace(-4, 4, 17), rtol=1e-12)
    assert config.scales[8] == 1
    assert config.model_dim == 10 * 20 + 20 + 20 * 10 + 10
    sgld = {"epsilon": 1e-5, "gamma": 0.0, "num_steps": 10_000, "num_chains": 5, "batch_size": 500}
    assert as_plain(config.sgld_config).items() >= sgld.items()
    assert config.num_training_data == 10_000


MISTAKES = [
    ("typo=3", "typo: unknown key"),
    ("modes=[]", "modes=[]: "),
    ("modes=['plane']", "modes[0]='plane': must be one of 'preconditioned'"),
    ("modes=['plain','plain']", "modes=['plain', 'plain']: name each mode once"),
    ("plain_gamma=0", "plain_gamma=0: must be a finite number > 0"),
    ("widths=[4,3]", "widths=[4, 3]: two layers are rescaled"),
    ("widths=[4,0,3]", "widths[1]=0: "),
    ("num_scales=1", "num_scales=1: must be a whole number >= 2"),
    ("max_exponent=0", "max_exponent=0: "),
    ("max_exponent=7", "max_exponent=7: must be a finite number > 0 and in [0, 6]"),
    ("sgld_config.epsilon=auto", "sgld_config.epsilon='auto': all copies are to share"),
    ("sgld_config.batch_size=501", "sgld_config.batch_size=501: must be at most"),
]


@pytest.mark.parametrize(("mistake", "start"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_wrong_input_is_one_line_before_any_work(mistake, start, tmp_path, capsys):
    error = one_line_error(run, tmp_path / "runs", [*SMALL, *shlex.split(f'"{mistake}"')], capsys)
    assert error.startswith(start)


def test_record(tmp_path, capsys):
    assert run("-F", str(tmp_path), "with", *SMALL, "verbose=True") == 0
    info = recorded(tmp_path / "1", "info.json")
    assert info["scales"] == [0.01, 1.0, 100.0]
    assert info["num_repeats"] == 2
    assert info["model_dim"] == 51
    assert info["nbeta"] == pytest.approx(500 / math.log(500))
    records = pd.DataFrame(info["records"])
    modes = ["preconditioned", "plain", "plain_small_steps"]
    assert list(records["mode"]) == [mode for mode in modes for _ in range(3)]
    for mode, rows in records.groupby("mode"):
        means = rows["lambdahat"].astype(float).to_numpy()
        stated = info["coefficient_of_variation"][mode]
        if np.isnan(means).any():
            assert stated is None
        else:
            assert stated == pytest.approx(means.std(ddof=1) / means.mean())
    at_one = records[records["scale"] == 1].set_index("mode")
    assert at_one["lambdahat"].notna().all()
    assert at_one.loc["plain", "lambdahat"] == pytest.approx(
        at_one.loc["plain_small_steps", "lambdahat"], rel=1e-6
    )
    assert (records["init_loss"] < 1e-20).all()
    with xr.open_dataset(tmp_path / "1" / "traces.nc", engine="h5netcdf") as traces:
        assert traces.loss.dims == ("mode", "scale", "chain", "draw")
        assert traces.loss.shape == (3, 3, 2, 120)
        excess = (traces.loss - traces.baseline).astype(float).isel(draw=slice(108, None))
        means = traces.attrs["nbeta"] * excess.mean(("chain", "draw"), skipna=False)
        assert list(traces.mode.values) == modes
        np.testing.assert_allclose(
            means.values.ravel(), records["lambdahat"].astype(float), rtol=1e-5
        )
    assert (tmp_path / "1" / "rescaling.png").stat().st_size > 1000
    assert "preconditioned: λ̂ " in capsys.readouterr().out


def test_with_the_same_noise_every_copy_reads_the_same(tmp_path):
    options = ["same_noise=True", "modes=['preconditioned']", "max_exponent=4"]
    assert run("-F", str(tmp_path), "with", *SMALL, *options) == 0
    info = recorded(tmp_path / "1", "info.json")
    assert info["coefficient_of_variation"]["preconditioned"] < 1e-9
    assert run("-F", str(tmp_path), "with", *SMALL, *options[1:]) == 0
    info = recorded(tmp_path / "2", "info.json")
    assert info["coefficient_of_variation"]["preconditioned"] > 1e-6


@pytest.mark.slow
def test_quick_shows_flatness_and_its_failure(tmp_path):
    """The docstring's command, with noise of its own at every scale.

    Preconditioned copies follow one law. Their means have a standard error of about 2 % here, so
    that the largest gap of ten pairs stays below six of its errors with probability 1 − 1e-5.
    """
    words = next(line for line in (script.__doc__ or "").splitlines() if "python expt" in line)
    arguments = shlex.split(words)[2:]
    arguments[1] = str(tmp_path)
    assert run(*arguments) == 0
    info = recorded(tmp_path / "1", "info.json")
    rows = dict([*pd.DataFrame(info["records"]).groupby("mode")])
    flat = rows["preconditioned"]
    gap = flat["lambdahat"].max() - flat["lambdahat"].min()
    assert gap < 6 * 2**0.5 * flat["lambdahat_se"].max()
    assert flat["lambdahat_se"].max() < 0.05 * flat["lambdahat"].mean()
    plain = rows["plain"].set_index("scale")
    assert plain["num_diverged_chains"].tolist() == [3, 3, 0, 3, 3]
    small = rows["plain_small_steps"]["lambdahat"].tolist()
    # 430 parameters: at most half of those that are not pinned, 210 or 230 of them, count.
    assert max(small[0], small[-1]) < 0.65 * small[2]
    assert info["coefficient_of_variation"]["plain"] is None


class KilledError(BaseException):
    pass


def test_a_killed_run_goes_on_to_the_same_numbers(tmp_path, monkeypatch):
    command = ["with", *SMALL, "sgld_config.num_steps=400"]
    assert run("-F", str(tmp_path / "whole"), *command) == 0
    monkeypatch.setenv("LLC_CHECKPOINT_SECONDS", "0")
    monkeypatch.setattr("llc.checkpoints.SHARE", math.inf)
    original = Keeper.tick

    def tick(keeper):
        original(keeper)
        if "plain/chains" in keeper._shared.held:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "tick", tick)
        with pytest.raises(KilledError):
            run("-F", str(tmp_path / "killed"), *command)
    assert run("-F", str(tmp_path / "killed"), *command) == 0
    whole = recorded(tmp_path / "whole" / "1", "info.json")
    again = recorded(tmp_path / "killed" / "2", "info.json")
    assert again.pop("resumed_from") == "1"
    for info in (whole, again):
        info.pop("peak_memory_mb")
    assert again == whole


def frame(llcs, mode="plain"):
    return [
        {"mode": mode, "scale": 10.0**k, "lambdahat_per_chain": own} for k, own in enumerate(llcs)
    ]


@pytest.mark.parametrize(
    "llcs",
    [
        [[1.0, 1.2], [math.nan, 1.0], [None, None]],
        [[math.nan, math.nan]],
        [[2.0], [3.0]],
        [[2.0], [None]],
    ],
    ids=["some", "all", "single", "single and none"],
)
def test_the_figure_shows_what_failed(llcs, tmp_path):
    values = np.array(llcs, dtype=float)
    rows = pd.DataFrame(frame(llcs) + frame([[5.0] * len(llcs[0])] * len(llcs), "other"))
    rescaling_figure(rows, "copies").savefig(tmp_path / "picture.png")
    ax = Figure().subplots()
    rescaled_llcs(ax, rows)
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    failed = int(np.isnan(values).sum())
    assert f"plain (n = {values.shape[1]} a point)" in texts
    words = f"plain: diverged ({failed} of {values.size} repeats)"
    assert (words in texts) == bool(failed)
    crosses = [line for line in ax.get_lines() if line.get_marker() == "x"]
    assert sum(len(line.get_xdata()) for line in crosses) == np.isnan(values).any(1).sum()
    assert ax.get_xscale() == "log"


def test_coefficient_of_variation():
    assert coefficient_of_variation(np.array([1.0, 3.0])) == pytest.approx(2**0.5 / 2)
    assert math.isnan(coefficient_of_variation(np.array([1.0, math.nan, 2.0])))

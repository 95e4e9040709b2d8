"""Strict configuration: every mistake is one line that names key, value and remedy."""

import dataclasses
import math
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llc.config import ConfigError, CurveConfig, DLNConfig, SGLDConfig, as_plain, parse
from llc.config.shared import check_device


def nested(key, value):
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def merged(*updates):
    result = {}
    for update in updates:
        for key, value in update.items():
            if isinstance(value, dict) and isinstance(result.get(key), dict):
                value = merged(result[key], value)
            result[key] = value
    return result


REFERENCE_DEFAULTS = {
    "expt_name": None,
    "loss_trace_minibatch": True,
    "do_compute_distance": False,
    "layer_widths": [10, 10],
    "input_dim": 10,
    "input_dist": "uniform",
    "num_training_data": 10000,
    "num_test_data": 100,
    "do_training": False,
    "do_functional_rank": False,
    "do_hessian_trace": False,
    "seed": 0,
    "save_true_param": False,
    "verbose": False,
}


def test_defaults_are_the_references():
    config = as_plain(parse(DLNConfig, {}))
    assert {key: config[key] for key in REFERENCE_DEFAULTS} == REFERENCE_DEFAULTS
    sgld = {"epsilon": 1e-5, "gamma": 10.0, "num_steps": 5000, "batch_size": 100}
    assert config["sgld_config"] == sgld | {
        "num_chains": 4,
        "burn_in_prop": 0.9,
        "thin": 1,
        "shared_batches": False,
    }
    method = {"method": "random", "prop_rank_reduce": 0.2, "mean": 0.0, "std": 5.0, "rank": None}
    assert config["true_param_config"] == method
    training = {"optim": "sgd", "learning_rate": 0.01, "momentum": 0.9}
    assert config["training_config"] == training | {"batch_size": 200, "num_steps": 5000}
    assert (config["device"], config["dtype"], config["itemp"]) == ("auto", "float32", None)


def test_derived_values():
    config = parse(DLNConfig, {"layer_widths": [3, 2], "input_dim": 4, "num_training_data": 100})
    assert config.widths == (4, 3, 2)
    assert config.model_dim == 4 * 3 + 3 * 2
    assert config.itemp_value == 1 / math.log(100)
    assert config.nbeta == pytest.approx(100 / math.log(100), rel=1e-15)
    assert parse(DLNConfig, {"itemp": 0.5}).nbeta == 5000
    assert SGLDConfig(num_steps=1000, thin=10).num_draws == 100
    assert SGLDConfig(num_steps=1000, thin=10).num_burn_in == 90
    assert SGLDConfig(num_steps=1001, thin=10).num_draws == 101


MISTAKES = [
    # what is set, what the line begins with, what it must also say
    ({"typo": 3}, "typo: unknown key", "known keys: expt_name"),
    ({"sgld_config.epsilonn": 1e-5}, "sgld_config.epsilonn: unknown key", "mean 'epsilon'?"),
    ({"sgld_config": 3}, "sgld_config=3: ", "sgld_config.epsilon=..."),
    ({"sgld_config.epsilon": 0}, "sgld_config.epsilon=0: ", "a finite number > 0"),
    ({"sgld_config.epsilon": -1.0}, "sgld_config.epsilon=-1.0: ", "a finite number > 0"),
    ({"sgld_config.epsilon": math.nan}, "sgld_config.epsilon=nan: ", "a finite number > 0"),
    ({"sgld_config.epsilon": math.inf}, "sgld_config.epsilon=inf: ", "a finite number > 0"),
    ({"sgld_config.epsilon": 10**400}, "sgld_config.epsilon=1000", "a finite number > 0"),
    ({"sgld_config.epsilon": "small"}, "sgld_config.epsilon='small': ", "a finite number > 0"),
    ({"sgld_config.epsilon": True}, "sgld_config.epsilon=True: ", "a finite number > 0"),
    ({"sgld_config.epsilon": None}, "sgld_config.epsilon=None: ", "a finite number > 0"),
    ({"sgld_config.gamma": -0.1}, "sgld_config.gamma=-0.1: ", ">= 0"),
    ({"sgld_config.num_steps": 0}, "sgld_config.num_steps=0: ", "a whole number >= 1"),
    ({"sgld_config.num_steps": 10.5}, "sgld_config.num_steps=10.5: ", "a whole number >= 1"),
    ({"sgld_config.batch_size": 0}, "sgld_config.batch_size=0: ", "a whole number >= 1"),
    ({"sgld_config.batch_size": 0.5}, "sgld_config.batch_size=0.5: ", "a whole number >= 1"),
    ({"sgld_config.num_chains": -1}, "sgld_config.num_chains=-1: ", "a whole number >= 1"),
    ({"sgld_config.num_chains": 1.5}, "sgld_config.num_chains=1.5: ", "a whole number >= 1"),
    ({"sgld_config.num_chains": True}, "sgld_config.num_chains=True: ", "a whole number >= 1"),
    ({"sgld_config.thin": 0}, "sgld_config.thin=0: ", "a whole number >= 1"),
    ({"sgld_config.shared_batches": 1}, "sgld_config.shared_batches=1: ", "True or False"),
    ({"sgld_config.burn_in_prop": 1}, "sgld_config.burn_in_prop=1: ", "in [0, 1)"),
    ({"sgld_config.burn_in_prop": -0.1}, "sgld_config.burn_in_prop=-0.1: ", "in [0, 1)"),
    ({"sgld_config.num_steps": 10}, "sgld_config.num_steps=10: leaves 1 draws", "burn_in_prop"),
    ({"sgld_config.thin": 500}, "sgld_config.num_steps=5000: leaves 1 draws", "thin=500"),
    ({"num_training_data": 50}, "sgld_config.batch_size=100: ", "num_training_data=50"),
    ({"num_training_data": 1}, "num_training_data=1: ", "a whole number >= 2"),
    (
        {"num_training_data": 150, "do_training": True},
        "training_config.batch_size=200: ",
        "num_training_data=150",
    ),
    ({"layer_widths": []}, "layer_widths=[]: ", "at least one entry"),
    ({"layer_widths": [10, 0]}, "layer_widths[1]=0: ", "a whole number >= 1"),
    ({"layer_widths": [2.5]}, "layer_widths[0]=2.5: ", "a whole number >= 1"),
    ({"layer_widths": "10,10"}, "layer_widths='10,10': ", "a list of whole numbers such as"),
    ({"layer_widths": 10}, "layer_widths=10: ", "a list of whole numbers such as '[10, 10]'"),
    ({"layer_widths": {"a": 1}}, "layer_widths={'a': 1}: ", "a list of whole numbers"),
    ({"input_dim": 0}, "input_dim=0: ", "a whole number >= 1"),
    ({"input_dist": "normal"}, "input_dist='normal': ", "one of 'uniform', 'unit_ball'"),
    ({"input_dist": 3}, "input_dist=3: ", "one of 'uniform', 'unit_ball'"),
    ({"true_param_config.method": "rnd"}, "true_param_config.method='rnd': ", "'aligned_rank'"),
    ({"true_param_config.std": 0}, "true_param_config.std=0: ", "> 0"),
    ({"true_param_config.prop_rank_reduce": 1.1}, "true_param_config.prop_rank", "in [0, 1]"),
    ({"true_param_config.rank": 3}, "true_param_config.rank=3: ", "method='aligned_rank'"),
    (
        {"true_param_config.method": "aligned_rank"},
        "true_param_config.rank=None: ",
        "must be given",
    ),
    (
        {"true_param_config.method": "aligned_rank", "true_param_config.rank": 11},
        "true_param_config.rank=11: ",
        "at most 10",
    ),
    (
        {"true_param_config.method": "aligned_rank", "true_param_config.rank": -1},
        "true_param_config.rank=-1: ",
        ">= 0, or None",
    ),
    ({"training_config.optim": "lion"}, "training_config.optim='lion': ", "'sgd', 'adam'"),
    ({"training_config.momentum": 1.0}, "training_config.momentum=1.0: ", "in [0, 1), or None"),
    ({"itemp": 0}, "itemp=0: ", "a finite number > 0, or None"),
    ({"itemp": "1/log(n)"}, "itemp='1/log(n)': ", "a finite number > 0, or None"),
    ({"device": "tpu"}, "device='tpu': ", "'cpu', 'cuda', 'cuda:N'"),
    ({"device": "cuda:x"}, "device='cuda:x': ", "'cuda:N'"),
    ({"dtype": "float16"}, "dtype='float16': ", "one of 'float32', 'float64'"),
    ({"seed": -1}, "seed=-1: ", "a whole number in [0, 4294967295]"),
    ({"seed": 2**32}, "seed=4294967296: ", "a whole number in [0, 4294967295]"),
    ({"expt_name": ["a"]}, "expt_name=['a']: ", "text, or None"),
    (
        {"do_functional_rank": True, "layer_widths": [1000, 1000], "input_dim": 1000},
        "num_test_data=100: ",
        "4470.3 GiB (the limit is 4): use do_functional_rank=False",
    ),
    (
        {"do_functional_rank": True, "num_test_data": 10**7},
        "num_test_data=10000000: ",
        "use num_test_data=89478 or less",
    ),
]


@pytest.mark.parametrize(("changes", "start", "remedy"), MISTAKES, ids=[m[1] for m in MISTAKES])
def test_mistakes_are_one_line(changes, start, remedy):
    mapping = merged(*(nested(key, value) for key, value in changes.items()))
    with pytest.raises(ConfigError) as caught:
        parse(DLNConfig, mapping)
    message = str(caught.value)
    assert message.startswith(start)
    assert remedy in message
    assert "\n" not in message


def test_training_batch_may_exceed_n_when_nothing_is_trained():
    assert parse(DLNConfig, {"num_training_data": 150}).training_config.batch_size == 200


def test_suggested_num_test_data_passes():
    mapping = {"do_functional_rank": True, "num_test_data": 89478}
    assert parse(DLNConfig, mapping).do_functional_rank


@pytest.mark.parametrize(
    ("mapping", "key", "want"),
    [
        ({"sgld_config": {"num_steps": 1e5}}, "sgld_config.num_steps", 100000),
        ({"sgld_config": {"num_steps": np.int64(500)}}, "sgld_config.num_steps", 500),
        ({"sgld_config": {"gamma": 1}}, "sgld_config.gamma", 1.0),
        ({"sgld_config": {"gamma": Fraction(1, 2)}}, "sgld_config.gamma", 0.5),
        ({"layer_widths": (4, 5.0)}, "layer_widths", (4, 5)),
        ({"expt_name": 1e5}, "expt_name", "100000.0"),
        ({"expt_name": 7}, "expt_name", "7"),
        ({"expt_name": "try"}, "expt_name", "try"),
        ({"expt_name": None}, "expt_name", None),
        ({"training_config": {"momentum": None}}, "training_config.momentum", None),
        ({"training_config": {"momentum": 0}}, "training_config.momentum", 0.0),
    ],
)
def test_lossless_conversions(mapping, key, want):
    value = parse(DLNConfig, mapping)
    for part in key.split("."):
        value = getattr(value, part)
    assert value == want
    assert type(value) is type(want)


def test_rank_zero_is_allowed():
    mapping = {"true_param_config": {"method": "aligned_rank", "rank": 0}}
    assert parse(DLNConfig, mapping).true_param_config.rank == 0


def test_parsing_again_changes_nothing():
    config = parse(DLNConfig, {"layer_widths": [3, 4], "itemp": 0.1, "expt_name": 3})
    assert parse(DLNConfig, as_plain(config)) == config


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=200),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=5,
    ),
    st.sampled_from([field.name for field in dataclasses.fields(DLNConfig)]),
)
@example({"\n": None}, "sgld_config")
def test_any_value_parses_or_is_a_one_line_error(value, key):
    message = ""
    try:
        config = parse(DLNConfig, {key: value})
    except ConfigError as error:
        message = str(error)
    if message:
        assert key in message
        assert "\n" not in message
    else:
        assert parse(DLNConfig, as_plain(config)) == config


def test_absent_cuda_is_an_error(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"^device='cuda': there is no CUDA device here: use"):
        parse(DLNConfig, {"device": "cuda"})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_device("cuda:1")
    with pytest.raises(ConfigError, match=r"^device='cuda:2': there are only 2 CUDA devices"):
        check_device("cuda:2")
    check_device("auto")


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"name": "nutz"}, "sampler_config.name='nutz': must be one of"),
        ({"trajectory": 2.0}, "sampler_config.trajectory=2.0: would be ignored with name='sgld'"),
        ({"heat": 10.0}, "sampler_config.heat=10.0: would be ignored with name='sgld'"),
        ({"name": "gibbs", "heat": 0.5}, "sampler_config.heat=0.5: must be a finite number >= 1"),
        (
            {"name": "gibbs", "heat": 10.0, "burn_in_prop": 0.1},
            "sampler_config.burn_in_prop=0.1: gibbs adapts itself in the first 30% of its steps",
        ),
        ({"name": "hmc", "num_steps": 2}, "sampler_config.num_steps=2: leaves 1 draws per chain"),
    ],
)
def test_a_sampler_is_refused_what_it_would_not_read(update, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse(DLNConfig, {"sampler_config": update})


def test_gibbs_needs_a_linear_network_and_localisation():
    gibbs = {"sampler_config": {"name": "gibbs"}}
    parse(DLNConfig, gibbs)
    with pytest.raises(ConfigError, match=r"sgld_config\.gamma=0\.0: must be > 0 with sampler"):
        parse(DLNConfig, gibbs | {"sgld_config": {"gamma": 0.0}})
    with pytest.raises(ConfigError, match="name='gibbs': samples deep linear networks only"):
        parse(CurveConfig, gibbs)
    with pytest.raises(ConfigError, match=r"trajectory=None: is π/\(2√gamma\)"):
        parse(DLNConfig, {"sampler_config": {"name": "hmc"}, "sgld_config": {"gamma": 0.0}})


def test_a_sampler_has_its_own_lengths_where_sgld_has_others():
    assert parse(DLNConfig, {}).sampling == SGLDConfig()
    hmc = parse(DLNConfig, {"sampler_config": {"name": "hmc"}}).sampling
    assert (hmc.num_steps, hmc.burn_in_prop, hmc.batch_size) == (200, 0.5, 10_000)
    chosen = {"name": "mala", "burn_in_prop": 0.1, "num_steps": 70}
    mala = parse(DLNConfig, {"sampler_config": chosen}).sampling
    assert (mala.num_steps, mala.burn_in_prop, mala.epsilon) == (70, 0.1, 1e-5)

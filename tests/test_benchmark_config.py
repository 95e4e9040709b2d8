"""The benchmark's configuration: its mistakes, and hashes of exactly what a run depends on."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llc import problems
from llc.benchmark_problem import check, known_target, planned
from llc.config import SAMPLERS, BenchmarkConfig, ConfigError, parse
from llc.config.benchmark import COMMON, PROBLEMS, ProblemConfig

SMALL = {"erm_steps": 1}
# Every key that a sampler may read, and two values of it that every sampler could take.
OWN = {
    "preconditioner": ("rmsprop", "adam"),
    "friction": (0.2, 0.3),
    "trajectory": (0.5, 0.7),
    "length": (1.0, 2.0),
    "target_acceptance": (0.7, 0.8),
    "adapt_mass": (True, False),
    "heat": (10.0, 100.0),
    "num_steps": (1000, 2000),
    "burn_in_prop": (0.5, 0.6),
}
CHAINS = {
    "epsilon": (1e-5, "auto"),
    "batch_size": (50, 100),
    "shared_batches": (False, True),
    "gamma": (1.0, 2.0),
    "num_chains": (2, 4),
    "thin": (1, 2),
}
ALWAYS = {"gamma", "num_chains", "thin"}
REST = {
    "seed": (0, 1),
    "itemp": (0.1, 0.2),
    "dtype": ("float32", "float64"),
    "loss_trace_minibatch": (True, False),
    "expt_name": ("one", "two"),
    "do_plot": (True, False),
    "verbose": (True, False),
}
UNREAD = {"expt_name", "do_plot", "verbose"}


def config(**changes):
    return parse(BenchmarkConfig, changes)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("key", OWN)
def test_the_hash_follows_the_samplers_own_options(name, key):
    reads = (*SAMPLERS[name].reads, "num_steps", "burn_in_prop")
    if key not in reads:
        with pytest.raises(ConfigError, match="would be ignored"):
            config(sampler_config={"name": name, key: OWN[key][0]})
        return
    one, two = (config(sampler_config={"name": name, key: value}) for value in OWN[key])
    assert one.run_hash("code") != two.run_hash("code")


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("key", CHAINS)
def test_the_hash_follows_what_the_sampler_reads_of_the_chains(name, key):
    kind = SAMPLERS[name]
    read = key in ALWAYS
    read |= key == "epsilon" and not kind.finds_step
    read |= key in ("batch_size", "shared_batches") and not kind.full_data
    one, two = (
        config(sampler_config={"name": name}, sgld_config={key: value}) for value in CHAINS[key]
    )
    assert (one.run_hash("code") != two.run_hash("code")) == read


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("key", REST)
def test_the_hash_follows_what_changes_the_numbers(name, key):
    one, two = (config(sampler_config={"name": name}, **{key: value}) for value in REST[key])
    read = key not in UNREAD
    if key == "loss_trace_minibatch":
        read = not SAMPLERS[name].full_data  # the others trace the full loss anyhow
    assert (one.run_hash("code") != two.run_hash("code")) == read


def test_lengths_are_hashed_as_the_sampler_takes_them():
    """`sgld_config.num_steps` is SGLD's; NUTS has a length of its own."""
    for name, read in (("sgld", True), ("mala", True), ("nuts", False)):
        one, two = (
            config(sampler_config={"name": name}, sgld_config={"num_steps": steps})
            for steps in (1000, 2000)
        )
        assert (one.run_hash("code") != two.run_hash("code")) == read
    default = config(sampler_config={"name": "nuts"})
    spelt = config(sampler_config={"name": "nuts", "num_steps": 200})
    assert default.run_hash("code") == spelt.run_hash("code")


def test_another_version_of_the_code_is_another_run():
    assert config().run_hash("one") != config().run_hash("two")
    spelt = config(sampler_config={"preconditioner": "none", "correction": False})
    assert spelt.run_hash("one") == config().run_hash("one")


@pytest.mark.parametrize(
    ("choice", "label"),
    [
        ({"name": "sgld", "preconditioner": "none"}, "sgld"),
        ({"name": "sgld", "preconditioner": "adam", "correction": True}, "sgld+adam+corrected"),
        ({"name": "hmc", "adapt_mass": True}, "hmc+mass"),
        ({"name": "nuts", "adapt_mass": False}, "nuts+unit mass"),
        ({"name": "gibbs", "heat": 10.0}, "gibbs+heated"),
    ],
)
def test_variants_that_are_other_samplers_have_labels_of_their_own(choice, label):
    assert config(sampler_config=choice).sampler == label


def test_every_key_of_the_configuration_is_hashed_or_known_not_to_matter():
    """A key that is added later fails here until somebody decides."""
    groups = {"problem_config", "sgld_config", "sampler_config", "reference_config", "device"}
    assert {f.name for f in dataclasses.fields(BenchmarkConfig)} == set(REST) | groups
    lengths = {"num_steps", "burn_in_prop"}
    assert {f.name for f in dataclasses.fields(config().sgld_config)} == set(CHAINS) | lengths
    own = {f.name for f in dataclasses.fields(config().sampler_config)}
    assert own == set(OWN) | {"name", "correction"}


@given(
    name=st.sampled_from(sorted(set(SAMPLERS) - {"gibbs"})),
    seed=st.integers(0, 5),
    epsilon=st.floats(1e-9, 1e-3),
    steps=st.integers(100, 10_000),
)
def test_a_family_shares_problem_and_posterior_and_nothing_else(name, seed, epsilon, steps):
    own = config(
        seed=seed,
        sampler_config={"name": name, "num_steps": steps},
        sgld_config={"epsilon": epsilon},
    )
    assert own.family == config().family
    hot = {"itemp": 0.3, "sgld_config": {"gamma": 3.0}, "problem_config": {"seed": 1}}
    for key, value in hot.items():
        assert config(**{key: value}).family != own.family


@pytest.mark.parametrize("name", problems.NAMES)
def test_the_table_of_problems_is_the_problems_own(name):
    assert set(PROBLEMS) == set(problems.NAMES)
    assert PROBLEMS[name] == tuple(problems.options_of(name))
    fields = {f.name for f in dataclasses.fields(ProblemConfig)}
    assert fields == {*COMMON, *(key for keys in PROBLEMS.values() for key in keys)}


SHAPES = [
    {"name": "relu_mlp", **SMALL}, {"name": "tanh_mlp", **SMALL}, {"name": "gelu_mlp", **SMALL},
    {"name": "dln"}, {"name": "reduced_rank"}, {"name": "quadratic"}, {"name": "normal_crossing"},
    {"name": "normal_crossing", "target_params": 3},
    {"name": "normal_crossing", "target_params": 4},
    {"name": "normal_crossing", "exponents": (1, 1, 1, 1)}, {"name": "tanh"},
    {"name": "gaussian_mixture"},
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape.values())))
def test_what_is_said_of_exact_values_is_true(shape):
    own = config(problem_config={"num_training_data": 200, **shape})
    problem = planned(own)()
    assert own.problem_config.has_exact == (problem.exact is not None)
    kind = known_target(problem, own).kind
    assert kind == ("exact" if problem.exact else "lambda" if problem.known else "none")


@pytest.mark.parametrize(
    ("shape", "proper"),
    [
        ({"name": "quadratic"}, True),
        ({"name": "quadratic", "curvatures": [1.0, 0.0]}, False),
        ({"name": "normal_crossing"}, False),
        ({"name": "tanh"}, False),
        ({"name": "dln"}, True),  # nothing is integrated there
    ],
)
def test_flat_directions_need_a_localisation(shape, proper):
    changes = {"problem_config": shape, "sgld_config": {"gamma": 0.0}}
    if proper:
        config(**changes)
        return
    with pytest.raises(ConfigError, match=r"sgld_config\.gamma=0\.0: must be > 0"):
        config(**changes)


def test_a_reference_is_made_only_where_there_is_no_exact_value():
    asked = {"reference_config": {"num_steps": 50}}
    assert config(**asked).reference.num_steps == 50
    assert config(problem_config={"name": "tanh"}, **asked).reference is None
    one, two = (config(problem_config={"name": "tanh"}, **more) for more in (asked, {}))
    assert one.run_hash("code") == two.run_hash("code")
    assert config(**asked).run_hash("code") != config().run_hash("code")
    assert config(**asked).family == config().family


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"name": "tanh", "target_params": 50}, r"target_params=50: .* has 2 parameters"),
        ({"name": "dln", "target_params": 1}, "target_params=1: the smallest such network has"),
        ({"name": "dln", "rank": 500}, r"rank=500: the widths are .*: use \d+ or less"),
        ({"name": "reduced_rank", "num_training_data": 5}, "num_training_data=5: fewer than"),
        ({"name": "quadratic", "curvatures": [0.0]}, "not all 0"),
        ({"name": "quadratic", "curvature_range": [2.0, 1.0]}, "must be 0 < low"),
        ({"name": "normal_crossing", "exponents": [0]}, "at least one must be positive"),
    ],
)
def test_problems_that_cannot_be_made_are_refused_in_one_line(shape, message):
    own = config(problem_config=shape, sgld_config={"batch_size": 2})
    with pytest.raises(ConfigError, match=rf"problem_config\..*{message}") as caught:
        check(own)
    assert "\n" not in str(caught.value)

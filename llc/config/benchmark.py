"""The configuration of `expt_sampler_benchmark.py`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from llc.config.parsing import ConfigError, as_plain
from llc.config.rules import AtLeast, Count, NonNegative, NumbersAsText, OneOf, Positive
from llc.config.sampler import Sampled, SamplerConfig
from llc.config.shared import Device, DType, Seed, SGLDConfig, Tempered, check_device

INPUTS = ("normal", "uniform")
PERCEPTRON = (
    "in_dim", "out_dim", "depth", "input_dist", "noise_std", "erm_steps", "learning_rate",
)  # fmt: skip
PROBLEMS: dict[str, tuple[str, ...]] = {  # name: the options it takes
    "relu_mlp": PERCEPTRON,
    "tanh_mlp": PERCEPTRON,
    "gelu_mlp": PERCEPTRON,
    "dln": ("depth", "rank"),
    "reduced_rank": ("rank",),
    "quadratic": ("curvatures", "curvature_range"),
    "normal_crossing": ("exponents",),
    "tanh": (),
    "gaussian_mixture": (),
}
LINEAR = ("dln", "reduced_rank")
# Whose E[nβ(L − L(w*))] at n is known; of a normal crossing only up to so many parameters.
EXACT = ("quadratic", "normal_crossing", "tanh", "gaussian_mixture")
MAX_QUADRATURE = 3
COMMON = ("name", "target_params", "num_training_data", "seed")
SPELT_OUT = {"preconditioner": "none", "correction": False}  # the same as None
BENCHMARK_CHAINS = SGLDConfig(
    epsilon=1e-4, gamma=1.0, num_steps=20_000, batch_size=100, burn_in_prop=0.5
)


@dataclass(frozen=True)
class ProblemConfig:
    """The problem by name, its size, its seed and its options.

    An option that is None has the problem's own default, and one it does not take must stay None.
    """

    name: Annotated[str, OneOf(*PROBLEMS)] = "dln"
    target_params: Count | None = None
    num_training_data: Annotated[int, AtLeast(2)] = 10_000
    seed: Seed = 0
    in_dim: Count | None = None
    out_dim: Count | None = None
    depth: Count | None = None
    input_dist: Annotated[str, OneOf(*INPUTS)] | None = None
    noise_std: NonNegative | None = None
    erm_steps: Annotated[int, AtLeast(0)] | None = None
    learning_rate: Positive | None = None
    rank: Annotated[int, AtLeast(0)] | None = None
    curvatures: tuple[NonNegative, ...] | None = None
    curvature_range: tuple[Positive, ...] | None = None
    exponents: tuple[Annotated[int, AtLeast(0)], ...] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The options that are given."""
        given = {key: getattr(self, key) for key in PROBLEMS[self.name]}
        return {key: value for key, value in given.items() if value is not None}

    @property
    def has_exact(self) -> bool:
        """Whether there is an exact value to compare with, at this very n."""
        size = self.target_params if self.exponents is None else len(self.exponents)
        many = self.name == "normal_crossing" and (size or 2) > MAX_QUADRATURE
        return self.name in EXACT and not many

    @property
    def improper_without_gamma(self) -> bool:
        """Whether its exact value needs γ > 0, since some direction is flat."""
        bowl = self.name == "quadratic" and all(self.curvatures or (1.0,))
        return self.has_exact and not bowl

    def check(self, prefix: str = "") -> None:
        """Raise ConfigError for an option that the problem would ignore."""
        for key, value in vars(self).items():
            if value is not None and key not in (*COMMON, *PROBLEMS[self.name]):
                takers = [name for name, options in PROBLEMS.items() if key in options]
                raise ConfigError(
                    f"{prefix}{key}={value}: would be ignored with name={self.name!r}: leave it "
                    f"out or use {' or '.join(takers)}"
                )
        if self.curvature_range is not None and len(self.curvature_range) != 2:
            raise ConfigError(
                f"{prefix}curvature_range={list(self.curvature_range)}: must be two numbers, such "
                "as '[0.01, 1.0]'"
            )
        if self.curvature_range is not None and self.curvatures is not None:
            raise ConfigError(
                f"{prefix}curvature_range={list(self.curvature_range)}: would be ignored with "
                "curvatures: leave one of them out"
            )


@dataclass(frozen=True)
class ReferenceConfig:
    """A long float64 HMC run to compare with, where the problem has no exact value."""

    num_steps: Count | None = None  # None: no reference
    num_chains: Count = 4

    def check(self, prefix: str = "") -> None:
        """Raise ConfigError where too few draws would be left."""
        if self.num_steps is not None:
            SamplerConfig("hmc", num_steps=self.num_steps).applied(SGLDConfig(), 1, prefix)


@dataclass(frozen=True)
class BenchmarkConfig(Tempered, Sampled):
    """Every key of `expt_sampler_benchmark.py`: one problem, one sampler, one seed."""

    expt_name: Annotated[str | None, NumbersAsText()] = None
    problem_config: ProblemConfig = ProblemConfig()
    sgld_config: SGLDConfig = BENCHMARK_CHAINS
    sampler_config: SamplerConfig = SamplerConfig()
    reference_config: ReferenceConfig = ReferenceConfig()
    itemp: Positive | None = None
    loss_trace_minibatch: bool = True
    seed: Seed = 0
    do_plot: bool = True
    verbose: bool = False
    device: Device = "auto"
    dtype: DType | None = None  # None: float64 for samplers on all data, float32 for the others

    @property
    def num_training_data(self) -> int:
        """n."""
        return self.problem_config.num_training_data

    @property
    def dtype_value(self) -> str:
        """The precision of the problem that is sampled."""
        return self.dtype or ("float64" if self.sampler_config.kind.full_data else "float32")

    @property
    def sampler(self) -> str:
        """The sampler and its variant, as in `sgld+adam`."""
        own = self.sampler_config
        variants = [own.preconditioner] if own.preconditioner not in (None, "none") else []
        variants += ["corrected"] if own.correction else []
        variants += ["mass"] if own.adapt_mass and own.name == "hmc" else []
        variants += ["unit mass"] if own.adapt_mass is False and own.name == "nuts" else []
        variants += ["heated"] if own.heat is not None else []
        return "+".join([own.name, *variants])

    def check(self, prefix: str = "") -> None:
        """Raise ConfigError for values that cannot go together, or not on this machine."""
        self.check_sampler(prefix, linear=self.problem_config.name in LINEAR)
        reason = None
        if self.problem_config.improper_without_gamma:
            reason = f"{self.problem_config.name} has flat directions"
        elif self.reference is not None:
            reason = "the reference's trajectories take π/(2√gamma)"
        if reason and not self.sgld_config.gamma:
            raise ConfigError(f"{prefix}sgld_config.gamma=0.0: must be > 0: {reason}")
        check_device(self.device, prefix)

    @property
    def reference(self) -> ReferenceConfig | None:
        """The reference run, where there is to be one."""
        wanted = self.reference_config.num_steps and not self.problem_config.has_exact
        return self.reference_config if wanted else None

    def target(self) -> dict[str, Any]:
        """What fixes the number that is estimated: runs that agree in it form a family."""
        problem = self.problem_config
        return {
            "problem": {key: getattr(problem, key) for key in COMMON} | problem.options,
            "itemp": self.itemp_value,
            "gamma": self.sgld_config.gamma,
        }

    def reads(self) -> dict[str, Any]:
        """Everything that this run depends on, and nothing that its sampler leaves unread."""
        own, kind, chains = self.sampler_config, self.sampler_config.kind, self.sampling
        options = {key: getattr(own, key) for key in kind.reads}
        options |= {key: None for key, value in SPELT_OUT.items() if options.get(key) == value}
        lengths = ["num_steps", "burn_in_prop", "num_chains", "thin"]
        lengths += [] if kind.finds_step else ["epsilon"]
        lengths += [] if kind.full_data else ["batch_size", "shared_batches"]
        return {
            "target": self.target(),
            "sampler": {"name": own.name, **options},
            "chains": {key: getattr(chains, key) for key in lengths},
            "full_data_trace": kind.full_data or not self.loss_trace_minibatch,
            "reference": None if self.reference is None else vars(self.reference),
            "seed": self.seed,
            "device": self.device,
            "dtype": self.dtype_value,
        }

    @property
    def family(self) -> str:
        """Names the family: runs of other samplers, seeds and versions share it."""
        return short_hash(self.target())

    def run_hash(self, code: str) -> str:
        """Names the run: what it reads, and the version of the code."""
        return short_hash({**self.reads(), "code": code})


def short_hash(values: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits of plain values."""
    text = json.dumps(as_plain(values), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]

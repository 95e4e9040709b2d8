"""Which sampler draws from the local posterior, and what it needs beyond `sgld_config`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, NamedTuple, Protocol

from llc.config.parsing import ConfigError
from llc.config.rules import Above, AtLeast, Count, OneOf, Positive, Within
from llc.config.search import search_plan
from llc.config.shared import SGLDConfig, check_batch_size


class Kind(NamedTuple):
    """How a sampler differs from SGLD in what it is given."""

    reads: tuple[str, ...] = ()  # keys of `sampler_config` it reads beside name and lengths
    full_data: bool = False  # every step sees all the data
    finds_step: bool = False  # it adapts its own step size, or has none
    num_steps: int | None = None  # its own default; None: that of `sgld_config`
    burn_in_prop: float | None = None


SAMPLERS = {
    "sgld": Kind(("preconditioner", "correction")),
    "sgld_cv": Kind(),
    "sghmc": Kind(("friction",)),
    "sgnht": Kind(("friction",)),
    "mala": Kind(full_data=True, burn_in_prop=0.5),
    "hmc": Kind(("trajectory", "target_acceptance", "adapt_mass"), True, True, 200, 0.5),
    "nuts": Kind(("target_acceptance", "adapt_mass"), True, True, 200, 0.5),
    "mclmc": Kind(("length",), True, True, None, 0.5),
    "mamclmc": Kind(("length", "target_acceptance"), True, True, 500, 0.5),
    "gibbs": Kind(("heat",), True, True, 400, 0.5),
}
WARM_UP = 0.3  # share of the steps in which a sampler adapts itself


@dataclass(frozen=True)
class SamplerConfig:
    """The sampler by name; γ, the chains and, for those that do not find it, ε: `sgld_config`.

    A key that is None has the sampler's own default, and one it does not read must stay None.
    """

    name: Annotated[str, OneOf(*SAMPLERS)] = "sgld"
    num_steps: Count | None = None
    burn_in_prop: Annotated[float, Within(0, 1, closed="left")] | None = None
    preconditioner: Annotated[str, OneOf("none", "rmsprop", "adam")] | None = None
    correction: bool | None = None  # add Γ and go on learning, instead of freezing what was learnt
    friction: Annotated[float, Above(0), Within(0, 1)] | None = None
    trajectory: Positive | None = None  # time; None: a quarter period of √γ
    length: Positive | None = None  # L in units of w; None: tuned
    target_acceptance: Annotated[float, Within(0.05, 0.99)] | None = None
    adapt_mass: bool | None = None
    heat: Annotated[float, AtLeast(1)] | None = None  # the first temperature; None: starts at w*

    @property
    def kind(self) -> Kind:
        return SAMPLERS[self.name]

    @property
    def moves_by_epsilon(self) -> bool:
        """Whether it diffuses as ε says, a step at a time."""
        return not self.kind.finds_step

    @property
    def adapts(self) -> bool:
        """Whether its first steps, a share WARM_UP of them, are spent on adapting itself."""
        learns = self.preconditioner in ("rmsprop", "adam") and not self.correction
        return learns or (self.kind.finds_step and self.name != "gibbs") or self.heat is not None

    def searches(self, sgld: SGLDConfig) -> bool:
        """Whether there is an ε to be found first."""
        return sgld.epsilon == "auto" and self.moves_by_epsilon

    def check(self, prefix: str = "") -> None:
        """Raise ConfigError for a key that the sampler would ignore."""
        if self.correction and self.preconditioner in (None, "none"):
            raise ConfigError(
                f"{prefix}correction=True: needs a preconditioner: use rmsprop or adam"
            )
        common = ("name", "num_steps", "burn_in_prop")
        for key, value in vars(self).items():
            if value is not None and key not in (*common, *self.kind.reads):
                takers = [name for name, kind in SAMPLERS.items() if key in kind.reads]
                raise ConfigError(
                    f"{prefix}{key}={value}: would be ignored with name={self.name!r}: leave it "
                    f"out or use {' or '.join(takers)}"
                )

    def applied(self, sgld: SGLDConfig, num_data: int, prefix: str = "") -> SGLDConfig:
        """Lengths and batches as this sampler takes them.

        Raises: ConfigError where they leave too few draws.
        """
        kind = self.kind
        steps = self.num_steps or kind.num_steps or sgld.num_steps
        kept = next(
            share
            for share in (self.burn_in_prop, kind.burn_in_prop, sgld.burn_in_prop)
            if share is not None
        )
        if self.adapts and kept < WARM_UP:
            raise ConfigError(
                f"{prefix}burn_in_prop={kept}: {self.name} adapts itself in the first "
                f"{WARM_UP:.0%} of its steps: use {WARM_UP} or more"
            )
        batch_size = num_data if kind.full_data else sgld.batch_size
        result = replace(sgld, num_steps=steps, burn_in_prop=kept, batch_size=batch_size)
        result.check(prefix)
        return result

    def check_network(self, gamma: float, *, linear: bool, prefix: str = "") -> None:
        """Raise ConfigError where the sampler cannot sample such a network at such a γ."""
        if self.name == "gibbs" and not linear:
            raise ConfigError(
                f"{prefix}name='gibbs': samples deep linear networks only: use another sampler"
            )
        if gamma == 0 and self.name == "gibbs":
            raise ConfigError("sgld_config.gamma=0.0: must be > 0 with sampler gibbs")
        if gamma == 0 and self.name == "hmc" and self.trajectory is None:
            raise ConfigError(
                f"{prefix}trajectory=None: is π/(2√gamma), which gamma=0.0 leaves open: give one"
            )


class HasSampler(Protocol):
    """What a configuration samples with, and how much there is to see."""

    @property
    def sgld_config(self) -> SGLDConfig:
        """ε, γ, lengths, chains, batches."""

    @property
    def sampler_config(self) -> SamplerConfig:
        """Which sampler."""

    @property
    def num_training_data(self) -> int:
        """n."""


class Sampled:
    """The sampling of a configuration with `sgld_config` and `sampler_config`."""

    @property
    def sampling(self: HasSampler) -> SGLDConfig:
        """Lengths and batches as the chosen sampler takes them."""
        return self.sampler_config.applied(self.sgld_config, self.num_training_data)

    def check_sampler(self: HasSampler, prefix: str, *, linear: bool) -> None:
        """Raise ConfigError where lengths, batches, γ and the sampler cannot go together."""
        size = self.sgld_config.batch_size
        check_batch_size(size, self.num_training_data, f"{prefix}sgld_config.")
        own = f"{prefix}sampler_config."
        self.sampler_config.check_network(self.sgld_config.gamma, linear=linear, prefix=own)
        sampling = self.sampler_config.applied(self.sgld_config, self.num_training_data, own)
        if self.sampler_config.searches(self.sgld_config):
            where = own if self.sampler_config.num_steps else f"{prefix}sgld_config."
            search_plan(self.sampler_config, sampling, self.num_training_data, where)

"""What the repeats of a sampler's setting say together: error, bias, cost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from llc.benchmark_problem import Target
from llc.benchmarking.runs import Run
from llc.efficiency import work_normalised_variance

Array = NDArray[np.float64]

EXACT = ("mala", "hmc", "nuts", "mamclmc", "gibbs")  # samplers without a bias of their own
LEAST_POOL = 3  # runs
SURE = 0.99  # of a bias
NONE = Target(None, math.nan, "none")


@dataclass(frozen=True)
class Summary:
    """A sampler's setting in one family; NaN where there is nothing to compute it from."""

    label: str
    runs: Sequence[Run]
    target: Target
    mean: float  # over the seeds
    deviation: float  # between them; of a single one its own standard error
    own_error: float  # root mean square of the standard errors the runs give themselves
    seconds: float  # a run, on average
    fde: float

    @property
    def done(self) -> list[Run]:
        """The runs with an estimate."""
        return [run for run in self.runs if run.outcome == "done"]

    @property
    def standard_error(self) -> float:
        """Of the mean."""
        return self.deviation / math.sqrt(len(self.done)) if self.done else math.nan

    @property
    def bias(self) -> float:
        return math.nan if self.target.value is None else self.mean - self.target.value

    @property
    def z_score(self) -> float:
        """The bias over its error, that of the target included."""
        error = math.hypot(self.standard_error, self.target.error)
        return self.bias / error if error > 0 else math.nan

    @property
    def is_biased(self) -> bool:
        """Whether a bias is certain to 99 % by the spread (Student's t) and the runs' own errors.

        By both: a few seeds agree by chance in one of the hundred settings of a study.
        """
        count = len(self.done)
        if count < 2:
            return False
        own = math.hypot(self.own_error / math.sqrt(count), self.target.error)
        return bool(
            abs(self.z_score) > stats.t.ppf((1 + SURE) / 2, count - 1)
            and abs(self.bias) > stats.norm.ppf((1 + SURE) / 2) * own
        )

    @property
    def errors(self) -> Array:
        """λ̂/target − 1, a seed each."""
        found = np.array([run.value("llc_mean") for run in self.done])
        return found / self.target.value - 1 if self.target.value else np.full(len(found), np.nan)

    @property
    def rms_error(self) -> float:
        """Root mean square of the relative error of a run: √(spread² + bias²)/target.

        The square of the bias is freed of what its own error adds to it, or with few seeds luck
        would decide. It is left out where there is no target at this n.
        """
        error = math.hypot(self.standard_error, self.target.error)
        excess = self.bias**2 - error**2  # NaN where there is no such target
        squared = self.deviation**2 + (excess if excess > 0 else 0.0)
        scale = abs(self.target.value or self.mean)
        return math.sqrt(squared) / scale if scale > 0 else math.nan

    @property
    def wnv_time(self) -> float:
        """(Spread between seeds)² × seconds; blind to a bias."""
        return work_normalised_variance(self.deviation, self.seconds)

    @property
    def wnv_fde(self) -> float:
        return work_normalised_variance(self.deviation, self.fde)

    def cost(self, error: float = 0.01) -> float:
        """Seconds for a relative `error`: (rms error/error)² × the seconds of a run.

        Of an estimate without bias this is WNV in units of the target; a bias counts in full,
        although no longer run removes it: where there is one this is what it takes at the least.
        """
        return (self.rms_error / error) ** 2 * self.seconds

    def median(self, key: str) -> float:
        """Of the runs with an estimate."""
        return _nan_free(np.median, [run.value(key) for run in self.done])

    def largest(self, key: str) -> float:
        return _nan_free(np.max, [run.value(key) for run in self.done])

    @property
    def statuses(self) -> Counter[str]:
        """How many runs ended how: the kind of status where there is an estimate."""
        return Counter(
            str(run.info.get("llc_status")).partition(":")[0].partition(" at ")[0]
            if run.outcome == "done"
            else run.outcome
            for run in self.runs
        )


def families(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs by family, by the order in which they come."""
    result: dict[str, list[Run]] = {}
    for run in runs:
        result.setdefault(run.family, []).append(run)
    return result


def summarise(runs: Sequence[Run]) -> list[Summary]:
    """A summary of every setting in one family."""
    settings: dict[str, list[Run]] = {}
    for run in runs:
        settings.setdefault(run.setting_hash, []).append(run)
    labels = _labels([own[0] for own in settings.values()])
    return [
        _summary(label, own, target_of(runs, own[0].setting_hash))
        for label, own in zip(labels, settings.values(), strict=True)
    ]


def target_of(runs: Sequence[Run], without: str = "") -> Target:
    """What the runs of one family are compared with; `without`: the setting that is to be judged.

    The exact value at this n, γ and nβ; else a long reference run; else the pool of the exact
    samplers, in which no setting is its own judge; else λ, which is the limit for n → ∞ only.
    """
    done = [run for run in runs if run.outcome == "done"]
    kinds = {str(run.info.get("target_kind")): run for run in reversed(done)}
    if "exact" in kinds:
        return Target(kinds["exact"].value("target_llc"), 0.0, "exact")
    if "reference" in kinds:  # the same run of the same seed for all
        run = kinds["reference"]
        return Target(run.value("target_llc"), run.value("target_se"), "reference")
    pool = [run for run in done if run.info.get("llc_status") == "ok" and _is_exact(run)]
    judges = [run for run in pool if run.setting_hash != without]
    if len(judges) >= LEAST_POOL:
        return pooled(judges)
    if len(pool) >= LEAST_POOL:
        return NONE  # it is the only judge
    if any(run.info.get("true_lambda") is not None for run in done):
        known = next(run for run in done if run.info.get("true_lambda") is not None)
        return Target(known.value("true_lambda"), math.nan, "lambda")
    return NONE


def pooled(runs: Sequence[Run]) -> Target:
    """The mean of several runs, each weighted by its ESS; its error from the spread of the runs."""
    found = np.array([run.value("llc_mean") for run in runs])
    weights = np.array([run.value("ess") for run in runs])
    weights /= weights.sum()
    mean = float(weights @ found)
    spread = float(np.sum((weights * (found - mean)) ** 2)) * len(runs) / (len(runs) - 1)
    return Target(mean, math.sqrt(spread), "pooled")


def _is_exact(run: Run) -> bool:
    return run.setting["sampler"]["name"] in EXACT


def _summary(label: str, runs: Sequence[Run], target: Target) -> Summary:
    done = [run for run in runs if run.outcome == "done"]
    found = [run.value("llc_mean") for run in done]
    errors = np.array([run.value("llc_se") for run in done])
    own = float(np.sqrt(np.mean(errors**2))) if done else math.nan
    return Summary(
        label,
        runs,
        target,
        mean=_nan_free(np.mean, found),
        deviation=float(np.std(found, ddof=1)) if len(found) > 1 else own,
        own_error=own,
        seconds=_nan_free(np.mean, [run.seconds for run in done]),
        fde=_nan_free(np.mean, [run.value("fde") for run in done]),
    )


def _nan_free(function: Any, values: Sequence[float]) -> float:
    kept = [value for value in values if not math.isnan(value)]
    return float(function(kept)) if kept else math.nan


def _labels(firsts: Sequence[Run]) -> list[str]:
    """The samplers' names; where several settings share one, with what they differ in."""
    counts = Counter(run.sampler for run in firsts)
    flat = [_flat(run.setting) for run in firsts]
    labels = []
    for run, own in zip(firsts, flat, strict=True):
        alike = [f for r, f in zip(firsts, flat, strict=True) if r.sampler == run.sampler]
        varied = [key for key in own if len({str(other.get(key)) for other in alike}) > 1]
        words = ", ".join(f"{key}={own[key]}" for key in varied)
        labels.append(f"{run.sampler} ({words})" if counts[run.sampler] > 1 else run.sampler)
    return labels


def _flat(setting: Mapping[str, Any]) -> dict[str, Any]:
    """`setting` with the keys of its groups beside the others."""
    result: dict[str, Any] = {}
    for key, value in setting.items():
        result.update(value if isinstance(value, Mapping) else {key: value})
    return result

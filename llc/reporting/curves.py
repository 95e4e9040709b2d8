"""λ̂ along a training: one record a checkpoint, kept, logged and drawn as they come."""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from tqdm import tqdm

from llc import tracking
from llc.checkpoints import Keeper
from llc.diagnostics import Estimate
from llc.figures import training_curve
from llc.reporting.estimates import looks_of, peak_memory_mb

Record = Mapping[str, Any]

TRACE = "_trace"  # ends the names of what goes into `traces.nc`
LOOKS = "calibration"  # what goes into `calibration.csv`
NOT_LOGGED = ("t", "sgld_status", LOOKS)


def checkpoint_record(estimate: Estimate) -> dict[str, Any]:
    """What is kept of an estimate that is one of many along a training."""
    trace = estimate.trace
    record = {
        "lambdahat": estimate.mean,
        "lambdahat_se": estimate.standard_error,
        "init_loss": estimate.init_loss,
        "sgld_status": estimate.status,
        "num_diverged_chains": estimate.num_diverged_chains,
        "share_below_centre": estimate.share_below,
        "sgld_acceptance": estimate.acceptance,
        "epsilon": estimate.epsilon,
        "loss_trace": trace.loss,
        "baseline_trace": trace.baseline,
        "acceptance_trace": trace.acceptance,
    }
    if estimate.calibration:
        record[LOOKS] = looks_of(estimate)
    return record if trace.distance is None else {**record, "distance_trace": trace.distance}


class Curve:
    """The records of a run so far; those of the run it goes on from are logged again."""

    def __init__(
        self,
        _run: Any,
        keeper: Keeper,
        *,
        draws: Sequence[int],
        nbeta: float,
        title: str,
        picture: str | None,
        verbose: bool,
    ) -> None:
        self._run, self.title, self.picture, self.verbose = _run, title, picture, verbose
        self.draws, self.nbeta = draws, nbeta
        self.training_status = "ok"
        self.records: list[Record] = keeper.kept("records") or []
        keeper.keep("records", self.records)
        for record in self.records:
            self._log(record)
        if self.records:  # perhaps nothing is added any more
            self._save()

    @property
    def reached(self) -> int:
        """The step of the last record; −1 before the first."""
        return self.records[-1]["t"] if self.records else -1

    def label(self) -> str:
        """What a progress bar calls the training: with the last λ̂."""
        return "training" if self.last_llc is None else f"training, λ̂ {self.last_llc:.4g}"

    @property
    def last_llc(self) -> float | None:
        """λ̂ of the last record, where there is one."""
        value = self.records[-1]["lambdahat"] if self.records else math.nan
        return None if math.isnan(value) else float(value)

    def add(self, records: Sequence[Record]) -> None:
        """Take in new records: metrics, `info`, `traces.nc`, and the picture where asked for."""
        for record in records:
            self.records.append(record)
            self._log(record)
            if self.verbose:
                tqdm.write(line(record))
        self._save()

    def diverged(self, step: int) -> None:
        """Say that training blew up: there is no λ̂ from here on."""
        self.training_status = f"diverged by step {step}: lower training_config.learning_rate"

    def report(self) -> str:
        """The first and the last checkpoint, how many have which status, and where it all is."""
        tracking.record(
            self._run, training_status=self.training_status, peak_memory_mb=peak_memory_mb()
        )
        lines = [f"training: {self.training_status}"]
        if self.records:
            counts = kinds(self.records)
            lines += [line(self.records[0]), line(self.records[-1])]
            lines.append("status: " + ", ".join(f"{n} {kind}" for kind, n in counts.items()))
            if below := counts["below the centre"]:
                lines.append(f"warning: at {below} checkpoints w* is no minimum, and λ̂ is biased")
        lines.append(tracking.whereabouts(self._run, self.picture if self.records else None))
        return "\n".join(lines)

    def _log(self, record: Record) -> None:
        for name, value in record.items():
            if value is not None and name not in NOT_LOGGED and not name.endswith(TRACE):
                self._run.log_scalar(name, tracking.plain(value), record["t"])

    def _save(self) -> None:
        scalars = [
            {
                name: value
                for name, value in record.items()
                if name != LOOKS and not name.endswith(TRACE)
            }
            for record in self.records
        ]
        tracking.record(self._run, records=scalars, sgld_statuses=kinds(self.records))
        with tracking.artifact(self._run, "traces.nc") as path:
            self._traces().to_netcdf(path, engine="h5netcdf")
        looks = [{"t": r["t"], **look} for r in self.records for look in r.get(LOOKS, ())]
        if looks:
            with tracking.artifact(self._run, "calibration.csv") as path:
                pd.DataFrame(looks).to_csv(path, index=False)
        if self.picture:
            steps = np.array([record["t"] for record in self.records])
            losses, llcs = (
                np.array([record[name] for record in self.records], dtype=np.float64)
                for name in ("train_loss", "lambdahat")
            )
            with tracking.artifact(self._run, self.picture) as path:
                training_curve(steps, losses, llcs, self.title).savefig(path, dpi=150)

    def _traces(self) -> xr.Dataset:
        """Checkpoint × chain × draw; acceptance on its own period."""
        names = [name for name in self.records[0] if name.endswith(TRACE)]

        def dims(name: str) -> tuple[str, str, str]:
            return "checkpoint", "chain", "check" if name.startswith("acceptance") else "draw"

        return xr.Dataset(
            {
                name.removesuffix(TRACE): (
                    dims(name),
                    np.stack([record[name].numpy() for record in self.records]),
                )
                for name in names
            },
            coords={
                "checkpoint": [record["t"] for record in self.records],
                "draw": list(self.draws),
            },
            attrs={"nbeta": self.nbeta},
        )


def kinds(records: Sequence[Record]) -> Counter[str]:
    """How many checkpoints have each kind of status: the words before its details."""
    return Counter(_kind(record) for record in records)


def _kind(record: Record) -> str:
    return re.split(r":? at step |: ", record["sgld_status"])[0]


def line(record: Record) -> str:
    """One checkpoint, for a person at a terminal."""
    value = "none" if math.isnan(record["lambdahat"]) else f"{record['lambdahat']:.4g}"
    if not math.isnan(record["lambdahat_se"]):
        value += f" ± {record['lambdahat_se']:.2g}"
    loss = "–" if record["train_loss"] is None else f"{record['train_loss']:.3g}"
    more = "".join(f"  {text(record)}" for name, text in DETAILS.items() if name in record)
    return f"t = {record['t']:<8,} loss {loss:<9} λ̂ {value:<16}{more}  {_kind(record)}"


DETAILS: dict[str, Callable[[Record], str]] = {
    "true_rank": lambda record: f"λ {record['true_lambda']:g} (rank {record['true_rank']})",
    "test_accuracy": lambda record: f"test accuracy {record['test_accuracy']:.1%}",
}

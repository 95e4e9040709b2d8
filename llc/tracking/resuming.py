"""Runs that go on where an earlier start of the same command was stopped."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
from pathlib import Path
from typing import IO, Any

import torch

from llc.checkpoints import PERIOD, Keeper
from llc.config import ConfigError
from llc.tracking.quiet_sacred import FileStorageObserver
from llc.tracking.writing import record

FOLDER = "_checkpoints"  # beside the run directories
SECONDS = "LLC_CHECKPOINT_SECONDS"  # environment: another period than 60 s


def keeper(_run: Any) -> Keeper:
    """The keeper of `_run`'s loops and results, with what an earlier start left already loaded.

    Its file is found by the configuration, the sources, and what else the last bit depends on
    (PyTorch's version, threads, device): a start after a change begins afresh. It goes when the
    run completes with a whole record. `info` says which run was taken up, as `resumed_from`.
    Without an observer, or while another start of the same command is alive, nothing is written.
    """
    path = _path(_run)
    lock = None if path is None else _lock(path)
    _run.keeper_lock = lock
    if path is not None and lock is None:
        print("the same command is running already: this run keeps no checkpoint")
    here = Keeper(path if lock else None, _period())
    try:
        resumed = here.load()
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if resumed:
        earlier = here.kept("run")
        record(_run, resumed_from=earlier)
        print(f"going on from run {earlier}")
    here.keep("run", str(_run._id))
    _run.keeper = here
    return here


def _period() -> float:
    given = os.environ.get(SECONDS, str(PERIOD))
    try:
        period = float(given)
    except ValueError:
        period = math.nan
    if not period >= 0:
        raise ConfigError(f"{SECONDS}={given}: must be a number of seconds >= 0")
    return period


def release(_run: Any, *, recorded: bool) -> None:
    """Let go of the keeper of a run that has ended.

    A completed run needs its file no more, unless its record was lost.
    """
    here, lock = getattr(_run, "keeper", None), getattr(_run, "keeper_lock", None)
    if here is not None and recorded and _run.status == "COMPLETED":
        here.remove()
    if lock is not None:
        lock.close()


def _path(_run: Any) -> Path | None:
    if not _run.observers:
        return None
    here = next(
        (Path(o.basedir) for o in _run.observers if isinstance(o, FileStorageObserver)),
        Path("outputs"),
    )
    info = _run.experiment_info
    identity = {
        "experiment": info["name"],
        "config": _run.config,
        "sources": [list(source) for source in info["sources"]],
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    text = json.dumps(identity, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return here.absolute() / FOLDER / f"{info['name']}-{digest}.pt"


def _lock(path: Path) -> IO[str] | None:
    """Hold `path` for this process; None while another one does. The kernel ends it with us."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.with_suffix(".lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file

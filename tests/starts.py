"""A small experiment, and a command that starts it many times at the same moment.

    python tests/starts.py COUNT OPTIONS...      # OPTIONS of the command line, such as -F runs

Each start is a process of its own, forked after the imports, so that all really start together.
"""

import multiprocessing
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from llc import tracking
from llc.config import OneOf, Seed, SGLDConfig, parse
from llc.tracking.commandline import execute


@dataclass(frozen=True)
class StartsConfig:
    mode: Annotated[str, OneOf("work", "refused", "fail", "wait")] = "work"
    sgld_config: SGLDConfig = SGLDConfig()
    layer_widths: tuple[int, ...] = (2, 3)
    seed: Seed = 0


ex = tracking.experiment("starts", StartsConfig)


@ex.main
def main(_run, _config):
    config = parse(StartsConfig, _config)
    print(f"seed {config.seed}", flush=True)
    for version in range(3):
        with tracking.artifact(_run, "version.txt") as path:
            path.write_text(f"seed {config.seed} version {version}")
        _run.log_scalar("loss", np.float32(config.seed) if version else float("nan"), version)
        # Beats in between, and on request time for a test to do something to the server.
        time.sleep(0.05)
    if config.mode == "fail":
        raise RuntimeError("deliberate")
    if config.mode == "wait":
        Path("waiting").touch()
        while not Path("go").exists():
            time.sleep(0.02)
    tracking.record(_run, lambdahat=config.seed / 2, none=float("nan"), chains=[config.seed] * 3)
    if config.mode == "refused":
        tracking.record(_run, large=2**70)  # JSON takes it, BSON does not
    print(tracking.whereabouts(_run))
    return config.seed / 2


def start(seed, barrier, options):
    barrier.wait()
    raise SystemExit(execute(ex, ["starts.py", *options, "with", f"seed={seed}"]))


def start_together(count, options):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(count)
    processes = [
        context.Process(target=start, args=(seed, barrier, options)) for seed in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


if __name__ == "__main__":
    if sys.argv[1].isdigit():
        raise SystemExit(any(start_together(int(sys.argv[1]), sys.argv[2:])))
    tracking.run(ex)

"""Run the lines of a command file: one in place of this process, or many beside each other."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from llc.commands.files import read, words


def main(argv: Sequence[str]) -> int:
    """Become line K of a command file.

    The run takes over this process, so that signals, exit code and memory are its own.
    """
    parser = argparse.ArgumentParser(prog="llc run-line", description="Run line K of FILE.")
    parser.add_argument("file", metavar="FILE", type=Path)
    parser.add_argument("number", metavar="K", type=int, help="1 is the first line")
    arguments = parser.parse_args(argv)
    lines, number = read(arguments.file), arguments.number
    if not 1 <= number <= len(lines):
        raise ValueError(f"line {number}: {arguments.file} has lines 1 to {len(lines)}")
    program, *rest = _program(lines[number - 1], number)
    try:
        os.execvp(program, [program, *rest])
    except OSError as error:
        raise ValueError(f"line {number}: {program}: {error.strerror}") from None


def run_all(lines: Sequence[str], workers: int) -> int:
    """Run `lines` here, `workers` at a time, and print what became of them; 0 if all is well.

    Their output stands in their records; of a line that fails its last words are printed.
    """
    from tqdm import tqdm

    codes: Counter[int] = Counter()
    environment = _share_of_the_cores(workers)
    with ThreadPoolExecutor(workers) as pool:
        runs = {pool.submit(_run, line, k, environment): k for k, line in enumerate(lines, 1)}
        try:
            for run in tqdm(as_completed(runs), total=len(runs), unit="run"):
                code, last_words = run.result()
                codes[code] += 1
                if code:
                    tqdm.write(f"line {runs[run]}: exit code {code}: {last_words}", sys.stderr)
        except KeyboardInterrupt:  # the terminal has told the runs as well
            pool.shutdown(cancel_futures=True)
            return 130
    told = ", ".join(f"{count} with exit code {code}" for code, count in sorted(codes.items()))
    print(f"{len(lines)} commands: {told}")
    return int(any(codes))


def _program(line: str, number: int) -> list[str]:
    """The words of a line, with the Python that runs us for `python`."""
    first, *rest = words(line, number)
    return [sys.executable if first in ("python", "python3") else first, *rest]


def _run(line: str, number: int, environment: dict[str, str]) -> tuple[int, str]:
    """The exit code of a line and the last line it wrote on stderr."""
    try:
        done = subprocess.run(
            _program(line, number),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        return 127, str(error.strerror)
    return done.returncode, (done.stderr.strip().splitlines() or [""])[-1]


def _share_of_the_cores(workers: int) -> dict[str, str]:
    """The environment for runs beside each other: PyTorch gives every process all cores."""
    share = max(1, (os.cpu_count() or 1) // workers)
    return {"OMP_NUM_THREADS": str(share), **os.environ}

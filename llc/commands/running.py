"""Run the lines of a command file: one in place of this process, or many beside each other."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
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

    Their output stands in their records; of a line that fails its last words are printed. Ctrl-C
    and SIGTERM end the runs too, which write their state first: the same command goes on from it.
    """
    from tqdm import tqdm

    codes: Counter[int] = Counter()
    runs = _Runs(_share_of_the_cores(workers))
    with _stopped_by(signal.SIGTERM), ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(runs.run, line, k): k for k, line in enumerate(lines, 1)}
        try:
            for future in tqdm(as_completed(futures), total=len(futures), unit="run"):
                code, last_words = future.result()
                codes[code] += 1
                if code:
                    text = f"line {futures[future]}: exit code {code}: {last_words}"
                    tqdm.write(text, sys.stderr)
        except KeyboardInterrupt as stop:
            pool.shutdown(wait=False, cancel_futures=True)
            runs.stop()
            return 128 + (stop.args[0] if stop.args else signal.SIGINT)
    told = ", ".join(f"{count} with exit code {code}" for code, count in sorted(codes.items()))
    print(f"{len(lines)} commands: {told}")
    return int(any(codes))


@contextmanager
def _stopped_by(signum: int) -> Iterator[None]:
    """Take the signal for Ctrl-C, once; while the runs wind up more of either change nothing."""

    def stop(signum: int, _: object) -> None:
        for either in (signum, signal.SIGINT):
            signal.signal(either, signal.SIG_IGN)
        raise KeyboardInterrupt(signum)

    previous = {either: signal.signal(either, stop) for either in (signum, signal.SIGINT)}
    try:
        yield
    finally:
        for either, handler in previous.items():
            signal.signal(either, handler)


class _Runs:
    """Runs as children of this process, to be ended with it."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._alive: set[subprocess.Popen[str]] = set()
        self._stopped = False
        self._changing = threading.Lock()

    def run(self, line: str, number: int) -> tuple[int, str]:
        """The exit code of a line and the last line it wrote on stderr."""
        try:
            process = self._start(_program(line, number))
        except OSError as error:
            return 127, str(error.strerror)
        if process is None:
            return 0, ""
        with process:
            _, errors = process.communicate()
        self._alive.discard(process)
        return process.returncode, (errors.strip().splitlines() or [""])[-1]

    def _start(self, words: list[str]) -> subprocess.Popen[str] | None:
        with self._changing:  # none begins once the others have been told to end
            if self._stopped:
                return None
            process = subprocess.Popen(
                words,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
            self._alive.add(process)
            return process

    def stop(self) -> None:
        """Tell all runs to end, and let none begin."""
        with self._changing:
            self._stopped = True
            for process in [*self._alive]:
                process.terminate()


def _program(line: str, number: int) -> list[str]:
    """The words of a line, with the Python that runs us for `python`."""
    first, *rest = words(line, number)
    return [sys.executable if first in ("python", "python3") else first, *rest]


def _share_of_the_cores(workers: int) -> dict[str, str]:
    """The environment for runs beside each other: PyTorch gives every process all cores."""
    share = max(1, (os.cpu_count() or 1) // workers)
    return {"OMP_NUM_THREADS": str(share), **os.environ}

"""The command line of an experiment: Sacred's own, with one-line errors and exit codes."""

from __future__ import annotations

import difflib
import math
import os
import pdb
import re
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

from docopt import DocoptExit, docopt

from llc.config import ConfigError, as_plain, parse
from llc.tracking.interrupts import Interrupted, interruptible
from llc.tracking.places import (
    close,
    incomplete_record,
    prepare_observers,
    read_address,
    without_passwords,
)
from llc.tracking.quiet_sacred import get_config_updates, print_filtered_stacktrace
from llc.tracking.resuming import release

COMPLETED, FAILED, BAD_INPUT, ONLY_ON_DISK = 0, 1, 2, 3

LAST_BEAT_SECONDS = 60.0
KEY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


class Request(NamedTuple):
    """What a command line asks for."""

    command: str
    updates: dict[str, Any]
    named_configs: list[str]
    options: dict[str, Any]


def run(ex: Any, argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line of `ex` and exit; the exit codes stand in `llc.tracking`."""
    raise SystemExit(execute(ex, sys.argv if argv is None else argv))


def execute(ex: Any, argv: Sequence[str]) -> int:
    """Run the command line `argv` (program name first) of `ex` and return the exit code."""
    ex.current_run = None
    try:
        with interruptible(ex):
            return _execute(ex, argv)
    except Interrupted as interrupt:
        _say(f"interrupted by {interrupt}")
        return interrupt.exit_code


def _execute(ex: Any, argv: Sequence[str]) -> int:
    debug = False
    try:
        request = read(ex, argv)
        if request is None:
            return COMPLETED
        debug = request.options["--debug"]
        sacred_run = _prepare(ex, request)
    except Exception as error:
        if debug:
            raise
        return _bad_input(error)
    try:
        sacred_run()
    except ConfigError as error:
        return _bad_input(error)
    except Exception:
        if debug:
            raise
        _show_failure(sacred_run.pdb)
        return FAILED
    finally:
        problem, not_delivered = incomplete_record(sacred_run), close(sacred_run)
        release(sacred_run, recorded=problem is None)
        for text in filter(None, (problem, not_delivered)):
            _say(f"error: {text}")
    if problem:
        return FAILED
    return ONLY_ON_DISK if not_delivered else COMPLETED


def read(ex: Any, argv: Sequence[str]) -> Request | None:
    """Understand the command line; None where it asked for help and got it.

    Raises:
        ConfigError: in one line, where it cannot be understood.
    """
    _, usage, internal_usage = ex.get_usage(argv[0])
    try:
        options = docopt(internal_usage, list(argv[1:]), default_help=False)
    except DocoptExit as error:
        reason = str(error).partition("\n")[0].partition("Usage:")[0].strip()
        raise ConfigError(f"{reason or 'the command line cannot be read'}: try --help") from None
    command = options.get("COMMAND") or ex.default_command
    commands = [name for name, _ in ex.gather_commands()]
    if command not in commands:
        raise ConfigError(_unknown("command", command, commands, [*ex.named_configs]))
    if ex._handle_help(options, usage):
        return None
    _check_options(options)
    updates, named_configs = read_updates(ex, options["UPDATE"])
    return Request(command, updates, named_configs, options)


def read_updates(ex: Any, updates: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Understand what stands behind `with`: updates of the configuration, and named configs.

    Raises:
        ConfigError: in one line, where it cannot be understood.
    """
    for update in updates:
        key, equals, _ = update.partition("=")
        if equals and not KEY.fullmatch(key.strip()):
            raise ConfigError(
                f"{update!r}: must look like key=value, such as sgld_config.gamma=1.0"
            )
        named = [name for name, _ in ex.gather_named_configs()]
        if not equals and update and update not in named and not os.path.isfile(update):
            raise ConfigError(_unknown("named config", update, named))
    try:
        config_updates, named_configs = get_config_updates(updates)
    except Exception:  # Sacred lets whatever its parsing stumbles over pass through
        problem = "cannot be read, or contradicts what stands before it"
        raise ConfigError(f"{_culprit(updates)!r}: {problem}") from None
    return config_updates, named_configs


def _culprit(updates: list[str]) -> str:
    """The first update that cannot be read together with those before it."""
    for k, update in enumerate(updates, 1):
        try:
            get_config_updates(updates[:k])
        except Exception:
            return update
    return updates[-1]


def _unknown(what: str, name: str, known: list[str], after_with: Sequence[str] = ()) -> str:
    if name in after_with:
        return f"{name}: unknown {what} (did you mean 'with {name}'?)"
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{name}: unknown {what} ({hint}known: {', '.join(known) or 'none'})"


def _check_options(options: dict[str, Any]) -> None:
    """Refuse option values that Sacred ignores or stumbles over later."""
    if options["--file_storage"] == "":
        raise ConfigError("-F '': must be a directory")
    if options["--capture"] not in (None, "no", "sys", "fd"):
        raise ConfigError(f"-C {options['--capture']}: must be one of no, sys, fd")
    if options["--mongo_db"] is not None:
        read_address(options["--mongo_db"])
        if options["--queue"]:
            raise ConfigError("-q: runs are queued in files only, not in MongoDB: leave out -m")
    beat = options["--beat-interval"]
    if beat is not None:
        try:
            seconds = float(beat)
        except ValueError:
            seconds = math.nan
        # With 0 Sacred never writes `info` at all.
        if not (math.isfinite(seconds) and seconds > 0):
            raise ConfigError(f"-b {beat}: must be a number of seconds > 0")


def _prepare(ex: Any, request: Request) -> Any:
    """Make the Sacred run, ready to start: config checked, observers able to write."""
    command, updates, named_configs, options = request
    # Sacred's own observer of MongoDB hangs, gives up and piles up copies: ours takes its place.
    observed = {**options, "--mongo_db": None}
    sacred_run = ex._create_run(command, updates, named_configs, {}, {}, observed)
    if options["--mongo_db"] is not None:
        # The address may hold a password; the record does not.
        sacred_run.meta_info["options"]["--mongo_db"] = str(read_address(options["--mongo_db"]))
    # The record holds what the run used: 1e5 given for a whole number is recorded as 100000.
    sacred_run.config = as_plain(parse(ex.config_class, sacred_run.config))
    prepare_observers(sacred_run, options["--mongo_db"])
    _keep_last_words(sacred_run)
    return sacred_run


def _keep_last_words(sacred_run: Any) -> None:
    """Record everything up to the end.

    Where a run fails or is interrupted, Sacred closes the capture before its last heartbeat, and
    with it goes everything printed since the heartbeat before. And it waits two seconds for that
    heartbeat: on a slow disk the record would be judged before it is written.
    """
    stop_heartbeat = sacred_run._stop_heartbeat

    def collect_and_stop() -> None:
        captured = sacred_run._output_file
        if captured is not None and captured.closed and captured.final:
            sacred_run.captured_out += captured.get()
        stop_heartbeat()
        if sacred_run._heartbeat is not None:
            sacred_run._heartbeat.join(LAST_BEAT_SECONDS)

    sacred_run._stop_heartbeat = collect_and_stop


def _bad_input(error: Exception) -> int:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if not isinstance(error, (ConfigError, ValueError, KeyError)):
        text = f"{type(error).__name__}: {text}"
    _say(f"error: {text}")
    return BAD_INPUT


def _show_failure(post_mortem: bool) -> None:
    try:
        print_filtered_stacktrace()
    except Exception:  # Sacred's filter fails on a cause that was never raised
        traceback.print_exc()
    if post_mortem:
        pdb.post_mortem(sys.exc_info()[2])


def _say(message: str) -> None:
    print(without_passwords(" ".join(message.split())), file=sys.stderr, flush=True)

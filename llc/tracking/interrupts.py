"""SIGTERM, SIGUSR2 and Ctrl-C end a run with the status INTERRUPTED."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
GRACE_SECONDS = 10.0


class Interrupted(KeyboardInterrupt):
    """A signal asked the run to end.

    Not a `SacredInterrupt`: that is an `Exception`, and any `except Exception` between the signal
    and the run (Sacred has one around each call of an observer) would swallow the request.
    """

    STATUS = "INTERRUPTED"

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 130 if signum == signal.SIGINT else 75


@contextmanager
def interruptible(ex: Any) -> Iterator[None]:
    """Raise `Interrupted` at the first signal; ignore more while the run of `ex` winds up.

    Where a loop of a resumable run is under way, it is left to write its state at its next step
    and to end there; if no step ends within the grace, the run ends all the same.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    raised_at = -GRACE_SECONDS

    def handle(signum: int, frame: Any) -> None:
        nonlocal raised_at
        run = ex.current_run
        keeper = getattr(run, "keeper", None)
        # Sacred stops its heartbeat, which takes a while, before it says that a run has ended.
        ended = keeper is not None and keeper.ended
        winding_up = ended or (run is not None and run.status not in (None, "RUNNING"))
        now = time.monotonic()
        # After the grace a signal counts again: the first one may have been lost in a __del__.
        if winding_up or now - raised_at < GRACE_SECONDS:
            return
        raised_at = now
        if keeper is None or not keeper.at_work:
            raise Interrupted(signum)
        keeper.stop(Interrupted(signum))

        def lose_patience(_: int, __: Any) -> None:
            nonlocal raised_at
            if keeper.writing:
                signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)
            elif run.status == "RUNNING" and not keeper.ended:
                raised_at = time.monotonic()
                raise Interrupted(signum)

        signal.signal(signal.SIGALRM, lose_patience)
        signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)

    previous = {signum: signal.signal(signum, handle) for signum in SIGNALS}
    previous[signal.SIGALRM] = signal.getsignal(signal.SIGALRM)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for signum, handler in previous.items():
            signal.signal(signum, handler)

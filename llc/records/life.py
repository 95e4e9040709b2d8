"""What a run's times tell: when it began, when it was last heard of, and whether it is dead."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

STALE_SECONDS = 120.0  # without a heartbeat, which comes every 10 s unless asked otherwise …
STALE_BEATS = 5  # … and then after so many of them
EVER = datetime.min.replace(tzinfo=UTC)  # before any run


def moment(value: Any) -> datetime | None:
    """A time of a record, in UTC; MongoDB keeps milliseconds, and some servers give text."""
    try:
        time = datetime.fromisoformat(str(value))
        time = time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


def last_sign(run: Mapping[str, Any]) -> datetime | None:
    """When a run last told that it is under way."""
    return moment(run.get("heartbeat")) or started(run)


def started(run: Mapping[str, Any]) -> datetime | None:
    """When a run began."""
    return moment(run.get("start_time"))


def status(run: Mapping[str, Any]) -> str:
    """Sacred's status; DEAD for a run that says RUNNING and has been silent for too long."""
    given, heard = str(run["status"]), last_sign(run)
    if given != "RUNNING" or heard is None:
        return given
    options = (run.get("meta") or {}).get("options") or {}
    beat = float(options.get("--beat-interval") or 0)
    silent = (datetime.now(UTC) - heard).total_seconds()
    return "DEAD" if silent > max(STALE_SECONDS, STALE_BEATS * beat) else given

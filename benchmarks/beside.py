"""Steps timed beside a bare one: in turn, round after round, in one process."""

import statistics
from collections.abc import Callable, Mapping


def in_turn(cases: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every case, a number a round, after one round that warms up."""
    turns = [{name: measure() for name, measure in cases.items()} for _ in range(rounds + 1)]
    return {name: [turn[name] for turn in turns[1:]] for name in cases}


def table(seconds: Mapping[str, list[float]], size: int, digits: int) -> list[str]:
    """A line a case: ms, things a second of `size` a step, and the ratio to the first case's time
    of the same round: its median and the middle 80 %, which of fewer than ten rounds is all.
    """
    base, lines = next(iter(seconds.values())), []
    for name, own in seconds.items():
        ratios = sorted(a / b for a, b in zip(own, base, strict=True))
        middle = statistics.median(own)
        low, high = ratios[len(ratios) // 10], ratios[-1 - len(ratios) // 10]
        lines.append(
            f"| {name} | {1e3 * middle:.{digits}f} | {size / middle:,.0f} | "
            f"{statistics.median(ratios):.2f} | {low:.2f}–{high:.2f} |"
        )
    return lines

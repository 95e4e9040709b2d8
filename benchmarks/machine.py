"""Describes the machine and the software that a benchmark ran on."""

import contextlib
import os
import platform
import resource
import time
from importlib import metadata
from pathlib import Path


def describe() -> dict[str, object]:
    """Returns processor, cores, memory, system and Python, and torch's version where installed."""
    info = Path("/proc/cpuinfo")
    fields = dict(
        (part.strip() for part in line.split(":", 1))
        for line in (info.read_text().splitlines() if info.exists() else [])
        if ":" in line
    )
    flags = fields.get("flags", "").split()
    description: dict[str, object] = {
        "processor": fields.get("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": len(os.sched_getaffinity(0)),
        "vector": "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "other",
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
    }
    with contextlib.suppress(metadata.PackageNotFoundError):
        description["torch"] = metadata.version("torch")
    return description


class OtherWork:
    """Measures how busy other processes keep the machine, from its making until `share()`."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.busy, self.own = self._busy(), self._own()

    def share(self) -> float:
        """Returns the other processes' share of all cores since the start (0 if unknown)."""
        other = (self._busy() - self.busy) - (self._own() - self.own)
        seconds = (time.perf_counter() - self.start) * (os.cpu_count() or 1)
        return max(0.0, other / seconds)

    @staticmethod
    def _busy() -> float:
        stat = Path("/proc/stat")
        if not stat.exists():
            return 0.0
        user, nice, system, _, _, irq, soft_irq, steal = stat.read_text().split()[1:9]
        ticks = sum(map(int, (user, nice, system, irq, soft_irq, steal)))
        return ticks / os.sysconf("SC_CLK_TCK")

    @staticmethod
    def _own() -> float:
        usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(u.ru_utime + u.ru_stime for u in usages)

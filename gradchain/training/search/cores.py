"""How many threads can compute at once: the CPU's cores that this process may use, and its share of their time."""

import math
import os
from pathlib import Path

import jax


def cores() -> int:
    """Return how many threads can compute at once: a CPU's cores, and 1 elsewhere, where the device is the limit.

    A process may be restricted to some cores, or, by a container's quota, to some of their time (``docker --cpus=2``).
    """
    if jax.default_backend() != "cpu":
        return 1
    visible = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(math.ceil(min(visible, quota())), 1)


def quota(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float:
    """Return how many cores' time the process's control groups allow; infinity without a limit, or outside of Linux.

    Args:
      proc: says which groups the process is in: lines of ``number:controllers:path``, without controllers in version 2.
      root: where the groups' files are.
    """
    try:
        lines = [line.split(":", 2) for line in proc.read_text().splitlines()]
    except OSError:
        return math.inf
    found = [math.inf]
    for _, controllers, path in lines:
        if not controllers:
            found += [_second_version(root / group) for group in _with_parents(path)]
        elif "cpu" in controllers.split(","):
            places = (root / "cpu", root / controllers)
            found += [_first_version(place / group) for place in places for group in _with_parents(path)]
    return min(found)


def _with_parents(path: str) -> list[str]:
    """Return a group's path, relative to the root, and those of all groups around it: each may have a limit."""
    parts = path.strip("/").split("/")
    return ["/".join(parts[:n]) for n in range(len(parts) + 1)]


def _second_version(group: Path) -> float:
    """Return the limit in ``cpu.max``, which is ``"<quota> <period>"`` or ``"max <period>"``."""
    try:
        time, period = (group / "cpu.max").read_text().split()
        return int(time) / int(period)
    except (OSError, ValueError):
        return math.inf


def _first_version(group: Path) -> float:
    """Return the limit in ``cpu.cfs_quota_us``, where -1 means none."""
    try:
        time, period = (int((group / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return time / period if time > 0 else math.inf
    except (OSError, ValueError):
        return math.inf

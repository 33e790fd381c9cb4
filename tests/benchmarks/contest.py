"""Contests: contestants take turns in one process, so that whatever else the machine does hits all of them alike.

Absolute times of separate runs differ by more than the libraries do. So every round runs each contestant once, in
an order that rotates; the figures are medians over the rounds of the *ratio within a round*, with their quartiles.
"""

import gc
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

US = "gradchain"
"""The contestant that the others are compared with."""
SCALE = float(os.environ.get("GRADCHAIN_BENCH_SCALE", "1"))
"""Fraction of the full sizes."""


class Result(NamedTuple):
    """The outcome of one contest."""

    case: str
    seconds: dict[str, list[float]]
    """Times of each contestant, round by round; empty for one that isn't installed."""

    def median(self, name: str) -> float:
        """Return a contestant's median time in seconds."""
        return float(np.median(self.seconds[name]))

    def ratio(self, name: str) -> tuple[float, float, float]:
        """Return (first quartile, median, third quartile) of our time over that contestant's, paired by round."""
        paired = np.asarray(self.seconds[US]) / np.asarray(self.seconds[name])
        low, middle, high = np.quantile(paired, [0.25, 0.5, 0.75])
        return float(low), float(middle), float(high)


def contest(contestants: Mapping[str, Callable[[], Any] | None], rounds: int, case: str = "") -> Result:
    """Time contestants in turns, after one untimed round.

    Args:
      contestants: functions by name, each of which does its work and waits for the result. One that returns a float
        has timed itself, in seconds. ``None`` stands for one that isn't installed.
      rounds: how often each runs.
      case: what the contest is about.
    """
    present = {name: run for name, run in contestants.items() if run is not None}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(present)
    for k in range(rounds + 1):
        for name in names[k % len(names) :] + names[: k % len(names)]:
            elapsed = _time(present[name])
            if k > 0:
                seconds[name].append(elapsed)
    return Result(case, seconds)


def _time(run: Callable[[], Any]) -> float:
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        own = run()
        elapsed = time.perf_counter() - start
    finally:
        gc.enable()
    return own if isinstance(own, float) else elapsed


def markdown(results: list[Result]) -> str:
    """Return one table: each contestant's median time, and our time relative to it with the quartiles over rounds."""
    rows = [("case", "contestant", "median", f"{US} / it", "quartiles", "rounds")]
    for result in results:
        for name, times in result.seconds.items():
            rows.append((result.case, name, *_cells(result, name), str(len(times))))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def _cells(result: Result, name: str) -> tuple[str, str, str]:
    if not result.seconds[name]:
        return "not installed", "", ""
    milliseconds = 1e3 * result.median(name)
    median = f"{milliseconds:.0f} ms" if milliseconds >= 100 else f"{milliseconds:.3g} ms"
    if name == US:
        return median, "", ""
    low, middle, high = result.ratio(name)
    return median, f"{middle:.2f}", f"{low:.2f}-{high:.2f}"


def record(results: list[Result]) -> str:
    """Return the contests as JSON: every time of every round, and the ratios."""
    rows = [
        {
            "case": r.case,
            "seconds": r.seconds,
            "ratios": {name: r.ratio(name) for name, times in r.seconds.items() if times and name != US},
        }
        for r in results
    ]
    return json.dumps({"environment": environment(), "scale": SCALE, "contests": rows}, indent=1)


def environment() -> str:
    """Return the machine and the versions that matter, in a line."""
    versions = []
    for name in ("jax", "optax", "torch"):
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} not installed")
    scale = "" if SCALE == 1 else f", sizes times {SCALE:g}"
    device = "" if jax.default_backend() == "cpu" else f"{jax.devices()[0].device_kind}, "
    machine = f"{device}{os.cpu_count()} cores ({processor()})"
    return f"{machine}, Python {platform.python_version()}, {', '.join(versions)}{scale}"


def processor() -> str:
    """Return what the processor calls itself."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def torch_or_none() -> Any:
    """Return PyTorch, making its arrays where JAX makes its own; ``None`` where it isn't installed, or can't."""
    try:
        import torch
    except ImportError:
        return None
    if jax.default_backend() != "cpu":
        if not torch.cuda.is_available():
            return None
        torch.set_default_device("cuda")
    return torch


def wait_for_torch(torch: Any) -> None:
    """Wait until PyTorch's device has done what it was told."""
    if torch.get_default_device().type == "cuda":
        torch.cuda.synchronize()

"""What counts as solved, and the table of all solvers."""

import math
from typing import NamedTuple

from tests.benchmarks.minimisers.counting import Run

BASELINE = "SciPy L-BFGS-B", "float64"


class Judged(NamedTuple):
    """A run, judged."""

    run: Run
    solved: bool
    """Value and gradient at the end are within the tolerances."""
    hit: float
    """The work until the first value within the tolerance; NaN if there was none."""


def tolerances(dtype):
    """Return those relative to the minimum, to the whole descent, and of the gradient, to the first gradient."""
    return (1e-5, 1e-9, 1e-4) if dtype == "float64" else (1e-5, 1e-7, 1e-3)


def judge(run, minima):
    """Judge a run. A minimum above the least one counts only if the run ended at it."""
    relative, descent, slope = tolerances(run.dtype)
    limits = {f: f + relative * abs(f) + descent * (run.start - f) for f in minima}
    reached = [f for f in minima if abs(run.value - f) <= limits[f] - f or (f == min(minima) and run.value < f)]
    target = max(limits[f] for f in reached or [min(minima)])
    hit = next((work for work, value in run.lowest if value <= target), math.nan)
    return Judged(run, bool(reached) and run.gradient <= slope, hit)


def mean_ratio(pairs):
    """Return the geometric mean of ratios with their number, as text."""
    logs = [math.log(a / b) for a, b in pairs]
    return f"{math.exp(sum(logs) / len(logs)):.2f} ({len(logs)})" if logs else "-"


HEAD = (
    "solver", "dtype", "solved", "work to the value", "all work", "converged, but isn't solved",
    "solved, but neither converged nor precision", "errors",
)  # fmt: skip


def table(judged):
    """Return the table in Markdown. Work is relative to the baseline's on the same problem, with geometric means."""
    by = {(j.run.solver, j.run.dtype, j.run.problem): j for j in judged}
    rows = [HEAD, ("---",) * len(HEAD)]
    for dtype, solver in sorted({(j.run.dtype, j.run.solver) for j in judged}, reverse=True):
        mine = [j for j in judged if (j.run.solver, j.run.dtype) == (solver, dtype)]
        rows.append((solver, dtype, *_cells(mine, [by.get((*BASELINE, j.run.problem)) for j in mine])))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _cells(mine, baseline):
    pairs = [(j, b) for j, b in zip(mine, baseline, strict=True) if b is not None]
    hits = [(j.hit, b.hit) for j, b in pairs if not math.isnan(j.hit + b.hit)]
    totals = [(j.run.work, b.run.work) for j, b in pairs if j.solved and b.solved]
    wrong = sum(j.run.converged and not j.solved for j in mine)
    unsaid = sum(j.solved and not (j.run.converged or j.run.precision) for j in mine)
    counts = (wrong, unsaid, sum(bool(j.run.error) for j in mine))
    return (f"{sum(j.solved for j in mine)}/{len(mine)}", mean_ratio(hits), mean_ratio(totals), *map(str, counts))


def unsolved(judged):
    """Return a line for each solver and dtype with the problems that it didn't solve, * where it says it did."""
    lines = []
    for dtype, solver in sorted({(j.run.dtype, j.run.solver) for j in judged}, reverse=True):
        names = [
            j.run.problem + "*" * j.run.converged
            for j in judged
            if (j.run.solver, j.run.dtype) == (solver, dtype) and not j.solved
        ]
        lines.append(f"{solver}, {dtype}: {', '.join(names) or '-'}")
    return "\n".join(lines)

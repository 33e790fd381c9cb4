"""Plots of what a run does: its losses, its evaluations, its schedules and its path."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from gradchain.core.hyper import Schedule
from gradchain.plots.axes import GREY, MARKERS, add_legend, labelled_axes, line_style, losses_scale, set_scale
from gradchain.signatures import public
from gradchain.solvers.solution import Solution
from gradchain.training.history import History
from gradchain.training.steps.step import Path


@public
def plot_losses(
    runs: Mapping[str, Any] | History | Path | Sequence[float], *, columns: Sequence[str] = ("loss",), ax: Any = None,
    yscale: str | None = None,
) -> Any:  # fmt: skip
    """Plot the losses of one or several runs against the epoch, or against the step for the paths of optimizers.

    Args:
      runs: a dict from label to history or to an array of shape ``(epochs,)``; or a single one, without a label.
        ``result.run(i)`` is the history of one run of a sweep. Also results of :func:`~gradchain.training.trace_path`:
        their values, from step 0, the start. Values that aren't finite are left out.
      columns: which columns of the histories to draw; if there are several, ``val_`` columns have thinner lines.
      ax: the matplotlib axes to draw into; a new figure by default.
      yscale: ``"log"`` or ``"linear"``; logarithmic by default if all values are above 0.

    Returns:
      The axes.

    Raises:
      ValueError: if some runs are paths and others aren't.
    """
    paths = [isinstance(run, Path) for run in _labelled(runs).values()]
    if any(paths) and not all(paths):
        raise ValueError(
            "plot_losses: some runs are paths, with a value for each step, and others histories, with one for each "
            "epoch; draw them in two plots"
        )
    what = columns[0].removeprefix("val_") if len(columns) == 1 else "loss"
    ax = labelled_axes(ax, "step" if any(paths) else "epoch", what)
    for i, (label, run) in enumerate(_labelled(runs).items()):
        for column in columns if isinstance(run, History) else ("",):
            y = np.asarray(run[column] if isinstance(run, History) else run.values if any(paths) else run, float)
            name = " ".join(filter(None, (label, column if len(columns) > 1 else "")))
            width = 1.0 if column.startswith("val_") else 2.0
            x = np.arange(len(y)) + (not any(paths))
            marker = MARKERS[i % len(MARKERS)] if len(y) <= 30 else None
            y = np.where(np.isfinite(y), y, np.nan)
            ax.plot(x, y, label=name or None, **line_style(i), linewidth=width, marker=marker, markersize=2 + 2 * width)
    set_scale(ax, "y", yscale or losses_scale(ax))
    ax.xaxis.get_major_locator().set_params(integer=True)
    return add_legend(ax)


def _labelled(runs: Any) -> Mapping[str, Any]:
    return runs if isinstance(runs, Mapping) else {"": runs}


@public
def plot_minimization(solutions: Mapping[str, Solution] | Solution, *, ax: Any = None) -> Any:
    """Plot the values above the lowest one, and the gradients, of minimisations against their evaluations.

    Args:
      solutions: by the label to show, solutions with a history (``minimize(..., history=True)``); or a single one.
        Values are drawn as thick lines, gradients (their largest component) as thin ones.
      ax: the matplotlib axes to draw into; a new figure by default.

    Returns:
      The axes, both logarithmic.

    Raises:
      ValueError: if a solution has no history, or is a batch.
    """
    named = {"": solutions} if isinstance(solutions, Solution) else solutions
    for label, solution in named.items():
        if solution.history is None or np.ndim(solution.value):
            what = "has no history; call minimize(..., history=True)" if solution.history is None else "is a batch"
            raise ValueError(f"plot_minimization: the solution {label!r} {what}")
    runs = {label: {name: np.asarray(x, float) for name, x in (s.history or {}).items()} for label, s in named.items()}
    lowest = min(np.nanmin(run["value"], initial=np.inf) for run in runs.values())
    ax = labelled_axes(ax, "evaluations", "value above the lowest, largest gradient")
    for i, (label, run) in enumerate(runs.items()):
        for what, y, width in (("value", run["value"] - lowest, 2.0), ("gradient", run["grad_norm"], 1.0)):
            shown = np.isfinite(y) & (y > 0)
            ax.plot(run["evals"][shown], y[shown], label=f"{label} {what}".strip(), **line_style(i), linewidth=width)
    set_scale(ax, "y", "log")
    set_scale(ax, "x", "log")
    return add_legend(ax)


@public
def plot_schedule(
    schedules: Mapping[str, Any] | Sequence[Any] | Callable[[Any], Any], steps: int, *, ax: Any = None,
    ylabel: str = "value",
) -> Any:  # fmt: skip
    """Plot one or several schedules over the first updates.

    Args:
      schedules: a dict from label to schedule, a sequence of schedules (labelled by their reprs), or a single one. Any
        callable from count to number that JAX can ``vmap`` will do.
      steps: the last update shown; the first is 0.
      ax: the matplotlib axes to draw into; a new figure by default.
      ylabel: what the values are.

    Returns:
      The axes.
    """
    if not isinstance(schedules, Mapping):
        several = [schedules] if callable(schedules) else list(schedules)
        schedules = {repr(s) if isinstance(s, Schedule) else getattr(s, "__name__", repr(s)): s for s in several}
    ax = labelled_axes(ax, "update", ylabel)
    counts = np.arange(steps + 1)
    for i, (label, schedule) in enumerate(cast(Mapping[str, Any], schedules).items()):
        values = np.asarray(jax.vmap(schedule)(jnp.asarray(counts)))
        ax.plot(counts, values, label=textwrap.fill(label, 56), **line_style(i), linewidth=1.8)
    ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
    return add_legend(ax)


@public
def plot_path(
    function: Callable[[Any], Any], paths: Mapping[str, Any] | Any, *, ax: Any = None,
    xlim: tuple[float, float] | None = None, ylim: tuple[float, float] | None = None, levels: int = 12,
) -> Any:  # fmt: skip
    """Plot the paths of optimizers over the contours of a function of two variables.

    The contours lie closer together near the lowest value in view: their heights above it grow geometrically.

    Args:
      function: from an array of shape ``(2,)`` to a number.
      paths: a dict from label to an array of shape ``(points, 2)`` or to a result of
        :func:`~gradchain.training.trace_path`; or a single one. Points outside the view aren't shown.
      ax: the matplotlib axes to draw into; a new figure by default.
      xlim: the range of the first variable; by default that of the paths, and a margin.
      ylim: the range of the second variable.
      levels: how many contours to draw.

    Returns:
      The axes.

    Raises:
      ValueError: if a path isn't of shape ``(points, 2)``.
    """
    named = {label: _points(label, path) for label, path in _labelled(paths).items()}
    ax = labelled_axes(ax, "$w_0$", "$w_1$")
    cover = np.concatenate(list(named.values()))
    xlim, ylim = xlim or _limits(cover[:, 0]), ylim or _limits(cover[:, 1])
    _contours(ax, function, xlim, ylim, levels)
    for i, (label, points) in enumerate(named.items()):
        marker, every = MARKERS[i % len(MARKERS)], max(1, len(points) // 40)
        ax.plot(
            *points.T, **line_style(i), label=label or None, linewidth=1.5, marker=marker, markersize=4, markevery=every
        )
        ax.plot(
            *points[-1],
            linestyle="none",
            marker=marker,
            markersize=9,
            color=line_style(i)["color"],
            markeredgecolor="black",
        )
    for k, start in enumerate(np.unique([points[0] for points in named.values()], axis=0)):
        ax.plot(*start, linestyle="none", marker="o", markersize=8, markerfacecolor="white", markeredgecolor="black",
                label="start" if k == 0 else None, zorder=5)  # fmt: skip
    ax.set_xlim(*xlim)
    ax.set_ylim(*ylim)
    return add_legend(ax)


def _points(label: str, path: Any) -> Any:
    points = np.asarray(path.points if isinstance(path, Path) else path, float)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"plot_path: path {label!r} must have shape (points, 2), got {points.shape}")
    return points


def _limits(x: Any) -> tuple[float, float]:
    fine = x[np.isfinite(x)]
    low, high = (float(fine.min()), float(fine.max())) if fine.size else (-1.0, 1.0)
    margin = 0.15 * (high - low) or 1.0
    return low - margin, high + margin


def _contours(
    ax: Any, function: Callable[[Any], Any], xlim: tuple[float, float], ylim: tuple[float, float], levels: int
) -> None:
    x, y = np.meshgrid(np.linspace(*xlim, 201), np.linspace(*ylim, 201))
    z = np.asarray(jax.vmap(function)(jnp.stack([x.ravel(), y.ravel()], -1))).reshape(x.shape)
    low, span = float(np.nanmin(z)), float(np.nanmax(z) - np.nanmin(z))
    if span > 0:
        heights = low + span * np.geomspace(1e-3, 1, levels + 1)[:-1]
        ax.contour(x, y, z, levels=heights, colors=GREY, linewidths=0.6, linestyles="solid")

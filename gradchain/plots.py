"""Plots of losses, sweeps, schedules and optimizers' paths. They need Matplotlib, and don't use its global state.

Every function draws into ``ax`` or into a new figure, and returns the axes; ``ax.figure`` is the figure, to show or to
save: ``plot_losses(runs).figure.savefig("losses.png")``. Lines differ in colour (a palette that colour-blind people can
tell apart) and in their dashes or markers, so that they can be told apart in grey as well.
"""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from gradchain.core.hyper import Schedule
from gradchain.signatures import public
from gradchain.solvers.solution import Solution
from gradchain.training.history import History, plain_number, show_cell
from gradchain.training.search.comparison import OPTIMIZER
from gradchain.training.search.halving_result import HalvingResult
from gradchain.training.search.population_result import PopulationResult
from gradchain.training.search.range_test import TENTH, RangeTest
from gradchain.training.search.sweep_result import SweepResult
from gradchain.training.steps.step import Path
from gradchain.training.widths.coordinates import CoordinateCheck
from gradchain.training.widths.rate_transfer import RateTransfer

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""The palette of Okabe and Ito, without its yellow, which white paper swallows."""
DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P")
GREY = "#777777"


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
        raise ValueError("plot_losses: runs are paths, step by step, or histories, epoch by epoch; draw them apart")
    ax = _axes(ax, "step" if any(paths) else "epoch", columns[0].removeprefix("val_") if len(columns) == 1 else "loss")
    for i, (label, run) in enumerate(_labelled(runs).items()):
        for column in columns if isinstance(run, History) else ("",):
            y = np.asarray(run[column] if isinstance(run, History) else run.values if any(paths) else run, float)
            name = " ".join(filter(None, (label, column if len(columns) > 1 else "")))
            width = 1.0 if column.startswith("val_") else 2.0
            x = np.arange(len(y)) + (not any(paths))
            marker = MARKERS[i % len(MARKERS)] if len(y) <= 30 else None
            y = np.where(np.isfinite(y), y, np.nan)
            ax.plot(x, y, label=name or None, **_style(i), linewidth=width, marker=marker, markersize=2 + 2 * width)
    _scale(ax, "y", yscale or _losses_scale(ax))
    ax.xaxis.get_major_locator().set_params(integer=True)
    return _legend(ax)


@public
def plot_sweep(result: SweepResult, *, x: str | None = None, ax: Any = None, xscale: str | None = None) -> Any:
    """Plot the score of a sweep's runs against one hyperparameter, with the diverged region and the winner marked.

    Args:
      result: what :func:`~gradchain.training.sweep` returned. With several replicas the line is their mean, and the
        band goes from the lowest to the highest. If other hyperparameters vary too, each combination of them gets a
        line, and so does each optimizer that was swept: a horizontal one if it doesn't vary ``x``.
      x: the hyperparameter, by the name that ``result.varied`` has; by default the learning rate if it varies, else
        the one with the most values. PRNG keys can't be put on an axis.
      ax: the matplotlib axes to draw into; a new figure by default.
      xscale: ``"log"`` or ``"linear"``; logarithmic by default if all values are above 0 and span more than a factor
        of 10.

    Returns:
      The axes.

    Raises:
      ValueError: if the sweep doesn't vary ``x``, or varies no hyperparameter that is a number.
    """
    x, values = _abscissa(result, x)
    replicas, placed = result.final.shape[1], np.isfinite(values)
    several = f" (mean and range of {replicas})" if replicas > 1 else ""
    ax = _axes(ax, x.replace("_", " "), f"final {result.select.replace('_', ' ')}{several}")
    low, high = values[placed].min(), values[placed].max()
    others = {name: v for name, v in result.varied.items() if name != x}
    for i, (label, members) in enumerate(_combinations(others, len(values)).items()):
        members = members[np.argsort(values[members], kind="stable")]
        if placed[members].all():
            _plot_scores(ax, values[members], result.final[members], label, i)
        else:
            _plot_scores(ax, np.array([low, high]), result.final[members[[0, 0]]], label, i)
    finite = result.final[np.isfinite(result.final)]
    if finite.size and (finite > 0).all():
        _scale(ax, "y", "log")
    _scale(ax, "x", xscale or ("log" if low > 0 and high > 10 * low else "linear"))
    if x == OPTIMIZER:
        ax.set_xticks(values, result.varied[x])
    _mark_diverged(ax, values[placed], np.any(result.diverged, axis=-1)[placed])
    if result.has_winner:
        best = values[result.best] if placed[result.best] else high
        _mark_best(ax, best, result.scores[result.best], f"best: {_name_of_run(result, result.best, x)}")
    return _legend(ax)


def _abscissa(result: SweepResult, x: str | None) -> tuple[str, Any]:
    """Return the name of what a sweep is plotted against, and its value for each run; NaN for one without."""
    varied = result.varied
    numbers = {name: v.astype(float) for name, v in varied.items() if np.issubdtype(v.dtype, np.number)}
    if [*varied] == [OPTIMIZER]:  # each as it is, in a row
        numbers = {OPTIMIZER: np.arange(len(result.scores), dtype=float)}
    x = x or max(numbers, key=lambda name: (name == "learning_rate", len(np.unique(numbers[name]))), default="")
    if x not in numbers:
        raise ValueError(f"plot_sweep: x is {x!r}, but the sweep varies {', '.join(numbers) or 'no numbers'}")
    return x, numbers[x]


def _name_of_run(result: SweepResult, run: int, x: str) -> str:
    """Return a run's optimizer, if there are several, and its value of ``x``, if it has one."""
    shown = {name: v[run] for name, v in result.varied.items() if name in (OPTIMIZER, x)}
    parts = [v if name == OPTIMIZER else f"{name.replace('_', ' ')} {v:.3g}" for name, v in shown.items() if v == v]
    return ", ".join(parts)


@public
def plot_range_test(result: RangeTest, *, ax: Any = None, yscale: str = "linear") -> Any:
    """Plot the losses of a learning-rate range test against the rate: each one, their average, and the suggestion.

    Args:
      result: what :func:`~gradchain.training.learning_rate_range_test` returned. With a linear scale the axis ends at
        twice the largest fall above the start.
      ax: the matplotlib axes to draw into; a new figure by default.
      yscale: ``"log"`` or ``"linear"``.

    Returns:
      The axes.
    """
    ax = _axes(ax, "learning rate", "loss")
    losses, smoothed = (np.where(np.isfinite(y), y, np.nan) for y in (result.losses, result.smoothed))
    ax.plot(result.rates, losses, color=GREY, linewidth=0.6, alpha=0.7, label="each step")
    ax.plot(result.rates, smoothed, **_style(0), linewidth=2.0, label="smoothed")
    factors = result.rates[1:] / result.rates[:-1]
    _scale(ax, "x", "log" if np.allclose(factors, factors[0]) else "linear")
    _scale(ax, "y", yscale)
    if yscale == "linear":
        low, start = np.nanmin(smoothed), smoothed[0]
        ax.set_ylim(min(low, np.nanmin(losses)), start + max(start - low, 0.1 * abs(start)))
    if result.has_suggestion:
        place = int(np.argmin(np.abs(result.rates - result.suggestion)))
        _mark_best(ax, result.suggestion, smoothed[place], f"{result.suggestion:.2g}, {TENTH}")
    return _legend(ax)


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
    ax = _axes(ax, "evaluations", "value above the lowest, largest gradient")
    for i, (label, run) in enumerate(runs.items()):
        for what, y, width in (("value", run["value"] - lowest, 2.0), ("gradient", run["grad_norm"], 1.0)):
            shown = np.isfinite(y) & (y > 0)
            ax.plot(run["evals"][shown], y[shown], label=f"{label} {what}".strip(), **_style(i), linewidth=width)
    _scale(ax, "y", "log")
    _scale(ax, "x", "log")
    return _legend(ax)


def _combinations(others: dict[str, Any], runs: int) -> dict[str, Any]:
    """Return the runs' numbers by the combination of the other hyperparameters that they share."""
    groups: dict[str, list[int]] = {}
    for i in range(runs):
        mine = {name: show_cell(plain_number(v[i])) for name, v in others.items() if v[i] == v[i]}
        label = ", ".join(x if name == OPTIMIZER else f"{name.replace('_', ' ')} {x}" for name, x in mine.items())
        groups.setdefault(label, []).append(i)
    return {label: np.array(members) for label, members in groups.items()}


def _plot_scores(ax: Any, x: Any, final: Any, label: str, i: int) -> None:
    y = np.where(np.isfinite(final), final, np.nan)
    marker = MARKERS[i % len(MARKERS)]
    ax.plot(x, y.mean(-1), label=label or None, **_style(i), linewidth=1.5, marker=marker, markersize=4)
    if y.shape[1] > 1:
        ax.fill_between(x, y.min(-1), y.max(-1), color=COLOURS[i % len(COLOURS)], alpha=0.2, linewidth=0)


def _mark_diverged(ax: Any, x: Any, diverged: Any) -> None:
    """Shade where every run with that value diverged, and put a cross for each that did on the upper edge."""
    if not diverged.any():
        return
    log = ax.get_xscale() == "log"
    points = np.unique(x)
    place = np.log(points) if log else points
    middle = (place[1:] + place[:-1]) / 2
    edges = np.concatenate([place[:1], middle, place[-1:]])
    edges = np.exp(edges) if log else edges
    for i, point in enumerate(points):
        if diverged[x == point].all():
            ax.axvspan(edges[i], edges[i + 1], facecolor="#E8E8E8", edgecolor="none", zorder=0)
    ax.plot(
        x[diverged], np.ones(diverged.sum()), transform=ax.get_xaxis_transform(), linestyle="none", marker="x",
        color="black", markersize=5, clip_on=False, label="diverged",
    )  # fmt: skip


def _mark_best(ax: Any, x: float, y: float, label: str) -> None:
    ax.plot(
        [x], [y], linestyle="none", marker="*", markersize=14, color=COLOURS[4], markeredgecolor="black", label=label
    )


@public
def plot_halving(
    result: HalvingResult, *, column: str | None = None, ax: Any = None, xscale: str = "log",
    yscale: str | None = None,
) -> Any:  # fmt: skip
    """Plot the history of every run of successive halving or Hyperband, up to where it was dropped.

    Args:
      result: what :func:`~gradchain.training.successive_halving` or :func:`~gradchain.training.hyperband` returned.
        Each bracket has its own colour; a marker shows where a run ended.
      column: which column of the history to draw; by default the one that the runs were ranked by.
      ax: the matplotlib axes to draw into; a new figure by default.
      xscale: ``"log"`` or ``"linear"``.
      yscale: ``"log"`` or ``"linear"``; logarithmic by default if all values are above 0.

    Returns:
      The axes.
    """
    column = column or result.select
    ax = _axes(ax, "epoch", column.replace("_", " "))
    several = result.bracket.max() > 0
    for i in range(len(result.scores)):
        y, bracket = np.asarray(result.run(i)[column], float), int(result.bracket[i])
        y = np.where(np.isfinite(y), y, np.nan)
        first = several and (i == 0 or bracket != result.bracket[i - 1])
        ax.plot(
            np.arange(1, len(y) + 1), y, **_style(bracket), linewidth=1.0, alpha=0.7, markersize=4, markevery=[-1],
            marker=MARKERS[bracket % len(MARKERS)], label=f"bracket {bracket}" if first else None,
        )  # fmt: skip
    _scale(ax, "x", xscale)
    _scale(ax, "y", yscale or _losses_scale(ax))
    if result.has_winner:
        _mark_best(ax, int(result.epochs[result.best]), float(result.run(result.best)[column][-1]), "best")
    return _legend(ax)


@public
def plot_population(
    result: PopulationResult, *, y: str | None = None, ax: Any = None, yscale: str | None = None
) -> Any:
    """Plot a hyperparameter, or a column of the history, for all members of a population.

    Args:
      result: what :func:`~gradchain.training.population_based_training` returned. Each of the last round's members has
        a line, which follows it back through those it copied: lines meet where members copied. The best one's is
        thick.
      y: a hyperparameter by the name that ``result.schedule()`` has, or a column of the history; by default the
        learning rate if it was explored, else the first that was.
      ax: the matplotlib axes to draw into; a new figure by default.
      yscale: ``"log"`` or ``"linear"``; logarithmic by default if all values are above 0 and span more than a factor
        of 10.

    Returns:
      The axes.

    Raises:
      ValueError: if there is no hyperparameter or column of that name.
    """
    names, members = list(result.schedule(0)), range(len(result.scores))
    y = y or max(names, key=lambda name: name == "learning_rate")
    if y not in (*names, *result.history):
        raise ValueError(f"plot_population: y is {y!r}, but there are {', '.join((*names, *result.history))}")
    if y in names:
        lines = np.stack([np.repeat(result.schedule(i)[y], result.interval) for i in members]).astype(float)
    else:
        lines = result.course(y)[:, 0].astype(float)
    lines = np.where(np.isfinite(lines), lines, np.nan)
    ax = _axes(ax, "epoch", y.replace("_", " "))
    epochs, steps = np.arange(1, lines.shape[1] + 1), {"drawstyle": "steps-mid" if y in names else "default"}
    for i in members:
        label = "members" if i == 0 else None
        ax.plot(epochs, lines[i], color=GREY, linewidth=0.8, alpha=0.6, label=label, **steps)
    if result.has_winner:
        ax.plot(epochs, lines[result.best], **_style(0), linewidth=2.2, label="the best one", **steps)
    low, high = np.nanmin(lines), np.nanmax(lines)
    _scale(ax, "y", yscale or ("log" if low > 0 and high > 10 * low else "linear"))
    return _legend(ax)


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
    ax = _axes(ax, "update", ylabel)
    counts = np.arange(steps + 1)
    for i, (label, schedule) in enumerate(cast(Mapping[str, Any], schedules).items()):
        values = np.asarray(jax.vmap(schedule)(jnp.asarray(counts)))
        ax.plot(counts, values, label=textwrap.fill(label, 56), **_style(i), linewidth=1.8)
    ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
    return _legend(ax)


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
    ax = _axes(ax, "$w_0$", "$w_1$")
    cover = np.concatenate(list(named.values()))
    xlim, ylim = xlim or _limits(cover[:, 0]), ylim or _limits(cover[:, 1])
    _contours(ax, function, xlim, ylim, levels)
    for i, (label, points) in enumerate(named.items()):
        marker, every = MARKERS[i % len(MARKERS)], max(1, len(points) // 40)
        ax.plot(
            *points.T, **_style(i), label=label or None, linewidth=1.5, marker=marker, markersize=4, markevery=every
        )
        ax.plot(
            *points[-1],
            linestyle="none",
            marker=marker,
            markersize=9,
            color=_style(i)["color"],
            markeredgecolor="black",
        )
    for k, start in enumerate(np.unique([points[0] for points in named.values()], axis=0)):
        ax.plot(*start, linestyle="none", marker="o", markersize=8, markerfacecolor="white", markeredgecolor="black",
                label="start" if k == 0 else None, zorder=5)  # fmt: skip
    ax.set_xlim(*xlim)
    ax.set_ylim(*ylim)
    return _legend(ax)


@public
def plot_widths(check: CoordinateCheck, *, ax: Any = None) -> Any:
    """Plot how far activations, or matrices, have moved after the last step against the width, with their slopes.

    Args:
      check: what :func:`~gradchain.training.coordinate_check` or :func:`~gradchain.training.update_check` returned.
        Lines go through the geometric means over the seeds, bands from the lowest to the highest.
      ax: the matplotlib axes to draw into; a new figure by default.

    Returns:
      The axes.
    """
    ax = _axes(ax, "width", f"change after {_steps(check.changes.shape[2])}")
    for i, (name, slope) in enumerate(zip(check.names, check.shown_slopes(check.changes[:, :, -1]), strict=True)):
        sizes = check.changes[:, :, -1, i]
        sizes = np.where(sizes > 0, sizes, np.nan)
        marker = MARKERS[i % len(MARKERS)]
        ax.plot(check.widths, np.exp(np.log(sizes).mean(1)), label=f"{name} ({slope})", **_style(i), marker=marker)
        if sizes.shape[1] > 1:
            ax.fill_between(check.widths, sizes.min(1), sizes.max(1), color=_style(i)["color"], alpha=0.12, linewidth=0)
    ax.set_xscale("log", base=2)
    ax.set_xticks(check.widths, [str(width) for width in check.widths])
    _scale(ax, "y", "log")
    return _legend(ax)


def _steps(n: int) -> str:
    return f"{n} step{'' if n == 1 else 's'}"


@public
def plot_rate_transfer(transfer: RateTransfer, *, ax: Any = None) -> Any:
    """Plot the loss after training against the learning rate, a line for each width, with the best rates marked.

    Args:
      transfer: what :func:`~gradchain.training.learning_rate_transfer` returned. Lines go through the means over the
        seeds; rates at which a run diverged are left out.
      ax: the matplotlib axes to draw into; a new figure by default.

    Returns:
      The axes.
    """
    ax = _axes(ax, "learning rate", "loss")
    for i, (best, losses) in enumerate(zip(transfer.best, transfer.losses, strict=True)):
        means = np.where(np.isfinite(losses).all(-1), losses.mean(-1), np.nan)
        marker = MARKERS[i % len(MARKERS)]
        ax.plot(transfer.rates, means, label=f"width {best.width}", **_style(i), marker=marker, markersize=4)
        ax.plot(best.rate, best.loss, linestyle="none", marker=marker, markersize=10, color=_style(i)["color"],
                markeredgecolor="black")  # fmt: skip
    _scale(ax, "x", "log")
    return _legend(ax)


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


def _labelled(runs: Any) -> Mapping[str, Any]:
    return runs if isinstance(runs, Mapping) else {"": runs}


def _style(i: int) -> dict[str, Any]:
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i % len(DASHES)]}


def _axes(ax: Any, xlabel: str, ylabel: str) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("gradchain.plots needs matplotlib: pip install matplotlib") from None
    if ax is None:
        ax = Figure(figsize=(6, 4), dpi=150, layout="constrained").add_subplot()
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _losses_scale(ax: Any) -> str:
    """Return the scale for the lines in ``ax``: logarithmic, unless that would leave out values up to 0."""
    return "linear" if any((np.asarray(line.get_ydata()) <= 0).any() for line in ax.lines) else "log"


def _scale(ax: Any, which: str, scale: str) -> None:
    """Set an axis's scale; a logarithmic one shows plain numbers, and more of them where it spans few decades."""
    from matplotlib.ticker import LogLocator

    ax.set(**{f"{which}scale": scale})
    if scale == "log":
        axis, (low, high) = (ax.xaxis, ax.get_xlim()) if which == "x" else (ax.yaxis, ax.get_ylim())
        axis.set_major_formatter("{x:g}")
        if high < 100 * low:
            axis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
            axis.set_minor_formatter("{x:g}")


def _legend(ax: Any) -> Any:
    """Add a legend: inside where there is room, to the right of the axes if it is high, above them if it is wide."""
    labels = ax.get_legend_handles_labels()[1]
    place: dict[str, Any] = {"loc": "best"}
    if max(map(len, labels), default=0) > 35:
        place = {"loc": "lower left", "bbox_to_anchor": (0, 1)}
    elif len(labels) > 5:
        place = {"loc": "upper left", "bbox_to_anchor": (1, 1)}
    if labels:
        ax.legend(**place, frameon=True, framealpha=0.9, edgecolor="none", fontsize="small", handlelength=3.5)
    return ax

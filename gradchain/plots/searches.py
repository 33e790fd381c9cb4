"""Plots of searches: sweeps, halvings, populations and range tests."""

from typing import Any

import numpy as np

from gradchain.plots.axes import (
    COLOURS,
    GREY,
    MARKERS,
    add_legend,
    labelled_axes,
    line_style,
    losses_scale,
    mark_best,
    set_scale,
)
from gradchain.signatures import public
from gradchain.training.history import plain_number, show_cell
from gradchain.training.search.comparison import OPTIMIZER
from gradchain.training.search.halving_result import HalvingResult
from gradchain.training.search.population_result import PopulationResult
from gradchain.training.search.range_test import TENTH, RangeTest
from gradchain.training.search.sweep_result import SweepResult


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
    ax = labelled_axes(ax, x.replace("_", " "), f"final {result.select.replace('_', ' ')}{several}")
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
        set_scale(ax, "y", "log")
    set_scale(ax, "x", xscale or ("log" if low > 0 and high > 10 * low else "linear"))
    if x == OPTIMIZER:
        ax.set_xticks(values, result.varied[x])
    _mark_diverged(ax, values[placed], np.any(result.diverged, axis=-1)[placed])
    if result.has_winner:
        best = values[result.best] if placed[result.best] else high
        mark_best(ax, best, result.scores[result.best], f"best: {_name_of_run(result, result.best, x)}")
    return add_legend(ax)


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
    ax.plot(x, y.mean(-1), label=label or None, **line_style(i), linewidth=1.5, marker=marker, markersize=4)
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
    ax = labelled_axes(ax, "learning rate", "loss")
    losses, smoothed = (np.where(np.isfinite(y), y, np.nan) for y in (result.losses, result.smoothed))
    ax.plot(result.rates, losses, color=GREY, linewidth=0.6, alpha=0.7, label="each step")
    ax.plot(result.rates, smoothed, **line_style(0), linewidth=2.0, label="smoothed")
    factors = result.rates[1:] / result.rates[:-1]
    set_scale(ax, "x", "log" if np.allclose(factors, factors[0]) else "linear")
    set_scale(ax, "y", yscale)
    if yscale == "linear":
        low, start = np.nanmin(smoothed), smoothed[0]
        ax.set_ylim(min(low, np.nanmin(losses)), start + max(start - low, 0.1 * abs(start)))
    if result.has_suggestion:
        place = int(np.argmin(np.abs(result.rates - result.suggestion)))
        mark_best(ax, result.suggestion, smoothed[place], f"{result.suggestion:.2g}, {TENTH}")
    return add_legend(ax)


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
    ax = labelled_axes(ax, "epoch", column.replace("_", " "))
    several = result.bracket.max() > 0
    for i in range(len(result.scores)):
        y, bracket = np.asarray(result.run(i)[column], float), int(result.bracket[i])
        y = np.where(np.isfinite(y), y, np.nan)
        first = several and (i == 0 or bracket != result.bracket[i - 1])
        ax.plot(
            np.arange(1, len(y) + 1), y, **line_style(bracket), linewidth=1.0, alpha=0.7, markersize=4, markevery=[-1],
            marker=MARKERS[bracket % len(MARKERS)], label=f"bracket {bracket}" if first else None,
        )  # fmt: skip
    set_scale(ax, "x", xscale)
    set_scale(ax, "y", yscale or losses_scale(ax))
    if result.has_winner:
        mark_best(ax, int(result.epochs[result.best]), float(result.run(result.best)[column][-1]), "best")
    return add_legend(ax)


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
    ax = labelled_axes(ax, "epoch", y.replace("_", " "))
    epochs, steps = np.arange(1, lines.shape[1] + 1), {"drawstyle": "steps-mid" if y in names else "default"}
    for i in members:
        label = "members" if i == 0 else None
        ax.plot(epochs, lines[i], color=GREY, linewidth=0.8, alpha=0.6, label=label, **steps)
    if result.has_winner:
        ax.plot(epochs, lines[result.best], **line_style(0), linewidth=2.2, label="the best one", **steps)
    low, high = np.nanmin(lines), np.nanmax(lines)
    set_scale(ax, "y", yscale or ("log" if low > 0 and high > 10 * low else "linear"))
    return add_legend(ax)

"""Plots of what changes with a model's width."""

from typing import Any

import numpy as np

from gradchain.plots.axes import MARKERS, add_legend, labelled_axes, line_style, set_scale
from gradchain.signatures import public
from gradchain.training.widths.coordinates import CoordinateCheck
from gradchain.training.widths.rate_transfer import RateTransfer


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
    ax = labelled_axes(ax, "width", f"change after {_steps(check.changes.shape[2])}")
    for i, (name, slope) in enumerate(zip(check.names, check.shown_slopes(check.changes[:, :, -1]), strict=True)):
        sizes = check.changes[:, :, -1, i]
        sizes = np.where(sizes > 0, sizes, np.nan)
        marker = MARKERS[i % len(MARKERS)]
        ax.plot(check.widths, np.exp(np.log(sizes).mean(1)), label=f"{name} ({slope})", **line_style(i), marker=marker)
        if sizes.shape[1] > 1:
            ax.fill_between(
                check.widths, sizes.min(1), sizes.max(1), color=line_style(i)["color"], alpha=0.12, linewidth=0
            )
    ax.set_xscale("log", base=2)
    ax.set_xticks(check.widths, [str(width) for width in check.widths])
    set_scale(ax, "y", "log")
    return add_legend(ax)


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
    ax = labelled_axes(ax, "learning rate", "loss")
    for i, (best, losses) in enumerate(zip(transfer.best, transfer.losses, strict=True)):
        means = np.where(np.isfinite(losses).all(-1), losses.mean(-1), np.nan)
        marker = MARKERS[i % len(MARKERS)]
        ax.plot(transfer.rates, means, label=f"width {best.width}", **line_style(i), marker=marker, markersize=4)
        ax.plot(best.rate, best.loss, linestyle="none", marker=marker, markersize=10, color=line_style(i)["color"],
                markeredgecolor="black")  # fmt: skip
    set_scale(ax, "x", "log")
    return add_legend(ax)

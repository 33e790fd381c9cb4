"""Axes as all plots have them: colours and dashes, scales, the mark of the best, legends."""

from typing import Any

import numpy as np

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""The palette of Okabe and Ito, without its yellow, which white paper swallows."""
DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P")
GREY = "#777777"


def line_style(i: int) -> dict[str, Any]:
    """Return the colour and the dashes of the ``i``-th line."""
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i % len(DASHES)]}


def labelled_axes(ax: Any, xlabel: str, ylabel: str) -> Any:
    """Return ``ax``, or the axes of a new figure, with these labels."""
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


def losses_scale(ax: Any) -> str:
    """Return the scale for the lines in ``ax``: logarithmic, unless that would leave out values up to 0."""
    return "linear" if any((np.asarray(line.get_ydata()) <= 0).any() for line in ax.lines) else "log"


def set_scale(ax: Any, which: str, scale: str) -> None:
    """Set an axis's scale; a logarithmic one shows plain numbers, and more of them where it spans few decades."""
    from matplotlib.ticker import LogLocator

    ax.set(**{f"{which}scale": scale})
    if scale == "log":
        axis, (low, high) = (ax.xaxis, ax.get_xlim()) if which == "x" else (ax.yaxis, ax.get_ylim())
        axis.set_major_formatter("{x:g}")
        if high < 100 * low:
            axis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
            axis.set_minor_formatter("{x:g}")


def mark_best(ax: Any, x: float, y: float, label: str) -> None:
    """Put a star where the best is."""
    ax.plot(
        [x], [y], linestyle="none", marker="*", markersize=14, color=COLOURS[4], markeredgecolor="black", label=label
    )


def add_legend(ax: Any) -> Any:
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

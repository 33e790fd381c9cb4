"""Plots of losses, sweeps, schedules and optimizers' paths. They need Matplotlib, and don't use its global state.

Every function draws into ``ax`` or into a new figure, and returns the axes; ``ax.figure`` is the figure, to show or to
save: ``plot_losses(runs).figure.savefig("losses.png")``. Lines differ in colour (a palette that colour-blind people can
tell apart) and in their dashes or markers, so that they can be told apart in grey as well.
"""

from gradchain.plots.runs import plot_losses, plot_minimization, plot_path, plot_schedule
from gradchain.plots.searches import plot_halving, plot_population, plot_range_test, plot_sweep
from gradchain.plots.widths import plot_rate_transfer, plot_widths

__all__ = [
    "plot_halving",
    "plot_losses",
    "plot_minimization",
    "plot_path",
    "plot_population",
    "plot_range_test",
    "plot_rate_transfer",
    "plot_schedule",
    "plot_sweep",
    "plot_widths",
]

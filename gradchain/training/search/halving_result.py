"""What successive halving and Hyperband found."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from gradchain.signatures import public
from gradchain.training.history import History
from gradchain.training.search.sweep_result import Numbers, SweepResult
from gradchain.tree.alignment import T


@public
@dataclass(frozen=True, eq=False, repr=False)
class HalvingResult(SweepResult[T]):
    """What :func:`~gradchain.training.successive_halving` and :func:`~gradchain.training.hyperband` return.

    A :class:`SweepResult` in which runs end at different epochs. Only those trained to the end can win. ``history`` is
    NaN where a run was no longer trained; ``scores`` has each run's last value of the selected column.
    """

    epochs: Numbers
    """How many epochs each run was trained, of shape ``(runs,)``."""
    bracket: Numbers
    """Which bracket each run belonged to, of shape ``(runs,)``; 0 in successive halving."""

    @property
    def order(self) -> Numbers:
        """The runs, best first: by how long they were trained, then by score."""
        return np.lexsort((self._goal.cost(self.scores, np), -self.epochs))

    @property
    def has_winner(self) -> bool:
        """Whether a run that was trained to the end has a finite score."""
        return bool(np.isfinite(self.scores[self.order[0]]))

    def course(self, name: str) -> Numbers:
        """Return a column of the history in which a run that was dropped keeps its last value."""
        column = self.history[name]
        reached = np.minimum(np.arange(column.shape[-1]), self.epochs[:, None] - 1)
        return np.take_along_axis(column, reached[:, None], axis=-1)

    def run(self, run: int, replica: int = 0) -> History:
        """Return the history of one run, as far as it was trained."""
        columns = {name: x[run, replica, : self.epochs[run]] for name, x in self.history.items()}
        return History(columns, np.zeros(0))

    def _cells(self) -> tuple[list[str], list[list[Any]]]:
        header, cells = super()._cells()
        extra = {"epochs": self.epochs, "bracket": self.bracket}
        if not self.bracket.any():
            del extra["bracket"]
        return [*header, *extra], [[*row, *(int(x[i]) for x in extra.values())] for i, row in enumerate(cells)]

    def plot(self, ax: Any = None, **options: Any) -> Any:
        """Plot every run's course up to where it was dropped; see :func:`gradchain.plots.plot_halving`."""
        from gradchain.plots import plot_halving

        return plot_halving(self, ax=ax, **options)

    def __repr__(self) -> str:
        trained = f"runs={len(self.scores)}, epochs in all={int(self.epochs.sum())}"
        if not self.has_winner:
            return f"HalvingResult({trained}, all diverged)"
        return f"HalvingResult({trained}, winner={self.winner!r}, {self.select}={self.scores[self.best]:.4g})"

"""The result of a sweep over several optimizers: all their runs in one table and one plot, and one winner."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from gradchain.core.transform import Transform
from gradchain.signatures import public
from gradchain.training.history import text_table
from gradchain.training.search.sweep_result import Numbers, SweepResult
from gradchain.tree.alignment import T

OPTIMIZER = "optimizer"


@public
@dataclass(frozen=True, eq=False, repr=False)
class SweepComparison(SweepResult[T]):
    """What :func:`~gradchain.training.sweep` returns for several optimizers.

    A :class:`SweepResult` whose runs are those of all optimizers, one optimizer after another; ``comparison["adam"]``
    is the result of one. ``varied`` has a column ``optimizer``, and NaN where an optimizer doesn't vary a
    hyperparameter that another one does.

    Example:
      >>> txs = {"adam": adam(jnp.logspace(-4, -1, 4)), "sgd": sgd(jnp.logspace(-3, 0, 4))}
      >>> comparison = sweep(loss_fn, params, txs, data, epochs=5, batch_size=32)
      >>> print(comparison.table(best_of_each=True))
      >>> comparison.winner, comparison["sgd"].winner
    """

    tx: Any
    """The transforms, or batches of transforms, by name."""
    results: Mapping[str, SweepResult[T]]
    """The result of each optimizer by name."""

    @classmethod
    def of(cls, results: Mapping[str, SweepResult[T]]) -> Self:
        """Return the comparison of sweeps on the same data, with the same seeds and options."""
        each = list(results.values())
        first, scores = each[0], np.concatenate([x.scores for x in each])
        history = {name: np.concatenate([x.history[name] for x in each]) for name in first.history}
        winner = min(each, key=lambda x: x._goal.cost(x.scores, np).min())  # pyright: ignore[reportPrivateUsage]
        txs = {name: x.tx for name, x in results.items()}
        return cls(txs, winner.params, scores, history, first.start_loss, first.select, first.mode, dict(results))

    def __getitem__(self, name: str) -> SweepResult[T]:
        if name not in self.results:
            raise KeyError(f"no optimizer {name!r}; there are {', '.join(self.results)}")
        return self.results[name]

    def place(self, run: int) -> tuple[str, int]:
        """Return the name of a run's optimizer, and the run's number among those of that optimizer."""
        for name, result in self.results.items():
            if run < len(result.scores):
                return name, run
            run -= len(result.scores)
        raise IndexError(f"there are {len(self.scores)} runs, counted from 0")

    def transform(self, run: int) -> Transform:
        """Return the transform of one run, with Python numbers."""
        name, place = self.place(range(len(self.scores))[run])
        return self.results[name].transform(place)

    @property
    def leaders(self) -> dict[str, int]:
        """The best run of each optimizer by its name, the best optimizer first."""
        leaders = dict[str, int]()
        for run in self.order.tolist():
            leaders.setdefault(self.place(run)[0], run)
        return leaders

    @property
    def varied(self) -> dict[str, Numbers]:
        """The optimizers' names, and all hyperparameters that one of them varies, each of shape ``(runs,)``."""
        parts = [(len(x.scores), x.varied) for x in self.results.values()]
        columns: dict[str, Numbers] = {OPTIMIZER: np.repeat([*self.results], [runs for runs, _ in parts])}
        for name, values in {name: x for _, varied in parts for name, x in varied.items()}.items():
            kind = values.dtype if values.dtype.kind in "fU" else np.dtype(float)
            missing = "" if kind.kind == "U" else np.nan
            columns[name] = np.concatenate([varied.get(name, np.full(runs, missing, kind)) for runs, varied in parts])
        return columns

    def table(self, rows: int | None = None, *, best_of_each: bool = False) -> str:
        """Return a text table of the runs, best first.

        Args:
          rows: show only the best ones.
          best_of_each: show only the best run of each optimizer.
        """
        header, cells = self._cells()
        shown = list(self.leaders.values()) if best_of_each else self.order
        return text_table(header, [cells[i] for i in shown[:rows]])

    def _cells(self) -> tuple[list[str], list[list[Any]]]:
        header, cells = super()._cells()
        hyperparameters = len(self.varied)  # they come behind the run's number; NaN where an optimizer has none
        return header, [
            [*("" if x != x else x for x in row[: hyperparameters + 1]), *row[hyperparameters + 1 :]] for row in cells
        ]

    def __repr__(self) -> str:
        runs = f"optimizers={', '.join(self.results)}, runs={len(self.scores)}"
        if not self.has_winner:
            return f"SweepComparison({runs}, all diverged)"
        best = f"{self.select}={self.scores[self.best]:.4g}"
        return f"SweepComparison({runs}, winner={self.place(self.best)[0]}: {self.winner!r}, {best})"

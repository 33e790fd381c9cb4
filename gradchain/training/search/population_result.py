"""The result of population-based training: the best member, how its hyperparameters changed, who copied whom."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradchain.core.hyperparams import hyperparams
from gradchain.signatures import public
from gradchain.training.history import History, plain_number
from gradchain.training.search.sweep_result import Numbers, SweepResult, short_name
from gradchain.tree.alignment import T


@public
@dataclass(frozen=True, eq=False, repr=False)
class PopulationResult(SweepResult[T]):
    """What :func:`~gradchain.training.population_based_training` returns.

    A :class:`SweepResult` whose runs are the members; ``tx`` holds their last hyperparameters. ``history`` is that of
    each slot in the population, whichever member was in it; :meth:`run` follows a member back through those it copied.
    """

    parents: Numbers
    """Whom each member copied before each round, of shape ``(rounds, members)``: its own number where it stayed."""
    values: Mapping[str, Numbers]
    """The explored hyperparameters in each round, by full name, each of shape ``(rounds, members)``."""
    interval: int
    """Epochs in a round."""

    def lineage(self, member: int | None = None) -> Numbers:
        """Return the slot that a member, or its ancestor, had in each round, of shape ``(rounds,)``.

        Args:
          member: which of the last round's members; the best one by default.
        """
        place, places = self.best if member is None else member, []
        for parents in self.parents[::-1]:
            places.append(place)
            place = int(parents[place])
        return np.array(places[::-1])

    def schedule(self, member: int | None = None) -> dict[str, Numbers]:
        """Return the hyperparameters that a member was trained with in each round, by the shortest name that fits.

        Args:
          member: which of the last round's members; the best one by default.
        """
        places, known = self.lineage(member), list(hyperparams(self.tx))
        rounds = np.arange(len(places))
        return {short_name(name, known): values[rounds, places] for name, values in self.values.items()}

    @property
    def copies(self) -> int:
        """How many times members copied others."""
        return int((self.parents != np.arange(self.parents.shape[1])).sum())

    def course(self, name: str) -> Numbers:
        """Return a column of the history along each member's lineage."""
        places = np.stack([np.repeat(self.lineage(member), self.interval) for member in range(len(self.scores))])
        column = self.history[name]
        return column[places, 0, np.arange(column.shape[-1])][:, None]

    def run(self, run: int, replica: int = 0) -> History:
        """Return the history that led to one member: its own, and before that of those it copied."""
        return History({name: self.course(name)[run, replica] for name in self.history}, np.zeros(0))

    def _cells(self) -> tuple[list[str], list[list[Any]]]:
        header, cells = super()._cells()
        starts = [int(self.lineage(member)[0]) for member in range(len(self.scores))]
        return [*header, "began as"], [[*row, start] for row, start in zip(cells, starts, strict=True)]

    def plot(self, ax: Any = None, **options: Any) -> Any:
        """Plot a hyperparameter over the rounds; see :func:`gradchain.plots.plot_population`."""
        from gradchain.plots import plot_population

        return plot_population(self, ax=ax, **options)

    def __repr__(self) -> str:
        members = f"members={len(self.scores)}, copies={self.copies}"
        if not self.has_winner:
            return f"PopulationResult({members}, all diverged)"
        last = {name: plain_number(values[-1]) for name, values in self.schedule().items()}
        return f"PopulationResult({members}, best={last}, {self.select}={self.scores[self.best]:.4g})"

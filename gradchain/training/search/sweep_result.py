"""The result of a sweep: the winner, every run's losses, a table, a plot."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic

import jax
import numpy as np

from gradchain.core.hyper import Schedule
from gradchain.core.hyperparams import hyperparams
from gradchain.core.transform import Transform
from gradchain.signatures import public
from gradchain.training.fitting.ranking import Goal, Mode
from gradchain.training.history import History, plain_number, text_table, write_csv
from gradchain.tree.alignment import T, is_key

Numbers = np.ndarray[Any, Any]

NO_SIZE = 1e-6
"""A loss before training up to which it says nothing about the size of losses."""


@public
def has_diverged(losses: Any, start_loss: Any, xp: Any = np) -> Any:
    r"""Tell which runs diverged: a loss isn't finite, or the last one is far above the loss before training.

    .. math:: l > l_0 + \max(|l_0|, |\min(l_0, l_1, l_2, \dots)|)

    For a positive loss that is more than twice the loss before training, :math:`l_0`. For one that becomes negative,
    the size of the lowest loss counts if it is larger. Where :math:`l_0` is negative or 0 (up to a millionth), it may
    lie at the optimum, or near 0 by chance, and says little about the size of losses: the margin is at least 1 there.

    Args:
      losses: each epoch's mean training loss, of shape ``(..., epochs)``.
      start_loss: the training loss before the first step, of shape ``(...)`` or one that broadcasts to it.
      xp: ``numpy`` or ``jax.numpy``.

    Returns:
      Booleans of shape ``(...)``.
    """
    lowest = xp.minimum(start_loss, xp.min(losses, -1))
    size = xp.maximum(xp.abs(start_loss), xp.abs(lowest))
    margin = xp.where(start_loss > NO_SIZE, size, xp.maximum(size, 1))
    return ~xp.all(xp.isfinite(losses), -1) | (losses[..., -1] > start_loss + margin)


@public
@dataclass(frozen=True, eq=False)
class SweepResult(Generic[T]):
    """What :func:`~gradchain.training.sweep` returns.

    A *run* is one transform of the batch; a *replica* of it is one seed or start.
    """

    tx: Transform
    """The batch of transforms."""
    params: T | None
    """The winner's parameters after the last epoch, its best replica's: those to evaluate and to keep (see
    :func:`gradchain.eval_params`). ``None`` if there is no winner."""
    scores: Numbers
    """What decides, of shape ``(runs,)``: the last value of the selected column, averaged over the replicas; if one
    of them diverged, infinity, or minus infinity where the highest is best."""
    history: Mapping[str, Numbers]
    """By name as in a :class:`~gradchain.training.History`, each of shape ``(runs, replicas, epochs)``."""
    start_loss: Numbers
    """The training loss before the first step, of shape ``(replicas,)``."""
    select: str
    """The selected column."""
    mode: Mode
    """Which value of it is best: ``"min"``, the lowest, or ``"max"``, the highest."""

    @property
    def _goal(self) -> Goal:
        """The column that decides, and which of its values are best."""
        return Goal(self.select, self.mode)

    @property
    def losses(self) -> Numbers:
        """Each epoch's mean training loss, of shape ``(runs, replicas, epochs)``."""
        return self.history["loss"]

    @property
    def final(self) -> Numbers:
        """The last value of the selected column, of shape ``(runs, replicas)``; infinitely bad if it diverged."""
        cost = self._goal.cost(self.course(self.select)[..., -1], np)
        return self._goal.signed(np.where(self.diverged, np.inf, cost))

    @property
    def spread(self) -> Numbers:
        """The standard deviation of ``final`` over the replicas, of shape ``(runs,)``; NaN if one diverged."""
        return np.std(np.where(np.isfinite(self.final), self.final, np.nan), axis=-1)

    @property
    def diverged(self) -> Numbers:
        """Which runs diverged, of shape ``(runs, replicas)``, as :func:`~gradchain.training.has_diverged` says."""
        return has_diverged(self.course("loss"), self.start_loss)

    def course(self, name: str) -> Numbers:
        """Return a column of the history, of shape ``(runs, replicas, epochs)``, from which ``final`` is taken."""
        return self.history[name]

    @property
    def order(self) -> Numbers:
        """The runs, best first."""
        return np.argsort(self._goal.cost(self.scores, np), kind="stable")

    @property
    def has_winner(self) -> bool:
        """Whether a run has a finite score."""
        return bool(np.isfinite(self.scores).any())

    @property
    def best(self) -> int:
        """The run with the best score; the first, if several are equal.

        Raises:
          ValueError: if every run diverged.
        """
        if not self.has_winner:
            raise ValueError(
                "sweep: there is no winner: every run diverged, from one of its seeds at least (see has_diverged), or "
                f"ended with a {self.select} that isn't finite; table() and losses show what happened. If they "
                "diverged, try lower learning rates"
            )
        return int(self.order[0])

    @property
    def winner(self) -> Transform:
        """The best run's transform, an ordinary one with Python numbers.

        Raises:
          ValueError: if every run diverged.
        """
        return self.transform(self.best)

    def transform(self, run: int) -> Transform:
        """Return the transform of one run, with Python numbers: it compares, hashes and prints as if built directly.

        PRNG keys stay keys.
        """
        return jax.tree.map(lambda x: plain_number(x[run]) if np.ndim(x) else x, self.tx)

    def run(self, run: int, replica: int = 0) -> History:
        """Return the history of one run, for plots and tables (the single steps' losses aren't kept)."""
        return History({name: x[run, replica] for name, x in self.history.items()}, np.zeros(0))

    @property
    def varied(self) -> dict[str, Numbers]:
        """The hyperparameters that vary, each of shape ``(runs,)``, by the shortest unambiguous name.

        Those of one name that all have the same values, such as both rates of ``muon(rates)``, are one. A PRNG key is
        shown as text, the hexadecimal digits of its data.
        """
        numbers, columns = hyperparams(self.tx), dict[str, Numbers]()
        batches = {k: _shown(v) for k, v in numbers.items() if not isinstance(v, Schedule) and np.ndim(v)}
        for name, values in batches.items():
            last = name.rpartition(".")[2]
            namesakes = [k for k in numbers if k.rpartition(".")[2] == last]
            together = all(k in batches and np.array_equal(batches[k], values) for k in namesakes)
            columns[last if together else short_name(name, list(numbers))] = values
        return columns

    def table(self, rows: int | None = None) -> str:
        """Return a text table of the runs, best first.

        Args:
          rows: show only the best ones.
        """
        header, cells = self._cells()
        return text_table(header, [cells[i] for i in self.order[:rows]])

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write a line for each run, in the batch's order, with the last value of every column of each replica."""
        header, cells = self._cells()
        replicas = range(self.final.shape[1])
        ends = {name: self.course(name)[..., -1] for name in self.history}
        last = {f"{n}_{k}" if len(replicas) > 1 else n: x[:, k] for n, x in ends.items() for k in replicas}
        lines = [[*cells[i], *(x[i] for x in last.values())] for i in range(len(cells))]
        write_csv(path, [*header, *(f"last_{name}" for name in last)], lines)

    def _cells(self) -> tuple[list[str], list[list[Any]]]:
        varied, several = self.varied, self.final.shape[1] > 1
        columns: dict[str, Any] = {"run": range(len(self.scores))}
        columns |= {name: [plain_number(x) for x in values] for name, values in varied.items()}
        columns[f"mean {self.select}" if several else self.select] = self.scores
        if several:
            columns["spread"] = self.spread
        columns["diverged"] = [_share(flags) for flags in self.diverged]
        return list(columns), [list(row) for row in zip(*columns.values(), strict=True)]

    def plot(self, ax: Any = None, **options: Any) -> Any:
        """Plot score against hyperparameter; see :func:`gradchain.plots.plot_sweep`."""
        from gradchain.plots import plot_sweep

        return plot_sweep(self, ax=ax, **options)

    def __repr__(self) -> str:
        runs = len(self.scores)
        if not self.has_winner:
            return f"SweepResult(runs={runs}, all diverged)"
        return f"SweepResult(runs={runs}, winner={self.winner!r}, {self.select}={self.scores[self.best]:.4g})"


def short_name(name: str, known: list[str]) -> str:
    """Return the shortest end of a dotted name that no other known name has, as ``set_hyperparams`` takes it."""
    parts = name.split(".")
    ends = (".".join(parts[i:]) for i in range(len(parts) - 1, -1, -1))
    return next((end for end in ends if sum(k == end or k.endswith(f".{end}") for k in known) == 1), name)


def _shown(values: Any) -> Numbers:
    """Return a batch of numbers as it is, and PRNG keys as text."""
    if not is_key(values):
        return np.asarray(values)
    return np.array([np.asarray(jax.random.key_data(key)).astype(">u4").tobytes().hex() for key in values])


def _share(flags: Numbers) -> str:
    if not flags.any():
        return "no"
    return "yes" if flags.all() else f"{int(flags.sum())} of {len(flags)}"

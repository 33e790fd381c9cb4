"""What ``fit`` keeps of its epochs, whether training still gets anywhere, and when it ends."""

import math
import warnings
from typing import Any

import jax
import numpy as np
from jax import Array

from gradchain.arguments import check_whole
from gradchain.combinators.guards import count_not_finite
from gradchain.combinators.loss_scaling import scale_states
from gradchain.core.transform import Transform
from gradchain.training.history import History, in_order
from gradchain.training.ranking import goal_of
from gradchain.training.resuming import Snapshot
from gradchain.training.stopping import EarlyStopping
from gradchain.tree import Tree


class Record:
    """How a run's snapshot follows from the one an epoch before.

    Args:
      stopping: when to stop early, if at all.
      validates: whether there are validation data.
      tx: the transform.
      epochs: how many the run is to have.

    Raises:
      TypeError: if ``stopping`` isn't an ``EarlyStopping``.
      ValueError: if its numbers are out of range, or it doesn't say which value of its column is best.
    """

    def __init__(self, stopping: EarlyStopping | None, validates: bool, tx: Transform, epochs: int):
        if stopping is not None:
            if not isinstance(stopping, EarlyStopping):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(
                    f"fit: early_stopping must be an EarlyStopping, got {stopping!r}; to stop after 3 epochs without "
                    "improvement, write early_stopping=EarlyStopping(patience=3)"
                )
            check_whole("EarlyStopping: patience", stopping.patience)
        rule = stopping or EarlyStopping()
        self.goal = goal_of("EarlyStopping", "monitor", rule.monitor, rule.mode, validates)
        self.rule = rule._replace(monitor=self.goal.column, mode=self.goal.mode)
        self.stopping = None if stopping is None else self.rule
        """The rule that ends the run, with all its defaults written out."""
        self._tx, self._epochs, self._warned = tx, epochs, False

    def begin(self, params: Tree, state: Any) -> Snapshot:
        """Return the run before its first epoch."""
        return Snapshot(params, state, (), (), self.rule.init(), 0, None, "epochs")

    def after(self, run: Snapshot, params: Tree, state: Any, row: dict[str, Array], losses: Array) -> Snapshot:
        """Return the run after one more epoch: its parameters, state, row of the history and each step's loss."""
        numbers = {name: float(x) for name, x in jax.device_get(row).items()}
        if self.goal.column not in numbers:
            raise ValueError(f"EarlyStopping: no column {self.goal.column!r}; there are {', '.join(numbers)}")
        progress = self.rule.update(numbers[self.goal.column], run.stopping)
        best_epoch, best = run.best_epoch, run.best
        if progress.improved:
            best_epoch = len(run.rows) + 1
            if self.stopping and self.stopping.restore_best:
                best = params, self._tx.eval_params(state, params)
        rows, step_losses = (*run.rows, numbers), (*run.step_losses, losses)
        new = Snapshot(params, state, rows, step_losses, progress, best_epoch, best, "epochs")
        if _is_lost(new):
            return new._replace(stopped="diverged")
        if not self._warned and (problem := _problem(run, new, len(rows) == self._epochs)):
            self._warned = True
            warnings.warn(f"fit: epoch {len(rows)}: {problem}", stacklevel=4)
        return new._replace(stopped="early" if self.stopping and progress.should_stop else "epochs")

    def chosen(self, run: Snapshot) -> tuple[Tree, Tree]:
        """Return the parameters to return, and their evaluation weights."""
        return run.best or (run.params, self._tx.eval_params(run.state, run.params))


def _is_lost(run: Snapshot) -> bool:
    """Tell whether the last epoch's loss isn't finite, and no later one will be."""
    if math.isfinite(run.rows[-1]["loss"]):
        return False
    return not np.isfinite(run.step_losses[-1]).any() or bool(count_not_finite(run.params))


def _problem(before: Snapshot, now: Snapshot, last: bool) -> str:
    """Return what the caller should hear of an epoch, if anything."""
    losses = np.asarray(now.step_losses[-1])
    if bad := int((~np.isfinite(losses)).sum()):
        return (
            f"the loss isn't finite in {bad} of {len(losses)} steps, though the parameters are; look for NaN "
            "and infinity in the data and in loss_fn, or lower the learning rate"
        )
    pairs = zip(scale_states(before.state), scale_states(now.state), strict=True)
    for old, new in [[jax.device_get(x[:4]) for x in pair] for pair in pairs]:
        steps, scale = int(new[0] - old[0]), float(new[1])
        if steps == new[3] - old[3] != 0 and (last or scale == old[1]):
            return (
                f"loss_scale left out all {steps} steps, because no gradient was finite; the scale is {scale:.3g}. If "
                "it is large, lower init_scale or let it adapt (growth_interval); else look for NaN or infinity in "
                "the data and in loss_fn"
            )
    return ""


def history_of(run: Snapshot) -> History:
    """Return the history of a run."""
    names = in_order(run.rows[0]) if run.rows else []
    steps = [np.asarray(x) for x in run.step_losses]
    return History(
        {name: np.array([row[name] for row in run.rows]) for name in names},
        np.concatenate(steps) if steps else np.zeros(0),
    )

"""What ``fit`` keeps of a run, whether training still gets anywhere, and when it ends."""

import math
import warnings
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np

from gradchain.arguments import check_whole
from gradchain.combinators.guards import apply_if_finite, count_not_finite, skip_spikes
from gradchain.combinators.loss_scaling import loss_scale, scale_states
from gradchain.core.transform import Transform
from gradchain.training.budget import Moment
from gradchain.training.data.positions import Position
from gradchain.training.fitting.ranking import goal_of
from gradchain.training.fitting.stopping import EarlyStopping, StoppingState
from gradchain.training.history import History
from gradchain.training.metrics import in_order, mean_row
from gradchain.training.steps.sources import Launched, Part, Renewal
from gradchain.training.variables import Variables, for_evaluation
from gradchain.tree import Tree

OnDivergence = Literal["stop", "continue"]


class Snapshot(NamedTuple):
    """All that a moment of a run leaves to the next one, and to the result."""

    variables: Variables[Any]
    state: Any
    position: Position
    now: Moment
    rows: tuple[dict[str, float], ...]
    """The history, as far as it is."""
    marks: tuple[Moment, ...]
    """How far the run was at each row."""
    open: tuple[tuple[dict[str, float], int], ...]
    """Of steps after the last row: means, and the numbers of their examples."""
    step_losses: tuple[Any, ...]
    """An array for each row, and one for each call since."""
    stopping: StoppingState
    best_row: int
    best: tuple[Variables[Any], Tree] | None
    """The best row's variables and evaluation weights, where they are to be restored."""
    stopped: str
    """Why it has ended, or will."""


class Ledger:
    """How a run's snapshot follows from the one before.

    Args:
      stopping: when to stop early, if at all.
      validates: whether there are validation data.
      tx: the transform.
      unit: ``epochs`` or ``steps``: what ends the run, and what early stopping counts.
      on_divergence: ``"continue"`` if a loss that isn't finite is no reason to stop, else ``"stop"``.

    Raises:
      TypeError: if ``stopping`` isn't an ``EarlyStopping``.
      ValueError: if its numbers are out of range, it doesn't say which value of its column is best, or there are no
        validation data for it; for an unknown ``on_divergence``.
    """

    def __init__(
        self, stopping: EarlyStopping | None, validates: bool, tx: Transform, unit: str, on_divergence: str,
        renew: Renewal = lambda variables: variables,
    ):  # fmt: skip
        if stopping is not None:
            if not isinstance(stopping, EarlyStopping):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(
                    f"fit: early_stopping must be an EarlyStopping, got {stopping!r}; to stop after 3 epochs without "
                    "improvement, write early_stopping=EarlyStopping(patience=3)"
                )
            check_whole("EarlyStopping: patience", stopping.patience)
        if on_divergence not in get_args(OnDivergence):
            raise ValueError(f"fit: on_divergence must be 'stop' or 'continue', got {on_divergence!r}")
        rule = stopping or EarlyStopping()
        self.goal = goal_of("EarlyStopping", "monitor", rule.monitor, rule.mode, validates)
        if self.goal.column.startswith("val_") and not validates:
            raise ValueError(
                f"EarlyStopping: monitor={self.goal.column!r} needs validation data: fit(..., validation=...)"
            )
        self.rule = rule._replace(monitor=self.goal.column, mode=self.goal.mode)
        self.stopping = None if stopping is None else self.rule
        """The rule that ends the run, with all its defaults written out."""
        self._tx, self._unit, self._guarded = tx, unit, _is_guarded(tx)
        self._goes_on = on_divergence == "continue"
        self._warned, self._renew = False, renew

    def begin(self, variables: Variables[Any], state: Any, position: Position) -> Snapshot:
        """Return the run before its first step."""
        now = Moment(0, 0, position.step == 0)
        return Snapshot(variables, state, position, now, (), (), (), (), self.rule.init(), 0, None, self._unit)

    def after(self, before: Snapshot, run: Snapshot, launched: Launched, part: Part) -> Snapshot:
        """Return the run after some more steps; if they diverge, as it was when the loss was finite last.

        Its variables are those from before the call unless it is at the end of that, or has diverged.

        Args:
          before: the run before the call that these steps are a part of.
          run: the run before these steps.
          launched: the call.
          part: the steps.
        """
        numbers = part.row, part.examples
        run = run._replace(open=(*run.open, numbers), step_losses=(*run.step_losses, part.losses))
        finite = np.isfinite(part.losses)
        if not (self._goes_on or self._guarded or finite.all()):
            kept = run.now.steps - before.now.steps + max(int(np.argmin(finite)) - 1, 0)
            return self.back_to(kept, before, run, launched)._replace(stopped="diverged")
        run = run._replace(now=run.now._replace(steps=run.now.steps + part.steps, between=False))
        if run.now.steps - before.now.steps < launched.steps:
            return run
        variables, state, position = launched.end
        return run._replace(variables=variables, state=state, position=position, now=launched.moment(before.now))

    def back_to(self, steps: int, before: Snapshot, run: Snapshot, launched: Launched) -> Snapshot:
        """Return the run at only the first steps of a call, with its losses as they are."""
        variables, state = launched.again(steps)
        position = launched.start.position
        return run._replace(
            variables=variables,
            state=state,
            position=position._replace(step=position.step + steps),
            now=Moment(before.now.steps + steps, before.now.epochs, between=False),
        )

    def with_row(
        self, before: Snapshot, run: Snapshot, measured: dict[str, float], mark: Moment, last: bool
    ) -> Snapshot:
        """Return the run with a row of the steps since the last one.

        Args:
          before: the run at the row before.
          run: the run now.
          measured: what was measured on the validation data, unless the steps came with it.
          mark: how far the run is, or would be if it hadn't diverged.
          last: whether this is the budget's last row.
        """
        row = mean_row(run.open) | measured
        if self.goal.column not in row:
            raise ValueError(f"EarlyStopping: no column {self.goal.column!r}; there are {', '.join(row)}")
        progress = self.rule.update(row[self.goal.column], run.stopping)
        best_row, best = run.best_row, run.best
        if progress.improved:
            best_row = len(run.rows) + 1
            if self.stopping and self.stopping.restore_best:
                best = run.variables, self._tx.eval_params(run.state, run.variables.params)
        rows, marks = (*run.rows, row), (*run.marks, mark)
        new = run._replace(rows=rows, marks=marks, open=(), stopping=progress, best_row=best_row, best=best)
        if new.stopped == "diverged":
            return new
        since = np.concatenate(new.step_losses[len(before.step_losses) :])
        new = new._replace(step_losses=(*before.step_losses, since))
        if not self._goes_on and not math.isfinite(row["loss"]) and _is_lost(new, since):
            return new._replace(stopped="diverged")
        if not (self._warned or self._goes_on) and (problem := _problem(before, new, since, last)):
            self._warned = True
            warnings.warn(f"fit: {self._unit[:-1]} {self._place(new)}: {problem}", stacklevel=8)
        return new._replace(stopped="early" if self.stopping and progress.should_stop else self._unit)

    def _place(self, run: Snapshot) -> int:
        return run.now.epochs if self._unit == "epochs" else run.now.steps

    def chosen(self, run: Snapshot) -> tuple[Variables[Any], Variables[Any]]:
        """Return the variables to return, and those with evaluation weights."""
        if run.best:
            return run.best[0], self._renew(run.best[0]._replace(params=run.best[1]))
        return run.variables, self.weights(run)

    def weights(self, run: Snapshot) -> Variables[Any]:
        """Return the variables with evaluation weights, and with the state that belongs to them if that is wanted."""
        return self._renew(for_evaluation(self._tx, run.state, run.variables))


def _is_guarded(tx: Transform) -> bool:
    """Tell whether a transform deals with gradients that aren't finite itself."""
    guards = (apply_if_finite.Value, skip_spikes.Value, loss_scale.Value)
    return isinstance(tx, guards) or any(_is_guarded(part.transform) for part in tx.parts())


def _is_lost(run: Snapshot, losses: np.ndarray[Any, Any]) -> bool:
    """Tell whether a row's loss isn't finite, and no later one will be."""
    return not np.isfinite(losses).any() or bool(count_not_finite(run.variables.params))


def _problem(before: Snapshot, now: Snapshot, losses: np.ndarray[Any, Any], last: bool) -> str:
    """Return what the caller should hear of the steps of a row, if anything."""
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


def history_of(run: Snapshot, unit: Literal["epoch", "step"]) -> History:
    """Return the history of a run, with rows numbered by epochs or steps."""
    names = in_order(run.rows[0]) if run.rows else []
    columns = {name: np.array([row[name] for row in run.rows]) for name in names}
    losses = [np.asarray(x) for x in run.step_losses]
    numbers = [mark.epochs if unit == "epoch" else mark.steps for mark in run.marks]
    return History(columns, np.concatenate(losses) if losses else np.zeros(0), numbers, unit)

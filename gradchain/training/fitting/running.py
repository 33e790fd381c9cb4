"""The loop of ``fit``: steps are launched, settled, and followed by what is due."""

from collections.abc import Callable
from typing import Any

import jax

from gradchain.arguments import check_whole
from gradchain.compiled import Compiled
from gradchain.training.budget import Amount, Budget, Moment, is_due, steps_until
from gradchain.training.data.positions import Position
from gradchain.training.data.streams import Stream
from gradchain.training.fitting.ledger import Ledger, Snapshot
from gradchain.training.fitting.resuming import SavedRun
from gradchain.training.metrics import mean_row
from gradchain.training.steps.recipe import Recipe, validate
from gradchain.training.steps.sources import Launched, Part, Source, Tip
from gradchain.training.variables import Variables
from gradchain.training.watching.callbacks import Callbacks
from gradchain.tree import Tree


class Running:
    """A run of ``fit`` between its beginning and its end.

    One call is on the device while the one before is looked at: what it returned is read, checked and recorded. The run
    is ``saved.run``, which changes by one assignment, so that Ctrl-C finds a snapshot that is whole.
    """

    def __init__(
        self, source: Source, recipe: Recipe, budget: Budget, ledger: Ledger, validation: Tree | None, saved: SavedRun,
        callbacks: Callbacks, steps_before: int,
    ):  # fmt: skip
        self._source, self._recipe, self._validation = source, recipe, validation
        self._budget, self._ledger, self._saved, self._callbacks = budget, ledger, saved, callbacks
        self._steps_before = steps_before
        self._row = saved.run
        """The run at its last row."""

    def go(self) -> Any:
        """Train to the end, and return why it ended."""
        try:
            self._train()
            interrupted = False
        except KeyboardInterrupt:
            interrupted = True
        self._save(self._saved.finish)
        run = self._saved.run
        stopped = "interrupted" if interrupted and not self._ended(run) else run.stopped
        if self._callbacks:
            self._callbacks.end(*self._place(run), stopped, *self._model(run))
        return stopped

    def _ended(self, run: Snapshot) -> bool:
        return run.stopped != f"{self._budget.unit}s"

    def _train(self) -> None:
        run = self._saved.run
        tip, now, waiting = Tip(run.variables, run.state, run.position), run.now, None
        while not self._ended(self._saved.run) and not (self._budget.is_over(now) and waiting is None):
            launched = None
            if not self._budget.is_over(now):
                launched = self._launch(tip, now)
                tip, now = launched.end, launched.moment(now)
            if waiting is not None:
                self._settle(waiting)
                waiting = None
            if launched is not None and not self._ended(self._saved.run):
                if self._needs_looking_at(now):
                    self._settle(launched)
                else:
                    waiting = launched

    def _launch(self, tip: Tip, now: Moment) -> Launched:
        """Tell the device to go on until something is due."""
        limits = [self._budget.steps_left(now), *(steps_until(every, now) for every in self._events())]
        known = [limit for limit in limits if limit is not None]
        stretches = self._callbacks.stretches(self._steps_before + now.steps)
        return self._source.launch(tip, min(known, default=None), self._budget.rows_are_epochs, stretches)

    def _events(self) -> list[Amount]:
        return [self._budget.every, self._saved.every]

    def _needs_looking_at(self, now: Moment) -> bool:
        return self._budget.is_over(now) or any(is_due(every, now) for every in self._events())

    def _settle(self, launched: Launched) -> None:
        """Record what some steps did, and do what is due after them."""
        before = run = self._saved.run
        parts = launched.read()
        seconds = self._callbacks.timed(launched)
        for part in parts[:-1]:
            mark = run.now._replace(steps=run.now.steps + part.steps, between=False)
            run = self._ledger.after(before, run, launched, part)
            if self._ended(run):
                return self._note(run, launched, part, mark, seconds)
            self._callbacks.steps(self._steps_before + mark.steps, launched.start.position.epoch, part, seconds)
            if self._callbacks.stops:
                steps = mark.steps - before.now.steps
                self._saved.run = self._ledger.back_to(steps, before, run, launched)._replace(stopped="callback")
                return self._save(self._saved.save)
        mark = launched.moment(before.now)
        run = self._ledger.after(before, run, launched, parts[-1])
        return self._note(run, launched, parts[-1], mark, seconds)

    def _note(self, run: Snapshot, launched: Launched, part: Part, mark: Moment, seconds: float | None) -> None:
        """Make the run the present one, with a row if one is due; tell callbacks of the last steps and of the row."""
        if has_row := self._budget.has_row(run.now) or self._ended(run):
            measured, last = self._measured(part, run), self._budget.is_over(run.now)
            run = self._row = self._ledger.with_row(self._row, run, measured, mark, last)
        self._saved.run = run
        step, end = self._steps_before + mark.steps, launched.end if mark.between else launched.start
        self._callbacks.steps(step, end.position.epoch, part, seconds)
        if has_row and self._callbacks:
            self._callbacks.evaluated(step, end.position.epoch, run.rows[-1], *self._model(run))
        if self._callbacks.stops and not self._ended(run):
            self._saved.run = run._replace(stopped="callback")
        self._save(self._saved.save)

    def _save(self, write: Callable[[], bool]) -> None:
        """Save the run, if that is due, and tell callbacks."""
        if write() and self._callbacks:
            run = self._saved.run
            self._callbacks.saved(*self._place(run), self._saved.path, *self._model(run))

    def _place(self, run: Snapshot) -> tuple[int, int]:
        return self._steps_before + run.now.steps, run.position.epoch

    def _model(self, run: Snapshot) -> tuple[Any, Any]:
        return self._recipe.objective.leave(run.variables), run.state

    def _measured(self, part: Part, run: Snapshot) -> dict[str, float]:
        """Return what is measured on the validation data, unless it came with the steps."""
        if self._validation is None or any(name.startswith("val_") for name in part.row):
            return {}
        weights = self._ledger.weights(run)
        if isinstance(self._validation, Stream):
            return measured_on(self._validation, self._recipe, weights)
        numbers = jax.device_get(_compiled_validation(self._recipe, weights, self._validation))
        return {name: float(x) for name, x in numbers.items()}


_compiled_validation = Compiled(validate)


def measured_on(stream: Stream, recipe: Recipe, variables: Variables[Any]) -> dict[str, float]:
    """Return the loss, aux and metrics by name: their means over all examples of a stream."""
    recipe = recipe._replace(validation_batch_size=None)
    parts = [(_compiled_validation(recipe, variables, batch), size) for batch, size in stream.once()]
    return mean_row(jax.device_get(parts))


def begin_at(epochs_done: int, steps_done: int, per_epoch: int | None) -> Position:
    """Return where a run begins that goes on from another.

    Raises:
      ValueError: if one isn't a whole number, at least 0, or both are given.
    """
    check_whole("epochs_done", epochs_done, 0)
    check_whole("steps_done", steps_done, 0)
    if epochs_done and steps_done:
        raise ValueError("fit: give epochs_done or steps_done, not both")
    if epochs_done or per_epoch is None:
        return Position(epochs_done, steps_done)
    return Position(*divmod(steps_done, per_epoch))

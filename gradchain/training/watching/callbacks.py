"""Callbacks: what watches a run, the record that they are given, and how the loop tells them."""

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from gradchain.arguments import check_call, check_whole
from gradchain.core.transform import Transform
from gradchain.signatures import public
from gradchain.training.history import plain_number
from gradchain.training.steps.measuring import COUNTS, measured
from gradchain.training.steps.sources import MOST_STRETCHES, Launched, Part

DELAY = 0.1
"""How many seconds a callback may hear of a step after the device has taken it, where steps are fast."""

Event = Literal["step", "evaluation", "checkpoint", "end"]


@public
@dataclass(frozen=True, kw_only=True)
class Run:
    """What a callback is told at the start of a run."""

    tx: Transform
    """The transform; ``repr(tx)`` says all of it, and :func:`gradchain.hyperparams` gives its numbers."""
    batch_size: int | None = None
    """Examples per step; ``None`` for streams whose batches nobody has seen."""
    step: int = 0
    """The steps taken before: 0, or what a checkpoint or an earlier run has done."""
    epoch: int = 0
    """The passes over the data completed before."""
    total_steps: int | None = None
    """The step at which the run ends, unless it ends earlier; ``None`` if nobody knows, as with epochs of a stream."""
    total_epochs: int | None = None
    """The epoch at which the run ends; ``None`` for a budget in steps."""
    steps_per_epoch: int | None = None
    """``None`` for a stream of unknown length."""
    monitor: str = "loss"
    """The column of the history that early stopping looks at."""

    @property
    def resumed(self) -> bool:
        """Whether steps were taken before."""
        return self.step > 0


@public
@dataclass(frozen=True, kw_only=True)
class Record:
    """What a callback is told of a run, at a step or an evaluation or a checkpoint, or at the end.

    Means, counts and speed are over the steps since the last record of the same kind for the same ``every``; after a
    run was resumed, over the steps since then. All numbers are Python numbers.
    """

    event: Event
    """Which hook gets it."""
    step: int
    """The steps taken, those before this run included."""
    epoch: int
    """The passes over the data that are completed."""
    loss: float | None = None
    """The mean training loss; ``None`` if there were no steps."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """The means of the numbers in aux by name; in an evaluation also what was measured on the validation data, with
    ``val_`` in front of each name."""
    hyperparams: Mapping[str, float] = field(default_factory=dict)
    """The learning rates, and all other hyperparameters that may change during the run, as the last step used them: by
    the names of :func:`gradchain.hyperparams`."""
    grad_norm: float | None = None
    """The global norm of the last step's gradient, before any clipping."""
    update_norm: float | None = None
    """The global norm of what the last step added to the parameters."""
    skipped: int | None = None
    """How many steps a guard left out (:func:`gradchain.apply_if_finite`, :func:`gradchain.skip_spikes`,
    :func:`gradchain.loss_scale`, the rule of :func:`gradchain.accumulate`); ``None`` without one."""
    clipped: int | None = None
    """In how many steps :func:`gradchain.clip`, :func:`gradchain.clip_by_global_norm` or
    :func:`gradchain.clip_by_block_rms` at the front of the transform changed the gradient; ``None`` without one."""
    examples_per_second: float | None = None
    """The speed of training, without compilation; ``None`` before it is known."""
    reports: Mapping[str, float] = field(default_factory=dict)
    """What the transform itself reports after the last step: :func:`gradchain.metrics`, but for the learning rates."""
    params: Any = None
    """The parameters, in an evaluation, at a checkpoint and at the end; ``None`` at a step, when the device is
    ahead."""
    state: Any = None
    """The optimizer's state, likewise."""
    checkpoint: str | None = None
    """Where a checkpoint was saved."""
    stopped: str | None = None
    """Why training ended, at the end: see :attr:`FitResult.stopped`."""

    def row(self) -> dict[str, Any]:
        """Return the numbers that are known, by name, as loggers write them.

        Hyperparameters have the shortest name that is clear: ``learning_rate``, if there is only one. A name that
        occurs twice ends in ``_2`` the second time.
        """
        named: dict[str, Any] = {"step": self.step, "epoch": self.epoch}
        known = [("loss", self.loss), *self.metrics.items(), *_short(self.hyperparams).items()]
        known += [(name, getattr(self, name)) for name in ("grad_norm", "update_norm", "skipped", "clipped")]
        for name, x in [*known, ("examples_per_second", self.examples_per_second), *self.reports.items()]:
            if x is not None:
                named[_free(name, named)] = x
        return named


def _short(numbers: Mapping[str, float]) -> dict[str, float]:
    """Return numbers by the last part of their dotted names, or by the whole where the last parts agree."""
    ends = [name.rpartition(".")[2] for name in numbers]
    return {name if ends.count(end) > 1 else end: x for end, (name, x) in zip(ends, numbers.items(), strict=True)}


def _free(name: str, taken: Mapping[str, Any]) -> str:
    return next(x for x in (name, *(f"{name}_{i}" for i in range(2, len(taken) + 3))) if x not in taken)


@public
class Callback:
    """What watches a run of :func:`fit`: a base class, whose hooks do nothing.

    A hook may return True to stop training: the result is that of the record's step. Hooks of steps are called while
    the device computes the next ones, so that it needn't wait for them; where steps are fast, several records come one
    right after the other, about a tenth of a second late. Whatever a hook raises ends training, and reaches the caller.
    Under ``jax.distributed`` hooks run in every process, and must return the same in each; what writes should do so
    only where ``jax.process_index()`` is 0.

    Args:
      every: how many steps there are between two calls of ``on_step``, at least 1; by default what the class says,
        which is ``None`` for no calls, unless it has an attribute ``every``.

    Attributes:
      measures: whether the callback reads anything that has to be computed for it, and not only losses: norms,
        hyperparameters, counts and reports. If no callback does, they are ``None``, or empty.

    Example:
      >>> class StopWhenGood(Callback):
      ...     def on_evaluation(self, record):
      ...         return record.metrics["val_loss"] < 0.01
      >>> fit(loss_fn, params, tx, data, epochs=100, batch_size=32, validation=test, callbacks=[StopWhenGood()])
    """

    every: int | None = None
    measures: bool = True

    def __init__(self, every: int | None = None):
        if every is not None:
            self.every = every

    def on_start(self, run: Run) -> Any:
        """Do something before the first step, or before a run is resumed."""

    def on_step(self, record: Record) -> Any:
        """Do something after every ``every`` steps."""

    def on_evaluation(self, record: Record) -> Any:
        """Do something after each row of the history: after each epoch, by default."""

    def on_checkpoint(self, record: Record) -> Any:
        """Do something after the run was saved."""

    def on_end(self, record: Record) -> Any:
        """Do something after the last step; not if an exception ended training, see ``close``."""

    def close(self) -> None:
        """Close files and the like; called at last, also after an exception."""


class EpochFunction(Callback):
    """A function of (epoch, row, params, state) as a callback."""

    measures = False

    def __init__(self, function: Any):
        check_call(
            "on_epoch", function, ["epoch", "row", "params", "state"], [], "for one record, derive from Callback"
        )
        self._function = function

    def on_evaluation(self, record: Record) -> Any:
        row = {"loss": record.loss, **record.metrics}
        return self._function(record.epoch, row, record.params, record.state)


class Stretch(NamedTuple):
    """Sums over the steps since some record."""

    examples: int = 0
    sums: dict[str, float] = {}
    """Losses and aux, times the examples that they are means over."""
    counts: dict[str, int] = {}
    timed: int = 0
    """Of the examples, those that it is known of how long they took."""
    seconds: float = 0.0

    def and_then(
        self, numbers: Mapping[str, float], examples: int, counts: Mapping[str, int], seconds: float | None
    ) -> "Stretch":
        """Return the sums with some more steps in them."""
        return Stretch(
            self.examples + examples,
            {name: self.sums.get(name, 0.0) + x * examples for name, x in numbers.items()},
            {name: self.counts.get(name, 0) + x for name, x in counts.items()},
            self.timed + (0 if seconds is None else examples),
            self.seconds + (seconds or 0.0),
        )

    def told(self) -> dict[str, Any]:
        """Return what a record says of the steps."""
        means = {name: x / self.examples for name, x in self.sums.items()} if self.examples else {}
        loss = means.pop("loss", None)
        speed = self.timed / self.seconds if self.seconds else None
        return {"loss": loss, "metrics": means, "examples_per_second": speed, **self.counts}


class Callbacks:
    """The callbacks of one run, as its loop tells them what happens. (A context manager, which closes them.)

    The loop calls :meth:`start` first; then :meth:`steps` for each block of steps, when the next one is on its way; and
    after that :meth:`evaluated`, :meth:`saved` and at last :meth:`end`. Whenever :attr:`stops` is true, it ends.

    Args:
      callbacks: those that were handed in.
      own: those that the loop itself adds.

    Raises:
      TypeError: for anything but callbacks; for methods that look like hooks and aren't.
      ValueError: if ``every`` isn't a whole number, at least 1, or missing where there is an ``on_step``.
    """

    def __init__(self, callbacks: Iterable[Callback] = (), own: Iterable[Callback] = ()):
        if isinstance(callbacks, Callback) or not isinstance(callbacks, Iterable):  # pyright: ignore
            raise TypeError(f"callbacks must be a list, got {callbacks!r}; write callbacks=[...] around it")
        self._all: Sequence[Callback] = [*callbacks, *own]
        for callback in self._all:
            if not isinstance(callback, Callback):  # pyright: ignore[reportUnnecessaryIsInstance]
                hint = f"; write {callback.__name__}(...)" if isinstance(callback, type) else ""  # pyright: ignore
                raise TypeError(
                    "callbacks: expected objects of a class that derives from gradchain.training.Callback, got "
                    f"{callback!r}{hint}"
                )
            if callback.every is not None:
                check_whole(f"{type(callback).__name__}: every", callback.every)
            _check_hooks(callback)
        self.intervals = sorted({callback.every for callback in self._all if callback.every is not None})
        """The different numbers of steps between calls of ``on_step``."""
        self.stops = False
        """Whether a hook has asked for the end of training."""
        self._stretches: dict[Any, Stretch] = dict.fromkeys([*self.intervals, "evaluation"], Stretch())
        self._last: dict[str, Any] = {}
        self._measured_at, self._programs = time.perf_counter(), set[Any]()
        self._seconds: float | None = None
        """How long a step took lately."""

    def __bool__(self) -> bool:
        return bool(self._all)

    @property
    def watch(self) -> Any:
        """What the compiled step is to measure: :func:`measured`, or ``None`` if nobody reads that."""
        return measured if any(callback.measures for callback in self._all) else None

    def next_after(self, step: int) -> int | None:
        """Return the next step that some callback is to be told of; ``None`` if there is none."""
        return min((step + every - step % every for every in self.intervals), default=None)

    def stretches(self, step: int) -> list[int]:
        """Return how many steps there are up to the next one that some callback is to be told of, and from there on.

        These are as many as take :data:`DELAY` seconds, but at least one; of several processes all must do the same,
        so there it is one. There are none if nobody is told of single steps.
        """
        found, now, alone = list[int](), step, jax.process_count() == 1
        while (due := self.next_after(now)) is not None and len(found) < MOST_STRETCHES:
            if found and (self._seconds is None or not alone or (due - step) * self._seconds > DELAY):
                break
            found.append(due - now)
            now = due
        return found

    def __enter__(self) -> "Callbacks":
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        failures = list[Exception]()
        for callback in reversed(self._all):
            try:
                callback.close()
            except Exception as failure:
                failures.append(failure)
        if failures and error is None:
            raise failures[0]

    def start(self, run: Run) -> None:
        """Tell of the beginning."""
        self._tell(self._all, "on_start", run)
        self._measured_at = time.perf_counter()

    def timed(self, launched: Launched) -> float | None:
        """Return how many seconds each step of a call took that has just ended; ``None`` if it was compiled for it."""
        now = time.perf_counter()
        known, seconds = launched.program in self._programs, (now - self._measured_at) / launched.steps
        self._measured_at = now
        self._programs.add(launched.program)
        self._seconds = seconds if known else None
        return self._seconds

    def steps(self, step: int, epoch: int, part: Part, seconds: float | None) -> None:
        """Tell of some steps. They must end where :meth:`next_after` says, or before.

        Args:
          step: the steps taken in all, these included.
          epoch: the epochs completed.
          part: the steps.
          seconds: how long each took, see :meth:`timed`.
        """
        if not self._all:
            return
        numbers = {name: x for name, x in part.row.items() if not name.startswith("val_")}
        counts = {name: int(part.watched[name]) for name in COUNTS if name in part.watched}
        self._last = _plain({name: x for name, x in part.watched.items() if name not in COUNTS})
        taken = None if seconds is None else seconds * part.steps
        for key, stretch in self._stretches.items():
            self._stretches[key] = stretch.and_then(numbers, part.examples, counts, taken)
        for every in [every for every in self.intervals if step % every == 0]:
            listening = [callback for callback in self._all if callback.every == every]
            self._tell(listening, "on_step", self._record("step", every, step, epoch))

    def evaluated(self, step: int, epoch: int, row: Mapping[str, float], params: Any, state: Any) -> None:
        """Tell of a new row of the history."""
        record = self._record("evaluation", "evaluation", step, epoch)
        metrics = {name: x for name, x in row.items() if name != "loss"}
        record = dataclasses.replace(record, loss=row["loss"], metrics=metrics, params=params, state=state)
        self._tell(self._all, "on_evaluation", record)
        self._measured_at = time.perf_counter()

    def saved(self, step: int, epoch: int, path: Any, params: Any, state: Any) -> None:
        """Tell of a checkpoint."""
        record = Record(event="checkpoint", step=step, epoch=epoch, checkpoint=str(path), params=params, state=state)
        self._tell(self._all, "on_checkpoint", record)
        self._measured_at = time.perf_counter()

    def end(self, step: int, epoch: int, stopped: str, params: Any, state: Any) -> None:
        """Tell of the end."""
        told = self._stretches["evaluation"].told() | self._last
        record = Record(event="end", step=step, epoch=epoch, stopped=stopped, params=params, state=state, **told)
        self._tell(self._all, "on_end", record)

    def _record(self, event: Event, key: Any, step: int, epoch: int) -> Record:
        stretch, self._stretches[key] = self._stretches[key], Stretch()
        return Record(event=event, step=step, epoch=epoch, **stretch.told(), **self._last)

    def _tell(self, listening: Sequence[Callback], hook: str, told: Run | Record) -> None:
        for callback in listening:
            name = f"{type(callback).__name__}.{hook}"
            try:
                answer = getattr(callback, hook)(told)
            except Exception as error:
                error.add_note(f"raised by the callback {name}")
                raise
            self.stops |= _is_yes(name, answer)


def _check_hooks(callback: Callback) -> None:
    """Raise an error for hooks that would never be called."""
    name, hooks = type(callback).__name__, [hook for hook in vars(Callback) if hook.startswith("on_")]
    for method in dir(callback):
        if method.startswith("on_") and method not in hooks and callable(getattr(callback, method)):
            raise TypeError(
                f"callbacks: {name}.{method} is never called: the hooks are {', '.join(hooks)}; after each epoch comes "
                "on_evaluation, after every n steps on_step"
            )
    says_when = any("every" in vars(x) for x in (callback, *type(callback).__mro__) if x not in (Callback, object))
    if type(callback).on_step is not Callback.on_step and not says_when:
        raise ValueError(
            f"callbacks: {name}.on_step is never called, because nothing says after how many steps; write every "
            f"= 100 in the class, or {name}(every=100)"
        )


def _plain(numbers: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _plain(x) if isinstance(x, dict) else plain_number(x) for name, x in numbers.items()}


def _is_yes(name: str, answer: Any) -> bool:
    if answer is None:
        return False
    if np.ndim(answer) or np.asarray(answer).dtype != bool:
        raise TypeError(f"{name} must return True to stop training, or False or None, got {answer!r}")
    return bool(answer)

"""``fit``: epochs, validation, early stopping and a history, each epoch one compiled call."""

import functools
import os
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh

from gradchain.core.foreign import as_transform
from gradchain.core.transform import Transform
from gradchain.training.compiled import Compiled
from gradchain.training.epoch import (
    Remainder,
    as_key,
    check_batches,
    count_examples,
    evaluate_objective,
    scan_objective,
)
from gradchain.training.history import History, in_order, named_numbers
from gradchain.training.hosts import spread_data
from gradchain.training.placement import check_divides, place
from gradchain.training.progress import Bar
from gradchain.training.resuming import SavedRun, Snapshot, configuration
from gradchain.training.step import Objective, as_arrays, check_whole
from gradchain.training.stopping import EarlyStopping
from gradchain.tree import Tree


class Recipe(NamedTuple):
    """What an epoch is made of besides arrays; hashable, so that its compiled program is found again."""

    objective: Objective
    metrics: Callable[[Any, Any], dict[str, Any]] | None
    batch_size: int
    shuffle: bool
    remainder: Remainder
    validation_batch_size: int | None

    def options(self) -> dict[str, Any]:
        """Return what it holds besides functions, by name."""
        functions = {"objective", "metrics"}
        return {name: x for name, x in self._asdict().items() if name not in functions} | {
            "has_aux": self.objective.has_aux,
            "takes_key": self.objective.takes_key,
        }


class FitResult(NamedTuple):
    """What :func:`fit` returns."""

    params: Any
    """The trained parameters (the best epoch's, where early stopping restores them)."""
    eval_params: Any
    """Their evaluation weights, see :func:`gradchain.eval_params`: to evaluate, and to keep. ``params`` themselves
    unless the transform averages, or is schedule-free, or the like."""
    state: Any
    """The optimizer's state after the last epoch; hand it to another ``fit`` to go on, with ``epochs_done``."""
    history: History
    """Losses and metrics by epoch."""
    best_epoch: int
    """The last epoch that improved on the best one before (by the tolerance), counted from 1; 0 if none did."""
    stopped: Literal["epochs", "early", "callback", "interrupted"]
    """Why training ended: all epochs done, early stopping, ``on_epoch`` returned True, or Ctrl-C."""
    epochs_done: int
    """How many epochs the state has seen: this run's, and those before."""


def fit(
    loss_fn: Callable[..., Any], params: Tree, tx: Any, data: Tree, *, epochs: int, batch_size: int,
    seed: int | Array = 0, state: Any = None, epochs_done: int = 0, validation: Tree | None = None,
    validation_batch_size: int | None = None, metrics: Callable[[Any, Any], dict[str, Any]] | None = None,
    early_stopping: EarlyStopping | None = None, shuffle: bool = True, remainder: Remainder = "drop",
    has_aux: bool = False, takes_key: bool = False, progress: bool = False,
    on_epoch: Callable[[int, dict[str, float], Any, Any], Any] | None = None,
    mesh: Mesh | None = None, checkpoint: str | os.PathLike[str] | None = None, checkpoint_every: int = 1,
    checkpoint_keep: int = 3,
) -> FitResult:  # fmt: skip
    """Train for some epochs, each one compiled call, and return the parameters and the history.

    The compiled program is kept for the same ``loss_fn``, options and shapes: another learning rate or seed doesn't
    compile again. The ``params`` handed in stay as they are; so memory holds parameters and state twice (a loop of your
    own over a donating :func:`~gradchain.training.scan_epoch` holds them once). Ctrl-C ends training after the
    running epoch and returns what there is, with ``stopped="interrupted"``.

    Args:
      loss_fn: the mean loss over a batch, see :func:`~gradchain.training.train_step`. With ``takes_key`` it is called
        with ``key=None`` on the validation data: leave dropout out there.
      params: a tree of inexact arrays.
      tx: a transform, optax's too.
      data: a tree of arrays with the examples on the leading axis.
      epochs: the number of passes over the data, at least 1.
      batch_size: examples in a step.
      seed: a whole number or a PRNG key, for the order and the loss's keys.
      state: the optimizer's state to go on from; ``tx.init(params)`` by default.
      epochs_done: how many epochs went before. An epoch's order and keys come from the seed and its number, so that
        ``fit(..., epochs=2, state=result.state, epochs_done=result.epochs_done)`` after two epochs gives what four
        in one go give. With 0 a second run repeats the first one's orders, unless it has another seed.
      validation: held-out data, a tree like ``data``; measured after each epoch, at ``eval_params(tx, state, params)``.
      validation_batch_size: examples measured at once; all by default.
      metrics: ``metrics(params, batch) -> {name: mean over the batch}``, measured on the validation data too.
      early_stopping: when to stop early; never by default.
      shuffle: draw a new order in each epoch.
      remainder: ``"drop"``, ``"keep"`` or ``"wrap"``, see :func:`~gradchain.training.scan_epoch`. A round of
        :func:`~gradchain.accumulate` that isn't full goes on in the next epoch, and in the next ``fit`` with this
        ``state``; at the end of training :func:`~gradchain.flush` makes a step of it.
      has_aux: whether ``loss_fn`` returns ``(loss, aux)``; aux must be numbers by name.
      takes_key: whether ``loss_fn`` takes a PRNG key.
      progress: show a progress bar (needs tqdm).
      on_epoch: called as ``on_epoch(epoch, row, params, state)`` after each epoch, counted from
        ``epochs_done + 1``; ``row`` is the history's new row. Training ends if it returns True.
      mesh: devices to train on. Data and batches are spread over its first axis; parameters and ``state`` lie as they
        are if they lie on these devices, else whole on each, and the state next to its parameters. (For ZeRO, pass a
        ``state`` made with :func:`~gradchain.zero_shardings`.) The trajectory is that of one device, to rounding. Under
        ``jax.distributed`` the mesh spans all processes: each hands in its share of ``data`` and ``validation`` (as
        many examples as the others, in the processes' order) and the same other arguments, and gets the same result.
      checkpoint: a folder to save the run in, and to resume it from (needs orbax). The same call, made again after the
        process was killed at any moment, gives bit for bit what it would have given; after the end it returns the
        finished result; a larger ``epochs`` goes on. Where there is a checkpoint, ``params`` and ``state`` are read
        from it. ``None`` saves nothing.
      checkpoint_every: epochs from one checkpoint to the next; the run's end, and Ctrl-C, always leave one.
      checkpoint_keep: how many of the last checkpoints to keep.

    Raises:
      TypeError: for parameters or data that aren't arrays (naming the paths).
      ValueError: for bad data, batch sizes, epochs, seeds or column names; if ``checkpoint`` is damaged, or holds
        anything else than this run (saying what differs), and nothing is overwritten.

    Example:
      >>> result = fit(loss_fn, params, adam(1e-3), train, epochs=20, batch_size=32, validation=test,
      ...              early_stopping=EarlyStopping(patience=3))
      >>> print(result.history.table())
    """
    recipe = Recipe(
        Objective(loss_fn, has_aux, takes_key), metrics, batch_size, shuffle, remainder, validation_batch_size
    )
    if mesh is not None:
        data, validation = spread_data(mesh, data, "data"), spread_data(mesh, validation, "validation data")
    check_task(recipe, data, validation, epochs, epochs_done)
    tx, params = as_transform(tx), as_arrays(params)
    key = as_key(seed, "seed")
    options = recipe.options() | {"seed": key, "epochs_done": epochs_done, "early_stopping": early_stopping}
    if mesh is not None:
        check_divides(mesh, batch_size)
        placement, tx, params, state = place(mesh, tx, params, state)
        recipe = recipe._replace(objective=recipe.objective._replace(placement=placement))
    record = _Record(early_stopping, validation is not None, tx)
    start = record.snapshot((params, tx.init(params) if state is None else state), "epochs")
    told = functools.partial(configuration, options, tx, params, data, validation)
    with (
        SavedRun(checkpoint, checkpoint_every, checkpoint_keep, epochs, told, start) as saved,
        Bar(progress, epochs, saved.title, "epoch") as bar,
    ):
        carry, stopped = record.resume(saved.start)
        bar.advance(len(record.rows))
        try:
            for epoch in range(epochs_done + len(record.rows), epochs_done + epochs):
                if stopped != "epochs":
                    break
                new = _compiled_epoch(recipe, carry[0], tx, carry[1], data, validation, jax.random.fold_in(key, epoch))
                row = record.add(*new)
                carry = new[:2]
                bar.advance(1, f"{record.monitor} {row[record.monitor]:.4g}")
                stopped = "early" if record.should_stop() else "epochs"
                saved.note(record.snapshot(carry, stopped))
                if on_epoch is not None and on_epoch(epoch + 1, row, *carry):
                    stopped = "callback"
                saved.save(stopped)
        except KeyboardInterrupt:
            stopped = "interrupted"
        saved.finish()
    done = epochs_done + len(record.rows)
    params, weights = record.chosen(*carry)
    return FitResult(params, weights, carry[1], record.history(), record.best_epoch, stopped, done)


def check_task(recipe: Recipe, data: Tree, validation: Tree | None, epochs: int, epochs_done: int = 0) -> None:
    """Raise ValueError for data, batch sizes or epochs that can't be trained on."""
    check_batches(data, recipe.batch_size)
    check_whole("epochs", epochs)
    check_whole("epochs_done", epochs_done, 0)
    if recipe.validation_batch_size is not None:
        check_whole("validation_batch_size", recipe.validation_batch_size)
    if validation is not None:
        count_examples(validation, "validation data")
    elif recipe.metrics is not None:
        raise ValueError("metrics are measured on the validation data, but validation is None")


def run_epoch(
    recipe: Recipe, params: Tree, tx: Any, state: Any, data: Tree, validation: Tree | None, key: Array
) -> tuple[Tree, Any, dict[str, Array], Array]:
    """Train for one epoch and measure: (params, state, the history's row, every step's loss). Pure."""
    objective, _, batch_size, shuffle, remainder, _ = recipe
    epoch = scan_objective(objective, params, tx, state, data, key, batch_size, shuffle, remainder)
    row = named_numbers(epoch.mean())
    if validation is not None:
        row |= validate(recipe, tx.eval_params(epoch.state, epoch.params), validation)
    result = epoch.params, epoch.state, row, epoch.metrics.loss
    return result if objective.placement is None else objective.placement.keep(*result)


_compiled_epoch = Compiled(run_epoch)


def run_epochs(
    recipe: Recipe, params: Tree, tx: Any, state: Any, data: Tree, validation: Tree | None, key: Array, numbers: Array
) -> tuple[Tree, Any, dict[str, Array]]:
    """Train for the epochs of the given numbers by one scan: (params, state, rows with a leading axis of epochs)."""

    def body(carry: tuple[Tree, Any], number: Array) -> tuple[tuple[Tree, Any], dict[str, Array]]:
        epoch_key = jax.random.fold_in(key, number)
        params, state, row, _ = run_epoch(recipe, carry[0], tx, carry[1], data, validation, epoch_key)
        return (params, state), row

    (params, state), rows = lax.scan(body, (params, state), numbers)
    return params, state, rows


def validate(recipe: Recipe, params: Tree, validation: Tree) -> dict[str, Array]:
    """Return the loss, aux and metrics on the validation data, by name."""
    size, function = recipe.validation_batch_size, recipe.metrics
    row = named_numbers(evaluate_objective(recipe.objective, params, validation, size), "val_")
    if function is not None:
        measure = Objective(lambda p, batch: (jnp.zeros(()), function(p, batch)), has_aux=True)
        further = named_numbers(evaluate_objective(measure, params, validation, size), "val_")
        del further["val_loss"]
        if taken := further.keys() & row.keys():
            raise ValueError(f"metrics and aux have the same names: {', '.join(sorted(taken))}")
        row |= further
    return row


class _Record:
    """The history as it grows, and the best epoch so far."""

    def __init__(self, stopping: EarlyStopping | None, validates: bool, tx: Transform):
        if stopping is not None:
            check_whole("EarlyStopping: patience", stopping.patience)
        self.stopping, self.tx = stopping, tx
        self.monitor = (stopping and stopping.monitor) or ("val_loss" if validates else "loss")
        self.rows: list[dict[str, float]] = []
        self.step_losses: list[Any] = []
        self.rule = stopping or EarlyStopping()
        self.progress, self.best_epoch = self.rule.init(), 0
        self.best: tuple[Tree, Tree] | None = None

    def add(self, params: Tree, state: Any, row: dict[str, Array], step_loss: Array) -> dict[str, float]:
        """Append an epoch and return its row as Python numbers."""
        numbers = {name: float(x) for name, x in jax.device_get(row).items()}
        if self.monitor not in numbers:
            raise ValueError(f"EarlyStopping: no column {self.monitor!r}; there are {', '.join(numbers)}")
        self.rows.append(numbers)
        self.step_losses.append(step_loss)
        self.progress = self.rule.update(numbers[self.monitor], self.progress)
        if self.progress.improved:
            self.best_epoch = len(self.rows)
            if self.stopping and self.stopping.restore_best:
                self.best = params, self.tx.eval_params(state, params)
        return numbers

    def should_stop(self) -> bool:
        return self.stopping is not None and bool(self.progress.should_stop)

    def chosen(self, params: Tree, state: Any) -> tuple[Tree, Tree]:
        """Return the parameters to return, and their evaluation weights."""
        return self.best or (params, self.tx.eval_params(state, params))

    def snapshot(self, carry: tuple[Tree, Any], stopped: Any) -> Snapshot:
        """Return all that is known now, which later epochs don't change."""
        rows, losses = tuple(self.rows), tuple(self.step_losses)
        return Snapshot(*carry, rows, losses, self.progress, self.best_epoch, self.best, stopped)

    def resume(self, snapshot: Snapshot) -> tuple[tuple[Tree, Any], Any]:
        """Go back to a snapshot; return its parameters and state, and why training ended there."""
        params, state, rows, losses, self.progress, self.best_epoch, self.best, stopped = snapshot
        self.rows, self.step_losses = list(rows), list(losses)
        return (params, state), stopped

    def history(self) -> History:
        names = in_order(self.rows[0]) if self.rows else []
        steps = [np.asarray(x) for x in self.step_losses]
        return History(
            {name: np.array([row[name] for row in self.rows]) for name in names},
            np.concatenate(steps) if steps else np.zeros(0),
        )

"""``fit``: epochs, validation, early stopping and a history, each epoch one compiled call."""

import functools
import os
from collections.abc import Callable
from typing import Any, Generic, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import Mesh

from gradchain.arguments import as_arrays, check_whole
from gradchain.compiled import Compiled
from gradchain.core.foreign import Child, as_transform
from gradchain.signatures import public
from gradchain.training.epoch import (
    Remainder,
    as_key,
    check_batches,
    count_all,
    evaluate_objective,
    scan_objective,
)
from gradchain.training.history import History, named_numbers
from gradchain.training.hosts import spread_data
from gradchain.training.placement import check_divides, place
from gradchain.training.progress import Bar
from gradchain.training.record import Record, history_of
from gradchain.training.resuming import SavedRun, configuration
from gradchain.training.step import Objective
from gradchain.training.stopping import EarlyStopping
from gradchain.tree import Tree
from gradchain.tree.alignment import T


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


@public
class FitResult(NamedTuple, Generic[T]):
    """What :func:`fit` returns."""

    params: T
    """The trained parameters (the best epoch's, where early stopping restores them)."""
    eval_params: T
    """Their evaluation weights, see :func:`gradchain.eval_params`: to evaluate, and to keep. ``params`` themselves
    unless the transform averages, or is schedule-free, or the like."""
    state: Any
    """The optimizer's state after the last epoch; hand it to another ``fit`` to go on, with ``epochs_done``."""
    history: History
    """Losses and metrics by epoch."""
    best_epoch: int
    """The last epoch that improved on the best one before (by the tolerance), counted from 1; 0 if none did."""
    stopped: Literal["epochs", "early", "diverged", "callback", "interrupted"]
    """Why training ended: all epochs done; early stopping; the training loss isn't finite and won't be again, see
    :func:`fit`; ``on_epoch`` returned True; or Ctrl-C."""
    epochs_done: int
    """How many epochs the state has seen: this run's, and those before."""


@public
def fit(
    loss_fn: Callable[..., Any], params: T, tx: Child, data: Tree, *, epochs: int, batch_size: int,
    seed: int | Array = 0, state: Any = None, epochs_done: int = 0, validation: Tree | None = None,
    validation_batch_size: int | None = None, metrics: Callable[[Any, Any], dict[str, Any]] | None = None,
    early_stopping: EarlyStopping | None = None, shuffle: bool = True, remainder: Remainder = "drop",
    has_aux: bool = False, takes_key: bool = False, progress: bool = False,
    on_epoch: Callable[[int, dict[str, float], Any, Any], Any] | None = None,
    mesh: Mesh | None = None, checkpoint: str | os.PathLike[str] | None = None, checkpoint_every: int = 1,
    checkpoint_keep: int = 3,
) -> FitResult[T]:  # fmt: skip
    """Train for some epochs, each one compiled call, and return the parameters and the history.

    The compiled program is cached for the same ``loss_fn``, options and shapes: a different learning rate or seed
    doesn't recompile it. The ``params`` passed in aren't modified, so parameters and state are in memory twice (your
    own loop over a donating :func:`~gradchain.training.scan_epoch` holds them once). Ctrl-C ends training after the
    current epoch and returns the result so far, with ``stopped="interrupted"``.

    Training that has diverged stops at once, with ``stopped="diverged"``: after an epoch whose mean training loss isn't
    finite, if a parameter isn't finite either, or if no step of the epoch had a finite loss. If only some steps had
    losses that weren't finite and the parameters still are (a guard such as :func:`~gradchain.apply_if_finite` skipped
    these steps, or divergence has just begun), training continues with a warning. There is also a warning if a
    :func:`~gradchain.loss_scale` skipped every step of an epoch and has stopped adapting, or the run is at its end.

    Args:
      loss_fn: the mean loss over a batch, see :func:`~gradchain.training.train_step`. With ``takes_key`` it is called
        with ``key=None`` on the validation data, and should turn dropout off there.
      params: a tree of inexact arrays.
      tx: a transform, optax's too.
      data: a tree of arrays with the examples on the leading axis.
      epochs: the number of passes over the data, at least 1.
      batch_size: examples per step.
      seed: an integer seed or a PRNG key, for the order of the data and the keys that the loss gets.
      state: the optimizer state to continue from; ``tx.init(params)`` by default.
      epochs_done: how many epochs were trained before. The order and keys of an epoch depend on the seed and the
        epoch's number, so that ``fit(..., epochs=2, state=result.state, epochs_done=result.epochs_done)`` after two
        epochs gives the same result as four epochs in one call. With 0 a second run repeats the orders of the first,
        unless its seed differs.
      validation: held-out data, a tree like ``data``; evaluated after each epoch, at ``eval_params(tx, state,
        params)``.
      validation_batch_size: examples evaluated at once; all by default.
      metrics: ``metrics(params, batch) -> {name: mean over the batch}``, also evaluated on the validation data.
      early_stopping: when to stop early, such as ``EarlyStopping(patience=3)``; never by default. To monitor an
        accuracy, write ``EarlyStopping(monitor="val_accuracy", mode="max")``.
      shuffle: shuffle the data anew in each epoch.
      remainder: ``"drop"``, ``"keep"`` or ``"wrap"``, see :func:`~gradchain.training.scan_epoch`. A round of
        :func:`~gradchain.accumulate` that is incomplete continues in the next epoch, and in the next ``fit`` with this
        ``state``; at the end of training, :func:`~gradchain.flush` makes a step of it.
      has_aux: whether ``loss_fn`` returns ``(loss, aux)``; the leaves of aux must be scalars, as in ``{"accuracy":
        ...}``.
      takes_key: whether ``loss_fn`` takes a PRNG key.
      progress: show a progress bar (needs tqdm).
      on_epoch: called as ``on_epoch(epoch, row, params, state)`` after each epoch, counted from
        ``epochs_done + 1``; ``row`` is the history's new row. Training stops if it returns True.
      mesh: devices to train on. Data and batches are spread over its first axis; parameters and ``state`` keep their
        layout if they are on these devices already; otherwise they are replicated, and the state is laid out like its
        parameters. (For ZeRO, pass a ``state`` made with :func:`~gradchain.zero_shardings`.) The trajectory is that of
        one device, up to rounding. Under ``jax.distributed`` the mesh spans all processes: each passes its share of
        ``data`` and ``validation`` (as many examples as the others, in the order of the processes) and otherwise the
        same arguments, and gets the same result.
      checkpoint: a folder to save the run in, and to resume it from (needs Orbax). If the process is killed at any
        moment, repeating the call gives bit for bit the result of an uninterrupted run. Repeating it after the end
        returns the finished result; with a larger ``epochs`` training continues. If there is a checkpoint, ``params``
        and ``state`` are read from it. ``None`` saves nothing.
      checkpoint_every: epochs between checkpoints; one is always saved at the end of the run and on Ctrl-C.
      checkpoint_keep: how many of the latest checkpoints to keep.

    Raises:
      TypeError: for parameters or data that aren't arrays (naming the paths), or for an ``early_stopping`` of another
        type.
      ValueError: for bad data, batch sizes, epochs, seeds or column names; if ``checkpoint`` is damaged, or contains
        anything but this run (saying what differs); nothing is overwritten then.

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
    if mesh is not None:
        check_divides(mesh, batch_size)
        placement, tx, params, state = place(mesh, tx, params, state)
        recipe = recipe._replace(objective=recipe.objective._replace(placement=placement))
    record = Record(early_stopping, validation is not None, tx, epochs)
    start = record.begin(params, tx.init(params) if state is None else state)
    options = recipe.options() | {"seed": key, "epochs_done": epochs_done, "early_stopping": record.stopping}
    told = functools.partial(configuration, options, tx, params, data, validation)
    interrupted = False
    with (
        SavedRun(checkpoint, checkpoint_every, checkpoint_keep, epochs, told, start) as saved,
        Bar(progress, epochs, saved.title, "epoch") as bar,
    ):
        bar.advance(len(saved.run.rows))
        try:
            while saved.run.stopped == "epochs" and len(saved.run.rows) < epochs:
                run, epoch = saved.run, epochs_done + len(saved.run.rows)
                new = _compiled_epoch(
                    recipe, run.params, tx, run.state, data, validation, jax.random.fold_in(key, epoch)
                )
                saved.run = run = record.after(run, *new)  # one assignment: Ctrl-C finds the epoch noted, or not
                bar.advance(1, f"{record.goal.column} {run.rows[-1][record.goal.column]:.4g}")
                if on_epoch is not None and on_epoch(epoch + 1, run.rows[-1], run.params, run.state):
                    saved.run = run._replace(stopped="callback")
                saved.save()
        except KeyboardInterrupt:
            interrupted = True
        saved.finish()
    run = saved.run
    stopped: Any = "interrupted" if interrupted and run.stopped == "epochs" else run.stopped
    done = epochs_done + len(run.rows)
    return FitResult(*record.chosen(run), run.state, history_of(run), run.best_epoch, stopped, done)


def check_task(recipe: Recipe, data: Tree, validation: Tree | None, epochs: int, epochs_done: int = 0) -> None:
    """Raise ValueError for data, batch sizes or epochs that can't be trained on."""
    check_batches(data, recipe.batch_size)
    check_whole("epochs", epochs)
    check_whole("epochs_done", epochs_done, 0)
    if recipe.validation_batch_size is not None:
        check_whole("validation_batch_size", recipe.validation_batch_size)
    if validation is not None:
        count_all(validation, "validation data")
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

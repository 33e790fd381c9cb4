"""``fit``: a run with validation, early stopping, checkpoints and a history."""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, Generic, Literal, NamedTuple

from jax import Array
from jax.sharding import Mesh

from gradchain.core.foreign import Child
from gradchain.signatures import public
from gradchain.training.budget import Epochs, Steps, budget_of, transform_for
from gradchain.training.data.placement import check_divides, check_mesh, place
from gradchain.training.data.streams import Stream
from gradchain.training.fitting.ledger import Ledger, OnDivergence, history_of
from gradchain.training.fitting.resuming import SavedRun, configuration
from gradchain.training.fitting.running import Running, begin_at
from gradchain.training.fitting.stopping import EarlyStopping
from gradchain.training.history import History
from gradchain.training.keys import as_key
from gradchain.training.steps.epoch import Remainder
from gradchain.training.steps.recipe import Recipe, held_out
from gradchain.training.steps.sources import Renewal, source_of
from gradchain.training.variables import checked
from gradchain.training.watching.callbacks import Callback, Callbacks, EpochFunction, Run
from gradchain.training.watching.loggers import ProgressBar
from gradchain.tree import Tree
from gradchain.tree.alignment import T


@public
class FitResult(NamedTuple, Generic[T]):
    """What :func:`fit` returns."""

    params: T
    """The trained parameters (the best row's, where early stopping restores them), with the model's state where it has
    one: what was handed in as ``params``, trained."""
    eval_params: T
    """Likewise with evaluation weights, see :func:`gradchain.eval_params`: to evaluate, and to keep. ``params``
    themselves unless the transform averages, or is schedule-free, or the like."""
    state: Any
    """The optimizer's state after the last step; hand it to another ``fit`` to go on, with ``epochs_done`` or
    ``steps_done``."""
    history: History
    """Losses and metrics by epoch, or every so many steps."""
    best_epoch: int
    """The last row of the history that improved on the best one before (by the tolerance), counted from 1; 0 if none
    did. With a budget in epochs, and a row for each, that is the epoch."""
    stopped: Literal["epochs", "steps", "early", "diverged", "callback", "interrupted"]
    """Why training ended: all epochs or steps done; early stopping; a training loss that isn't finite, see
    :func:`fit`; a callback returned True; or Ctrl-C."""
    epochs_done: int
    """How many epochs the state has seen: this run's, and those before."""
    steps_done: int
    """How many steps the state has seen: this run's, and those before as far as they are known."""


@public
def fit(
    loss_fn: Callable[..., Any], params: T, tx: Child | Callable[..., Any], data: Tree, *, epochs: int | None = None,
    steps: int | None = None, batch_size: int | None = None, seed: int | Array = 0, state: Any = None,
    epochs_done: int = 0, steps_done: int = 0, validation: Tree | None = None,
    validation_batch_size: int | None = None, validate_every: int | Steps | Epochs | None = None,
    metrics: Callable[..., dict[str, Any]] | None = None, early_stopping: EarlyStopping | None = None,
    on_divergence: OnDivergence = "stop", shuffle: bool = True, remainder: Remainder = "drop",
    steps_per_call: int = 1, device_memory: int | None = None, has_aux: bool = False, takes_key: bool = False,
    progress: bool = False, on_epoch: Callable[[int, dict[str, float], Any, Any], Any] | None = None,
    mesh: Mesh | None = None, checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | Steps | Epochs = 1, checkpoint_keep: int = 3, callbacks: Sequence[Callback] = (),
    renew_state: bool = False,
) -> FitResult[T]:  # fmt: skip
    """Train for some epochs or steps, and return the model and the history.

    With data in arrays an epoch is one compiled call; of a stream, ``steps_per_call`` batches are, and the next ones
    are put on the device meanwhile. The compiled program is cached for the same ``loss_fn``, options and shapes: a
    different learning rate or seed doesn't recompile it. The ``params`` passed in aren't modified, so parameters and
    state are in memory twice (your own loop over a donating :func:`~gradchain.training.scan_epoch` holds them once).
    Ctrl-C ends training after the current call and returns the result so far, with ``stopped="interrupted"``.

    A training loss that isn't finite ends the run at once, with ``stopped="diverged"``: the parameters and state
    returned are those at which the last finite loss was measured. There are two exceptions. With
    ``on_divergence="continue"`` the run goes on. And if the transform deals with such gradients itself
    (:func:`~gradchain.apply_if_finite`, :func:`~gradchain.skip_spikes`, :func:`~gradchain.loss_scale`), the run goes on
    with a warning as long as its parameters are finite and some steps have finite losses. There is also a warning if a
    :func:`~gradchain.loss_scale` skipped every step of a row and has stopped adapting, or the run is at its end.

    A whole number that says how often something happens counts in the unit of the budget: epochs with ``epochs=``,
    steps with ``steps=``. ``Steps(500)`` and ``Epochs(2)`` say it themselves.

    Args:
      loss_fn: the mean loss over a batch, see :func:`~gradchain.training.train_step`. With ``takes_key`` it is called
        with ``key=None`` on the validation data, and should turn dropout off there. A loss with a parameter called
        ``training`` is told whether it is called in a step or on the validation data. Or an adapter for a framework's
        model, such as :func:`~gradchain.training.linen`.
      params: a tree of inexact arrays; :class:`~gradchain.training.Variables` if the model carries more than
        parameters; with an adapter, the framework's model or variables.
      tx: a transform, optax's too; or a function of ``total_steps`` that returns one, for schedules that end with the
        run: ``lambda total_steps: adam(cosine_decay_schedule(1e-3, total_steps))``.
      data: a tree of arrays with the examples on the leading axis; or a stream of batches: a list of batches, a data
        loader, a function of the epoch's number that returns an iterator, or with ``steps=`` any iterator.
      epochs: the number of passes over the data, at least 1; give this or ``steps``.
      steps: the number of steps, at least 1.
      batch_size: examples per step; needed for arrays. For a stream, the size of a full batch (of this process's share,
        if there are several), by default that of the first.
      seed: an integer seed or a PRNG key, for the order of the data and the keys that the loss gets.
      state: the optimizer state to continue from; ``tx.init(params)`` by default.
      epochs_done: how many epochs were trained before. The order and keys of an epoch depend on the seed and the
        epoch's number, so that ``fit(..., epochs=2, state=result.state, epochs_done=result.epochs_done)`` after two
        epochs gives the same result as four epochs in one call. With 0 a second run repeats the orders of the first,
        unless its seed differs.
      steps_done: how many steps were trained before, instead of ``epochs_done``.
      validation: held-out data, a tree of arrays, or a list of batches or a data loader; evaluated for each row of the
        history, at ``eval_params(tx, state, params)``. The model's state is used as it is, and not changed.
      validation_batch_size: examples evaluated at once; all by default.
      validate_every: how often the history gets a row, and the validation data are evaluated: after each epoch by
        default, or ten times in a run of ``steps``.
      metrics: ``metrics(params, batch) -> {name: mean over the batch}``, also evaluated on the validation data; with
        ``Variables`` ``metrics(params, model_state, batch)``, with an adapter ``metrics(model, batch)``.
      early_stopping: when to stop early, such as ``EarlyStopping(patience=3)``; never by default. To monitor an
        accuracy, write ``EarlyStopping(monitor="val_accuracy", mode="max")``. Its patience counts rows.
      on_divergence: ``"stop"`` or ``"continue"``, see above.
      shuffle: shuffle the data anew in each epoch. Streams come in their own order.
      remainder: ``"drop"``, ``"keep"``, ``"wrap"`` or ``"pad"``, see :func:`~gradchain.training.scan_epoch`. A round of
        :func:`~gradchain.accumulate` that is incomplete continues in the next epoch, and in the next ``fit`` with this
        ``state``; at the end of training, :func:`~gradchain.flush` makes a step of it.
      steps_per_call: how many batches of a stream are stacked and trained on in one compiled call. More are faster
        where steps are small.
      device_memory: how many bytes of NumPy arrays may lie on the device. Batches of larger data, and of memory-mapped
        arrays by default, are drawn on the host in the same order, as a stream.
      has_aux: whether ``loss_fn`` returns ``(loss, aux)``; the leaves of aux must be scalars, as in ``{"accuracy":
        ...}``.
      takes_key: whether ``loss_fn`` takes a PRNG key.
      progress: show a progress bar (needs tqdm).
      on_epoch: called as ``on_epoch(epoch, row, params, state)`` after each row of the history, ``row``; ``epoch`` is
        the number of epochs done, those of ``epochs_done`` included. Training stops if it returns True.
      callbacks: what watches the run, see :class:`~gradchain.training.Callback`.
      mesh: devices to train on. Data and batches are spread over its first axis; parameters and ``state`` keep their
        layout if they are on these devices already; otherwise they are replicated, and the state is laid out like its
        parameters. (For ZeRO, pass a ``state`` made with :func:`~gradchain.zero_shardings`.) The trajectory is that of
        one device, up to rounding. Under ``jax.distributed`` the mesh spans all processes: each passes its share of
        ``data`` and ``validation`` (as many examples as the others, in the order of the processes; of a stream, its
        share of every batch) and otherwise the same arguments, and gets the same result.
      checkpoint: a folder to save the run in, and to resume it from (needs Orbax). If the process is killed at any
        moment, repeating the call gives bit for bit the result of an uninterrupted run. Repeating it after the end
        returns the finished result; with a larger budget training continues. If there is a checkpoint, ``params``
        and ``state`` are read from it. ``None`` saves nothing.
      checkpoint_every: how often there is a checkpoint; one is always saved at the end of the run and on Ctrl-C.
      checkpoint_keep: how many of the latest checkpoints to keep.
      renew_state: give the evaluation weights a model state of their own, by a pass over the data before each
        validation and at the end, see :func:`~gradchain.training.renew_state`: for averaged weights in a model with
        BatchNorm. The state in ``params`` stays that of the training. Not for an iterator, which has but one pass.

    Raises:
      TypeError: for parameters or data that aren't arrays (naming the paths), or for an ``early_stopping`` of another
        type.
      ValueError: for bad data, batch sizes, budgets, seeds or column names; if ``checkpoint`` is damaged, or contains
        anything but this run (saying what differs); nothing is overwritten then.

    Example:
      >>> result = fit(loss_fn, params, adam(1e-3), train, epochs=20, batch_size=32, validation=test,
      ...              early_stopping=EarlyStopping(patience=3))
      >>> print(result.history.table())
    """
    budget = budget_of(epochs, steps, validate_every)
    recipe = Recipe.of(loss_fn, has_aux, takes_key, metrics, batch_size, shuffle, remainder, validation_batch_size)
    own = [*([ProgressBar()] if progress else []), *([] if on_epoch is None else [EpochFunction(on_epoch)])]
    watching = Callbacks(callbacks, own)
    check_mesh(mesh)
    source = source_of(recipe, data, steps_per_call, mesh, device_memory)
    validation = held_out("fit", recipe, validation, mesh)
    arrays = None if isinstance(validation, Stream) else validation
    recipe, variables = recipe._replace(watch=watching.watch).enter(params)
    made, variables, key = transform_for("fit", tx, source.total(budget)), checked(variables), as_key(seed, "seed")
    if mesh is not None:
        if source.batch_size is not None:
            check_divides(mesh, source.batch_size)
        placement, made, variables, state = place(mesh, made, variables, state)
        recipe = recipe._replace(objective=recipe.objective._replace(placement=placement))
    if renew_state and not recipe.objective.has_state:
        raise TypeError("renew_state: params has no state to renew; hand in Variables(params, model_state)")
    recipe = recipe._replace(renews=renew_state)
    renewal: Renewal = source.renewal(recipe, key) if renew_state else lambda variables: variables
    ledger = Ledger(early_stopping, validation is not None, made, f"{budget.unit}s", on_divergence, renewal)
    position = begin_at(epochs_done, steps_done, source.per_epoch)
    start = ledger.begin(variables, made.init(variables.params) if state is None else state, position)
    options = recipe.options() | {"seed": key, "early_stopping": ledger.stopping, "epochs_done": epochs_done}
    options |= {"steps_done": steps_done} if steps_done else {}
    told = functools.partial(configuration, options, made, variables, source.arrays, arrays)
    every = budget.amount("checkpoint_every", checkpoint_every)
    before, total = steps_done or epochs_done * (source.per_epoch or 0), source.total(budget)
    with (
        SavedRun(checkpoint, every, checkpoint_keep, budget, told, start) as saved,
        source.opened(recipe, made, key, arrays, saved.run.position, budget.left(saved.run.now)) as feed,
        watching,
    ):
        now = saved.run.now
        watching.start(
            Run(
                tx=made, batch_size=source.batch_size, step=before + now.steps, epoch=saved.run.position.epoch,
                total_steps=None if total is None else before + total, steps_per_epoch=source.per_epoch,
                monitor=ledger.goal.column,
                total_epochs=epochs_done + budget.total.number if budget.unit == "epoch" else None,
            )
        )  # fmt: skip
        stopped = Running(feed, recipe, budget, ledger, validation, saved, watching, before).go()
    run, leave = saved.run, recipe.objective.leave
    chosen, weights = map(leave, ledger.chosen(run))
    return FitResult(
        chosen, weights, run.state, history_of(run, budget.row_unit), run.best_row, stopped, run.position.epoch,
        before + run.now.steps,
    )  # fmt: skip

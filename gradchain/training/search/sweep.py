"""``sweep``: many hyperparameters, seeds and starting points in one compiled call."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh

from gradchain.arguments import check_whole
from gradchain.compiled import Compiled
from gradchain.core.foreign import Child
from gradchain.core.hyper import Schedule
from gradchain.core.hyperparams import hyperparams, set_hyperparams
from gradchain.core.transform import Transform
from gradchain.signatures import public
from gradchain.training.budget import Budget, budget_of, transform_for
from gradchain.training.data.examples import check_batches, count_examples
from gradchain.training.data.hosts import gather_data
from gradchain.training.data.placement import check_mesh, on_mesh
from gradchain.training.data.streams import Stream
from gradchain.training.fitting.ranking import Goal, Mode, goal_of
from gradchain.training.keys import as_keys
from gradchain.training.metrics import in_order
from gradchain.training.search.chunks import (
    Layout,
    check_chunk,
    chunk_sizes,
    fastest_chunk,
    fold_in_chunks,
    in_threads,
    member_of,
    on_threads,
    transform_of,
)
from gradchain.training.search.comparison import SweepComparison
from gradchain.training.search.field import among_replicas, field_of, over_field, shares
from gradchain.training.search.streamed_members import Batched, start_losses, started, train_on_stream
from gradchain.training.search.sweep_result import SweepResult, has_diverged
from gradchain.training.steps.epoch import Remainder, evaluate_objective
from gradchain.training.steps.recipe import Recipe, check_validation, held_out, run_epoch, run_epochs
from gradchain.training.steps.sources import stream_of
from gradchain.training.variables import Variables, checked, for_evaluation
from gradchain.training.watching.progress import Bar, tick
from gradchain.tree import Tree
from gradchain.tree.alignment import T

MOST_TICKS = 100
"""How often a sweep moves its progress bar; each time costs about a tenth of a millisecond."""


@public
def grid(tx: Transform, values: Mapping[str, Sequence[float] | Array | np.ndarray[Any, Any]]) -> Transform:
    """Return a batch of transforms: every combination of several hyperparameters' values.

    Args:
      tx: a transform; its other hyperparameters are shared.
      values: for each name (as :func:`~gradchain.set_hyperparams` takes it; parameters of schedules included) the
        values to try. The last name varies fastest.

    Returns:
      ``tx`` with arrays of one common length: the number of combinations.

    Raises:
      ValueError: for unknown names, values out of range, or no values.

    Example:
      >>> grid(sgd(0.1, momentum=0.9), {"learning_rate": [0.1, 0.01], "trace.decay": [0.8, 0.9, 0.99]})
    """
    axes: list[Any] = [v if isinstance(v, Array) else np.asarray(v) for v in values.values()]
    for name, axis in zip(values, axes, strict=True):
        if axis.ndim != 1 or not axis.size:
            raise ValueError(f"grid: {name} needs a sequence of values, got shape {axis.shape}")
    if not axes:
        raise ValueError("grid: give the values of at least one hyperparameter")
    chosen = np.indices([len(axis) for axis in axes]).reshape(len(axes), -1)
    return set_hyperparams(tx, {name: axis[i] for name, axis, i in zip(values, axes, chosen, strict=True)})


@public
def sweep(
    loss_fn: Callable[..., Any], params: T | None, tx: Child | Mapping[str, Child] | Sequence[Child], data: Tree, *,
    epochs: int | None = None, steps: int | None = None, batch_size: int | None = None,
    seeds: int | Sequence[int] | Array = 0, starts: T | None = None,
    init: Callable[[Array], T] | None = None, chunk: int | None = None, validation: Tree | None = None,
    validation_batch_size: int | None = None, metrics: Callable[..., dict[str, Any]] | None = None,
    select: str | None = None, mode: Mode | None = None, shuffle: bool = True, remainder: Remainder = "drop",
    steps_per_call: int = 1, has_aux: bool = False, takes_key: bool = False, progress: bool = False,
    mesh: Mesh | None = None,
) -> SweepResult[T]:  # fmt: skip
    """Train with every transform of a batch, from every seed or starting point, in one compiled call.

    Each run does what :func:`~gradchain.training.fit` does with that transform and seed. Runs that differ only in their
    hyperparameters see the same batches in the same order. Another sweep with the same number of runs, ``loss_fn`` and
    options doesn't recompile, whatever its hyperparameters. Different optimizers, in a dict or list, are compared by
    one compiled call for each.

    Args:
      loss_fn: the mean loss over a batch, see :func:`~gradchain.training.fit`.
      params: every run's initial parameters; ``None`` if ``starts`` or ``init`` gives them.
      tx: a batch of transforms: some of its hyperparameters are arrays with a leading axis of the same length ``runs``,
        as ``adam(jnp.logspace(-4, 0, 64))`` or :func:`grid` make them. Or several of these, by name in a dict, or in a
        list, which names them by their places, ``"0"``, ``"1"`` and so on; among several an ordinary transform is one
        run. A function of ``total_steps`` that returns a batch is one, too, see :func:`~gradchain.training.fit`.
      data: a tree of arrays with the examples on the leading axis; or a stream of batches, see
        :func:`~gradchain.training.fit`, which all runs see in the same order, whatever their seeds.
      epochs: passes over the data, at least 1; give this or ``steps``.
      steps: the number of steps, at least 1. The history has a row for each epoch and for what remains; of a stream it
        has ten.
      batch_size: examples per step; needed for arrays.
      seeds: one or several seeds or PRNG keys, for the order of the data and the keys that the loss gets. Every
        transform is run with every seed.
      starts: several starting points, as a tree like the parameters with a leading axis: one for each seed, or any
        number with a single seed.
      init: ``init(key) -> params`` makes the initial parameters for each seed: random restarts.
      chunk: how many runs are computed side by side (on each device), which limits the memory. On a CPU the runs are
        shared among the cores, and each core computes its share as one batch. The default is the fastest: on a CPU 8
        per core up to :math:`2^{14}` parameters and 1 beyond; elsewhere all.
      validation: held-out data, evaluated after each epoch, at ``eval_params(tx, state, params)``: arrays, or for data
        in a stream also a list of batches or a data loader.
      validation_batch_size: examples evaluated at once; all by default.
      metrics: ``metrics(params, batch) -> {name: number}``, also evaluated on the validation data.
      select: the history's column whose last value ranks the runs; by default ``val_loss`` where there are validation
        data, else ``loss``.
      mode: which value of it is best: ``"min"``, the lowest, or ``"max"``, the highest, as for an accuracy. The lowest
        loss is best; for any other column the mode must be given.
      shuffle: shuffle the data anew in each epoch.
      remainder: ``"drop"``, ``"keep"`` or ``"wrap"``.
      steps_per_call: how many batches of a stream are one compiled call.
      has_aux: whether ``loss_fn`` returns ``(loss, aux)``; the leaves of aux must be scalars, as in ``{"accuracy":
        ...}``.
      takes_key: whether ``loss_fn`` takes a PRNG key.
      progress: show a progress bar (needs tqdm); it advances with every chunk, at most a hundred times, or with the
        steps on a stream.
      mesh: devices to spread the runs over; each trains its share independently, on a copy of the data. Under
        ``jax.distributed`` the mesh may span all processes: each passes its share of ``data`` and ``validation`` (as
        many examples as the others, in the order of the processes) and otherwise the same arguments; each gets the
        result.

    Returns:
      A :class:`SweepResult`: the winner as an ordinary transform, its parameters, every run's losses, a table, a plot.
      For several transforms a :class:`SweepComparison`, which is a ``SweepResult`` of all runs together.

    Raises:
      ValueError: if no hyperparameter of ``tx`` is a batch (and there is only one seed and start), if batches differ in
        length (naming them), or if data, starts and seeds don't fit each other.

    Example:
      >>> result = sweep(loss_fn, params, adam(jnp.logspace(-4, 0, 64)), data, epochs=10, batch_size=32)
      >>> print(result.table(rows=5))
      >>> params = fit(loss_fn, params, result.winner, data, epochs=50, batch_size=32).params

      >>> rates = jnp.logspace(-4, 0, 16)
      >>> result = sweep(loss_fn, params, {"adam": adam(rates), "muon": muon(rates)}, data, epochs=10, batch_size=32)
      >>> print(result.table(best_of_each=True))
    """
    recipe = Recipe.of(loss_fn, has_aux, takes_key, metrics, batch_size, shuffle, remainder, validation_batch_size)
    budget = budget_of(epochs, steps, None, "sweep")
    check_mesh(mesh)
    data, validation = checked_data("sweep", recipe, data, validation, steps_per_call)
    if mesh is not None and isinstance(data, Stream):
        raise TypeError("sweep: a mesh spreads runs that have their data in arrays, but data are a stream")
    if mesh is not None:
        data, validation = gather_data(data, "data"), gather_data(validation, "validation data")
    goal = goal_of("sweep", "select", select, mode, validation is not None)
    check_chunk("sweep", chunk)
    recipe, begins, keys = _replicas(recipe, params, starts, init, _keys(seeds))
    task = _Task(recipe, budget, goal, begins, keys, data, validation, chunk, progress, mesh, steps_per_call)
    total = budget.steps(steps_of(recipe, data))
    if type(tx) not in (list, tuple, dict):
        one = transform_for("sweep", tx, total)
        return task.run(one, count_runs(one, len(keys)))
    txs = _named(tx, total)
    if isinstance(data, Stream) and not data.repeats and len(txs) > 1:
        raise ValueError(
            "sweep: data: an iterator gives its batches only once, so several optimizers can't be compared on the same "
            "ones; hand in a list, a data loader, or a function of the epoch's number that returns an iterator"
        )
    runs = {name: count_runs(one, len(keys), f"sweep: {name}", alone=len(txs) == 1) for name, one in txs.items()}
    return SweepComparison.of({name: task.run(one, runs[name], f"sweep: {name}") for name, one in txs.items()})


class _Task(NamedTuple):
    """What all transforms of a sweep are trained on, and how."""

    recipe: Recipe
    budget: Budget
    goal: Goal
    begins: Variables[Any]
    """Where each replica begins, with a leading axis."""
    keys: Array
    """Each replica's PRNG key."""
    data: Any
    """Arrays, or a stream."""
    validation: Tree | None
    chunk: int | None
    progress: bool
    mesh: Mesh | None
    steps_per_call: int

    def run(self, tx: Transform, runs: int, title: str = "sweep") -> SweepResult[Any]:
        """Train with every transform of a batch of ``runs``, from every replica's start."""
        if isinstance(self.data, Stream):
            return self._on_stream(self.data, tx, runs, title)
        recipe, replicas = self.recipe, len(self.keys)
        field = None if self.mesh is None else field_of(self.mesh, runs, replicas)
        if field is None:
            layout = on_threads(runs, replicas, self.chunk, self.begins, (tx, self.data, self.validation))
        else:
            share = shares(field, runs, replicas)
            layout = Layout(share, (1, 1), chunk_sizes(*share, self.chunk, self.begins), 1)
        epochs, rest = self.budget.split(recipe.order.steps(count_examples(self.data)))
        plan = _Plan(recipe, epochs, rest, runs, layout.share, layout.chunks, self.goal, self.progress, field)
        inputs = tx, self.begins, self.keys, self.data, self.validation
        inputs = inputs if field is None else on_mesh(field, inputs)
        start_loss = _compiled_start(recipe, *inputs[1:4])
        with Bar(self.progress, plan.ticks, title, "part") as bar:
            inputs = *inputs, start_loss, bar.number
            compiled = _compiled_sweep.executable(plan, *inputs, 0, 0)
            found = in_threads(
                compiled, [(*inputs, *first) for first in layout.firsts], layout.threads, compiled.as_text
            )
        start_loss = jax.device_get(start_loss)
        best, costs, history = found[0] if len(found) == 1 else _put_together(found, start_loss, plan, layout)
        costs, history = jax.device_get((costs, history))
        history = {name: history[name] for name in in_order(history)}
        best = recipe.objective.leave(best) if np.isfinite(costs).any() else None
        return SweepResult(tx, best, self.goal.signed(costs), history, start_loss, *self.goal)

    def _on_stream(self, stream: Stream, tx: Transform, runs: int, title: str) -> SweepResult[Any]:
        """Do so on a stream: all runs and replicas are members that see each batch at the same time."""
        recipe, replicas = self.recipe, len(self.keys)
        run, replica = jnp.divmod(jnp.arange(runs * replicas), replicas)
        begins, keys = member_of(self.begins, replica), self.keys[replica]
        txs = transform_of(tx, run) if runs > 1 else tx
        chunk = fastest_chunk(runs * replicas, begins) if self.chunk is None else self.chunk
        start_loss = start_losses(recipe, self.begins, self.keys, stream)
        members = started(txs, begins, keys)
        with Bar(self.progress, self.budget.steps(stream.per_epoch), title, "step") as bar:
            variables, state, rows = train_on_stream(
                recipe, members, stream, self.validation, 0, self.budget.rounds(), self.steps_per_call, chunk,
                bar.number if self.progress else None,
            )  # fmt: skip
        costs = last_cost(rows, self.goal, start_loss[replica]).reshape(runs, replicas)
        best = int(jnp.argmin(costs))
        winner = Batched(txs, variables, state, keys).at(best)
        weights = recipe.objective.leave(for_evaluation(winner.tx, winner.state, winner.variables))
        costs = jax.device_get(costs.mean(1))
        history = {name: np.asarray(rows[name]).reshape(runs, replicas, -1) for name in in_order(rows)}
        found = weights if np.isfinite(costs).any() else None
        return SweepResult(tx, found, self.goal.signed(costs), history, jax.device_get(start_loss), *self.goal)


def checked_data(where: str, recipe: Recipe, data: Any, validation: Any, steps_per_call: int) -> tuple[Any, Any]:
    """Return data and validation data: arrays as they are, others as streams, after checking that they can be used.

    Raises:
      TypeError: for data that are neither arrays nor a stream of batches.
      ValueError: for data or batch sizes that don't fit.
    """
    check_whole(f"{where}: steps_per_call", steps_per_call)
    stream = stream_of(where, recipe, data)
    if stream is not None:
        return stream, held_out(where, recipe, validation)
    check_validation(recipe, validation)
    check_batches(data, recipe.order.batch_size)
    return data, validation


def steps_of(recipe: Recipe, data: Any) -> int | None:
    """Return how many steps an epoch has; ``None`` for a stream that doesn't tell."""
    return data.per_epoch if isinstance(data, Stream) else recipe.order.steps(count_examples(data))


def _named(txs: Any, total_steps: int | None) -> dict[str, Transform]:
    """Return transforms to compare by name.

    Raises:
      ValueError: if there are none.
      TypeError: for a name that isn't a string.
    """
    named: dict[Any, Any] = txs if isinstance(txs, dict) else {str(i): tx for i, tx in enumerate(txs)}
    if not named:
        raise ValueError(f"sweep: there are no optimizers in {txs!r}")
    if wrong := [name for name in named if not isinstance(name, str)]:
        raise TypeError(f"sweep: optimizers are named by strings, got {wrong[0]!r}")
    return {name: transform_for(f"sweep: {name}", tx, total_steps) for name, tx in named.items()}


def _keys(seeds: Any) -> Array:
    keys = jnp.atleast_1d(as_keys(seeds, "sweep: seeds"))
    if keys.ndim > 1:
        raise ValueError(f"sweep: seeds must be a list, got shape {keys.shape}")
    return keys


def _replicas(recipe: Recipe, params: Any, starts: Any, init: Any, keys: Array) -> tuple[Recipe, Variables[Any], Array]:
    """Return the recipe for what was handed in, starting points and keys, both with a leading axis of replicas."""
    given = [name for name, x in (("params", params), ("starts", starts), ("init", init)) if x is not None]
    if len(given) != 1:
        raise ValueError(f"sweep: give one of params, starts and init, got {' and '.join(given) or 'none'}")
    if init is not None:
        recipe, start = recipe.starter(init)
        return recipe, checked(jax.vmap(start)(keys), "init(key)"), keys
    if starts is None:
        recipe, variables = recipe.enter(params)
        return recipe, jax.tree.map(lambda x: jnp.broadcast_to(x, (len(keys), *x.shape)), checked(variables)), keys
    n = count_examples(starts, "starts")
    if len(keys) not in (1, n):
        raise ValueError(f"sweep: {n} starts and {len(keys)} seeds don't pair; give one seed, or one for each start")
    recipe, variables = recipe.enter(starts)
    return recipe, checked(variables, "starts"), jnp.broadcast_to(keys, (n,))


def one_transform(where: str, tx: Any, total_steps: int | None) -> Transform:
    """Return a transform of ours.

    Raises:
      TypeError: if ``tx`` isn't one, such as a list of optimizers to compare.
    """
    if type(tx) not in (list, tuple, dict):
        return transform_for(where, tx, total_steps)
    over = "for name, tx in optimizers.items()" if isinstance(tx, dict) else "for tx in optimizers"
    call = f"{where}(loss_fn, params, tx, data, ...)"
    call = f"{{name: {call} {over}}}" if isinstance(tx, dict) else f"[{call} {over}]"
    raise TypeError(
        f"{where}: tx must be one transform whose numbers are arrays, got a {type(tx).__name__} of {len(tx)}; to "
        f"compare several optimizers, call {where} for each and compare the results:\n  results = {call}"
    )


def count_runs(tx: Transform, replicas: int, where: str = "sweep", alone: bool = True) -> int:
    """Return the length of the batch in ``tx``.

    Raises:
      ValueError: if batches differ in length, or there is none, but one replica and no other transform.
    """
    batches = {name: len(x) for name, x in hyperparams(tx).items() if not isinstance(x, Schedule) and np.ndim(x)}
    if len(set(batches.values())) > 1:
        listed = ", ".join(f"{name} has {n}" for name, n in batches.items())
        raise ValueError(f"{where}: the batches of hyperparameters differ in length: {listed}; grid() combines them")
    if not batches and replicas == 1 and alone:
        raise ValueError(
            f"{where}: there is nothing to compare: no hyperparameter of {tx!r} is an array. Give one a leading "
            "axis, as in adam(jnp.logspace(-4, 0, 64)) or grid(tx, {'learning_rate': [0.1, 0.01]}); or give several "
            "seeds or starts"
        )
    return next(iter(batches.values()), 1)


class _Plan(NamedTuple):
    """What the compiled sweep depends on besides arrays."""

    recipe: Recipe
    epochs: int
    rest: int
    """Steps after the last epoch."""
    runs: int
    share: tuple[int, int]
    """How many transforms, and how many replicas of each, one thread or device has to train."""
    chunks: tuple[int, int]
    goal: Goal
    progress: bool
    field: Mesh | None

    @property
    def chunks_a_tick(self) -> int:
        """After how many chunks the progress bar moves."""
        return math.ceil(self.share[0] / self.chunks[0] / MOST_TICKS)

    @property
    def ticks(self) -> int:
        """How often the progress bar moves."""
        return math.ceil(math.ceil(self.share[0] / self.chunks[0]) / self.chunks_a_tick)


def _start_losses(recipe: Recipe, begins: Tree, keys: Array, data: Tree) -> Array:
    """Return the training loss before the first step, of shape (replicas,)."""
    replicas = jnp.arange(len(keys))
    return lax.map(lambda k: loss_at_start(recipe, member_of(begins, k), data, keys[k]), replicas)


_compiled_start = Compiled(_start_losses)


def _sweep(
    plan: _Plan, tx: Any, begins: Tree, keys: Array, data: Tree, validation: Tree | None, start_loss: Array,
    bar: Array, first_run: Array, first_replica: Array,
) -> tuple[Tree, Array, dict[str, Array]]:  # fmt: skip
    """Return the winner's parameters, costs (runs,) and history (runs, replicas, epochs), of one thread's share."""
    inputs = tx, begins, keys, data, validation, start_loss, bar
    share = functools.partial(_share, plan)
    if plan.field is None:
        costs, best, rows = share(inputs, first_run, first_replica)
    else:
        costs, best, rows = over_field(plan.field, share, inputs, plan.share, plan.runs)
    return best, costs, rows


_compiled_sweep = Compiled(_sweep)


def _share(plan: _Plan, inputs: tuple[Any, ...], first_run: Any, first_replica: Any) -> tuple[Array, Tree, Any]:
    """Return costs, the winner's parameters and rows of one device's share of the runs."""
    tx, begins, keys, data, validation, start_loss, bar = inputs
    replicas = len(keys)

    def all_replicas(i: Array) -> tuple[Array, Tree, dict[str, Array]]:
        transform = transform_of(tx, (first_run + i) % plan.runs)

        def one(k: Array) -> tuple[Array, Tree, dict[str, Array]]:
            k = (first_replica + k) % replicas
            weights, rows = _train(plan, transform, member_of(begins, k), keys[k], data, validation)
            return last_cost(rows, plan.goal, start_loss[k]), weights, rows

        found = _map_keeping_best(one, plan.share[1], plan.chunks[1])
        costs, best, rows = among_replicas(plan.field, found, replicas)
        return jnp.mean(costs), best, rows

    def report(first: Array) -> None:
        due = (first // plan.chunks[0] % plan.chunks_a_tick == 0) & (first_run == 0) & (first_replica == 0)
        lax.cond(due, lambda: tick(bar, 1), lambda: None)

    return _map_keeping_best(all_replicas, plan.share[0], plan.chunks[0], report if plan.progress else None)


def _put_together(
    found: list[tuple[Tree, Array, dict[str, Array]]], start_loss: np.ndarray[Any, Any], plan: _Plan, layout: Layout
) -> tuple[Tree, np.ndarray[Any, Any], dict[str, np.ndarray[Any, Any]]]:
    """Return the winner's parameters, costs and history from those of several shares.

    A last share that reaches past the end repeats runs from the beginning; repetitions are left out.
    """
    bests, costs, rows = zip(*((best, *jax.device_get(numbers)) for best, *numbers in found), strict=True)
    parts, replicas = layout.grid[1], len(start_loss)

    def whole(*columns: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        lines = [np.concatenate(columns[i : i + parts], 1)[:, :replicas] for i in range(0, len(columns), parts)]
        return np.concatenate(lines)[: plan.runs]

    history = jax.tree.map(whole, *rows)
    if parts == 1:
        costs = np.concatenate(costs)[: plan.runs]
        return bests[int(np.argmin(costs)) // layout.share[0]], costs, history
    each = last_cost(history, plan.goal, start_loss, np)  # a share has one transform, and some of its replicas
    costs = each.mean(1)
    run = int(np.argmin(costs))
    return bests[run * parts + int(np.argmin(each[run])) // layout.share[1]], costs, history


def _train(
    plan: _Plan, tx: Any, variables: Variables[Any], key: Array, data: Tree, validation: Tree | None
) -> tuple[Variables[Any], dict[str, Array]]:
    """Train one run and return (variables with evaluation weights, rows), the rows with a leading axis of epochs."""
    state, numbers = tx.init(variables.params), jnp.arange(plan.epochs)
    variables, state, rows = run_epochs(plan.recipe, variables, tx, state, data, validation, key, numbers)
    if plan.rest:
        epoch_key = jax.random.fold_in(key, plan.epochs)
        scanned, last = run_epoch(plan.recipe, variables, tx, state, data, validation, epoch_key, plan.rest)
        variables, state = scanned[:2]
        rows = {name: jnp.append(rows[name], x) for name, x in last.items()}
    return for_evaluation(tx, state, variables), rows


def loss_at_start(recipe: Recipe, variables: Variables[Any], data: Tree, key: Array) -> Array:
    """Return the training loss before the first step."""
    size = recipe.order.batch_size
    return evaluate_objective(recipe.objective, variables, data, size, key, training=True).loss


def last_cost(rows: dict[str, Any], goal: Goal, start_loss: Any, xp: Any = jnp) -> Any:
    """Return the cost of the last value of the history's column that ranks the runs; infinity for a run that diverged.

    Args:
      rows: columns by name, of shape ``(..., epochs)``.
      goal: which column that is, and which value is best.
      start_loss: the loss before training, of shape ``(...)``.
      xp: ``numpy`` or ``jax.numpy``.
    """
    if goal.column not in rows:
        raise ValueError(f"select is {goal.column!r}, but the columns are {', '.join(rows)}")
    cost = goal.cost(rows[goal.column][..., -1], xp)
    return xp.where(has_diverged(rows["loss"], start_loss, xp), xp.inf, cost)


def _map_keeping_best(
    function: Callable[[Array], tuple[Array, Tree, Any]],
    size: int,
    chunk: int,
    after_chunk: Callable[[Array], None] | None = None,
) -> tuple[Array, Tree, Any]:
    """Map over ``range(size)``, ``chunk`` at a time side by side; keep all costs and rows, but only the best result.

    ``function(i)`` returns (cost, result, rows); ``after_chunk`` is told each chunk's first ``i``.
    """
    shapes = jax.eval_shape(function, jnp.zeros((), int))
    worst = (jnp.asarray(jnp.inf, shapes[0].dtype), jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes[1]))

    def keep(best: tuple[Array, Tree], members: Array, found: Any) -> tuple[tuple[Array, Tree], tuple[Array, Any]]:
        costs, results, rows = found
        first = jnp.argmin(costs)
        better = (costs[first] < best[0]) | (members[0] == 0)
        best = jax.tree.map(lambda new, old: jnp.where(better, new[first], old), (costs, results), best)
        if after_chunk is not None:
            after_chunk(members[0])
        return best, (costs, rows)

    (_, best), (costs, rows) = fold_in_chunks(function, size, chunk, keep, worst)
    return costs, best, rows

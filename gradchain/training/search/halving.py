"""Successive halving and Hyperband: many runs start, and the better ones continue."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gradchain.arguments import check_whole
from gradchain.core.foreign import Child
from gradchain.signatures import public
from gradchain.training.fitting.ranking import Mode
from gradchain.training.metrics import in_order
from gradchain.training.search.halving_result import HalvingResult
from gradchain.training.search.members import Members, Plan, Task, Trainer, prepare, weights
from gradchain.training.search.sweep_result import Numbers
from gradchain.training.steps.epoch import Remainder
from gradchain.training.steps.recipe import Recipe
from gradchain.training.variables import Variables
from gradchain.tree import Tree
from gradchain.tree.alignment import T


@public
class Rung(NamedTuple):
    """A stage of successive halving: how many runs are trained, and until which epoch."""

    runs: int
    until: int


@public
def halving_rungs(runs: int, epochs: int, eta: int = 3, rungs: int | None = None) -> tuple[Rung, ...]:
    r"""Return the rungs of successive halving.

    The last of :math:`K` rungs trains until ``epochs``, the one :math:`k` places before it until
    :math:`\max(1, \lfloor \mathrm{epochs} / \eta^k \rfloor)`. Rung :math:`i`, counted from 0, has
    :math:`\max(1, \lfloor \mathrm{runs} / \eta^i \rfloor)` runs. So each rung trains for about the same total number of
    epochs.

    Args:
      runs: how many runs start.
      epochs: how many epochs the last rung's runs are trained for.
      eta: one run in ``eta`` is kept after each rung; at least 2.
      rungs: how many rungs; by default the largest number with at least one run and one epoch in each.

    Raises:
      ValueError: if there are more rungs than epochs allow.

    Example:
      >>> halving_rungs(27, 27)
      (Rung(runs=27, until=1), Rung(runs=9, until=3), Rung(runs=3, until=9), Rung(runs=1, until=27))
    """
    for name, value, least in (("runs", runs, 1), ("epochs", epochs, 1), ("eta", eta, 2)):
        check_whole(name, value, least)
    most = 1 + _whole_log(epochs, eta)
    count = min(most, 1 + _whole_log(runs, eta)) if rungs is None else rungs
    check_whole("rungs", count)
    if count > most:
        raise ValueError(f"{epochs} epochs and eta={eta} leave room for {most} rungs, got rungs={count}")
    return tuple(Rung(max(1, runs // eta**i), epochs // eta ** (count - 1 - i)) for i in range(count))


@public
def hyperband_brackets(epochs: int, eta: int = 3) -> tuple[tuple[Rung, ...], ...]:
    r"""Return the brackets of Hyperband, each the rungs of one successive halving.

    With :math:`s_{\max} = \lfloor \log_\eta \mathrm{epochs} \rfloor`, bracket :math:`s` from
    :math:`s_{\max}` down to 0 begins with :math:`\lceil (s_{\max} + 1) \, \eta^s / (s + 1) \rceil` runs and has
    :math:`s + 1` rungs: the first bracket trains many runs briefly, the last a few for all epochs.

    Args:
      epochs: how many epochs the last runs of each bracket are trained for.
      eta: one run in ``eta`` is kept after each rung; at least 2.

    Example:
      >>> [bracket[0] for bracket in hyperband_brackets(9)]
      [Rung(runs=9, until=1), Rung(runs=5, until=3), Rung(runs=3, until=9)]
    """
    check_whole("epochs", epochs)
    check_whole("eta", eta, 2)
    last = _whole_log(epochs, eta)
    sizes = {s: -(-(last + 1) * eta**s // (s + 1)) for s in range(last, -1, -1)}
    return tuple(halving_rungs(runs, epochs, eta, s + 1) for s, runs in sizes.items())


def _whole_log(x: int, base: int) -> int:
    power = 0
    while base ** (power + 1) <= x:
        power += 1
    return power


@public
def successive_halving(
    loss_fn: Callable[..., Any], params: T | None, tx: Child, data: Tree, *, epochs: int,
    batch_size: int | None = None, eta: int = 3, rungs: int | None = None, seed: int | Array = 0,
    init: Callable[[Array], T] | None = None,
    chunk: int | None = None, validation: Tree | None = None, validation_batch_size: int | None = None,
    metrics: Callable[..., dict[str, Any]] | None = None, select: str | None = None, mode: Mode | None = None,
    shuffle: bool = True, remainder: Remainder = "drop", has_aux: bool = False, takes_key: bool = False,
    progress: bool = False, steps_per_call: int = 1,
) -> HalvingResult[T]:  # fmt: skip
    """Train every transform of a batch briefly, continue the best third for three times as long, and so on.

    Surviving runs keep their parameters and state, and only they are computed: each rung trains as many runs as survive
    (see :func:`halving_rungs`), on all cores of a CPU. The rungs share their compiled programs. Each run does what
    :func:`~gradchain.training.fit` does with its transform, up to the rung where it is dropped.

    Args:
      loss_fn: the mean loss over a batch, see :func:`~gradchain.training.fit`.
      params: every run's initial parameters; ``None`` if ``init`` makes them.
      tx: a batch of transforms, as :func:`~gradchain.training.sample` or :func:`~gradchain.training.grid` make it.
      data: a tree of arrays with the examples on the leading axis; or a stream of batches, see
        :func:`~gradchain.training.fit`.
      epochs: how many epochs the last rung's runs are trained for in total. Schedules should end there, and not
        earlier.
      batch_size: examples per step; needed for arrays.
      eta: one run in ``eta`` is kept after each rung; at least 2.
      rungs: how many rungs; by default the largest number with at least one run and one epoch in each.
      seed: an integer seed or a PRNG key, for the order of the data and the keys that the loss gets, the same for every
        run.
      init: ``init(key) -> params`` makes separate initial parameters for each run.
      chunk: how many runs are computed at once, which limits the memory. On a CPU they are shared among the cores. The
        default is the fastest: on a CPU 8 per core up to :math:`2^{14}` parameters and 1 beyond; elsewhere all.
      validation: held-out data, evaluated after each epoch, at ``eval_params(tx, state, params)``.
      validation_batch_size: examples evaluated at once; all by default.
      metrics: ``metrics(params, batch) -> {name: number}``, also evaluated on the validation data.
      select: the history's column that ranks the runs after each rung; by default ``val_loss`` where there are
        validation data, else ``loss``. Runs that diverged come last; of equal ones the first is kept.
      mode: which value of it is best: ``"min"``, the lowest, or ``"max"``, the highest, as for an accuracy. The lowest
        loss is best; for any other column the mode must be given.
      shuffle: shuffle the data anew in each epoch.
      remainder: ``"drop"``, ``"keep"`` or ``"wrap"``.
      has_aux: whether ``loss_fn`` returns ``(loss, aux)``; the leaves of aux must be scalars, as in ``{"accuracy":
        ...}``.
      takes_key: whether ``loss_fn`` takes a PRNG key.
      progress: show a progress bar (needs tqdm).
      steps_per_call: how many batches of a stream are one compiled call.

    Returns:
      A :class:`HalvingResult`: the winner, its parameters, every run's losses up to where it was dropped, a table, a
      plot.

    Raises:
      ValueError: if ``tx`` isn't a batch, there are more rungs than epochs allow, or data don't fit.

    Example:
      >>> tx = sample(adam(1e-3), {"learning_rate": LogUniform(1e-4, 1.0), "b1": Uniform(0.8, 0.99)}, 27)
      >>> result = successive_halving(loss_fn, params, tx, data, epochs=27, batch_size=32)
      >>> print(result.winner)

    Reference:
      Jamieson & Talwalkar (2016), "Non-stochastic Best Arm Identification and Hyperparameter Optimization".
    """
    recipe = Recipe.of(loss_fn, has_aux, takes_key, metrics, batch_size, shuffle, remainder, validation_batch_size)
    where = "successive_halving"
    tx, runs, plan, task = prepare(
        where, recipe, params, init, tx, data, validation, epochs, seed, select, mode, chunk, progress, steps_per_call
    )
    return _run(plan, (halving_rungs(runs, epochs, eta, rungs),), tx, task, "halving")


@public
def hyperband(
    loss_fn: Callable[..., Any], params: T | None, tx: Child, data: Tree, *, epochs: int,
    batch_size: int | None = None, eta: int = 3, seed: int | Array = 0, init: Callable[[Array], T] | None = None,
    chunk: int | None = None,
    validation: Tree | None = None, validation_batch_size: int | None = None,
    metrics: Callable[..., dict[str, Any]] | None = None, select: str | None = None, mode: Mode | None = None,
    shuffle: bool = True, remainder: Remainder = "drop", has_aux: bool = False, takes_key: bool = False,
    progress: bool = False, steps_per_call: int = 1,
) -> HalvingResult[T]:  # fmt: skip
    """Run several successive halvings, from many short runs to a few long ones.

    Successive halving drops runs that are slow at first, even if they would be best in the end. Hyperband hedges: each
    of its brackets (see :func:`hyperband_brackets`) is a halving that starts with fewer runs and gives each more time.

    Args:
      loss_fn: the mean loss over a batch, see :func:`~gradchain.training.fit`.
      params: every run's initial parameters; ``None`` if ``init`` makes them.
      tx: a batch of transforms with as many runs as the brackets have, ``hyperband_runs(epochs, eta)``. Draw them with
        :func:`~gradchain.training.sample`: the first bracket takes the first ones, and so on.
      data: a tree of arrays with the examples on the leading axis; or a stream of batches, see
        :func:`~gradchain.training.fit`.
      epochs: how many epochs the last runs of each bracket are trained for in total.
      batch_size: examples per step; needed for arrays.
      eta: one run in ``eta`` is kept after each rung; at least 2.
      seed: an integer seed or a PRNG key, for the order of the data and the keys that the loss gets, the same for every
        run.
      init: ``init(key) -> params`` makes separate initial parameters for each run.
      chunk: how many runs are computed at once, which limits the memory. On a CPU they are shared among the cores. The
        default is the fastest: on a CPU 8 per core up to :math:`2^{14}` parameters and 1 beyond; elsewhere all.
      validation: held-out data, evaluated after each epoch, at ``eval_params(tx, state, params)``.
      validation_batch_size: examples evaluated at once; all by default.
      metrics: ``metrics(params, batch) -> {name: number}``, also evaluated on the validation data.
      select: the history's column that ranks the runs; by default ``val_loss`` where there are validation data, else
        ``loss``.
      mode: which value of it is best: ``"min"``, the lowest, or ``"max"``, the highest, as for an accuracy. The lowest
        loss is best; for any other column the mode must be given.
      shuffle: shuffle the data anew in each epoch.
      remainder: ``"drop"``, ``"keep"`` or ``"wrap"``.
      has_aux: whether ``loss_fn`` returns ``(loss, aux)``; the leaves of aux must be scalars, as in ``{"accuracy":
        ...}``.
      takes_key: whether ``loss_fn`` takes a PRNG key.
      progress: show a progress bar (needs tqdm).
      steps_per_call: how many batches of a stream are one compiled call.

    Returns:
      A :class:`HalvingResult`; the winner is the best of the runs that were trained for all ``epochs``.

    Raises:
      ValueError: if the number of runs in ``tx`` differs from that of the brackets, or data don't fit.

    Example:
      >>> tx = sample(adam(1e-3), {"learning_rate": LogUniform(1e-4, 1.0)}, hyperband_runs(27))
      >>> result = hyperband(loss_fn, params, tx, data, epochs=27, batch_size=32)

    Reference:
      Li, Jamieson, DeSalvo, Rostamizadeh & Talwalkar (2018), "Hyperband: A Novel Bandit-Based Approach to
      Hyperparameter Optimization", algorithm 1.
    """
    recipe = Recipe.of(loss_fn, has_aux, takes_key, metrics, batch_size, shuffle, remainder, validation_batch_size)
    where = "hyperband"
    tx, runs, plan, task = prepare(
        where, recipe, params, init, tx, data, validation, epochs, seed, select, mode, chunk, progress, steps_per_call
    )
    if runs != hyperband_runs(epochs, eta):
        raise ValueError(
            f"hyperband: {epochs} epochs and eta={eta} need {hyperband_runs(epochs, eta)} runs, but tx has {runs}; "
            "draw them with sample(tx, {...}, hyperband_runs(epochs, eta))"
        )
    return _run(plan, hyperband_brackets(epochs, eta), tx, task, "hyperband")


@public
def hyperband_runs(epochs: int, eta: int = 3) -> int:
    """Return how many runs Hyperband needs: those of all its brackets.

    Args:
      epochs: how many epochs the last runs of each bracket are trained for.
      eta: one run in ``eta`` is kept after each rung; at least 2.
    """
    return sum(bracket[0].runs for bracket in hyperband_brackets(epochs, eta))


Brackets = tuple[tuple[Rung, ...], ...]


def _run(plan: Plan, brackets: Brackets, tx: Any, task: Task, title: str) -> HalvingResult[Any]:
    rounds = [
        (rung.runs, rung.until - done)
        for bracket in brackets
        for rung, done in zip(bracket, [0, *(rung.until for rung in bracket)], strict=False)
    ]
    trainer = Trainer(plan, task, rounds, title)
    with trainer.bar:
        members, ends, first = trainer.begin(tx), list[_End](), 0
        for rungs in brackets:
            members, end = _one_bracket(trainer, rungs, members, np.arange(first, first + rungs[0].runs))
            ends.append(end)
            first += rungs[0].runs
    start_loss = np.asarray(members.start_loss)
    best = min(ends, key=lambda end: end.cost).weights
    costs, epochs = (np.concatenate(xs) for xs in zip(*((end.costs, end.epochs) for end in ends), strict=True))
    history = jax.tree.map(lambda *xs: np.concatenate(xs), *(end.history for end in ends))
    history = {name: history[name][:, None] for name in in_order(history)}
    leave = plan.recipe.objective.leave
    found = bool(np.isfinite(costs[epochs == epochs.max()]).any())
    sizes = [bracket[0].runs for bracket in brackets]
    numbers = np.repeat(np.arange(len(sizes)), sizes)
    return HalvingResult(
        tx,
        leave(best) if found else None,
        plan.goal.signed(costs),
        history,
        start_loss[:, None],
        *plan.goal,
        epochs,
        numbers,
    )


class _End(NamedTuple):
    """What came of a bracket: its winner, and each run's numbers."""

    weights: Variables[Any]
    cost: float
    costs: Numbers
    epochs: Numbers
    history: dict[str, Numbers]


def _one_bracket(
    trainer: Trainer, rungs: tuple[Rung, ...], members: Members, places: Numbers
) -> tuple[Members, _End]:  # fmt: skip
    """Return all members after a bracket of some, and what came of it."""
    costs, epochs = np.full(len(places), np.inf, jnp.result_type(float)), np.zeros(len(places), int)
    history: dict[str, Numbers] = {}
    alive, now, done = np.arange(len(places)), costs, 0
    for rung in rungs:
        alive = alive[np.argsort(now, kind="stable")[: rung.runs]] if len(alive) > rung.runs else alive
        members, now, rows = trainer.train(members, places[alive], done, rung.until - done)
        costs[alive], epochs[alive] = now, rung.until
        for name, x in rows.items():
            blank = np.full((len(places), rungs[-1].until), np.nan, x.dtype)
            history.setdefault(name, blank)[alive, done : rung.until] = x
        done = rung.until
    best = int(np.argmin(now))
    return members, _End(weights(members, places[alive[best]]), float(now[best]), costs, epochs, history)

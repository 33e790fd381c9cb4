"""Population-based training: members train side by side, copy better ones, and vary their hyperparameters."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gradchain.arguments import check_whole
from gradchain.compiled import Compiled
from gradchain.core.foreign import Child
from gradchain.core.hyper import Schedule
from gradchain.core.hyperparams import hyperparams, set_hyperparams
from gradchain.core.transform import Transform
from gradchain.signatures import public
from gradchain.training.fitting.ranking import Mode
from gradchain.training.metrics import in_order
from gradchain.training.search.members import Members, Trainer, prepare, weights
from gradchain.training.search.population_result import PopulationResult
from gradchain.training.search.search_space import Choice, Space, Uniform, check_space, number_of
from gradchain.training.steps.epoch import Remainder
from gradchain.training.steps.recipe import Recipe
from gradchain.tree import Tree
from gradchain.tree.alignment import T

EVOLUTION = 2**32 - 1
"""What the seed's key is folded with for exploiting and exploring: the number of no epoch."""


class Evolution(NamedTuple):
    """How a population evolves between two rounds of training."""

    spans: tuple[tuple[str, Uniform | Choice], ...]
    """What is explored, by its full name, and where."""
    rounds: int
    interval: int
    replaced: int
    """How many of the worst copy one of as many best."""
    factors: tuple[float, float]
    resample: float


@public
def population_based_training(
    loss_fn: Callable[..., Any], params: T | None, tx: Child, data: Tree, *, explore: Space, epochs: int,
    batch_size: int | None = None, interval: int = 1, truncation: float = 0.2,
    factors: tuple[float, float] = (0.8, 1.2), resample: float = 0.25, seed: int | Array = 0,
    init: Callable[[Array], T] | None = None,
    chunk: int | None = None, validation: Tree | None = None, validation_batch_size: int | None = None,
    metrics: Callable[..., dict[str, Any]] | None = None, select: str | None = None, mode: Mode | None = None,
    shuffle: bool = True, remainder: Remainder = "drop", has_aux: bool = False, takes_key: bool = False,
    progress: bool = False, steps_per_call: int = 1,
) -> PopulationResult[T]:  # fmt: skip
    r"""Train a population that adapts its hyperparameters during training.

    Between two rounds of training the worst members each copy one of the best, drawn at random: its parameters, its
    optimizer's state and its hyperparameters (*exploit*, by truncation selection). Each of the explored
    hyperparameters of a copy is then multiplied by one of two factors, or resampled (*explore*). On a CPU the
    members are shared among the cores.

    Two things differ from the paper. A member that diverged copies a better one even if it isn't among the worst; and a
    member isn't replaced if all better ones diverged. The seed determines the order of the data, which is the same for
    all.

    Args:
      loss_fn: the mean loss over a batch, see :func:`~gradchain.training.fit`.
      params: every member's initial parameters; ``None`` if ``init`` makes them.
      tx: a batch of transforms, one for each member, as :func:`~gradchain.training.sample` makes it. Hyperparameters
        that aren't explored change only by copying.
      data: a tree of arrays with the examples on the leading axis; or a stream of batches, see
        :func:`~gradchain.training.fit`.
      explore: for each name (as :func:`~gradchain.set_hyperparams` takes it; parameters of schedules included) the
        range to stay in and to sample from: :class:`Uniform`, :class:`LogUniform`, or :class:`Choice`, where exploring
        means moving to a neighbouring value.
      epochs: passes over the data, a multiple of ``interval``.
      batch_size: examples per step; needed for arrays.
      interval: epochs per round, at least 1.
      truncation: the fraction of members that are replaced, by copies of as many of the best; above 0 and up to 0.5. At
        least one member is replaced.
      factors: the two factors by which a copied value may be multiplied, each with probability 1/2; both above 0.
      resample: the probability, for each value, that it is resampled instead; in [0, 1].
      seed: an integer seed or a PRNG key, for the order of the data, the keys that the loss gets, and the evolution's
        random draws.
      init: ``init(key) -> params`` makes separate initial parameters for each member.
      chunk: how many members are computed at once, which limits the memory. On a CPU they are shared among the cores.
        The default is the fastest: on a CPU 8 per core up to :math:`2^{14}` parameters and 1 beyond; elsewhere all.
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
      A :class:`PopulationResult`: the best member's parameters, how its hyperparameters changed, who copied whom, a
      table, a plot.

    Raises:
      ValueError: for unknown names, arguments out of range, a ``tx`` that isn't a batch, or data that don't fit.

    Example:
      >>> space = {"learning_rate": LogUniform(1e-4, 1.0), "b1": Uniform(0.5, 0.99)}
      >>> tx = sample(adam(1e-3), space, 20)
      >>> result = population_based_training(loss_fn, params, tx, data, explore=space, epochs=30, batch_size=32)
      >>> print(result.table(rows=5), result.schedule())

    Reference:
      Jaderberg et al. (2017), "Population Based Training of Neural Networks".
    """
    recipe = Recipe.of(loss_fn, has_aux, takes_key, metrics, batch_size, shuffle, remainder, validation_batch_size)
    where = "population_based_training"
    tx, runs, plan, task = prepare(
        where, recipe, params, init, tx, data, validation, epochs, seed, select, mode, chunk, progress, steps_per_call
    )
    tx, spans = _explored(tx, explore, runs)
    replaced = _check_evolution(runs, epochs, interval, truncation, factors, resample)
    evolution = Evolution(spans, epochs // interval, interval, replaced, (factors[0], factors[1]), resample)
    rounds = [(runs, interval)] * evolution.rounds
    trainer = Trainer(plan, task, rounds, "population")
    with trainer.bar:
        best, tx, *numbers = _evolve(trainer, evolution, tx)
        costs, history, parents, values, start_loss = jax.device_get(numbers)
    history = {name: history[name][:, None] for name in in_order(history)}
    values = {name: values[name] for name, _ in spans}
    best = plan.recipe.objective.leave(best) if np.isfinite(costs).any() else None
    scores = plan.goal.signed(costs)
    return PopulationResult(tx, best, scores, history, start_loss[:, None], *plan.goal, parents, values, interval)


def _explored(tx: Transform, explore: Space, runs: int) -> tuple[Transform, tuple[tuple[str, Uniform | Choice], ...]]:
    """Return ``tx`` with every explored number as a batch of its own, and the full names of what is explored."""
    where = "population_based_training: explore"
    check_space(where, explore)
    spans: list[tuple[str, Uniform | Choice]] = []
    for name, span in explore.items():
        set_hyperparams(tx, {name: span.ends})  # Is there such a number, and may it lie there?
        numbers = hyperparams(tx)
        full = next(full for full in (name, *numbers) if full in numbers and f".{full}".endswith(f".{name}"))
        if isinstance(numbers[full], Schedule):
            inner = [n for n in numbers if n.startswith(f"{full}.")]
            raise ValueError(f"{where}: {name} is a schedule; explore its numbers: {', '.join(inner) or 'it has none'}")
        tx = set_hyperparams(tx, {full: jnp.broadcast_to(jnp.asarray(numbers[full]), (runs,))})
        spans.append((full, span))
    return tx, tuple(spans)


def _check_evolution(
    runs: int, epochs: int, interval: int, truncation: float, factors: tuple[float, float], resample: float
) -> int:
    """Return how many members copy another in each round, after checking the arguments."""
    where = "population_based_training"
    check_whole(f"{where}: interval", interval)
    if epochs % interval:
        raise ValueError(f"{where}: epochs must be a multiple of interval, got {epochs} and {interval}")
    if not 0 < truncation <= 0.5:
        raise ValueError(f"{where}: truncation must be in (0, 0.5], got {truncation}")
    if len(factors) != 2 or min(factors) <= 0:
        raise ValueError(f"{where}: factors must be two numbers above 0, got {factors}")
    if not 0 <= resample <= 1:
        raise ValueError(f"{where}: resample must be in [0, 1], got {resample}")
    if runs < 2:
        raise ValueError(f"{where}: a population has at least two members, got {runs}")
    return max(1, int(runs * truncation))


def _evolve(trainer: Trainer, evolution: Evolution, tx: Any) -> tuple[Any, ...]:
    """Return the winner's weights, the last transforms, costs, history, parents, explored values, start losses."""
    members = trainer.begin(tx)
    start_loss = members.start_loss
    everyone, costs = np.arange(len(start_loss)), np.zeros(len(start_loss), start_loss.dtype)
    key = jax.random.fold_in(trainer.task.key, EVOLUTION)
    found = list[Any]()
    for number in range(evolution.rounds):
        members, parents, values = _compiled_turn((evolution,), members, costs, key, np.int32(number))
        members, costs, rows = trainer.train(members, everyone, number * evolution.interval, evolution.interval)
        found.append((rows, parents, values))
    rows, parents, values = jax.tree.map(lambda *xs: np.stack(xs), *jax.device_get(found))
    history = {name: np.moveaxis(x, 0, 1).reshape(len(costs), -1) for name, x in rows.items()}
    best = int(np.argmin(costs))
    return weights(members, best), members.tx, costs, history, parents, values, start_loss


def _turn(
    recipe: tuple[Evolution], members: Members, costs: Array, key: Array, number: Array
) -> tuple[Members, Array, dict[str, Array]]:
    """Return the members of the next round, whom each copied, and the explored values."""
    (evolution,), size = recipe, len(costs)
    exploit_key, explore_key = jax.random.split(jax.random.fold_in(key, number))
    parents = jnp.where(number > 0, exploit(costs, evolution.replaced, exploit_key), jnp.arange(size))
    members = members.take(parents)
    members = members._replace(tx=_vary(evolution, members.tx, parents != jnp.arange(size), explore_key))
    values = {name: x for name, x in hyperparams(members.tx).items() if name in dict(evolution.spans)}
    return members, parents, values


_compiled_turn = Compiled(_turn)


def exploit(costs: Array, replaced: int, key: Array) -> Array:
    """Return whom each member copies, by truncation selection; itself where it stays.

    The worst ``replaced`` members, and those whose cost isn't finite, copy one of the ``replaced`` best, drawn at
    random among those with a finite cost.

    Args:
      costs: of each member: its score, or its negative if the highest is best.
      replaced: how many copy.
      key: a PRNG key.
    """
    size = len(costs)
    order = jnp.argsort(costs)
    rank = jnp.zeros(size, int).at[order].set(jnp.arange(size))
    good = jnp.minimum(replaced, jnp.sum(jnp.isfinite(costs)))
    drawn = order[jnp.floor(jax.random.uniform(key, (size,)) * good).astype(int)]
    copies = ((rank >= size - replaced) | ~jnp.isfinite(costs)) & (good > 0)
    return jnp.where(copies, drawn, jnp.arange(size))


def vary(
    name: str, span: Uniform | Choice, values: Array, key: Array, factors: tuple[float, float], resample: float
) -> Array:
    """Return every member's number perturbed, or drawn anew.

    Args:
      name: the hyperparameter's full name; each has random numbers of its own.
      span: where it is explored.
      values: of each member.
      key: a PRNG key.
      factors: what a number is multiplied by.
      resample: the probability that it is drawn anew.
    """
    up_key, which_key, draw_key = jax.random.split(jax.random.fold_in(key, number_of(name)), 3)
    size = len(values)
    perturbed = span.perturb(values, jax.random.bernoulli(up_key, 0.5, (size,)), factors)
    anew = jax.random.bernoulli(which_key, resample, (size,))
    new = jnp.where(anew, span.draw(draw_key, size), perturbed)
    return (jnp.round(new) if jnp.issubdtype(values.dtype, jnp.integer) else new).astype(values.dtype)


def _vary(evolution: Evolution, tx: Any, copied: Array, key: Array) -> Any:
    numbers, new = hyperparams(tx), {}
    for name, span in evolution.spans:
        varied = vary(name, span, numbers[name], key, evolution.factors, evolution.resample)
        new[name] = jnp.where(copied, varied, numbers[name])
    return set_hyperparams(tx, new)

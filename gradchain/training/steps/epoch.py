"""One pass over the data, as pure functions: training on shuffled mini-batches, and measuring."""

import functools
import math
from collections.abc import Callable
from typing import Any, Generic, Literal, NamedTuple, Self, get_args

import jax
import jax.numpy as jnp
from jax import Array, lax

from gradchain.arguments import check_whole
from gradchain.core.foreign import Child, as_transform
from gradchain.numerics import compute_dtype
from gradchain.signatures import public
from gradchain.training.data.examples import check_batches, count_all
from gradchain.training.data.order import random_order
from gradchain.training.data.wording import hints_at_batches
from gradchain.training.keys import as_key
from gradchain.training.metrics import Metrics
from gradchain.training.steps.measuring import counting, summed
from gradchain.training.steps.objective import Objective
from gradchain.training.steps.step import Watch, take_step
from gradchain.training.variables import Variables, checked
from gradchain.tree import Tree, show_path
from gradchain.tree.alignment import S, T

Remainder = Literal["drop", "keep", "wrap", "pad"]


@public
class Epoch(NamedTuple, Generic[T, S]):
    """The result of one pass over the data."""

    params: T
    state: S
    metrics: Metrics
    """The loss of every step, of shape ``(steps,)``, and its aux with that leading axis."""
    sizes: Array
    """How many examples each step saw, of shape ``(steps,)``."""

    def mean(self) -> Metrics:
        """Return the metrics averaged over all examples: steps weighted by their sizes, in at least float32.

        Integers and booleans are averaged as real numbers: a count becomes the mean count per step.
        """
        weights = self.sizes / jnp.sum(self.sizes)

        def leaf(x: Array) -> Array:
            dtype = compute_dtype(x.dtype)
            return jnp.tensordot(weights.astype(dtype), x.astype(dtype), 1, precision="highest")

        return jax.tree.map(leaf, self.metrics)


@public
def scan_epoch(
    loss_fn: Callable[..., Any], params: T, tx: Child, state: S, data: Tree, key: int | Array | None = None, *,
    batch_size: int, shuffle: bool = True, remainder: Remainder = "drop", has_aux: bool = False,
    takes_key: bool = False,
) -> Epoch[T, S]:  # fmt: skip
    r"""Train for one pass over the data, in shuffled mini-batches, by one ``lax.scan``.

    Pure: jit it, scan over epochs, ``vmap`` it over transforms, keys or parameters, differentiate through it.
    ``batch_size=1`` is stochastic gradient descent. With ``batch_size`` equal to the number of examples it is one step
    of full-batch gradient descent, and the data keep their order.

    Args:
      loss_fn: the mean loss over a batch, see :func:`~gradchain.training.train_step`.
      params: a tree of inexact arrays.
      tx: a transform, optax's too.
      state: from ``tx.init(params)`` or the previous epoch.
      data: a tree of arrays, all with the examples on a leading axis of the same length.
      key: a PRNG key or seed for the order and, with ``takes_key``, for the loss; not needed if neither is used.
      batch_size: examples in a step, from 1 to all of them.
      shuffle: draw a new order; otherwise the data are used in their own order.
      remainder: what to do with the last examples where ``batch_size`` doesn't divide their number. ``"drop"``: leave
        them out of this epoch (with shuffling, others are left out of the next). ``"keep"``: use them in a smaller last
        step, which counts less in ``Epoch.mean()``, and in a round of :func:`~gradchain.accumulate`, but is a full step
        of the optimizer. ``"wrap"``: fill the last batch up with examples from the start of the epoch, which are then
        seen twice. ``"pad"``: fill it up likewise, and give ``loss_fn`` the examples' weights by the name ``weights``:
        1, and 0 for those that are there a second time. (Where no batch is filled up, they are ``None``, as
        ``jnp.average(losses, weights=weights)`` takes it.)
      has_aux: whether ``loss_fn`` returns ``(loss, aux)``.
      takes_key: whether ``loss_fn`` takes a key; each step gets its own.

    Returns:
      ``Epoch(params, state, metrics, sizes)``: the loss and aux of each step, before that step.

    Raises:
      TypeError: for parameters or data that aren't arrays (naming the paths).
      ValueError: for data of unequal lengths (naming the paths), without examples, or fewer than a batch; for
        a missing key.

    Example:
      >>> epoch = jax.jit(functools.partial(scan_epoch, loss_fn, batch_size=32), donate_argnames=("params", "state"))
      >>> params, state, metrics, _ = epoch(params, tx, state, data, jax.random.key(0))
    """
    objective, variables = Objective.of(loss_fn, has_aux, takes_key).enter(params)
    key = None if key is None else as_key(key, "key")
    order = Order.of(batch_size, shuffle, remainder)
    epoch = scan_objective(objective, checked(variables), as_transform(tx), state, data, key, order)
    return Epoch(objective.leave(epoch.variables), epoch.state, epoch.metrics, epoch.sizes)


class Order(NamedTuple):
    """How the examples of arrays are divided into batches; hashable."""

    batch_size: Any
    """Examples in a step; ``None`` where a stream's first batch tells."""
    shuffle: bool = True
    remainder: Remainder = "drop"

    @classmethod
    def of(cls, batch_size: Any, shuffle: bool, remainder: Remainder) -> Self:
        """Return the order that a caller asks for.

        Raises:
          ValueError: for an unknown ``remainder``.
        """
        if remainder not in get_args(Remainder):
            raise ValueError(f"remainder must be one of {', '.join(get_args(Remainder))}, got {remainder!r}")
        return cls(batch_size, shuffle, remainder)

    def steps(self, n: int) -> int:
        """Return how many steps an epoch of ``n`` examples has."""
        return n // self.batch_size if self.remainder == "drop" else math.ceil(n / self.batch_size)


class Batches(NamedTuple):
    """An epoch's examples, divided into batches."""

    full: Array
    """The indices of the examples in full batches, of shape ``(steps, batch_size)``."""
    rest: Array
    """Those in a smaller last batch, if there is one."""
    loss_key: Array | None
    """For the loss, where it takes keys."""


class Scanned(NamedTuple):
    """What some steps by one scan return."""

    variables: Variables[Any]
    state: Any
    metrics: Metrics
    """Of every step."""
    sizes: Array
    watched: dict[str, Any]
    """What callbacks are told of the last step, and counts of all steps; see :func:`measured`."""

    def mean(self) -> Metrics:
        """See :meth:`Epoch.mean`."""
        return Epoch(None, None, self.metrics, self.sizes).mean()


def scan_objective(
    objective: Objective, variables: Variables[Any], tx: Any, state: Any, data: Tree, key: Array | None, order: Order,
    steps: int | None = None, watch: Watch | None = None,
) -> Scanned:  # fmt: skip
    """Do what :func:`scan_epoch` does, for an ``Objective``, its variables and a transform of our own.

    Args:
      objective: the loss.
      variables: the model before the first step.
      tx: the transform.
      state: its state.
      data: arrays with the examples on the leading axis.
      key: for the order and the loss.
      order: how they are divided into batches.
      steps: how many steps to take; by default all of the epoch.
      watch: what to measure of the last step, see :func:`take_step`.
    """
    n = check_batches(data, order.batch_size)
    batches = divide(objective, order, n, key)
    data, numbers = jax.tree.map(jnp.asarray, data), jnp.arange(len(batches.full))
    take = taking(objective, tx, data, order, n, batches.loss_key)
    head, last = batches.full[:steps], batches.rest if steps is None or steps > len(numbers) else batches.rest[:0]
    if watch is not None and not last.size:
        head, last = head[:-1], head[-1]
    carry, found = (variables, state), list[Any]()
    with hints_at_batches(data):
        if len(head):
            body = functools.partial(take, counting(watch))
            carry, scanned = lax.scan(lambda carry, x: body(carry, *x), carry, (head, numbers[: len(head)]))
            found.append(scanned)
        if last.size:
            carry, one = take(watch, carry, last, len(head))
            found.append(jax.tree.map(lambda x: jnp.asarray(x)[None], one))
    metrics, sizes = found[0][:2] if len(found) == 1 else _append(*(x[:2] for x in found))
    return Scanned(carry[0], carry[1], metrics, sizes, summed([x[2] for x in found]))


def taking(
    objective: Objective, tx: Any, data: Tree, order: Order, n: int, loss_key: Array | None
) -> Callable[..., tuple[Any, Any]]:
    """Return a function that takes one step of an epoch: (watch, carry, indices, number) to (carry, results)."""
    pads = order.remainder == "pad" and n % order.batch_size

    def take(watch: Watch | None, carry: tuple[Variables[Any], Any], indices: Array, number: Any) -> tuple[Any, Any]:
        batch = data if indices.size == n else _take(data, indices)
        weights = _weights(n, order, number) if pads else None
        key = None if loss_key is None else jax.random.fold_in(loss_key, number)
        taken = take_step(objective, carry[0], tx, carry[1], batch, key, weights, watch)
        size = indices.size if weights is None else jnp.sum(weights).astype(int)
        return (taken.variables, taken.state), (taken.metrics, jnp.asarray(size), taken.watched)

    return take


def divide(objective: Objective, order: Order, n: int, key: Array | None) -> Batches:
    """Return an epoch's batches, in a random order if it is shuffled."""
    order_key, loss_key = _split(key, order.shuffle and order.batch_size < n, objective.takes_key)
    return Batches(*_batches(n, order, order_key), loss_key)


def _weights(n: int, order: Order, number: Any) -> Array:
    """Return 1 for each example of a batch, and 0 for those that fill up the last one."""
    return (number * order.batch_size + jnp.arange(order.batch_size) < n).astype(float)


def _split(key: Array | None, shuffles: bool, takes_key: bool) -> tuple[Array | None, Array | None]:
    if not (shuffles or takes_key):
        return None, None
    if key is None:
        raise ValueError("shuffling and takes_key=True need a PRNG key: pass key=jax.random.key(0), or shuffle=False")
    order_key, loss_key = jax.random.split(key)
    return order_key if shuffles else None, loss_key if takes_key else None


def _batches(n: int, order: Order, key: Array | None) -> tuple[Array, Array]:
    """Return the examples' indices: full batches of shape (steps, batch_size), and those of a smaller last one."""
    batch_size, _, remainder = order
    places = jnp.arange(n) if key is None else random_order(key, n)
    if remainder in ("wrap", "pad"):
        places = jnp.concatenate([places, places[: -n % batch_size]])
    steps = len(places) // batch_size
    full, rest = places[: steps * batch_size], places[steps * batch_size :]
    return full.reshape(steps, batch_size), rest if remainder == "keep" else rest[:0]


def _take(data: Tree, indices: Array) -> Tree:
    return jax.tree.map(lambda x: x.at[indices].get(mode="promise_in_bounds"), data)


def _append(many: Tree, last: Tree) -> Tree:
    """Return what full batches gave, with a leading axis, and the smaller last one after them."""

    def leaf(path: Any, xs: Array, x: Array) -> Array:
        if xs.shape[1:] != x.shape[1:]:
            raise ValueError(
                f"remainder='keep': aux {show_path(path[2:])} has shape {x.shape[1:]} in the smaller last batch but "
                f"{xs.shape[1:]} in the others; its shape must not depend on the batch's size"
            )
        return jnp.concatenate([xs, x])

    return jax.tree_util.tree_map_with_path(leaf, many, last)


@public
def evaluate(
    loss_fn: Callable[..., Any], params: Tree, data: Tree, *, batch_size: int | None = None, has_aux: bool = False,
    takes_key: bool = False, key: int | Array | None = None,
) -> Metrics:  # fmt: skip
    """Return the mean loss over all of the data, without training, computed in batches if wanted.

    Args:
      loss_fn: the mean loss over a batch, see :func:`~gradchain.training.train_step`.
      params: the parameters to measure.
      data: a tree of arrays with the examples on the leading axis.
      batch_size: examples evaluated at once, to limit memory; the last batch may be smaller. All by default.
      has_aux: whether ``loss_fn`` returns ``(loss, aux)``; the leaves of aux are averaged in the same way.
      takes_key: whether ``loss_fn`` takes a key.
      key: a PRNG key or seed; every call of ``loss_fn`` gets that key. The default ``None`` tells ``loss_fn`` that it
        is being evaluated, so that it can turn dropout off.

    Returns:
      ``Metrics(loss, aux)``.
    """
    key = None if key is None else as_key(key, "key")
    objective, variables = Objective.of(loss_fn, has_aux, takes_key).enter(params)
    return evaluate_objective(objective, variables, data, batch_size, key)


def evaluate_objective(
    objective: Objective, variables: Variables[Any], data: Tree, batch_size: int | None = None,
    key: Array | None = None, training: bool = False,
) -> Metrics:  # fmt: skip
    """Do what :func:`evaluate` does, for an ``Objective``; the model's state is read, and stays as it is.

    Args:
      objective: the loss.
      variables: the model.
      data: arrays with the examples on the leading axis.
      batch_size: examples evaluated at once.
      key: what each call of the loss gets.
      training: what the loss is told: whether it is to do what it does in a step.
    """
    return mean_over(data, batch_size, lambda batch: Metrics(*objective(variables, batch, key, training=training)[:2]))


def mean_over(data: Tree, batch_size: int | None, measure: Callable[[Tree], Metrics]) -> Metrics:
    """Return the mean of what ``measure(batch)`` returns, over all examples."""
    n = count_all(data)
    if batch_size is not None:
        check_whole("batch_size", batch_size)
    size = n if batch_size is None else min(batch_size, n)
    data = jax.tree.map(jnp.asarray, data)
    batches, rest = _batches(n, Order(size, remainder="keep"), None)

    def at(indices: Array) -> Metrics:
        return measure(data if indices.size == n else _take(data, indices))

    with hints_at_batches(data):
        metrics, sizes = lax.map(at, batches), jnp.full(len(batches), size)
    if rest.size:
        last = jax.tree.map(lambda x: jnp.asarray(x)[None], at(rest))
        (_, metrics), sizes = _append((None, metrics), (None, last)), jnp.append(sizes, rest.size)
    return Epoch(None, None, metrics, sizes).mean()

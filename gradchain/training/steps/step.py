"""One step of training: the loss, its gradient, the transform, the new parameters."""

import functools
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array, lax

from gradchain import tree
from gradchain.arguments import as_arrays, check_whole
from gradchain.combinators.applying import update_params
from gradchain.combinators.loss_scaling import current_loss_scale
from gradchain.compiled import Compiled
from gradchain.core.foreign import Child, as_transform
from gradchain.core.transform import apply_updates
from gradchain.signatures import public
from gradchain.training.metrics import Metrics
from gradchain.training.steps.objective import Objective
from gradchain.training.variables import Variables
from gradchain.tree import Tree
from gradchain.tree.alignment import S, T, is_array

Watch = Callable[..., dict[str, Array]]
"""``watch(tx, grads, updates, state, new_state)`` returns numbers for those who watch."""


class Taken(NamedTuple):
    """What one step returns."""

    variables: Variables[Any]
    state: Any
    metrics: Metrics
    watched: dict[str, Array]
    """Numbers for those who watch; empty where nobody does."""


def take_step(
    objective: Objective, variables: Variables[Any], tx: Any, state: Any, batch: Tree, key: Array | None,
    weights: Array | None = None, watch: Watch | None = None,
) -> Taken:  # fmt: skip
    """Do what :func:`train_step` does, for an ``Objective``, its variables and a transform of our own.

    Args:
      objective: the loss.
      variables: the model before the step.
      tx: the transform.
      state: its state.
      batch: what the loss is given.
      key: likewise, if it takes one.
      weights: 1 for each example that counts and 0 for one that fills a batch up; by default all count.
      watch: what measures the step for callbacks.
    """
    if objective.takes_key and key is None:
        raise ValueError("takes_key=True needs a PRNG key: pass key=jax.random.key(0)")
    scale, params = current_loss_scale(state), variables.params

    def losses(params: Tree) -> tuple[Array, Any, Any]:
        return objective(variables._replace(params=params), batch, key, training=True, weights=weights)

    def scaled(params: Tree) -> tuple[Array, Any]:
        loss, *rest = losses(params)
        return loss * scale, (loss, *rest)

    try:
        grads, (loss, aux, model_state) = jax.grad(scaled, has_aux=True)(params)
    except TypeError:
        as_arrays(params)  # raises an error of its own, if that is the cause
        raise
    grads = jax.tree.map(jnp.conj, grads)
    unscaled = grads if isinstance(scale, float) else tree.scale(1 / scale, grads)
    if tx.per_example:
        grads = _per_example(objective, variables, batch, key, scale)
    extra = {"value": loss, "grad": unscaled, "value_fn": lambda p: losses(p)[0], **counted(batch, weights)}
    if watch is None:
        params, state = update_params(tx, grads, state, params, **extra)
        return Taken(Variables(params, model_state), state, Metrics(loss, aux), {})
    updates, new_state = tx.update(grads, state, params, **extra)
    watched = watch(tx, unscaled, updates, state, new_state)
    return Taken(Variables(apply_updates(params, updates), model_state), new_state, Metrics(loss, aux), watched)


def _per_example(objective: Objective, variables: Variables[Any], batch: Tree, key: Array | None, scale: Any) -> Tree:
    """Return the gradient for each example as a batch of one, along a leading axis."""
    alone = objective._replace(placement=None)

    def gradient(example: Tree) -> Tree:
        one = jax.tree.map(lambda x: x[None], example)
        return jax.grad(lambda p: alone(variables._replace(params=p), one, key, training=True)[0] * scale)(
            variables.params
        )

    return jax.tree.map(jnp.conj, jax.vmap(gradient)(batch))


def counted(batch: Tree, weights: Array | None = None) -> dict[str, Any]:
    """Return the extra arguments that tell how many examples a batch has, if its arrays agree on their first axis."""
    if weights is not None:
        return dict.fromkeys(("weight", "examples"), jnp.sum(weights))
    shapes = [jnp.shape(x) for x in jax.tree.leaves(batch) if is_array(x) or isinstance(x, int | float | complex)]
    sizes = {shape[0] for shape in shapes if shape}
    size = sizes.pop() if len(sizes) == 1 else 0
    return {"weight": size, "examples": size} if size else {}


@public
def train_step(
    loss_fn: Callable[..., Any], params: T, tx: Child, state: S, batch: Tree, key: Array | None = None, *,
    has_aux: bool = False, takes_key: bool = False,
) -> tuple[T, S, Metrics]:  # fmt: skip
    r"""Take one step: :math:`w \leftarrow w + \mathrm{update}(\nabla f(w))`.

    Pure: it may be jitted, mapped and differentiated.

    Args:
      loss_fn: ``loss_fn(params, batch) -> loss``, the mean over the batch; ``loss_fn(params, batch, key)`` with
        ``takes_key``; it returns ``(loss, aux)`` with ``has_aux``. A loss with a parameter called ``training`` is
        told whether it is called in a step (``training=True``) or in an evaluation (``training=False``). Or an adapter
        for a framework's model, such as :func:`~gradchain.training.linen`.
      params: a tree of inexact arrays. For complex ones JAX's gradient is conjugated, so that the step descends. A
        model that carries more than parameters is :class:`~gradchain.training.Variables`, or what an adapter takes.
      tx: a transform, optax's too. Its ``update`` also gets ``value=loss``, ``grad`` and ``value_fn``, the loss on
        this batch as a function of the parameters (for line searches, curvatures and the like). If all arrays of the
        batch have the same length along their first axis, it also gets that as ``weight`` and ``examples``, so that a
        smaller batch counts less in the mean of :func:`~gradchain.accumulate`. A transform that takes per-example
        gradients, such as :func:`~gradchain.dpsgd`, gets those of ``loss_fn`` on batches of one.
      state: from ``tx.init(params)`` or the previous step.
      batch: a tree of arrays, passed to ``loss_fn`` unchanged.
      key: a PRNG key for ``loss_fn``.
      has_aux: whether ``loss_fn`` returns auxiliary output.
      takes_key: whether ``loss_fn`` takes a key (dropout, noise).

    Returns:
      ``(params, state, Metrics(loss, aux))``, with the metrics at the parameters before the step.

    Raises:
      TypeError: if ``loss_fn`` doesn't return one real number, or a pair where it shouldn't.
      ValueError: if ``takes_key`` and there is no key.
    """
    objective, variables = Objective.of(loss_fn, has_aux, takes_key).enter(params)
    return _left(objective, take_step(objective, variables, as_transform(tx), state, batch, key))


def _left(objective: Objective, taken: Taken) -> tuple[Any, Any, Metrics]:
    return objective.leave(taken.variables), taken.state, taken.metrics


_compiled_step = Compiled(take_step, donated=(0, 2))


class Step(Protocol):
    """A compiled step, as :func:`make_step` returns it."""

    def __call__(
        self, params: T, state: S, batch: Tree, key: Array | None = None, tx: Child = ...
    ) -> tuple[T, S, Metrics]: ...


@public
def make_step(loss_fn: Callable[..., Any], tx: Child, *, has_aux: bool = False, takes_key: bool = False) -> Step:
    """Return a compiled :func:`train_step` that reuses the memory of the parameters and state passed to it.

    ``step(params, state, batch, key=None, tx=tx)`` returns ``(params, state, Metrics(loss, aux))``. The ``params`` and
    ``state`` passed in are donated: use those that come back. (An array that occurs twice, under two names or also in
    the batch, is copied first.) Changing hyperparameters of the same transform doesn't recompile: ``step(params, state,
    batch, tx=tx.replace(learning_rate=0.01))``.

    Args:
      loss_fn: see :func:`train_step`. Steps for the same function share their compiled code.
      tx: a transform, optax's too.
      has_aux: whether ``loss_fn`` returns ``(loss, aux)``.
      takes_key: whether ``loss_fn`` takes a PRNG key as third argument.

    Example:
      >>> step = make_step(loss_fn, tx)
      >>> state = tx.init(params)
      >>> for batch in batches:
      ...     params, state, metrics = step(params, state, batch)
    """
    every = Objective.of(loss_fn, has_aux, takes_key)
    default = as_transform(tx)
    ready = functools.cache(lambda real: on_device(default))  # for each dtype of real numbers

    def step(params: T, state: S, batch: Tree, key: Array | None = None, tx: Child = default) -> tuple[T, S, Metrics]:
        objective, variables = every.enter(params)
        used = ready(jnp.result_type(float)) if tx is default else as_transform(tx)
        return _left(objective, _compiled_step(objective, variables, used, state, batch, key))

    return step


def on_device(tx: S) -> S:
    """Return a transform whose Python numbers are arrays: a call of a program would copy each of them to the device."""
    with jax.ensure_compile_time_eval():
        return jax.tree.map(lambda x: jax.device_put(x) if isinstance(x, (int, float, complex)) else x, tx)


@public
class Path(NamedTuple, Generic[T]):
    """The iterates of an optimizer on a function."""

    points: T
    """A tree like the start, each leaf with a leading axis of length ``steps + 1``; the start comes first."""
    values: Array
    """The function's values at the points, of shape ``(steps + 1,)``."""


@public
def trace_path(function: Callable[[Any], Any], start: T, tx: Child, steps: int) -> Path[T]:
    """Return every iterate of an optimizer on a deterministic function, computed by one ``lax.scan``.

    Args:
      function: maps a tree like ``start`` to a real scalar.
      start: where to begin, a tree of numbers or arrays.
      tx: a transform, optax's too.
      steps: how many steps to take, at least 0.

    Raises:
      TypeError: if ``start`` holds anything but floating-point or complex numbers.
      ValueError: if ``steps`` isn't a whole number, at least 0.

    Example:
      >>> path = trace_path(lambda w: w[0] ** 2 + 4 * w[1] ** 2, jnp.array([2.0, 1.0]), sgd(0.1), 50)
      >>> path.points.shape, path.values.shape
      ((51, 2), (51,))
    """
    transform, begin = as_transform(tx), as_arrays(start, "start")
    check_whole("steps", steps, 0)

    def loss_fn(params: Tree, batch: None) -> Array:
        return function(params)

    def body(carry: tuple[Tree, Any], _: None) -> tuple[tuple[Tree, Any], tuple[Tree, Array]]:
        taken = take_step(objective, Variables(carry[0]), transform, carry[1], None, None)
        return (taken.variables.params, taken.state), (carry[0], taken.metrics.loss)

    objective = Objective(loss_fn)
    (last, _), (points, values) = lax.scan(body, (begin, transform.init(begin)), length=steps)
    points = jax.tree.map(lambda xs, x: jnp.concatenate([xs, x[None]]), points, last)
    return Path(points, jnp.append(values, objective(Variables(last), None, None, training=False)[0]))

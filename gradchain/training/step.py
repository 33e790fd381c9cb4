"""One step of training: the loss, its gradient, the transform, the new parameters."""

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from gradchain import tree
from gradchain.arguments import as_arrays, check_whole, described, is_numeric
from gradchain.combinators.loss_scaling import current_loss_scale
from gradchain.compiled import Compiled
from gradchain.core.foreign import Child, as_transform
from gradchain.core.transform import apply_updates
from gradchain.signatures import public
from gradchain.training.placement import Placement
from gradchain.tree import Tree
from gradchain.tree.alignment import S, T, is_array


@public
class Metrics(NamedTuple):
    """What a loss function returned; a pytree, so that ``scan`` can stack it."""

    loss: Any
    """The loss: shape ``()`` for one step, ``(steps,)`` for an epoch."""
    aux: Any = None
    """The auxiliary output, a tree whose leaves gain the same leading axis; ``None`` without ``has_aux``."""


class Objective(NamedTuple):
    """A loss function and how it is called, hashable."""

    loss_fn: Callable[..., Any]
    has_aux: bool = False
    takes_key: bool = False
    placement: Placement | None = None
    """How a batch is spread over devices, where it is."""

    def __call__(self, params: Tree, batch: Tree, key: Array | None) -> tuple[Array, Any]:
        """Return (loss, aux), after checking that the loss is one real number."""
        batch = batch if self.placement is None else self.placement.batch(batch)
        arguments = (params, batch, key) if self.takes_key else (params, batch)
        result: Any = self.loss_fn(*arguments)
        pair = isinstance(result, tuple) and len(result) == 2  # pyright: ignore[reportUnknownArgumentType]
        if pair != self.has_aux:
            found = "a pair" if pair else described(result)
            wanted = "a pair (loss, aux)" if self.has_aux else "the loss alone (has_aux=True allows a pair (loss, aux))"
            raise TypeError(f"loss_fn must return {wanted}, got {found}")
        loss, aux = cast(tuple[Any, Any], result if self.has_aux else (result, None))
        if not is_numeric(loss) or np.ndim(loss) or not jnp.issubdtype(jnp.result_type(loss), jnp.floating):
            several = is_numeric(loss) and np.ndim(loss)
            hint = "take the mean over the batch" if several else "return a floating-point number"
            raise TypeError(f"loss_fn must return one real number, got {described(loss)}; {hint}")
        return jnp.asarray(loss), aux


def step_objective(
    objective: Objective, params: Tree, tx: Any, state: Any, batch: Tree, key: Array | None
) -> tuple[Tree, Any, Metrics]:
    """Do what :func:`train_step` does, for an ``Objective`` and a transform of our own."""
    if objective.takes_key and key is None:
        raise ValueError("takes_key=True needs a PRNG key: pass key=jax.random.key(0)")
    scale = current_loss_scale(state)

    def scaled(params: Tree) -> tuple[Array, tuple[Array, Any]]:
        loss, aux = objective(params, batch, key)
        return loss * scale, (loss, aux)

    try:
        grads, (loss, aux) = jax.grad(scaled, has_aux=True)(params)
    except TypeError:
        as_arrays(params)  # raises an error of its own, if that is the cause
        raise
    grads = jax.tree.map(jnp.conj, grads)
    unscaled = grads if isinstance(scale, float) else tree.scale(1 / scale, grads)
    if tx.per_example:
        grads = _per_example(objective, params, batch, key, scale)
    extra = {"value": loss, "grad": unscaled, "value_fn": lambda p: objective(p, batch, key)[0]}
    updates, state = tx.update(grads, state, params, **extra, **counted(batch))
    return apply_updates(params, updates), state, Metrics(loss, aux)


def _per_example(objective: Objective, params: Tree, batch: Tree, key: Array | None, scale: Any) -> Tree:
    """Return the gradient for each example as a batch of one, along a leading axis."""
    alone = objective._replace(placement=None)

    def gradient(example: Tree) -> Tree:
        one = jax.tree.map(lambda x: x[None], example)
        return jax.grad(lambda p: alone(p, one, key)[0] * scale)(params)

    return jax.tree.map(jnp.conj, jax.vmap(gradient)(batch))


def counted(batch: Tree) -> dict[str, int]:
    """Return the extra arguments that tell how many examples a batch has, if its arrays agree on their first axis."""
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
        ``takes_key``; it returns ``(loss, aux)`` with ``has_aux``.
      params: a tree of inexact arrays. For complex ones JAX's gradient is conjugated, so that the step descends.
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
    return step_objective(Objective(loss_fn, has_aux, takes_key), params, as_transform(tx), state, batch, key)


_compiled_step = Compiled(step_objective, donated=(0, 2))


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
    objective = Objective(loss_fn, has_aux, takes_key)
    default = as_transform(tx)

    def step(params: T, state: S, batch: Tree, key: Array | None = None, tx: Child = default) -> tuple[T, S, Metrics]:
        return _compiled_step(objective, params, as_transform(tx), state, batch, key)

    return step


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
        params, state, metrics = step_objective(Objective(loss_fn), carry[0], transform, carry[1], None, None)
        return (params, state), (carry[0], metrics.loss)

    (last, _), (points, values) = lax.scan(body, (begin, transform.init(begin)), length=steps)
    points = jax.tree.map(lambda xs, x: jnp.concatenate([xs, x[None]]), points, last)
    return Path(points, jnp.append(values, Objective(loss_fn)(last, None, None)[0]))

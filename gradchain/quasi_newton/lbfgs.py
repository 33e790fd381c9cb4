"""L-BFGS: gradients times an estimate of the inverse Hessian, made of the last few steps."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from gradchain import tree
from gradchain.core.lift import inexact_leaves
from gradchain.core.transform import Transform, check_state, lacks_params, scalar_dtype
from gradchain.core.value import Integer, kind_of, register
from gradchain.numerics import compute_dtype
from gradchain.signatures import public
from gradchain.tree import Tree


class ScaleByLBFGSState(NamedTuple):
    """State of :func:`scale_by_lbfgs`."""

    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]
    params: Any
    """The parameters at the last update."""
    updates: Any
    """The gradient at the last update."""
    diff_params_memory: Any
    """Steps, stacked along a leading axis."""
    diff_updates_memory: Any
    """What each of them changed the gradient by."""
    weights_memory: Array
    """1 / Re<step, change> for each pair, 0 for a slot that holds none."""
    position: Array
    """The slot that the next pair goes to."""


@register
class ScaleByLBFGS(Transform):
    """See :func:`scale_by_lbfgs`."""

    name = "scale_by_lbfgs"
    kinds = {"memory_size": Integer(1), "scale_init_precond": kind_of(bool)}
    memory_size: int
    scale_init_precond: bool

    def init(self, params: Tree) -> ScaleByLBFGSState:
        leaves, treedef = inexact_leaves(f"{self.name}.init", params, "parameter")

        def zeros(slots: tuple[int, ...]) -> Tree:
            like = [None if x is None else jnp.zeros_like(x, dtype=compute_dtype(x.dtype)) for x in leaves]
            return treedef.unflatten(x if x is None else jnp.broadcast_to(x, (*slots, *x.shape)) for x in like)

        slots = (self.memory_size,)
        weights, count = jnp.zeros(slots, scalar_dtype(params)), jnp.zeros((), jnp.int32)
        return ScaleByLBFGSState(
            count, zeros(()), zeros(()), zeros(slots), zeros(slots), weights, jnp.zeros_like(count)
        )

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        check_state(self.name, state, ScaleByLBFGSState._fields)
        if params is None:
            raise lacks_params(self.name)
        leaves, treedef = inexact_leaves(self.name, updates, "update")
        tree.match(state.updates, updates, self.name, "the state's updates", "updates")
        gradient = tree.cast_like(treedef.unflatten(leaves), state.updates)
        point = tree.cast_like(treedef.unflatten(treedef.flatten_up_to(params)), state.params)
        return _step(self.scale_init_precond, gradient, state, point)


@functools.partial(jax.jit, static_argnums=0)
def _step(scaled: bool, g: Tree, state: ScaleByLBFGSState, w: Tree) -> tuple[Tree, ScaleByLBFGSState]:
    """Return the direction and the next state; a gradient that isn't finite is returned, and changes nothing."""
    size = tree.norm(g).astype(state.weights_memory.dtype)
    finite = jnp.isfinite(size)
    learned = _learned(state, g, w, size)
    steepest = jax.tree.map(lambda x: x / jnp.maximum(1, size).astype(x.real.dtype), g) if scaled else g
    newton = _product(scaled, g, learned)
    slope = jnp.real(tree.vdot(g, newton))
    descends = jnp.isfinite(slope) & (slope >= _eps(size) * size * tree.norm(newton))
    usable = descends & jnp.any(learned.weights_memory > 0)
    direction = tree.where(finite, tree.where(usable, newton, steepest), g)
    weights = jnp.where(finite, jnp.where(descends, learned.weights_memory, 0), state.weights_memory)
    return direction, learned._replace(
        count=state.count + finite,
        params=tree.where(finite, w, state.params),
        updates=tree.where(finite, g, state.updates),
        weights_memory=weights,
    )


def _learned(state: ScaleByLBFGSState, g: Tree, w: Tree, size: Array) -> ScaleByLBFGSState:
    """Return the state with the pair of the last step in its memory, if it tells of curvature.

    Where the parameters haven't moved, a line search has found nothing along the last direction: the memory is emptied.
    """
    s, y = tree.sub(w, state.params), tree.sub(g, state.updates)
    length, product = tree.norm(s), jnp.real(tree.vdot(s, y)).astype(size.dtype)
    noise = 2 * _eps(size) * length * (size + tree.norm(state.updates))
    weight = 1 / jnp.where(product > 0, product, 1)
    kept = (state.count > 0) & (product > noise) & jnp.isfinite(product) & jnp.isfinite(weight)

    def put(memory: Array, x: Array) -> Array:
        old = lax.dynamic_index_in_dim(memory, state.position, keepdims=False)
        return lax.dynamic_update_index_in_dim(memory, jnp.where(kept, x, old), state.position, 0)

    weights = jnp.where((state.count > 0) & (length == 0), 0, state.weights_memory)
    return state._replace(
        diff_params_memory=jax.tree.map(put, state.diff_params_memory, s),
        diff_updates_memory=jax.tree.map(put, state.diff_updates_memory, y),
        weights_memory=put(weights, weight),
        position=(state.position + kept) % len(weights),
    )


def _product(scaled: bool, g: Tree, memory: ScaleByLBFGSState) -> Tree:
    """Return the estimate of the inverse Hessian times ``g``, by the recursion over the pairs and back."""
    weights = memory.weights_memory
    newest_first = (memory.position - 1 - jnp.arange(len(weights))) % len(weights)

    def pair(slot: Array) -> tuple[Tree, Tree, Array]:
        def at(x: Array) -> Array:
            return lax.dynamic_index_in_dim(x, slot, keepdims=False)

        stacks = memory.diff_params_memory, memory.diff_updates_memory
        return *jax.tree.map(at, stacks), at(weights)

    def forget(q: Tree, slot: Array) -> tuple[Tree, Array]:
        s, y, weight = pair(slot)
        alpha = weight * jnp.real(tree.vdot(s, q)).astype(weight.dtype)
        return tree.add_scale(q, -alpha, y), alpha

    def recall(q: Tree, slot_and_alpha: tuple[Array, Array]) -> tuple[Tree, None]:
        slot, alpha = slot_and_alpha
        s, y, weight = pair(slot)
        beta = weight * jnp.real(tree.vdot(y, q)).astype(weight.dtype)
        return tree.add_scale(q, alpha - beta, s), None

    q, alphas = lax.scan(forget, g, newest_first)
    if scaled:
        _, y, weight = pair(newest_first[0])
        size = jnp.where(weight > 0, tree.norm(y).astype(weight.dtype), 1)
        q = tree.scale(1 / jnp.where(weight > 0, weight, 1) / size / size, q)
    return lax.scan(recall, q, (newest_first, alphas), reverse=True)[0]


def _eps(x: Array) -> float:
    return float(jnp.finfo(x.dtype).eps)


@public
def scale_by_lbfgs(memory_size: int = 10, scale_init_precond: bool = True) -> Transform:
    """TODO"""
    return ScaleByLBFGS(**ScaleByLBFGS.normalized(locals()))

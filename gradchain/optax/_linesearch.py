"""Optax's line searches and L-BFGS, which go on where gradchain's take no step."""

import inspect
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array, lax

from gradchain.combinators._weights import stored, widened
from gradchain.core.combinator import combinator
from gradchain.core.foreign import Child
from gradchain.core.transform import Part, difference, scalar_dtype
from gradchain.core.value import register
from gradchain.linesearch import backtracking, zoom
from gradchain.linesearch.base import Search
from gradchain.optax import tree as optax_tree
from gradchain.optax._around import Around
from gradchain.optax._base import identity
from gradchain.optax._combining import chain
from gradchain.optax._parts import inner_product, needed, wide_zeros
from gradchain.optax._shown import loose
from gradchain.optax._states import (
    BacktrackingLinesearchInfo,
    ScaleByBacktrackingLinesearchState,
    ScaleByLBFGSState,
    ScaleByZoomLinesearchState,
    ZoomLinesearchInfo,
)
from gradchain.optax._transforms import scale, scale_by_learning_rate
from gradchain.tree import Tree
from gradchain.tree import norm as full_norm

__all__ = [
    "BacktrackingLinesearchInfo",
    "ScaleByBacktrackingLinesearchState",
    "ScaleByLBFGSState",
    "ScaleByZoomLinesearchState",
    "ZoomLinesearchInfo",
    "lbfgs",
    "scale_by_backtracking_linesearch",
    "scale_by_lbfgs",
    "scale_by_zoom_linesearch",
    "value_and_grad_from_state",
]

EXTRA = ("value", "grad", "value_fn")
Zoom: Any = zoom.scale_by_zoom_linesearch.Value
Backtracking: Any = backtracking.scale_by_backtracking_linesearch.Value


def _unsafe(search: Search, told: Search, possible: Array) -> Search:
    """Return a search that takes its last trial, if it has failed without a better one."""
    takes = told.failed & (told.taken == 0) & possible
    return told._replace(taken=jnp.where(takes, search.step, told.taken), keep=told.keep | takes)


@register
class ZoomToTheEnd(Zoom):
    """A zoom search that takes its last trial where none had decrease, and begins whatever the slope."""

    name = "scale_by_zoom_linesearch"

    def begin(self, state: Any, value: Array, slope: Array) -> Search:
        return super().begin(state, value, slope)._replace(failed=jnp.zeros((), bool))

    def tell(self, search: Search, value: Array, slope: Array) -> Search:
        told = super().tell(search, value, slope)
        return _unsafe(search, told, jnp.isfinite(value) & jnp.isfinite(slope))


@register
class BacktrackingToTheEnd(Backtracking):
    """A backtracking search that takes its last trial where none had decrease, and begins whatever the slope."""

    name = "scale_by_backtracking_linesearch"

    def begin(self, state: Any, value: Array, slope: Array) -> Search:
        return super().begin(state, value, slope)._replace(failed=jnp.zeros((), bool))

    def tell(self, search: Search, value: Array, slope: Array) -> Search:
        told = super().tell(search, value, slope)
        return _unsafe(search, told, jnp.isfinite(told.own.error))

    def end(self, state: Any, search: Search, value: Array, grad: Tree) -> Any:
        return super().end(state, search, value, grad)._replace(learning_rate=search.taken)


@register
class ShownSearch(Around):
    """A line search whose state is in Optax's class."""

    name = "linesearch"
    tx: Child
    zooms: bool

    def init(self, params: Tree) -> Any:
        return self._shown(self.tx.init(params))

    def _shown(self, state: Any) -> Any:
        grad = jax.tree.map(_conjugate, state.grad)
        steps = jnp.asarray(state.info.num_linesearch_steps, jnp.asarray(0).dtype)
        if not self.zooms:
            info = BacktrackingLinesearchInfo(steps, state.info.decrease_error)
            return ScaleByBacktrackingLinesearchState(state.learning_rate, state.value, grad, info)
        errors = [jnp.asarray(x, float) for x in state.info[1:]]
        return ScaleByZoomLinesearchState(state.learning_rate, state.value, grad, ZoomLinesearchInfo(steps, *errors))

    def _hidden(self, state: Any, made: bool = True) -> Any:
        """Return the search's own state, with ``None`` for what Optax's lacks unless it is made."""
        rate, zero = state.learning_rate, jnp.zeros((), state.learning_rate.dtype) if made else None
        spare = {"guess": rate if made else None, "slope": zero} if self.zooms else {"retry": zero}
        grad, cls = jax.tree.map(_conjugate, state.grad), cast(Any, type(self.tx)).State
        return cls(rate, state.value, grad, state.info, **spare, searches=jnp.zeros((), jnp.int32) if made else None)

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        if missing := [name for name in EXTRA if name not in extra]:
            raise TypeError(f"{self.tx.name}.update() missing required keyword-only arguments: {', '.join(missing)}")
        needed(self.tx.name, params)
        taken = {*EXTRA, *inspect.signature(extra["value_fn"]).parameters}
        if spare := sorted(extra.keys() - taken):
            raise TypeError(
                f"Unexpected keyword arguments passed to `{self.tx.name}.update`: {spare}, which value_fn doesn't take"
            )
        if not self.zooms:  # whose slope is that of JAX's gradient
            extra = extra | {"grad": jax.tree.map(jnp.conj, extra["grad"])}
        updates, new = self.tx.step(updates, self._hidden(state), params, extra)
        return updates, stored(self._shown(new), state)

    def parts(self, state: Any = None, params: Tree | None = None) -> list[Part]:
        made = all(isinstance(x, jax.Array) for x in jax.tree.leaves(state))
        return [Part("", self.tx, None if state is None else self._hidden(state, made), params)]

    def __repr__(self) -> str:
        return repr(self.tx)


def _conjugate(x: Any) -> Any:
    """Return a complex array's conjugate; what isn't complex, or stands for an array, as it is."""
    return jnp.conj(x) if isinstance(x, jax.Array) and jnp.iscomplexobj(x) else x


class _Made:
    """Stands for a constructor of a class, as :func:`loose` takes one."""

    def __init__(self, value: Any):
        self.Value = value


def scale_by_backtracking_linesearch(
    max_backtracking_steps: int,
    slope_rtol: float = 1e-4,
    decrease_factor: float = 0.8,
    increase_factor: float = 1.5,
    max_learning_rate: float = 1.0,
    atol: float = 0.0,
    rtol: float = 0.0,
    store_grad: bool = False,
    verbose: bool = False,
) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_backtracking_linesearch`; a failed search takes its last trial."""
    values = {"max_backtracking_steps": max_backtracking_steps, "slope_rtol": slope_rtol, "atol": atol, "rtol": rtol}
    values |= {"decrease_factor": decrease_factor, "increase_factor": increase_factor, "verbose": verbose}
    values |= {"max_learning_rate": max_learning_rate, "store_grad": store_grad}
    return ShownSearch(loose(_Made(BacktrackingToTheEnd), **values), False)


def scale_by_zoom_linesearch(
    max_linesearch_steps: int,
    max_learning_rate: float | None = None,
    tol: float = 0.0,
    increase_factor: float = 2.0,
    slope_rtol: float = 1e-4,
    curv_rtol: float = 0.9,
    approx_dec_rtol: float | None = 1e-6,
    stepsize_precision: float = 1e-5,
    initial_guess_strategy: str = "keep",
    verbose: bool = False,
) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_zoom_linesearch`; a failed search takes its last trial."""
    values = {"max_linesearch_steps": max_linesearch_steps, "max_learning_rate": max_learning_rate, "tol": tol}
    values |= {"increase_factor": increase_factor, "slope_rtol": slope_rtol, "curv_rtol": curv_rtol}
    values |= {"approx_dec_rtol": approx_dec_rtol, "stepsize_precision": stepsize_precision, "verbose": verbose}
    values |= {"initial_guess_strategy": initial_guess_strategy}
    return ShownSearch(loose(_Made(ZoomToTheEnd), **values), True)


@combinator
class _scale_by_lbfgs(Around):
    """See :func:`scale_by_lbfgs`."""

    name = "scale_by_lbfgs"
    memory_size: int
    scale_init_precond: bool

    def init(self, params: Tree) -> ScaleByLBFGSState:
        slots = (self.memory_size,)
        steps, changes = (
            jax.tree.map(lambda x: jnp.zeros((*slots, *x.shape), x.dtype), wide_zeros(params)) for _ in range(2)
        )
        weights, count = jnp.zeros(slots, scalar_dtype(params)), jnp.zeros((), jnp.int32)
        return ScaleByLBFGSState(count, wide_zeros(params), wide_zeros(params), steps, changes, weights)

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        g, w, count = widened(updates), needed(self.name, params), state.count
        s, y = jax.tree.map(difference, w, state.params), jax.tree.map(difference, g, state.updates)
        product = inner_product(y, s)
        weight = jnp.where(product == 0, 0, 1 / jnp.where(product == 0, 1, product))
        s, y, weight = jax.tree.map(lambda x: jnp.where(count > 0, x, 0), (s, y, weight))
        at = (count - 1) % self.memory_size
        memory = jax.tree.map(lambda old, new: old.at[at].set(new), state[3:], (s, y, weight.astype(state[5].dtype)))
        size = full_norm(y, squared=True)
        first = jnp.where(size > 0, jnp.where(count > 0, product, 0) / jnp.where(size > 0, size, 1), 1)
        first = jnp.where(count > 0, first, 1 / jnp.maximum(1, full_norm(g))) if self.scale_init_precond else 1.0
        new = ScaleByLBFGSState(count + 1, w, g, *memory)
        return _product(g, new, first, count % self.memory_size), stored(new, state)


def _product(g: Tree, state: ScaleByLBFGSState, first: Any, oldest: Array) -> Tree:
    """Return the estimate of the inverse Hessian times ``g``: over the pairs and back, from the newest on."""
    order = (oldest + jnp.arange(len(state.weights_memory))) % len(state.weights_memory)

    def pair(i: Array) -> Any:
        return jax.tree.map(lambda x: x[i], (state.diff_params_memory, state.diff_updates_memory, state.weights_memory))

    def moved(q: Tree, factor: Array, x: Tree) -> Tree:
        return jax.tree.map(lambda q, x: (q + factor.astype(x.real.dtype) * x).astype(q.dtype), q, x)

    def forget(q: Tree, i: Array) -> tuple[Tree, Array]:
        s, y, weight = pair(i)
        alpha = weight * inner_product(s, q)
        return moved(q, -alpha, y), alpha

    def recall(q: Tree, known: tuple[Array, Array]) -> tuple[Tree, None]:
        s, y, weight = pair(known[0])
        return moved(q, known[1] - weight * inner_product(y, q), s), None

    q, alphas = lax.scan(forget, g, order, reverse=True)
    q = jax.tree.map(lambda x: (first * x).astype(x.dtype), q)
    return lax.scan(recall, q, (order, alphas))[0]


def scale_by_lbfgs(memory_size: int = 10, scale_init_precond: bool = True) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_lbfgs`; every step's pair is kept, whatever its curvature."""
    if memory_size < 1:
        raise ValueError(f"scale_by_lbfgs: memory_size must be >= 1, got {memory_size}")
    return loose(_scale_by_lbfgs, memory_size=memory_size, scale_init_precond=scale_init_precond)


_ZOOM = scale_by_zoom_linesearch(max_linesearch_steps=20, initial_guess_strategy="one")


def lbfgs(
    learning_rate: Any = None, memory_size: int = 10, scale_init_precond: bool = True, linesearch: Any = _ZOOM
) -> Any:
    """Optax's signature of :func:`gradchain.lbfgs`."""
    return chain(
        scale_by_lbfgs(memory_size, scale_init_precond),
        scale(-1.0) if learning_rate is None else scale_by_learning_rate(learning_rate),
        identity() if linesearch is None else linesearch,
    )


def value_and_grad_from_state(value_fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``jax.value_and_grad(value_fn)``, which takes both from a search's state where they are known."""

    def value_and_grad(params: Tree, *args: Any, state: Any, **kwargs: Any) -> Any:
        value, grad = optax_tree.get(state, "value"), optax_tree.get(state, "grad")
        if value is None or grad is None:
            raise ValueError(
                "value_and_grad_from_state: Value or gradient not found in the state; is there a line search that "
                "stores them?"
            )
        return lax.cond(
            jnp.isfinite(value),
            lambda: (value, optax_tree.cast_like(grad, params)),
            lambda: _in_dtypes(jax.value_and_grad(value_fn)(params, *args, **kwargs), value),
        )

    return value_and_grad


def _in_dtypes(computed: Any, value: Array) -> Any:
    """Return a computed value in the dtype of the one that a state keeps."""
    return computed[0].astype(value.dtype), computed[1]

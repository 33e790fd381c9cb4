"""Spectral projected gradients: a direction inside a convex set, and a search that lets the value rise for a while."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gradchain import tree
from gradchain.core.transform import Transform, difference, scalar_dtype
from gradchain.core.value import register
from gradchain.linesearch.base import LineSearch, Search
from gradchain.tree import Tree

REMEMBERED = 10
"""How many values a new one is compared with."""
LENGTHS = (1e-10, 1e10)
"""The range of spectral step lengths."""


class SpectralState(NamedTuple):
    """The point and the gradient of the last step."""

    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]
    params: Any
    grad: Any


@register
class SpectralDirection(Transform):
    r"""The move to the projection of a gradient step, :math:`P(w - \lambda g) - w`.

    :math:`\lambda = \langle s, s\rangle / \langle s, y\rangle` is the inverse of the curvature along the last step. On
    the first step, and after one of negative curvature, the gradient step is as long as the parameters are large.
    """

    name = "spectral_direction"
    projection: Callable[[Tree], Tree]

    def init(self, params: Tree) -> SpectralState:
        zeros = tree.zeros_like(params)
        return SpectralState(jnp.zeros((), jnp.int32), zeros, zeros)

    def step(self, updates: Tree, state: Any, params: Any, extra: dict[str, Any]) -> tuple[Tree, Any]:
        s, y = tree.sub(params, state.params), tree.sub(updates, state.grad)
        curvature, square = tree.vdot(s, y).real, tree.norm(s, squared=True)
        spectral = jnp.clip(square / jnp.where(curvature > 0, curvature, 1), *LENGTHS)
        size = tree.norm(updates, jnp.inf)
        first = jnp.maximum(1, tree.norm(params, jnp.inf)) / jnp.where(size > 0, size, 1)
        length = jnp.where((state.count > 0) & (curvature > 0) & (square > 0), spectral, first)
        ahead = jax.tree.map(lambda w, g: (w - length.astype(w.real.dtype) * g).astype(w.dtype), params, updates)
        move = jax.tree.map(difference, self.projection(ahead), params)
        return move, SpectralState(state.count + 1, params, updates)


class NonmonotoneState(NamedTuple):
    """The last values, minus infinity where there is none yet."""

    values: Array
    searches: Array


class Memory(NamedTuple):
    """What the search compares trials with."""

    value: Array
    slope: Array
    highest: Array


@register
class NonmonotoneSearch(LineSearch):
    """Backtracking from the whole step: decrease against the largest of the last values, and a parabola for the next.

    Steps are never longer than 1, so that points between two of a convex set stay in it.
    """

    name = "nonmonotone_search"
    slope_rtol: ClassVar[float] = 1e-4
    most: ClassVar[int] = 30

    def init(self, params: Tree) -> NonmonotoneState:
        return NonmonotoneState(jnp.full(REMEMBERED, -jnp.inf, scalar_dtype(params)), jnp.zeros((), jnp.int32))

    def begin(self, state: Any, value: Array, slope: Array) -> Search:
        value = value.astype(state.values.dtype)
        no, zero = jnp.zeros((), bool), jnp.zeros_like(value)
        memory = Memory(value, slope.astype(value.dtype), jnp.maximum(value, jnp.max(state.values)))
        return Search(zero + 1, zero, no, no, ~(slope < 0), jnp.zeros((), jnp.int32), memory)

    def tell(self, search: Search, value: Array, slope: Array) -> Search:
        t, own, eps = search.step, search.own, jnp.finfo(value.dtype).eps
        allowed = own.highest + self.slope_rtol * t * own.slope + 2 * eps * jnp.abs(own.highest)
        done = jnp.isfinite(value) & jnp.isfinite(slope) & (value <= allowed)
        bend = value - own.value - t * own.slope
        lowest = -own.slope * t * t / (2 * jnp.where(bend > 0, bend, 1))
        shorter = jnp.where(jnp.isfinite(value) & (bend > 0), jnp.clip(lowest, 0.1 * t, 0.9 * t), 0.1 * t)
        count = search.count + 1
        return Search(
            jnp.where(done, t, shorter), jnp.where(done, t, 0), done, done, ~done & (count >= self.most), count, own
        )

    def end(self, state: Any, search: Search, value: Array, grad: Tree) -> NonmonotoneState:
        values = state.values.at[state.searches % REMEMBERED].set(search.own.value)
        return NonmonotoneState(values, state.searches + 1)

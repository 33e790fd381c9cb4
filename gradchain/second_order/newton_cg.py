"""Newton's method by truncated conjugate gradients in a trust region."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gradchain import tree
from gradchain.combinators._reports import Reports
from gradchain.combinators._weights import widened, zeros
from gradchain.core.combinator import combinator
from gradchain.core.extra import demand_all, demand_function, one_number, with_named_arguments
from gradchain.core.hyper import Count, Positive
from gradchain.core.lift import inexact_leaves
from gradchain.core.transform import apply_updates, check_state, lacks_params, scalar_dtype
from gradchain.linesearch.base import repeat
from gradchain.numerics import divide, safe_increment
from gradchain.second_order.products import inner, linearized_gradient
from gradchain.tree import Tree

EXTRA = ("value", "value_fn")
ACCEPTED, POOR, GOOD = 1e-3, 0.25, 0.75
"""The gain ratios above which a step is accepted and the radius may grow, and below which it shrinks."""


class NewtonCgInfo(NamedTuple):
    """What the last update of :func:`scale_by_newton_cg` did."""

    num_cg_steps: Array
    """How many products with the Hessian were computed, int32."""
    gain_ratio: Array
    """What the step gained, divided by what the quadratic model promised; 0 if no step was tried."""


class NewtonCgState(NamedTuple):
    """State of :func:`scale_by_newton_cg`."""

    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]
    radius: Array
    """The length that the next step is bounded by; 0 as long as none is known."""
    first_norm: Array
    """The norm of the first gradient."""
    value: Array
    """The function's value at the parameters after the update; infinite before the first."""
    grad: Tree
    """The gradient there, pointing uphill."""
    info: NewtonCgInfo


class Subproblem(NamedTuple):
    r"""Conjugate gradients for :math:`H s = -b` under way, the right-hand side :math:`b = g / \|g\|`."""

    solution: Tree
    residual: Tree
    direction: Tree
    squared: Array
    """The squared norm of the residual."""
    promised: Array
    """By how much the solution lowers the model."""
    radius: Array
    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]
    bounded: Array
    """Whether the solution lies on the boundary."""
    done: Array


class Limits(NamedTuple):
    """When conjugate gradients end, in the units of a subproblem."""

    radius: Array
    """An upper bound on the radius."""
    residual: Array
    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]


@combinator
class scale_by_newton_cg(Reports):
    r"""Take Newton's step, truncated to a region in which the quadratic model has proved right.

    .. math::
        d \approx \arg\min_{\|d\| \le \Delta} m(d), \quad m(d) = \Re\langle g, d\rangle + \tfrac{1}{2} \Re\langle d,
        \nabla^2 f(w)\,d\rangle, \qquad
        \varrho = \frac{f(w) - f(w + d)}{-m(d)}

    Conjugate gradients from :math:`d = 0` solve the subproblem with products of the Hessian and vectors, see
    :func:`hvp`. They end at a residual of :math:`\min(0.5, \sqrt{\|g\| / \|g_0\|})\,\|g\|`, with :math:`g_0` the
    first gradient, and go to the boundary where that is nearer, or where a direction has no positive curvature: so
    saddle points repel. The step is taken if :math:`\varrho > 10^{-3}`, and else the update is 0. The radius doubles
    for :math:`\varrho > 0.75` at the boundary; for :math:`\varrho < 0.25` it becomes a quarter of the length
    tried, a tenth where value or gradient aren't finite. It starts as :math:`\|g\|^3 / |\langle g, \nabla^2 f(w)\,g
    \rangle|`, the length of the step along the gradient that the model asks for. Where :math:`-m(d)` is below the
    resolution of :math:`f` in its dtype, a step is taken if the gradient's norm falls.

    It is a whole optimizer: it stands last, without a learning rate, because it evaluates :math:`f(w + d)` and its
    gradient to decide on its step. It keeps both, for :func:`value_and_grad_from_state`. The incoming updates must be
    the gradient of ``value_fn``: put penalties into the function. Each update computes one gradient, linearised, a
    product for each step of conjugate gradients (about as long as two gradients), and one value with its gradient. It
    is meant for functions without noise: all data at each step.

    ``update`` needs the parameters, ``value`` and ``value_fn``, from parameters (here in at least float32) to one real
    number; other arguments of ``value_fn`` are taken from those of ``update``. A gradient that isn't finite is handed
    on as it is, and changes nothing else.

    Args:
      max_radius: the longest step, in (0, inf].
      initial_radius: the first radius; ``None`` as above.
      max_cg_steps: the most products in an update, at least 1; ``None`` is the number of parameters
        (complex ones count twice).

    Example:
      >>> bowl = lambda w: jnp.sum(jnp.cosh(w * jnp.arange(1, 4)))
      >>> w, tx = jnp.ones(3), scale_by_newton_cg()
      >>> state = tx.init(w)
      >>> for _ in range(8):
      ...     value, grad = jax.value_and_grad(bowl)(w)
      ...     updates, state = tx.update(grad, state, w, value=value, value_fn=bowl)
      ...     w = apply_updates(w, updates)
      >>> print(f"{bowl(w):.6f}")
      3.000000

    References:
      Steihaug, *The Conjugate Gradient Method and Trust Regions in Large Scale Optimization*, 1983.
      Nocedal and Wright, *Numerical Optimization*, 2nd edition, 2006, algorithms 4.1 and 7.2.
    """

    max_radius: Positive = float("inf")
    initial_radius: Positive | None = None
    max_cg_steps: Count | None = None

    def init(self, params: Tree) -> NewtonCgState:
        dtype, count = scalar_dtype(params), jnp.zeros((), jnp.int32)
        radius = 0.0 if self.initial_radius is None else self.number("initial_radius", count)
        return NewtonCgState(
            count,
            jnp.array(radius, dtype, copy=True),
            jnp.zeros((), dtype),
            jnp.full((), jnp.inf, dtype),
            zeros(self.name, params),
            NewtonCgInfo(jnp.zeros((), jnp.int32), jnp.zeros((), dtype)),
        )

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        check_state(self.name, state, NewtonCgState._fields)
        if params is None:
            raise lacks_params(self.name)
        inexact_leaves(self.name, updates, "update")
        demand_all(self.name, extra, EXTRA)
        function = with_named_arguments(demand_function(self.name, extra, "value_fn"), extra, EXTRA)
        value = jnp.asarray(one_number(f"{self.name}: value", extra["value"])).astype(state.value.dtype)
        grad, multiply = linearized_gradient(function, widened(params))
        problem, limits = _begin(self, updates, state)
        problem = _solved(multiply, problem, limits, updates, params)
        move = _move(problem, updates)
        rounded = tree.cast_like(move, params)
        reached = jax.value_and_grad(lambda move: function(apply_updates(params, move)))(rounded)
        return _end(self, updates, state._replace(value=value, grad=grad), problem, move, reached)

    def report(self, state: Any) -> dict[str, Any]:
        return {"radius": state.radius, **state.info._asdict()}


def _along(x: Tree, length: Array, direction: Tree) -> Tree:
    return jax.tree.map(lambda x, p: x + length.astype(x.real.dtype) * p, x, direction)


def _size(updates: Tree, dtype: Any) -> tuple[Array, Array]:
    """Return the norm, and whether it is a number above 0."""
    norm = tree.norm(updates).astype(dtype)
    return norm, (norm > 0) & jnp.isfinite(norm)


@jax.jit
def _begin(tx: scale_by_newton_cg, updates: Tree, state: NewtonCgState) -> tuple[Subproblem, Limits]:
    """Return the subproblem before its first product, done if there is no gradient, or none that is finite."""
    dtype = state.value.dtype
    norm, usable = _size(updates, dtype)
    top = float(jnp.finfo(dtype).max) / 8
    unit = jax.tree.map(lambda u: jnp.where(usable, divide(u, norm.astype(u.real.dtype)), 0), widened(updates))
    numbers = sum(x.size * (1 + jnp.iscomplexobj(x)) for x in jax.tree.leaves(unit))
    count = max(numbers, 1) if tx.max_cg_steps is None else tx.number("max_cg_steps", state.count)
    limits = Limits(
        jnp.minimum(divide(_largest(tx, state), norm), top),
        jnp.minimum(0.5, jnp.sqrt(divide(norm, jnp.where(state.first_norm > 0, state.first_norm, norm)))),
        jnp.minimum(count, jnp.iinfo(jnp.int32).max // 2).astype(jnp.int32),
    )
    zeros = jax.tree.map(jnp.zeros_like, unit)
    squared, zero = usable.astype(dtype), jnp.zeros((), dtype)
    radius = jnp.minimum(divide(state.radius, norm), limits.radius)
    start = zeros, unit, jax.tree.map(jnp.negative, unit), squared, zero, radius
    return Subproblem(*start, jnp.zeros((), jnp.int32), jnp.zeros((), bool), ~usable), limits


def _largest(tx: scale_by_newton_cg, state: NewtonCgState) -> Array:
    """Return the largest radius there may be, a number even where none was given."""
    dtype = state.value.dtype
    return jnp.minimum(tx.number("max_radius", state.count), float(jnp.finfo(dtype).max) / 8).astype(dtype)


def _solved(multiply: Callable[[Tree], Tree], problem: Subproblem, limits: Limits, *known: Tree) -> Subproblem:
    """Return the subproblem solved as well as its limits ask for."""

    def turn(problem: Subproblem) -> Subproblem:
        return _advanced(problem, multiply(problem.direction), limits)

    return repeat(turn, lambda problem: problem.done, problem, known)


@jax.jit
def _advanced(now: Subproblem, image: Tree, limits: Limits) -> Subproblem:
    """Return the subproblem after one more direction, given its product with the Hessian."""
    dtype = now.squared.dtype
    curvature = inner(now.direction, image, dtype)
    known = jnp.isfinite(curvature)  # if it isn't, the model is taken to be linear
    curvature = jnp.where(known, curvature, 0)
    cauchy = jnp.minimum(jnp.where(curvature == 0, 1, 1 / jnp.abs(curvature)), limits.radius)
    radius = jnp.where(now.radius > 0, now.radius, cauchy)
    length = divide(now.squared, curvature)
    inside = tree.norm(_along(now.solution, length, now.direction)) < now.radius  # never where the radius isn't known
    bounded = (curvature <= 0) | ~inside
    length = jnp.where(bounded, _to_boundary(now.solution, now.direction, radius), length)
    promised = now.promised + length * (now.squared - 0.5 * length * curvature)
    residual = tree.where(known, _along(now.residual, length, image), now.residual)
    squared = inner(residual, residual, dtype)
    direction = _along(jax.tree.map(jnp.negative, residual), divide(squared, now.squared), now.direction)
    solution, count = _along(now.solution, length, now.direction), now.count + 1
    done = bounded | (jnp.sqrt(squared) <= limits.residual) | (count >= limits.count)
    return Subproblem(solution, residual, direction, squared, promised, radius, count, bounded, done)


def _to_boundary(solution: Tree, direction: Tree, radius: Array) -> Array:
    r"""Return :math:`t \ge 0` with :math:`\|s + t p\| = r`, for :math:`\|s\| < r`."""
    dtype, size = radius.dtype, tree.norm(direction).astype(radius.dtype)
    relative = jax.tree.map(lambda s: s / radius.astype(s.real.dtype), solution)  # whose squares are numbers
    half = divide(inner(relative, direction, dtype), size)
    rest = jnp.maximum(1 - inner(relative, relative, dtype), 0)
    root = jnp.sqrt(half * half + rest)
    share = jnp.where(half > 0, divide(rest, half + root), root - half)
    return divide(share * radius, size)


@jax.jit
def _move(problem: Subproblem, updates: Tree) -> Tree:
    """Return the step that the subproblem's solution stands for."""
    norm, usable = _size(updates, problem.squared.dtype)
    norm = jnp.where(usable, norm, 0)
    return jax.tree.map(lambda s: norm.astype(s.real.dtype) * s, problem.solution)


@jax.jit
def _end(
    tx: scale_by_newton_cg,
    updates: Tree,
    state: NewtonCgState,
    problem: Subproblem,
    move: Tree,
    reached: tuple[Any, Tree],
) -> tuple[Tree, NewtonCgState]:
    """Return updates and state, given JAX's value and gradient where the step leads; ``state`` has the old ones."""
    dtype = state.value.dtype
    value, grad = jnp.asarray(reached[0], dtype), tree.conj(widened(reached[1]))
    (norm, usable), new_norm = _size(updates, dtype), tree.norm(grad).astype(dtype)
    finite = jnp.isfinite(value) & jnp.isfinite(new_norm)
    resolution = jnp.where(jnp.isfinite(state.value), 8 * jnp.finfo(reached[0].dtype).eps * jnp.abs(state.value), 0)
    promised = problem.promised * norm * norm
    gain = jnp.where(jnp.isnan(state.value), jnp.inf, state.value) - value
    ratio = divide(gain, promised)
    downhill = jnp.where((new_norm < norm) & (gain >= -resolution), 1, -1)
    judged = jnp.where(promised < resolution, downhill, ratio)
    accepted = finite & (judged > ACCEPTED) & usable
    radius = problem.radius * norm
    longer = jnp.where(problem.bounded & (judged > GOOD), jnp.minimum(2 * radius, _largest(tx, state)), radius)
    shorter = jnp.minimum(radius, tree.norm(move).astype(dtype)) / jnp.where(finite, 4, 10)
    new_state = NewtonCgState(
        safe_increment(state.count),
        jnp.where(usable, jnp.where(accepted & (judged >= POOR), longer, shorter), state.radius),
        jnp.where((state.first_norm == 0) & usable, norm, state.first_norm),
        jnp.where(accepted, value, state.value),
        tree.where(accepted, grad, state.grad),
        NewtonCgInfo(problem.count, jnp.where(usable, ratio, 0)),
    )
    stays = jax.tree.map(lambda u: jnp.where(usable, 0, u), widened(updates))  # guards are to see what isn't finite
    return tree.where(accepted, move, stays), new_state

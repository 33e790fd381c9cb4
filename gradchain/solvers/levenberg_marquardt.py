"""Levenberg and Marquardt's iteration for nonlinear least squares, on lists of real arrays of one dtype.

One loop, whose body evaluates the residuals once. What differs between the methods is what they keep of the Jacobian
and how they solve for a step: ``Dense`` keeps a triangular factor, ``MatrixFree`` the gradient.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array, lax

from gradchain import tree
from gradchain.second_order.conjugate_gradients import conjugate_gradients
from gradchain.solvers.solution import Reason, first_that_holds, noted

Arrays = list[Array]
Function = Callable[[Arrays], tuple[Arrays, Any]]
"""From parameters to (residuals, auxiliary output)."""

LEAST_GAIN = 1e-4
"""The share of the predicted decrease that a step must bring."""
NOISE = 64
"""Times eps F: what sums and single operations may change F by."""
IDLE = 8
"""How many steps in a row may gain nothing, where nothing could be gained, before the run ends."""


class Proposal(NamedTuple):
    """A step, and what it promises."""

    step: Arrays
    predicted: Array
    """The decrease of F for this step, if the residuals were linear."""
    possible: Array
    """What ``Method.possible`` says: it tells whether damping makes the step short."""
    length: Array
    r"""The length of the scaled step, :math:`\|D d\|`."""


class Method(Protocol):
    """What a way to solve for the step must define; a model is a pytree of arrays."""

    def start(self) -> Any:
        """Return the model before the first point, of the right shapes."""
        ...

    def update(self, model: Any, push: Callable[[Arrays], Arrays], r: Arrays) -> Any:
        """Return the model at a new point, from the Jacobian's product with vectors there."""
        ...

    def gradient(self, model: Any) -> Arrays:
        r"""Return :math:`J^\top r`."""
        ...

    def angle(self, model: Any, norm: Array) -> Array:
        """Return the cosine of the angle between the residuals, of this norm, and what parameters can change."""
        ...

    def possible(self, model: Any) -> Array:
        """Return the decrease of F for the undamped step, if the residuals were linear, or a part of it."""
        ...

    def propose(self, model: Any, damping: Array, fun: Function, x: Arrays) -> Proposal:
        """Return the step for this damping from the point ``x`` of the model."""
        ...

    def length(self, model: Any, x: Arrays) -> Array:
        r"""Return :math:`\|D x\|`."""
        ...


class Point(NamedTuple):
    """The best point so far."""

    x: Arrays
    r: Arrays
    value: Array
    aux: Any


class Run(NamedTuple):
    """The loop's carry."""

    point: Point
    model: Any
    proposal: Proposal
    trial: Arrays
    """The point to evaluate next."""
    damping: Array
    growth: Array
    """What a refused step multiplies the damping by."""
    flat: Array
    """Steps in a row that have hardly changed F."""
    idle: Array
    """Steps in a row that have gained nothing, and couldn't have gained what the dtype resolves."""
    steps: Array
    """Steps tried, taken or not; -1 before the start has been evaluated."""
    reason: Array
    first_value: Array
    first_gradient: Array
    """The largest component's magnitude."""
    history: Any


class Tolerances(NamedTuple):
    """What ends a run; see ``least_squares``."""

    gtol: Any
    ftol: Any
    xtol: Any
    max_steps: Any


class _Factor(NamedTuple):
    """What ``Dense`` keeps: of ``[J / D, -r] = Q [R, z]`` the triangle R and the vector z; and D."""

    r: Array
    z: Array
    scale: Array


class Dense:
    """Steps by QR factors of the scaled Jacobian; its products with itself, which halve the digits, are never formed.

    Args:
      like: arrays of the parameters' shapes.
      size: the number of residuals.
    """

    def __init__(self, like: Arrays, size: int):
        self.like, self.size = like, size
        self.count, self.dtype = tree.size(like), like[0].dtype

    def start(self) -> _Factor:
        n = self.count
        return _Factor(*(jnp.zeros(shape, self.dtype) for shape in ((n, n), (n,), (n,))))

    def update(self, model: _Factor, push: Callable[[Arrays], Arrays], r: Arrays) -> _Factor:
        jacobian = self._jacobian(push, r)
        scale = jnp.maximum(model.scale, jnp.linalg.norm(jacobian, axis=0))
        triangle, z = self._factor(jacobian / _divisor(scale)[None], -_flat(r))
        return _Factor(triangle, z, scale)

    def _jacobian(self, push: Callable[[Arrays], Arrays], r: Arrays) -> Array:
        if self.count <= self.size:
            columns = jax.vmap(lambda v: _flat(push(_split(v, self.like))), out_axes=1)
            return columns(jnp.eye(self.count, dtype=self.dtype))
        pull = jax.linear_transpose(push, self.like)
        return jax.vmap(lambda v: _flat(pull(_split(v, r))[0]))(jnp.eye(self.size, dtype=self.dtype))

    def _factor(self, matrix: Array, vector: Array) -> tuple[Array, Array]:
        """Return the square triangle R and z for which ``|matrix s - vector|`` is least where R s = z."""
        n = self.count
        both = jnp.linalg.qr(jnp.concatenate([matrix, vector[:, None]], axis=1), mode="r")[:n]
        both = jnp.pad(both, ((0, n - both.shape[0]), (0, 0)))
        return both[:, :n], both[:, n]

    def gradient(self, model: _Factor) -> Arrays:
        return _split(-_divisor(model.scale) * (model.z @ model.r), self.like)

    def angle(self, model: _Factor, norm: Array) -> Array:
        return _share(jnp.linalg.norm(model.z), norm)

    def possible(self, model: _Factor) -> Array:
        return _square(model.z) / 2

    def propose(self, model: _Factor, damping: Array, fun: Function, x: Arrays) -> Proposal:
        n = self.count
        below = jnp.sqrt(damping) * jnp.eye(n, dtype=self.dtype)
        triangle, z = self._factor(
            jnp.concatenate([model.r, below]), jnp.concatenate([model.z, jnp.zeros(n, self.dtype)])
        )
        s = jax.scipy.linalg.solve_triangular(triangle, z)
        square = _square(s)
        predicted = _square(model.r @ s) / 2 + damping * square
        step = _split(s / _divisor(model.scale), self.like)
        return Proposal(step, predicted, self.possible(model), jnp.sqrt(square))

    def length(self, model: _Factor, x: Arrays) -> Array:
        return jnp.linalg.norm(_divisor(model.scale) * _flat(x))


class _Slope(NamedTuple):
    """What ``MatrixFree`` keeps: the gradient, the Jacobian's size along it, and what the first gradient was like."""

    gradient: Arrays
    curvature: Array
    r""":math:`\|J g\|^2 / \|g\|^2`."""
    scale: Array
    """The largest root of it so far: D, the same for all parameters."""
    first: Array
    """The norm of the first gradient."""


class MatrixFree:
    """Steps by conjugate gradients on products with the Jacobian and its transpose.

    Args:
      like: arrays of the parameters' shapes.
      max_cg_steps: the most products for one step.
      cg_tol: what the linear system's residual is brought down to, relative to the gradient, or below.
    """

    def __init__(self, like: Arrays, max_cg_steps: Any, cg_tol: Any):
        self.like, self.max_cg_steps, self.cg_tol = like, max_cg_steps, cg_tol

    def start(self) -> _Slope:
        zero = jnp.zeros((), self.like[0].dtype)
        return _Slope([jnp.zeros_like(x) for x in self.like], zero, zero, zero)

    def update(self, model: _Slope, push: Callable[[Arrays], Arrays], r: Arrays) -> _Slope:
        (gradient,) = jax.linear_transpose(push, self.like)(r)
        norm = _norm(gradient)
        direction = [g / _divisor(norm) for g in gradient]
        curvature = tree.norm(push(direction), squared=True).astype(norm.dtype)
        scale = jnp.maximum(model.scale, jnp.sqrt(curvature))
        return _Slope(gradient, curvature, scale, jnp.where(model.first > 0, model.first, norm))

    def gradient(self, model: _Slope) -> Arrays:
        return model.gradient

    def angle(self, model: _Slope, norm: Array) -> Array:
        return _share(_norm(model.gradient), _divisor(model.scale) * norm)

    def possible(self, model: _Slope) -> Array:
        """Return the decrease for the best step along the gradient."""
        return _share(_norm(model.gradient) ** 2, model.curvature) / 2

    def propose(self, model: _Slope, damping: Array, fun: Function, x: Arrays) -> Proposal:
        """Solve as exactly as is worth it (Eisenstat and Walker 1996): the smaller the gradient, the more."""
        push = jax.linearize(lambda x: fun(x)[0], x)[1]
        pull = jax.linear_transpose(push, x)
        weight = damping * _divisor(model.scale) ** 2

        def multiply(v: Arrays) -> Arrays:
            return [jv + weight * w for jv, w in zip(pull(push(v))[0], v, strict=True)]

        norm = _norm(model.gradient)
        tol = jnp.minimum(self.cg_tol, jnp.sqrt(_share(norm, model.first)))
        downhill = [-g for g in model.gradient]
        step = conjugate_gradients(multiply, downhill, tol, self.max_cg_steps)[0]
        predicted = tree.vdot(downhill, step) - tree.norm(push(step), squared=True) / 2
        return Proposal(step, predicted.astype(norm.dtype), self.possible(model), self.length(model, step))

    def length(self, model: _Slope, x: Arrays) -> Array:
        return _divisor(model.scale) * _norm(x)


def levenberg_marquardt(
    fun: Function,
    start: Arrays,
    rounded: Callable[[Arrays], Arrays],
    method: Method,
    damping: Any,
    tolerances: Tolerances,
    rows: int,
) -> Run:
    """Return where the iteration from ``start`` ends.

    Args:
      fun: from parameters to (residuals, auxiliary output).
      start: the first point.
      rounded: what a point becomes in the dtypes of the parameters.
      method: how steps are found.
      damping: the first one.
      tolerances: what ends the run.
      rows: the length of the history, or 0 for none.
    """
    step = functools.partial(_iterate, fun, rounded, method, tolerances)
    return lax.while_loop(lambda run: run.reason == Reason.running, step, _first(fun, start, method, damping, rows))


def _first(fun: Function, start: Arrays, method: Method, damping: Any, rows: int) -> Run:
    """Return a run that has evaluated nothing yet; the first trial is the start."""
    dtype = start[0].dtype

    def number(x: Any, dtype: Any = dtype) -> Array:
        return jnp.asarray(x, dtype)

    r, aux = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(fun, start))
    proposal = Proposal([jnp.zeros_like(x) for x in start], number(0), number(0), number(0))
    point = Point(start, r, number(jnp.inf), aux)
    return Run(
        point=point,
        model=method.start(),
        proposal=proposal,
        trial=start,
        damping=number(damping),
        growth=number(2),
        flat=number(0, jnp.int32),
        idle=number(0, jnp.int32),
        steps=number(-1, jnp.int32),
        reason=number(Reason.running, jnp.int32),
        first_value=number(0),
        first_gradient=number(0),
        history={name: jnp.full(rows, jnp.nan, dtype) for name in HISTORY} if rows else None,
    )


HISTORY = ("value", "grad_norm", "damping", "evals")


def _iterate(
    fun: Function,
    rounded: Callable[[Arrays], Arrays],
    method: Method,
    tolerances: Tolerances,
    run: Run,
) -> Run:
    """Evaluate the trial, take it or not, test for the end, and propose the next step."""
    r, push, aux = jax.linearize(fun, run.trial, has_aux=True)
    value = (tree.norm(r, squared=True) / 2).astype(run.point.value.dtype)
    actual = jnp.where(jnp.isfinite(value), _decrease(run.point.r, r), -jnp.inf)
    lower, as_low = _gained(method, run, value, actual)
    model = lax.cond(lower | as_low, lambda: method.update(run.model, push, r), lambda: run.model)
    taken = (lower | (as_low & (method.possible(model) < run.proposal.possible / 2))) & _finite(model)
    model = tree.where(taken, model, run.model)
    point = tree.where(taken, Point(run.trial, r, value, aux), run.point)
    damping, growth = _adapted(run, taken, actual)
    proposal = method.propose(model, damping, fun, point.x)
    trial = rounded([x + d for x, d in zip(point.x, proposal.step, strict=True)])
    new = run._replace(
        point=point, model=model, proposal=proposal, trial=trial, damping=damping, growth=growth, steps=run.steps + 1
    )
    gradient = tree.norm(method.gradient(model), "inf").astype(value.dtype)
    flat, idle = _standing(run, point.value, actual, tolerances.ftol)
    firsts = [jnp.where(run.steps < 0, *x) for x in ((value, run.first_value), (gradient, run.first_gradient))]
    new = new._replace(flat=flat, idle=idle, first_value=firsts[0], first_gradient=firsts[1])
    row = {"value": point.value, "grad_norm": gradient, "damping": damping, "evals": new.steps + 1}
    new = new._replace(history=noted(run.history, run.steps, row))
    return new._replace(reason=_reason(method, tolerances, run, new, taken))


def _gained(method: Method, run: Run, value: Array, actual: Array) -> tuple[Array, Array]:
    r"""Return whether the trial is clearly lower, and whether it is as low, where the dtype resolves no more than that.

    There the trial is taken if the residuals are closer to being orthogonal to what parameters can change. What
    rounding may change F by: eps :math:`\|r\|` times the size of what the residuals are the difference of, for which
    :math:`\|D w\|` stands.
    """
    finite, predicted = jnp.isfinite(value), run.proposal.predicted
    size = method.length(run.model, run.point.x) * jnp.sqrt(2 * run.point.value)
    noise = jnp.finfo(value.dtype).eps * (NOISE * run.point.value + size)
    lower = finite & ((run.steps < 0) | (actual > LEAST_GAIN * predicted))
    return lower, (predicted <= noise) & (actual >= -noise) & (value <= run.first_value)


def _decrease(old: Arrays, new: Arrays) -> Array:
    """Return half the difference of the squared norms, without first rounding these to the dtype."""
    pairs = list(zip(old, new, strict=True))
    return tree.vdot([a - b for a, b in pairs], [a + b for a, b in pairs]) / 2


def _adapted(run: Run, taken: Array, actual: Array) -> tuple[Array, Array]:
    """Return the next damping and growth (Nielsen 1999): smooth in the gain where steps are taken."""
    predicted = run.proposal.predicted
    gain = jnp.where(actual > 0, jnp.clip(actual / _divisor(predicted), 0, 1.5), 1)
    factor = jnp.maximum(1 / 3, 1 - (2 * gain - 1) ** 3)
    first = run.steps < 0
    damping = run.damping * jnp.where(first, 1, jnp.where(taken, factor, run.growth))
    least = jnp.finfo(damping.dtype).eps ** 2
    return jnp.clip(damping, least, 1e12), jnp.where(taken, 2, 2 * run.growth)


def _standing(run: Run, value: Array, actual: Array, ftol: Any) -> tuple[Array, Array]:
    """Return how many steps in a row have hardly changed F, and how many have gained nothing at all."""
    resolution = jnp.finfo(value.dtype).eps * value
    flat = _free(run) & (jnp.abs(actual) <= ftol * value) & (run.proposal.predicted <= ftol * value)
    idle = (run.proposal.predicted <= resolution) & (actual <= resolution)
    later = run.steps >= 0
    return jnp.where(flat & later, run.flat + 1, 0), jnp.where(idle & later, run.idle + 1, 0)


def _free(run: Run) -> Array:
    """Return whether it isn't the damping that makes the step short."""
    return (run.steps >= 0) & (run.proposal.predicted >= run.proposal.possible / 2)


def _reason(method: Method, tolerances: Tolerances, run: Run, new: Run, taken: Array) -> Array:
    """Return why the run ends with this step, or that it goes on."""
    short = _free(run) & (run.proposal.length <= tolerances.xtol * method.length(new.model, new.point.x))
    still = functools.reduce(jnp.logical_and, [jnp.all(a == b) for a, b in zip(run.trial, run.point.x, strict=True)])
    first = run.steps < 0
    tests: dict[Any, Array] = {
        Reason.not_finite: first & ~taken,
        Reason.gradient: taken & (method.angle(new.model, jnp.sqrt(2 * new.point.value)) <= tolerances.gtol),
        Reason.value: new.flat >= 2,
        Reason.step: short & taken,
        Reason.precision: ~first & (still | (new.idle >= IDLE)),
        Reason.max_steps: new.steps >= tolerances.max_steps,
    }
    return first_that_holds(tests)


def _finite(model: Any) -> Array:
    return functools.reduce(jnp.logical_and, [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(model)])


def _divisor(x: Array) -> Array:
    """Return ``x`` with 1 where it is 0."""
    return jnp.where(x > 0, x, 1)


def _share(x: Array, whole: Array) -> Array:
    return x / _divisor(whole)


def _norm(arrays: Arrays) -> Array:
    return tree.norm(arrays).astype(arrays[0].dtype)


def _square(x: Array) -> Array:
    return jnp.sum(x * x)


def _flat(arrays: Arrays) -> Array:
    return jnp.concatenate([jnp.ravel(x) for x in arrays])


def _split(vector: Array, like: Arrays) -> Arrays:
    """Return a vector's parts in the shapes of ``like``."""
    parts, start = [], 0
    for x in like:
        parts.append(vector[start : start + x.size].reshape(x.shape))
        start += x.size
    return parts

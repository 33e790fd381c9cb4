"""The search of Nocedal and Wright: an interval that holds a good step, then a zoom into it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gradchain.core.combinator import combinator
from gradchain.core.hyper import Count, NonNegative, Positive
from gradchain.linesearch.base import Search
from gradchain.linesearch.wolfe import (
    Best,
    DecreaseFraction,
    Errors,
    Growth,
    Guess,
    Line,
    Point,
    WolfeSearch,
    WolfeState,
    is_finite,
    select,
)

CUBIC_INSIDE = 0.2
"""How far inside the interval the cubic's minimum must lie, as a fraction of the interval's length."""
QUADRATIC_INSIDE = 0.1
"""The same for the parabola's."""


class ScaleByZoomLinesearchState(WolfeState):
    """State of :func:`scale_by_zoom_linesearch`."""

    __slots__ = ()


class Limits(NamedTuple):
    """Hyperparameters of the zoom alone."""

    tol: Array
    growth: Array
    longest: Array
    precision: Array


class Memory(NamedTuple):
    """What the search remembers of its trials."""

    line: Line
    best: Best
    limits: Limits
    found: Array
    """Whether there is an interval; before, ``low`` is the last trial."""
    low: Point
    """The end of the interval with the lower value, which has decrease."""
    high: Point
    """The other end; it may be the left one."""
    reference: Point
    """An end of the interval before, through which the cubic goes."""


@combinator
class scale_by_zoom_linesearch(WolfeSearch):
    r"""Scale updates by a step length with decrease of the loss and small curvature.

    The step :math:`t` along the incoming update :math:`u` is to meet both conditions, with
    :math:`\phi(t) = f(w + t u)` and :math:`\phi'` its slope:

    .. math:: \phi(t) \le \phi(0) + c_1 t \phi'(0) \quad\text{or}\quad
        \phi'(t) \le (2 c_1 - 1)\,\phi'(0) \text{ and } \phi(t) \le \phi(0) + c_3 |\phi(0)|; \qquad
        |\phi'(t)| \le c_2 |\phi'(0)|

    The step grows until an interval must hold such a one; then trials inside it are the minimum of a cubic or a
    parabola through known values, or its middle.

    Where Optax's search finds a step, the trials are the same. Where it fails, they part: along updates that don't
    lead downhill nothing is evaluated, and the parameters stay; they stay as well if no trial had decrease, and the
    next search goes on where that one ended; from a trial that isn't finite steps shrink by 10, not by 2, until one is;
    and if both conditions can't be met, the step is the one of the lowest value with decrease.

    ``update`` needs ``params`` and the extra arguments ``value``, ``grad`` and ``value_fn``, the loss as a function of
    the parameters; for complex parameters ``grad`` is the conjugate of JAX's gradient. Other extra arguments that
    ``value_fn`` names are handed to it. The state keeps value and gradient at the point that is reached, for
    :func:`value_and_grad_from_state`; what follows in a chain must not change the updates then.

    Args:
      max_linesearch_steps: how many trials there may be, each of one value and gradient.
      max_learning_rate: the longest step; ``None`` for no limit.
      tol: :math:`\ge 0`, by how much each condition may be missed.
      increase_factor: by how much the step grows while the value falls.
      slope_rtol: :math:`c_1` in [0, 1).
      curv_rtol: :math:`c_2 > c_1`; ``math.inf`` for no condition on curvature.
      approx_dec_rtol: :math:`c_3 \ge 0`, taken to be at least 8 times the machine precision of the values. ``None`` for
        no approximate decrease, which helps near a minimum, where slopes are more precise than differences of values.
      stepsize_precision: the search ends with what it has if the interval is shorter than this fraction of its right
        end.
      initial_guess_strategy: the first trial: ``"keep"`` is the last step (1 at first), for gradients; ``"one"`` is 1,
        for directions of a Newton-like method; ``"slope"`` the last step times
        :math:`\min(10, \phi'_{k-1}(0) / \phi'_k(0))`, which predicts the same decrease to first order.
      verbose: print why a search has failed.

    Example:
      >>> tx = chain(scale(-1.0), scale_by_zoom_linesearch(15))
      >>> value_and_grad = value_and_grad_from_state(loss_fn)
      >>> value, grad = value_and_grad(params, batch, state=state)
      >>> updates, state = tx.update(
      ...     grad, state, params, value=value, grad=grad, value_fn=loss_fn, batch=batch
      ... )

    References: Nocedal and Wright, *Numerical Optimization*, 2006, algorithms 3.5 and 3.6; Hager and Zhang,
    *Algorithm 851: CG_DESCENT*, 2006.
    """

    max_linesearch_steps: Count
    max_learning_rate: Positive | None = None
    tol: NonNegative = 0.0
    increase_factor: Growth = 2.0
    slope_rtol: DecreaseFraction = 1e-4
    curv_rtol: Positive = 0.9
    approx_dec_rtol: NonNegative | None = 1e-6
    stepsize_precision: NonNegative = 1e-5
    initial_guess_strategy: Guess = "keep"
    verbose: bool = False

    State = ScaleByZoomLinesearchState

    def prepare(self, line: Line, best: Best, guess: Array, state: Any) -> tuple[Array, Memory]:
        longest = (
            jnp.full_like(guess, jnp.inf) if self.max_learning_rate is None else self.at("max_learning_rate", state)
        )
        names = ("tol", "increase_factor", "stepsize_precision")
        tol, growth, precision = (self.at(name, state) for name in names)
        limits = Limits(tol, growth, longest, precision)
        start = line.start
        memory = Memory(line, best, limits, jnp.zeros((), bool), start, start, start)
        return jnp.minimum(guess, longest), memory

    def tell(self, search: Search, value: Array, slope: Array) -> Search:
        own: Memory = search.own
        line, tol = own.line, own.limits.tol
        trial = Point(search.step, value.astype(line.value.dtype), slope.astype(line.value.dtype))
        errors = line.errors(trial)
        decrease = errors.decrease <= tol
        met = decrease & (errors.curvature <= tol)
        keep = met | (decrease & (trial.value < own.best.value))
        own = own._replace(best=own.best.after(trial, errors, keep))
        end = select(is_finite(trial), trial, Point(trial.step, *[jnp.full_like(trial.step, jnp.inf)] * 2))
        new = select(own.found, _shrink(own, end, errors), _widen(own, end, errors, search.count == 0))
        width = jnp.abs(own.high.step - own.low.step)
        narrow = width <= own.limits.precision * jnp.maximum(own.high.step, own.low.step)
        longest = ~new.found & (trial.step >= own.limits.longest)
        done = met | longest
        count, taken = search.count + 1, jnp.where(keep, search.step, search.taken)
        stuck = own.found & narrow & (taken > 0)
        following = jnp.minimum(own.limits.growth * trial.step, own.limits.longest)
        return Search(
            step=jnp.where(done, trial.step, jnp.where(new.found, _inside(new), following)),
            taken=taken,
            keep=keep,
            done=done,
            failed=~done & (stuck | (count >= line.most)),
            count=count,
            own=new,
        )

    def explain(self, search: Search) -> None:
        if self.verbose:
            jax.debug.callback(_explain, search)


def _widen(own: Memory, trial: Point, errors: Errors, is_first: Array) -> Memory:
    """Return the memory after a trial of the first phase: an interval, if one is found (algorithm 3.5)."""
    before = own.low
    is_high = (errors.decrease > 0) | ((trial.value >= before.value) & ~is_first)
    is_low = (trial.slope >= 0) & ~is_high
    low = select(is_high, before, trial)
    return own._replace(found=is_high | is_low, low=low, high=select(is_low, before, trial), reference=low)


def _shrink(own: Memory, trial: Point, errors: Errors) -> Memory:
    """Return the memory after a trial inside the interval (algorithm 3.6)."""
    low, high = own.low, own.high
    is_high = (errors.decrease > 0) | (trial.value >= low.value)
    turns = (trial.slope * (high.step - low.step) >= 0) & ~is_high
    return own._replace(
        low=select(is_high, low, trial),
        high=select(is_high, trial, select(turns, low, high)),
        reference=select(is_high | turns, high, low),
    )


def _inside(own: Memory) -> Array:
    """Return the next trial in the interval: a cubic's minimum, a parabola's, or the middle."""
    low, high = own.low, own.high
    left, right = jnp.minimum(low.step, high.step), jnp.maximum(low.step, high.step)
    width = right - left

    def fits(step: Array, inside: float) -> Array:
        return (step > left + inside * width) & (step < right - inside * width)

    cubic, parabola = _cubic_minimum(low, high, own.reference), _parabola_minimum(low, high)
    step = jnp.where(fits(parabola, QUADRATIC_INSIDE), parabola, (low.step + high.step) / 2)
    step = jnp.where(fits(cubic, CUBIC_INSIDE), cubic, step)
    return jnp.where(jnp.isfinite(high.value) | (low.step > 0), step, 0.1 * high.step)


def _cubic_minimum(low: Point, high: Point, third: Point) -> Array:
    """Return the minimum of the cubic through three points with the slope at the first; NaN if it has none."""
    h, k = high.step - low.step, third.step - low.step
    p, q = high.value - low.value - low.slope * h, third.value - low.value - low.slope * k
    scale = (h * k) ** 2 * (h - k)
    cubed, squared = (k**2 * p - h**2 * q) / scale, (h**3 * q - k**3 * p) / scale
    return low.step + (jnp.sqrt(squared**2 - 3 * cubed * low.slope) - squared) / (3 * cubed)


def _parabola_minimum(low: Point, high: Point) -> Array:
    """Return where the parabola through two points with the slope at the first is stationary."""
    h = high.step - low.step
    squared = (high.value - low.value - low.slope * h) / h**2
    return low.step - low.slope / (2 * squared)


def _explain(search: Search) -> None:
    """Print why a search has ended without a step that meets both conditions."""
    own: Memory = search.own
    line, errors = own.line, own.best.errors
    if not search.failed and errors.curvature <= own.limits.tol:
        return
    lines = [f"scale_by_zoom_linesearch: value {line.value}, slope {line.slope}, step {search.taken}"]
    if not line.slope < 0:
        lines += [NOT_DOWNHILL]
    elif not search.failed:
        lines += [NO_INTERVAL]
    elif search.count < line.most:
        lines += [INTERVAL_TOO_SMALL]
    if search.taken > 0:
        lines += [f"{NO_CURVATURE}; it is missed by {errors.curvature}"]
    else:
        lines += [NO_DECREASE]
    print("\n  ".join(lines), flush=True)


NOT_DOWNHILL = "The updates don't lead downhill, so that nothing was evaluated."
NO_INTERVAL = "The value still falls at max_learning_rate; a larger one may lead to small curvature."
INTERVAL_TOO_SMALL = "The interval has become shorter than stepsize_precision times its right end."
NO_CURVATURE = "The step has decrease, but not the small curvature"
NO_DECREASE = "No trial had decrease, so that the parameters stay."

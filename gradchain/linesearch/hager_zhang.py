"""Hager and Zhang's line search: a bracket of slopes, and the minimum of a cubic inside it."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from gradchain.core.combinator import combinator
from gradchain.core.hyper import Count, NonNegative, Positive
from gradchain.linesearch.base import Search
from gradchain.linesearch.wolfe import (
    Best,
    DecreaseFraction,
    Guess,
    Line,
    Point,
    WolfeSearch,
    WolfeState,
    is_finite,
    select,
)

GROW = (2.0, 10.0)
"""By how much a step is at least and at most extrapolated."""
INSIDE = 0.05
"""How far inside a bracket trials lie, as a fraction of its width."""
SLOW = 2 / 3
"""A bracket that keeps more of its width, twice running, is halved."""


class ScaleByHagerZhangLinesearchState(WolfeState):
    """State of :func:`scale_by_hager_zhang_linesearch`."""

    __slots__ = ()


class Memory(NamedTuple):
    """What the search remembers of its trials."""

    line: Line
    best: Best
    left: Point
    """A point with a negative slope and a value that isn't too high."""
    right: Point
    """A point with a minimum on its left; of infinite length before there is one."""
    width: Array
    """The width of the bracket before the last trial."""
    stalled: Array
    """How often in a row it has hardly shrunk."""


@combinator
class scale_by_hager_zhang_linesearch(WolfeSearch):
    r"""Scale updates by a step length of Hager and Zhang's search, which works at the resolution of the loss, too.

    Along the incoming update :math:`u`, with :math:`\phi(t) = f(w + t u)` and :math:`\phi'` its slope, it looks for a
    step with decrease, exact or approximate, and small curvature:

    .. math:: \phi(t) \le \phi(0) + c_1 t \phi'(0) \quad\text{or}\quad
        \phi'(t) \le (2 c_1 - 1)\,\phi'(0) \text{ and } \phi(t) \le \phi(0) + c_3 |\phi(0)|; \qquad
        |\phi'(t)| \le c_2 |\phi'(0)|

    A bracket keeps a point of negative slope on the left and one beyond a minimum on the right. The next trial is the
    minimum of the cubic through both values and slopes; the secant of the slopes, where the values differ by their
    rounding errors only; or the middle, where the bracket shrinks slowly. Before there is a right end, steps grow by 2
    to 10. If a trial isn't finite, the next one is at a tenth of it, as long as no trial on its left was.

    If no trial meets both conditions, the one of the lowest value with decrease is taken; without decrease the
    parameters stay. Along a direction that doesn't lead downhill nothing is evaluated, and the parameters stay. The
    state keeps value and gradient at the point reached for :func:`value_and_grad_from_state`.

    ``update`` needs ``params`` and the extra arguments ``value``, ``grad`` and ``value_fn``; for complex parameters
    ``grad`` is the conjugate of JAX's gradient. Other extra arguments that ``value_fn`` names are handed to it.

    Args:
      max_linesearch_steps: how many trials there may be, each of one value and gradient.
      slope_rtol: :math:`c_1` in [0, 1).
      curv_rtol: :math:`c_2 > c_1`; 0.1 for conjugate gradients, ``math.inf`` for no condition on curvature.
      approx_dec_rtol: :math:`c_3 \ge 0`, at least 8 times the machine precision of the values; ``None`` for no
        approximate decrease.
      initial_guess_strategy: the first trial: ``"one"`` is 1, for directions of a Newton-like method; ``"keep"`` the
        last step; ``"slope"`` the last step times :math:`\min(10, \phi'_{k-1}(0) / \phi'_k(0))`, which predicts
        the same first-order decrease.

    Example:
      >>> tx = chain(scale(-1.0), scale_by_hager_zhang_linesearch(initial_guess_strategy="slope"))
      >>> value_and_grad = value_and_grad_from_state(loss_fn)
      >>> value, grad = value_and_grad(params, batch, state=state)
      >>> updates, state = tx.update(
      ...     grad, state, params, value=value, grad=grad, value_fn=loss_fn, batch=batch
      ... )

    References: Hager and Zhang, *A New Conjugate Gradient Method with Guaranteed Descent and an Efficient Line
    Search*, 2005; *Algorithm 851: CG_DESCENT*, 2006.
    """

    max_linesearch_steps: Count = 25
    slope_rtol: DecreaseFraction = 1e-4
    curv_rtol: Positive = 0.9
    approx_dec_rtol: NonNegative | None = 1e-6
    initial_guess_strategy: Guess = "one"

    State = ScaleByHagerZhangLinesearchState

    def prepare(self, line: Line, best: Best, guess: Array, state: Any) -> tuple[Array, Memory]:
        infinite = jnp.full_like(guess, jnp.inf)
        return guess, Memory(line, best, line.start, Point(*[infinite] * 3), infinite, jnp.zeros((), jnp.int32))

    def tell(self, search: Search, value: Array, slope: Array) -> Search:
        own: Memory = search.own
        line, dtype = own.line, own.line.value.dtype
        trial = Point(search.step, value.astype(dtype), slope.astype(dtype))
        errors, finite = line.errors(trial), is_finite(trial)
        decrease = errors.decrease <= 0
        done = decrease & (errors.curvature <= 0)
        keep = done | (decrease & (trial.value < own.best.value))
        high = trial.value > line.value + jnp.maximum(line.noise, 0)
        is_right = ~finite | (trial.slope >= 0) | high | ~decrease
        new = own._replace(
            best=own.best.after(trial, errors, keep),
            left=select(is_right, own.left, trial),
            right=select(is_right, select(finite, trial, Point(trial.step, *[own.width + jnp.inf] * 2)), own.right),
        )
        step, new = _next(new, own.left)
        count = search.count + 1
        short = new.right.step - new.left.step <= 4 * jnp.finfo(dtype).eps * new.right.step
        short = jnp.isfinite(new.right.step) & short
        lost = ~((new.left.step < step) & (step < new.right.step))
        return Search(
            step=jnp.where(done, search.step, step),
            taken=jnp.where(keep, search.step, search.taken),
            keep=keep,
            done=done,
            failed=~done & (short | lost | (count >= line.most)),
            count=count,
            own=new,
        )


def _next(own: Memory, before: Point) -> tuple[Array, Memory]:
    """Return the next trial, and the memory with the bracket's progress; ``before`` is the left end before the last."""
    (a, fa, sa), (b, fb, sb) = own.left, own.right
    secant = jnp.where(sa > before.slope, a - sa * (a - before.step) / (sa - before.slope), jnp.inf)
    beyond = jnp.clip(secant, GROW[0] * a, GROW[1] * a)
    width = b - a
    back = a + width * jnp.where(a == 0, 0.1, 0.5)
    bracketed = jnp.isfinite(b) & jnp.isfinite(fb)
    stalled = jnp.where(bracketed & (width > SLOW * own.width), own.stalled + 1, 0)
    noisy = (jnp.abs(fb - fa) <= 10 * jnp.maximum(own.line.noise, 0)) & (sb > sa)
    inner = jnp.where(noisy, a - sa * width / (sb - sa), cubic_minimum(own.left, own.right))
    inner = jnp.where(jnp.isfinite(inner) & (stalled < 2), inner, a + width / 2)
    inner = jnp.clip(inner, a + INSIDE * width, b - INSIDE * width)
    step = jnp.where(bracketed, inner, jnp.where(jnp.isfinite(b), back, beyond))
    return step, own._replace(width=jnp.where(bracketed, width, own.width), stalled=stalled)


def cubic_minimum(left: Point, right: Point) -> Array:
    """Return the minimum of the cubic with these values and slopes at both ends; NaN if it has none."""
    (a, fa, sa), (b, fb, sb) = left, right
    d1 = sa + sb - 3 * (fa - fb) / (a - b)
    unit = jnp.maximum(jnp.abs(d1), jnp.maximum(jnp.abs(sa), jnp.abs(sb)))  # whose square may overflow
    sa, sb, d1 = sa / unit, sb / unit, d1 / unit
    d2 = jnp.sqrt(d1 * d1 - sa * sb)
    return b - (b - a) * (sb + d2 - d1) / (sb - sa + 2 * d2)

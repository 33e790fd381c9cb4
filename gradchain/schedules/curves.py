"""The formulas that schedules share: how far along a count is, and curves from one value to another.

A *curve* turns the done and the left part of an interval (two arrays in [0, 1] that sum to 1) into the weights of the
end value and of the start value. Both parts are carried, since ``1 - done`` has no correct digits near the end.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from gradchain import numerics


class Weights(NamedTuple):
    """The weights of an interval's end and start."""

    done: Any
    left: Any


Curve = Callable[[Any, Any], Weights]


def whole(number: Any) -> Any:
    """Return a Python number as an int, so that whole arrays stay whole beside it, or a float if that can't hold it."""
    if not isinstance(number, int | float):
        return number
    return int(number) if abs(number) < 2**31 and number == int(number) else float(number)


def since(count: Array, begin: Any) -> Array:
    """Return ``count - begin``, a whole number if both are: in float32, counts above 2**24 would lose steps."""
    return count - whole(begin)


def progress(count: Array, begin: Any, steps: Any) -> Weights:
    """Return the done and the left part of ``steps`` updates that start at ``begin``; no steps are done at once."""
    some = jnp.asarray(steps > 0)
    length = jnp.where(some, jnp.asarray(steps, float), 1)
    elapsed, rest = since(count, begin), -since(count, whole(begin) + whole(steps))
    done = jnp.clip(jnp.asarray(elapsed, float) / length, 0, 1)
    left = jnp.clip(jnp.asarray(rest, float) / length, 0, 1)
    return Weights(jnp.where(some, done, elapsed >= 0), jnp.where(some, left, elapsed < 0))


def mix(start: Any, end: Any, weights: Weights) -> Any:
    """Return the weighted sum, which is exactly ``start`` or ``end`` where the other's weight is 0, never beyond."""
    mixed = jnp.asarray(start * weights.left + end * weights.done)
    return numerics.into_range(mixed, jnp.minimum(start, end), jnp.maximum(start, end))


def linear(done: Any, left: Any) -> Weights:
    """Follow a straight line."""
    return Weights(done, left)


def hold(done: Any, left: Any) -> Weights:
    """Stay at the start value."""
    return Weights(jnp.zeros_like(done), jnp.ones_like(left))


def cosine(done: Any, left: Any) -> Weights:
    r"""Follow half a cosine wave: :math:`(1 + \cos \pi x) / 2 = \sin^2(\pi (1 - x) / 2)`, exact at both ends."""
    return Weights(jnp.sin(math.pi / 2 * done) ** 2, jnp.sin(math.pi / 2 * left) ** 2)


def powered(curve: Curve, exponent: Any) -> Curve:
    """Return ``curve`` with the start value's weight raised to ``exponent``."""

    def result(done: Any, left: Any) -> Weights:
        weight = power(curve(done, left).left, exponent)
        return Weights(1 - weight, weight)

    return result


def one_minus_sqrt(done: Any, left: Any) -> Weights:
    r"""Follow :math:`1 - \sqrt x`, evaluated as :math:`(1 - x) / (1 + \sqrt x)`."""
    root = numerics.sqrt(done)
    return Weights(root, left / (1 + root))


def early(exponent: Any) -> Curve:
    r"""Return the curve :math:`1 - x^p`, which for :math:`p < 1` falls fast at first."""

    def result(done: Any, left: Any) -> Weights:
        weight = power(done, exponent)
        return Weights(weight, 1 - weight)

    return result


def power(base: Any, exponent: Any) -> Array:
    """Return ``base ** exponent`` for ``base >= 0``, ``exponent > 0``, with derivative 0 where ``base`` is 0."""
    positive = base > 0
    return jnp.where(positive, jnp.where(positive, base, 1) ** exponent, 0)


def log(x: Any) -> Any:
    """Return the natural logarithm, a Python number's in double precision."""
    return math.log(x) if isinstance(x, int | float) else jnp.log(x)


def growth(rate: Any, exponent: Array) -> Array:
    """Return ``rate ** exponent`` for ``rate > 0``, kept finite: at most the root of the dtype's largest number."""
    return jnp.exp(jnp.minimum(exponent * log(rate), math.log(jnp.finfo(exponent.dtype).max) / 2))


def exponential(
    count: Array,
    init_value: Any,
    transition_steps: Any,
    decay_rate: Any,
    transition_begin: Any,
    staircase: bool,
    end_value: Any,
) -> Array:
    """Return exponential decay from ``init_value``, bounded by ``end_value`` unless that is ``None``."""
    some = jnp.asarray(transition_steps > 0)
    elapsed, length = jnp.maximum(since(count, transition_begin), 0), jnp.where(some, whole(transition_steps), 1)
    passed = elapsed // length if staircase else jnp.asarray(elapsed, float) / length
    value = init_value * jnp.where(some, growth(decay_rate, jnp.asarray(passed, float)), 1)
    if end_value is None:
        return value
    return jnp.where(decay_rate < 1, jnp.maximum(value, end_value), jnp.minimum(value, end_value))


class Knot(NamedTuple):
    """A point that a schedule passes through, and the curve on which it arrives there."""

    step: Any
    value: Any
    curve: Curve = linear


def through(count: Array, knots: Sequence[Knot]) -> Array:
    """Return the value on the curves through ``knots``, constant before the first and from the last one on.

    Where several knots share a step the last of them counts from there on.
    """
    value = knots[-1].value + jnp.zeros(count.shape, float)
    for start, end in reversed(list(itertools.pairwise(knots))):
        weights = end.curve(*progress(count, start.step, end.step - start.step))
        value = jnp.where(since(count, end.step) < 0, mix(start.value, end.value, weights), value)
    return value

"""What a schedule ends at, and how far it goes on the way there."""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from gradchain.core.hyper import ABSTRACT, FunctionSchedule, Schedule
from gradchain.core.value import Value

LAST = 2**31 - 1
"""A count at which every schedule that ends has ended."""
MANY = 2**14
"""How many counts are looked at in one go."""
FEW = 128
"""The same of a Python function that takes one count at a time."""
ROUNDING = 1e-6
"""How far, relatively, a value must lie beyond the ends to count as another one."""


class Extremes(NamedTuple):
    """The smallest and the largest value of a schedule, ``None`` where that is one of the ends or isn't known."""

    smallest: float | None = None
    largest: float | None = None


def ends_at(value: Any, steps: int | None) -> Any:
    """Return the value after ``steps`` updates, or where a schedule stops by itself; ``None`` if that isn't known."""
    if not isinstance(value, Schedule) or (steps is None and _holds_function(value)):
        return None
    return value(jnp.asarray(LAST if steps is None else steps, jnp.int32))


def extremes(schedule: Any, steps: int | None, ends: tuple[Any, ...]) -> Extremes:
    """Return how far a schedule goes beyond ``ends`` in its course: the first ``steps`` updates, or all until its end.

    Short courses are looked at count by count; long ones at many counts, at all the schedule's own numbers, and closely
    around the extremes of those.
    """
    if any(not isinstance(end, float | int) for end in ends) or not isinstance(schedule, Schedule):
        return Extremes()
    numbers, last = _numbers(schedule), LAST if steps is None else steps
    length = int(min(last, sum(numbers) + 1)) if steps is None else steps
    marks = [np.floor(x) + d for x in [*numbers, *np.cumsum(numbers)] for d in (-1, 0, 1, 2)]
    counts = np.unique([*_spread(0, length), *marks, *(2**i for i in range(31))])
    counts = counts[(counts >= 0) & (counts <= last)].astype(np.int32)
    low, high = _furthest(schedule, counts, -1), _furthest(schedule, counts, 1)
    margin = ROUNDING * max(map(abs, (*ends, low, high)))
    return Extremes(low if low < min(ends) - margin else None, high if high > max(ends) + margin else None)


def _numbers(schedule: Schedule) -> list[float]:
    """Return the single numbers in a schedule that may be counts: its lengths and boundaries are among them."""
    single = [x for x in jax.tree.leaves(schedule) if not isinstance(x, ABSTRACT) and np.ndim(x) == 0]
    return [float(x) for x in single if 0 < x <= LAST]


def _spread(low: int, high: int) -> Any:
    """Return all whole numbers from ``low`` to ``high``, or ``MANY`` of them."""
    return np.linspace(low, high, min(high - low + 1, MANY)).round()


def _furthest(schedule: Schedule, counts: Any, sign: int) -> float:
    """Return the largest value (smallest if ``sign`` is -1) at the counts, and at those between its neighbours."""
    best = -np.inf
    while True:
        values = sign * _values(schedule, counts)
        values = np.where(np.isnan(values), -np.inf, values)
        i = int(np.argmax(values))
        best = max(best, float(values[i]))
        low, high = int(counts[max(i - 1, 0)]), int(counts[min(i + 1, len(counts) - 1)])
        if high - low <= 2 or len(counts) <= FEW:
            return sign * best
        counts = np.unique(_spread(low, high)).astype(np.int32)


def _values(schedule: Schedule, counts: Any) -> Any:
    if not _holds_function(schedule):
        padded = np.pad(counts, (0, -len(counts) % (2 * MANY)), mode="edge")  # one shape, to compile once
        return np.asarray(jnp.broadcast_to(schedule(jnp.asarray(padded)), padded.shape), float)[: len(counts)]
    try:
        return np.asarray(jax.vmap(schedule)(jnp.asarray(counts)), float)
    except (TypeError, jax.errors.JAXTypeError, jax.errors.JAXIndexError):  # it takes one whole number at a time
        some = np.linspace(0, len(counts) - 1, min(len(counts), FEW)).round().astype(int)
        found = {i: float(schedule(jnp.asarray(counts[i], jnp.int32))) for i in some.tolist()}
        return np.asarray([found.get(i, np.nan) for i in range(len(counts))])


def _holds_function(value: Any) -> bool:
    """Whether a schedule is made of a bare callable, which need not take any count."""
    if isinstance(value, tuple):
        return any(map(_holds_function, cast(Any, value)))
    inner = isinstance(value, Value) and any(_holds_function(x) for _, _, x in value.fields())
    return inner or isinstance(value, FunctionSchedule)

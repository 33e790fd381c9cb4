"""Schedules made of schedules. (For sums, products and scalings, use the operators ``+ - * /``.)"""

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Self

import jax.numpy as jnp
from jax import Array

from gradchain.core.hyper import FunctionSchedule, Number, Numbers, Schedule, value_at
from gradchain.core.value import register
from gradchain.schedules.base import STEPS, as_count, check_order
from gradchain.schedules.curves import since
from gradchain.signatures import public


def switch(count: Array, starts: Sequence[Any], schedules: Sequence[Any]) -> Array:
    """Return the value of the schedule whose turn it is, at the number of updates since its start."""
    result = None
    for start, schedule in zip(starts, schedules, strict=True):
        elapsed = since(count, start)
        local = jnp.maximum(elapsed, 0)
        if isinstance(schedule, FunctionSchedule):
            local = local.astype(count.dtype)
        value = jnp.broadcast_to(value_at(schedule, local), count.shape)
        result = value if result is None else jnp.where(elapsed >= 0, value, result)
    return jnp.asarray(result, float)


@register
class JoinedSchedules(Schedule):
    """See :func:`join_schedules`."""

    name = "join_schedules"
    schedules: Annotated[tuple[Any, ...], Numbers(Number("Hyper"))]
    boundaries: Annotated[tuple[Any, ...], Numbers(STEPS)]

    def checked(self) -> Self:
        check_order(self.name, {f"boundaries[{i}]": step for i, step in enumerate(self.boundaries)})
        return self

    def __call__(self, count: Any) -> Array:
        count = as_count(count)
        starts = (0.0, *(value_at(boundary, count) for boundary in self.boundaries))
        return switch(count, starts, self.schedules)


@public
def join_schedules(
    schedules: Iterable[float | Callable[[Any], Any]], boundaries: Iterable[float | Array]
) -> JoinedSchedules:
    r"""Follow one schedule after another; each one counts from its own start.

    .. math:: s_i(k - b_i) \quad\text{for } b_i \le k < b_{i+1}, \qquad b_0 = 0

    It starts with the first schedule's first value, and ends as the last schedule does, ``boundaries[-1]`` updates
    later.

    Args:
      schedules: schedules, numbers (constant parts) or other callables; at least one.
      boundaries: :math:`b_1 \le b_2 \le \dots`, the steps at which the second schedule starts, the third and so on.

    Raises:
      ValueError: if there isn't exactly one boundary fewer than schedules (Optax ignores surplus ones of
        either), or if boundaries decrease.

    Example:
      >>> hold_then_fall = join_schedules([0.1, cosine_decay_schedule(0.1, 900)], [100])

    A plain callable receives integer counts if the joined schedule does, whether or not boundaries are traced, so that
    it may index a table.
    """
    kinds = JoinedSchedules.kinds
    parts = kinds["schedules"].normalize("join_schedules: schedules", schedules)
    steps = kinds["boundaries"].normalize("join_schedules: boundaries", boundaries)
    if len(steps) != len(parts) - 1:
        surplus = steps[max(len(parts) - 1, 0) :]
        cure = f"; no schedule starts at {surplus[0]}: leave it out, or add one" if parts and surplus else ""
        raise ValueError(
            f"join_schedules: boundaries must be one fewer than schedules, got {len(steps)} for {len(parts)} "
            f"schedules{cure}"
        )
    return JoinedSchedules(parts, steps).checked()

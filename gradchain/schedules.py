"""Schedules: hyperparameters as functions of the number of updates so far.

Each is a callable pytree of its own numbers: ``schedule(count)`` gives the value, 0 being the first update. All return
float32 or wider, are constant past their end and finite at every step, map over batches of their own numbers, and
add, subtract, multiply and divide with each other and with numbers.
"""

from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec

import jax.numpy as jnp
from jax import Array

from gradchain.core.hyper import Hyper, NonNegative, Positive, Schedule, value_at
from gradchain.core.value import define

P = ParamSpec("P")


def schedule(function: Callable[Concatenate[Array, P], Any]) -> Callable[P, Schedule]:
    """Turn ``f(count, ...)`` into a constructor of schedules: its other parameters become the schedule's numbers.

    The function sees ``count`` as a floating-point array of any shape, at least 0, and its numbers in the same dtype (or
    as Python numbers); it must use ``where`` instead of ``if`` on both.

    Example:
      >>> @schedule
      ... def halving(count, init_value: Hyper, every: Positive):
      ...     return init_value * 0.5 ** jnp.floor(count / every)
      >>> halving(0.1, every=100)(250)
      Array(0.025, dtype=float32)
    """

    def call(self: Schedule, count: Any) -> Array:
        count = jnp.asarray(count, float)
        fields = {name: value_at(value, count) if kind.data else value for name, kind, value in self.fields()}
        return jnp.asarray(function(count, **fields), count.dtype)  # pyright: ignore

    return define(function, 1, Schedule, {"__call__": call})


@schedule
def constant_schedule(count: Array, value: Hyper):
    """Return ``value`` at every step.

    Args:
      value: any real number.
    """
    return jnp.full_like(count, value)


@schedule
def linear_schedule(
    count: Array, init_value: Hyper, end_value: Hyper, transition_steps: NonNegative, transition_begin: NonNegative = 0.0
):
    r"""Move from one value to another on a straight line: :math:`a + (b - a)\,\mathrm{clip}((k - k_0) / n, 0, 1)`.

    The value is ``init_value`` up to step ``transition_begin``, and ``end_value`` from
    ``transition_begin + transition_steps`` on. With ``transition_steps=0`` it is ``init_value`` throughout, as in Optax.

    Args:
      init_value: :math:`a`, the value at step 0.
      end_value: :math:`b`, the last value.
      transition_steps: :math:`n \ge 0`, in updates.
      transition_begin: :math:`k_0 \ge 0`, in updates.
    """
    raise TypeError

"""Schedules: hyperparameters as functions of the step count, the number of updates so far.

Each is a callable pytree of its own parameters, lengths included: ``schedule(count)`` gives the value, 0 being the
first update. All return float32 or wider, are constant past their end and finite at every step, in value and
derivative, can be mapped over batches of their parameters, and can be added, subtracted, multiplied and divided with
each other and with numbers.

``count`` is an integer, an array of integers (for a plot), or a float. If the count, lengths and boundaries are
integers, they are subtracted and compared as integers: no step is lost above 2**24 updates.
"""

from typing import TYPE_CHECKING, Any

from gradchain.core.hyper import Schedule
from gradchain.schedules.base import PositiveSteps, Steps, schedule
from gradchain.schedules.compose import join_schedules
from gradchain.schedules.cycles import cosine_onecycle_schedule, linear_onecycle_schedule, sgdr_schedule
from gradchain.schedules.decay import (
    constant_schedule,
    cosine_decay_schedule,
    exponential_decay,
    inverse_sqrt_schedule,
    linear_half_life_schedule,
    linear_schedule,
    polynomial_schedule,
)
from gradchain.schedules.piecewise import piecewise_constant_schedule, piecewise_interpolate_schedule
from gradchain.schedules.warmup import (
    fast_slow_decay_schedule,
    warmup_constant_schedule,
    warmup_cosine_decay_schedule,
    warmup_exponential_decay_schedule,
    warmup_stable_decay_schedule,
)
from gradchain.signatures import no_attribute

__all__ = [
    "PositiveSteps",
    "Schedule",
    "Steps",
    "constant_schedule",
    "cosine_decay_schedule",
    "cosine_onecycle_schedule",
    "exponential_decay",
    "fast_slow_decay_schedule",
    "inverse_sqrt_schedule",
    "join_schedules",
    "linear_half_life_schedule",
    "linear_onecycle_schedule",
    "linear_schedule",
    "piecewise_constant_schedule",
    "piecewise_interpolate_schedule",
    "polynomial_schedule",
    "schedule",
    "sgdr_schedule",
    "warmup_constant_schedule",
    "warmup_cosine_decay_schedule",
    "warmup_exponential_decay_schedule",
    "warmup_stable_decay_schedule",
]

if not TYPE_CHECKING:  # to which any name would be one

    def __getattr__(name: str) -> Any:
        raise no_attribute(__name__, name, __all__)

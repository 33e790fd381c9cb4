"""Schedules in Optax's conventions, made of :mod:`gradchain.schedules`.

They are gradchain's values wherever the numbers are in its ranges. Others are taken as Optax takes them: lengths of 0
or less leave the initial value, a start before 0 is 0.
"""

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gradchain import schedules
from gradchain.core.hyper import FunctionSchedule, Hyper
from gradchain.numerics import safe_increment
from gradchain.optax._base import Schedule, StatefulSchedule
from gradchain.signatures import public

__all__ = [
    "InjectHyperparamsState",
    "InjectStatefulHyperparamsState",
    "Schedule",
    "StatefulSchedule",
    "WrappedSchedule",
    "constant_schedule",
    "cosine_decay_schedule",
    "cosine_onecycle_schedule",
    "exponential_decay",
    "inject_hyperparams",
    "inject_stateful_hyperparams",
    "join_schedules",
    "linear_onecycle_schedule",
    "linear_schedule",
    "piecewise_constant_schedule",
    "piecewise_interpolate_schedule",
    "polynomial_schedule",
    "sgdr_schedule",
    "warmup_constant_schedule",
    "warmup_cosine_decay_schedule",
    "warmup_exponential_decay_schedule",
]

if TYPE_CHECKING:
    from gradchain.optax._inject import (
        InjectHyperparamsState,
        InjectStatefulHyperparamsState,
        inject_hyperparams,
        inject_stateful_hyperparams,
    )
else:

    def __getattr__(name: str) -> Any:  # what injects hyperparameters is made of what is here
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module("gradchain.optax._inject"), name)


class WrappedScheduleState(NamedTuple):
    """The state of :class:`WrappedSchedule`."""

    count: Any


@public
class WrappedSchedule:
    """A :class:`StatefulSchedule` that counts the updates for a function of their number."""

    def __init__(self, schedule_fn: Schedule):
        self.schedule_fn = schedule_fn

    def init(self) -> WrappedScheduleState:
        """Return a count of 0."""
        return WrappedScheduleState(jnp.zeros((), jnp.int32))

    def update(self, state: WrappedScheduleState, **extra_args: Any) -> WrappedScheduleState:
        """Return the count plus 1."""
        return WrappedScheduleState(safe_increment(state.count))

    def __call__(self, state: WrappedScheduleState, **extra_args: Any) -> Any:
        """Return the function's value at the count."""
        return self.schedule_fn(state.count)


def _at_most(number: Any, bound: float) -> bool:
    """Tell whether a number is known to be ``bound`` or less."""
    return not isinstance(number, Tracer) and bool(np.all(np.asarray(number) <= bound))


def _or_plain(constructor: Callable[..., Any], formula: Callable[[Any], Any], *args: Any, **kwargs: Any) -> Any:
    """Return gradchain's schedule, or the formula where gradchain refuses the numbers."""
    try:
        return constructor(*args, **kwargs)
    except (TypeError, ValueError):
        return FunctionSchedule(formula)


@public
def constant_schedule(value: Any) -> Schedule:
    """Return ``value`` at every step: see :func:`gradchain.constant_schedule`. Whole numbers stay whole."""
    if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        return FunctionSchedule(lambda count: value)
    return schedules.constant_schedule(value)


@public
def polynomial_schedule(
    init_value: Hyper, end_value: Hyper, power: Hyper, transition_steps: int, transition_begin: int = 0
) -> Schedule:
    """Move to a value as a power of the remaining time: see :func:`gradchain.polynomial_schedule`.

    With no steps, or a negative number of them, the value stays at ``init_value``.
    """
    if _at_most(transition_steps, 0):
        return constant_schedule(init_value)
    begin = 0 if _at_most(transition_begin, 0) else transition_begin

    def formula(count: Any) -> Any:
        left = 1 - jnp.clip(count - begin, 0, transition_steps) / transition_steps
        return (init_value - jnp.asarray(end_value)) * left**power + end_value

    return _or_plain(
        schedules.polynomial_schedule, formula, init_value, end_value, power, transition_steps, transition_begin=begin
    )


@public
def linear_schedule(init_value: Hyper, end_value: Hyper, transition_steps: int, transition_begin: int = 0) -> Schedule:
    """Move linearly to a value: see :func:`gradchain.linear_schedule`.

    With no steps, or a negative number of them, the value stays at ``init_value``.
    """
    if _at_most(transition_steps, 0):
        return constant_schedule(init_value)
    begin = 0 if _at_most(transition_begin, 0) else transition_begin
    return schedules.linear_schedule(init_value, end_value, transition_steps, begin)


@public
def exponential_decay(
    init_value: Hyper,
    transition_steps: int,
    decay_rate: Hyper,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: Hyper | None = None,
) -> Schedule:
    """Multiply by ``decay_rate`` every ``transition_steps`` updates: see :func:`gradchain.exponential_decay`.

    With no steps, or a ``decay_rate`` of 0, the value stays at ``init_value``.
    """
    if _at_most(transition_steps, 0) or _is_zero(decay_rate):
        return constant_schedule(init_value)
    begin = 0 if _at_most(transition_begin, 0) else transition_begin

    def formula(count: Any) -> Any:
        passed = (count - begin) / transition_steps
        power = jnp.power(decay_rate, jnp.floor(passed) if staircase else passed)
        value = jnp.where(passed <= 0, init_value, init_value * power)
        return value if end_value is None else jnp.maximum(value, end_value)

    numbers = (init_value, transition_steps, decay_rate, begin, bool(staircase), end_value)
    return _or_plain(schedules.exponential_decay, formula, *numbers)


def _is_zero(number: Any) -> bool:
    return not isinstance(number, Tracer) and bool(np.all(np.asarray(number) == 0))


@public
def cosine_decay_schedule(init_value: Hyper, decay_steps: int, alpha: Hyper = 0.0, exponent: Hyper = 1.0) -> Schedule:
    """Decay along half a cosine wave: see :func:`gradchain.cosine_decay_schedule`.

    Raises:
      ValueError: unless ``decay_steps`` is positive.
    """
    if _at_most(decay_steps, 0):
        raise ValueError(f"cosine_decay_schedule: decay_steps must be positive, got {decay_steps}")

    def formula(count: Any) -> Any:
        wave = (1 + jnp.cos(jnp.pi * jnp.minimum(count, decay_steps) / decay_steps)) / 2
        return init_value * ((1 - alpha) * wave**exponent + alpha)

    return _or_plain(schedules.cosine_decay_schedule, formula, init_value, decay_steps, alpha, exponent)


@public
def piecewise_constant_schedule(
    init_value: Hyper, boundaries_and_scales: Mapping[int, float] | None = None
) -> Schedule:
    """Multiply by a factor at each of the given steps: see :func:`gradchain.piecewise_constant_schedule`."""
    return schedules.piecewise_constant_schedule(init_value, _table(boundaries_and_scales))


@public
def piecewise_interpolate_schedule(
    interpolate_type: str, init_value: Hyper, boundaries_and_scales: Mapping[int, float] | None = None
) -> Schedule:
    """Interpolate between given values: see :func:`gradchain.piecewise_interpolate_schedule`."""
    return schedules.piecewise_interpolate_schedule(interpolate_type, init_value, _table(boundaries_and_scales))


def _table(boundaries_and_scales: Any) -> Any:
    """Return ``None`` for an empty table."""
    return boundaries_and_scales or None


@public
def linear_onecycle_schedule(
    transition_steps: int,
    peak_value: Hyper,
    pct_start: float = 0.3,
    pct_final: float = 0.85,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Schedule:
    """Rise to a peak, fall back and fall further: see :func:`gradchain.linear_onecycle_schedule`.

    Fractions of ``transition_steps`` are rounded down as floating-point numbers, and where two of the steps coincide,
    the later factor counts alone.
    """
    if transition_steps <= 0:
        raise ValueError(f"linear_onecycle_schedule: transition_steps must be positive, got {transition_steps}")
    table = {
        int(pct_start * transition_steps): div_factor,
        int(pct_final * transition_steps): 1.0 / div_factor,
        transition_steps: 1.0 / final_div_factor,
    }
    return schedules.piecewise_interpolate_schedule("linear", peak_value / div_factor, table)


@public
def cosine_onecycle_schedule(
    transition_steps: int,
    peak_value: Hyper,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Schedule:
    """Rise to a peak and fall along half cosine waves: see :func:`gradchain.cosine_onecycle_schedule`.

    Fractions of ``transition_steps`` are rounded down as floating-point numbers.
    """
    if transition_steps <= 0:
        raise ValueError(f"cosine_onecycle_schedule: transition_steps must be positive, got {transition_steps}")
    table = {
        int(pct_start * transition_steps): div_factor,
        int(transition_steps): 1.0 / (div_factor * final_div_factor),
    }
    return schedules.piecewise_interpolate_schedule("cosine", peak_value / div_factor, table)


@public
def join_schedules(schedules: Sequence[Schedule], boundaries: Sequence[int]) -> Schedule:
    """Follow one schedule after another, each from its own start: see :func:`gradchain.join_schedules`.

    Schedules or boundaries that are too many are left out.
    """
    parts, steps = list(schedules), list(boundaries)
    parts, steps = parts[: len(steps) + 1], steps[: max(len(parts) - 1, 0)]

    def formula(count: Any) -> Any:
        output = parts[0](count)
        for boundary, part in zip(steps, parts[1:], strict=True):
            output = jnp.where(count < boundary, output, part(count - boundary))
        return output

    if any(isinstance(step, float) and step != int(step) for step in steps):
        return FunctionSchedule(formula)  # within which functions count from there in fractions
    return _or_plain(_join, formula, parts, steps)


_join = schedules.join_schedules


@public
def sgdr_schedule(cosine_kwargs: Iterable[Mapping[str, Any]]) -> Schedule:
    """Repeat warm-up and cosine decay: see :func:`gradchain.sgdr_schedule`."""
    parts = list(cosine_kwargs)
    starts, total = list[Any](), 0
    for part in parts:
        total += part["decay_steps"]
        starts.append(total)
    return join_schedules([warmup_cosine_decay_schedule(**part) for part in parts], starts[:-1])


@public
def warmup_constant_schedule(init_value: Hyper, peak_value: Hyper, warmup_steps: int) -> Schedule:
    """Rise linearly, then stay constant: see :func:`gradchain.warmup_constant_schedule`.

    Without a warm-up the value stays at ``init_value``.
    """
    if _at_most(warmup_steps, 0):
        return constant_schedule(init_value)
    return schedules.warmup_constant_schedule(init_value, peak_value, warmup_steps)


@public
def warmup_cosine_decay_schedule(
    init_value: Hyper,
    peak_value: Hyper,
    warmup_steps: int,
    decay_steps: int,
    end_value: Hyper = 0.0,
    exponent: Hyper = 1.0,
) -> Schedule:
    """Rise linearly, then decay along half a cosine wave: see :func:`gradchain.warmup_cosine_decay_schedule`.

    With a peak of 0 it ends at 0.

    Raises:
      ValueError: unless ``decay_steps`` is larger than ``warmup_steps``.
    """
    if _at_most(decay_steps - warmup_steps, 0):
        raise ValueError(
            f"warmup_cosine_decay_schedule: decay_steps, which includes the warm-up, must exceed warmup_steps, got "
            f"decay_steps={decay_steps} and warmup_steps={warmup_steps}"
        )
    end = 0.0 if _is_zero(peak_value) else end_value
    rise = linear_schedule(init_value, peak_value, warmup_steps)
    alpha = 0.0 if _is_zero(peak_value) else end_value / peak_value
    return _or_plain(
        schedules.warmup_cosine_decay_schedule,
        join_schedules(
            [rise, cosine_decay_schedule(peak_value, decay_steps - warmup_steps, alpha, exponent)], [warmup_steps]
        ),
        *(init_value, peak_value, warmup_steps, decay_steps, end, exponent),
    )


@public
def warmup_exponential_decay_schedule(
    init_value: Hyper,
    peak_value: Hyper,
    warmup_steps: int,
    transition_steps: int,
    decay_rate: Hyper,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: Hyper | None = None,
) -> Schedule:
    """Rise linearly, then decay exponentially: see :func:`gradchain.warmup_exponential_decay_schedule`."""
    rise = linear_schedule(init_value, peak_value, warmup_steps)
    fall = exponential_decay(peak_value, transition_steps, decay_rate, transition_begin, staircase, end_value)
    return join_schedules([rise, fall], [warmup_steps])

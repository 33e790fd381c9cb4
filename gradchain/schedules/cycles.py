"""One cycle up and down, and repeated cycles with warm restarts."""

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import jax.numpy as jnp
from jax import Array

from gradchain.core.hyper import Fraction, Hyper, Positive, value_at
from gradchain.core.value import Kind
from gradchain.schedules import curves
from gradchain.schedules.base import PositiveSteps, counted, ordered
from gradchain.schedules.compose import switch
from gradchain.schedules.curves import Knot, through
from gradchain.schedules.warmup import warmup_cosine_decay_schedule


def _whole_part(part: Any, steps: Any) -> Any:
    """Return ``part * steps`` rounded down; products that miss a whole number by rounding only count as whole."""
    if isinstance(part, int | float) and isinstance(steps, int | float):
        return math.floor(part * steps * (1 + 2.0**-44))
    return jnp.floor(part * steps * (1 + 2.0**-22))


@ordered("pct_start", "pct_final")
@counted
def linear_onecycle_schedule(
    count: Array,
    transition_steps: PositiveSteps,
    peak_value: Hyper,
    pct_start: Fraction = 0.3,
    pct_final: Fraction = 0.85,
    div_factor: Positive = 25.0,
    final_div_factor: Positive = 1e4,
):
    r"""Rise to a peak, fall back, and fall further, on three straight lines.

    The lines pass through :math:`b / d` at step 0, :math:`b` at step :math:`\lfloor p n \rfloor`, :math:`b / d` at step
    :math:`\lfloor q n \rfloor` and :math:`b / (d f)` from step :math:`n` on. The inner two steps are rounded down to
    integers, as in Optax, so the derivatives with respect to ``pct_start`` and ``pct_final`` are 0. If two of these
    steps coincide, the later point applies from there on.

    Args:
      transition_steps: :math:`n > 0`, the length in updates.
      peak_value: :math:`b`.
      pct_start: :math:`p`, the fraction of the steps at which the peak is reached, in [0, 1].
      pct_final: :math:`q \ge p`, the fraction of the steps at which the first value is reached again.
      div_factor: :math:`d > 0`, the peak divided by the first value.
      final_div_factor: :math:`f > 0`, the first value divided by the last one.

    Raises:
      ValueError: if ``pct_final`` is below ``pct_start``.

    Reference: Smith and Topin, *Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates*,
    2018, section 3.
    """
    low = peak_value / div_factor
    return through(
        count,
        [
            Knot(0.0, low),
            Knot(_whole_part(pct_start, transition_steps), peak_value),
            Knot(_whole_part(pct_final, transition_steps), low),
            Knot(transition_steps, low / final_div_factor),
        ],
    )


@counted
def cosine_onecycle_schedule(
    count: Array,
    transition_steps: PositiveSteps,
    peak_value: Hyper,
    pct_start: Fraction = 0.3,
    div_factor: Positive = 25.0,
    final_div_factor: Positive = 1e4,
):
    r"""Rise to a peak and fall again, on two half cosine waves.

    They pass through :math:`b / d` at step 0, :math:`b` at step :math:`\lfloor p n \rfloor` and :math:`b / (d f)` from
    step :math:`n` on. The inner step is rounded down to an integer, as in Optax, so the derivative with respect to
    ``pct_start`` is 0.

    Args:
      transition_steps: :math:`n > 0`, the length in updates.
      peak_value: :math:`b`.
      pct_start: :math:`p`, the fraction of the steps at which the peak is reached, in [0, 1].
      div_factor: :math:`d > 0`, the peak divided by the first value.
      final_div_factor: :math:`f > 0`, the first value divided by the last one.

    Reference: Smith and Topin, *Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates*,
    2018, section 3.
    """
    low = peak_value / div_factor
    return through(
        count,
        [
            Knot(0.0, low),
            Knot(_whole_part(pct_start, transition_steps), peak_value, curves.cosine),
            Knot(transition_steps, low / final_div_factor, curves.cosine),
        ],
    )


class Cycles(Kind):
    """A tuple of ``warmup_cosine_decay_schedule`` values, made from their arguments as dicts, or given as they are."""

    data = True
    label = "Iterable[Mapping[str, Hyper]]"

    def normalize(self, where: str, value: Any) -> Any:
        if isinstance(value, Mapping) or not isinstance(value, Iterable):
            raise TypeError(f"{where} must be a sequence of dicts, got {value!r}")
        cycles = tuple(self._cycle(f"{where}[{i}]", cycle) for i, cycle in enumerate(value))  # pyright: ignore
        if not cycles:
            raise ValueError(f"{where} must hold at least one cycle")
        return cycles

    def _cycle(self, where: str, cycle: Any) -> Any:
        if isinstance(cycle, warmup_cosine_decay_schedule.Value):  # pyright: ignore
            return cycle
        if not isinstance(cycle, Mapping):
            raise TypeError(f"{where} must be a dict of warmup_cosine_decay_schedule's arguments, got {cycle!r}")
        return warmup_cosine_decay_schedule(**cycle)  # pyright: ignore


@counted
def sgdr_schedule(count: Array, cosine_kwargs: Annotated[Any, Cycles()]):
    r"""Run several cycles of linear warm-up and cosine decay, one after another: warm restarts.

    Cycle :math:`i` starts at step :math:`n_1 + \dots + n_{i-1}`, :math:`n_j` being cycle :math:`j`'s ``decay_steps``.
    The first value is the first cycle's, the last one the last cycle's ``end_value``, from step
    :math:`n_1 + \dots + n_m` on. Changing a ``decay_steps`` shifts the later cycles.

    Args:
      cosine_kwargs: for each cycle, a dict with the arguments of :func:`warmup_cosine_decay_schedule`, or a schedule
        made by it.

    Example:
      Two restarts, each cycle twice as long as the one before:

      >>> sgdr_schedule([dict(init_value=0.1, peak_value=0.1, warmup_steps=0, decay_steps=n) for n in (100, 200, 400)])

    Reference: Loshchilov and Hutter, *SGDR: Stochastic Gradient Descent with Warm Restarts*, 2017, section 3.
    """
    starts: list[Any] = [0.0]
    for cycle in cosine_kwargs[:-1]:
        starts.append(starts[-1] + value_at(cycle.decay_steps, count))
    return switch(count, starts, cosine_kwargs)

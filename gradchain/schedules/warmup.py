"""Schedules that start with a linear warm-up to a peak. Its length may be 0: the schedule then starts at the peak."""

from typing import Annotated, Any

import jax.numpy as jnp
from jax import Array

from gradchain.core.hyper import Hyper, Positive
from gradchain.core.value import Choice
from gradchain.schedules import curves
from gradchain.schedules.base import Steps, counted, ordered
from gradchain.schedules.curves import Knot, powered, through

DECAYS = {"linear": curves.linear, "cosine": curves.cosine, "1-sqrt": curves.one_minus_sqrt}


@counted
def warmup_constant_schedule(count: Array, init_value: Hyper, peak_value: Hyper, warmup_steps: Steps):
    r"""Rise linearly, then stay constant: :math:`a + (b - a) \min(k / w, 1)`.

    The first value is ``init_value``; from step ``warmup_steps`` on it is ``peak_value``. With ``warmup_steps=0`` it is
    ``peak_value`` throughout, as in the other schedules with warm-up; Optax returns ``init_value`` forever there.

    Args:
      init_value: :math:`a`.
      peak_value: :math:`b`.
      warmup_steps: :math:`w \ge 0`, in updates.
    """
    return through(count, [Knot(0.0, init_value), Knot(warmup_steps, peak_value)])


@ordered("warmup_steps", "decay_steps")
@counted
def warmup_cosine_decay_schedule(
    count: Array,
    init_value: Hyper,
    peak_value: Hyper,
    warmup_steps: Steps,
    decay_steps: Steps,
    end_value: Hyper = 0.0,
    exponent: Positive = 1.0,
):
    r"""Rise linearly, then decay along half a cosine wave.

    .. math:: a + (b - a)\,k / w \;\text{ for } k < w, \qquad
        c + (b - c) \left(\tfrac12 (1 + \cos \pi x_k)\right)^p, \quad x_k = \frac{k - w}{n - w}
        \;\text{ for } w \le k < n

    The first value is ``init_value`` (``peak_value`` if there is no warm-up), ``peak_value`` is reached at step
    ``warmup_steps``, and ``end_value`` at step ``decay_steps``. It ends there whatever the peak; Optax ends at 0 if
    ``peak_value`` is 0.

    Args:
      init_value: :math:`a`.
      peak_value: :math:`b`.
      warmup_steps: :math:`w \ge 0`, in updates.
      decay_steps: :math:`n \ge w`, the length of the whole schedule in updates, warm-up included.
      end_value: :math:`c`.
      exponent: :math:`p > 0`.

    Raises:
      ValueError: if ``decay_steps`` is below ``warmup_steps``.
    """
    fall = powered(curves.cosine, exponent)
    return through(count, [Knot(0.0, init_value), Knot(warmup_steps, peak_value), Knot(decay_steps, end_value, fall)])


@counted
def warmup_exponential_decay_schedule(
    count: Array,
    init_value: Hyper,
    peak_value: Hyper,
    warmup_steps: Steps,
    transition_steps: Steps,
    decay_rate: Positive,
    transition_begin: Steps = 0.0,
    staircase: bool = False,
    end_value: Hyper | None = None,
):
    r"""Rise linearly, then multiply by ``decay_rate`` every ``transition_steps`` updates.

    .. math:: a + (b - a)\,k / w \;\text{ for } k < w, \qquad b\,r^{x_k}, \quad x_k = \max(k - w - k_0, 0) / n
        \;\text{ for } k \ge w

    The first value is ``init_value`` (``peak_value`` if there is no warm-up), and ``peak_value`` is reached at step
    ``warmup_steps``. The second part is that of :func:`exponential_decay`: with ``end_value`` the value stays there
    once reached; without, it decays towards 0 forever.

    Args:
      init_value: :math:`a`.
      peak_value: :math:`b`.
      warmup_steps: :math:`w \ge 0`, in updates.
      transition_steps: :math:`n \ge 0`, in updates; with 0 the value stays at the peak.
      decay_rate: :math:`r > 0`.
      transition_begin: :math:`k_0 \ge 0`, how many updates to stay at the peak.
      staircase: change only at multiples of ``transition_steps``.
      end_value: a bound for the second part, from below if :math:`r < 1` and else from above.
    """
    begin = warmup_steps + transition_begin
    fall = curves.exponential(count, peak_value, transition_steps, decay_rate, begin, staircase, end_value)
    rise = through(count, [Knot(0.0, init_value), Knot(warmup_steps, peak_value)])
    return jnp.where(curves.since(count, warmup_steps) < 0, rise, fall)


@counted
def warmup_stable_decay_schedule(
    count: Array,
    init_value: Hyper,
    peak_value: Hyper,
    warmup_steps: Steps,
    stable_steps: Steps,
    decay_steps: Steps,
    end_value: Hyper = 0.0,
    decay_type: Annotated[Any, Choice(*DECAYS)] = "linear",
    exponent: Positive = 1.0,
):
    r"""Rise linearly, stay at the peak, then decay (WSD, also called a trapezoid).

    .. math:: a + (b - a)\,k / w, \qquad b, \qquad c + (b - c)\,f(x_k)^p, \quad x_k = (k - w - s) / d

    for :math:`k < w`, then :math:`k < w + s`, then :math:`k < w + s + d`, with :math:`f(x)` equal to :math:`1 - x`,
    :math:`\tfrac12 (1 + \cos \pi x)` or :math:`1 - \sqrt x`. The first value is ``init_value`` (``peak_value`` if there
    is no warm-up); ``end_value`` is reached at step ``warmup_steps + stable_steps + decay_steps``. A run can be
    extended from the stable part, since nothing before the decay depends on the total length.

    With an exponent such as 1.2 the decay is a *power cooldown*. Momentum, too, may rise and fall like this:

      >>> decay = warmup_stable_decay_schedule(0.85, 0.95, 300, 2400, 200, end_value=0.85)
      >>> tx = sgd(0.1, momentum=decay, nesterov=True)

    Args:
      init_value: :math:`a`.
      peak_value: :math:`b`.
      warmup_steps: :math:`w \ge 0`, the length of the rise in updates.
      stable_steps: :math:`s \ge 0`, the length of the stable part.
      decay_steps: :math:`d \ge 0`, the length of the decay alone (in :func:`warmup_cosine_decay_schedule` it is the
        length of the whole schedule); usually 10 to 20 % of the whole.
      end_value: :math:`c`.
      decay_type: ``"linear"``, ``"cosine"`` or ``"1-sqrt"``.
      exponent: :math:`p > 0`, of the decay: above 1 it falls fast at first and levels off towards the end.

    References:
      Hu et al., *MiniCPM: Unveiling the Potential of Small Language Models with Scalable Training Strategies*, 2024,
      section 4.
      Hägele et al., *Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations*, 2024, equation 2
      (``"1-sqrt"``).
    """
    fall_begin = warmup_steps + stable_steps
    return through(
        count,
        [
            Knot(0.0, init_value),
            Knot(warmup_steps, peak_value),
            Knot(fall_begin, peak_value, curves.hold),
            Knot(fall_begin + decay_steps, end_value, powered(DECAYS[decay_type], exponent)),
        ],
    )


@counted
def fast_slow_decay_schedule(
    count: Array,
    init_value: Hyper,
    peak_value: Hyper,
    knee_value: Hyper,
    warmup_steps: Steps,
    stable_steps: Steps,
    fast_steps: Steps,
    slow_steps: Steps,
    end_value: Hyper = 0.0,
    power: Positive = 0.6,
):
    r"""Rise linearly, stay at the peak, fall fast to a knee, then linearly to the end.

    .. math:: a + (b - a)\,k / w, \qquad b, \qquad b + (m - b)\,x_k^p, \qquad m + (c - m)\,y_k

    for :math:`k < w`, then :math:`k < w + s`, then :math:`k < w + s + f` with :math:`x_k = (k - w - s) / f`, then
    with :math:`y_k = (k - w - s - f) / d` for the last :math:`d` steps. For :math:`p < 1` the fast part is steepest at
    its beginning.

    Args:
      init_value: :math:`a`.
      peak_value: :math:`b`.
      knee_value: :math:`m`, where the fast decay ends.
      warmup_steps: :math:`w \ge 0`, in updates.
      stable_steps: :math:`s \ge 0`, the length of the stable part.
      fast_steps: :math:`f \ge 0`, the length of the fast decay.
      slow_steps: :math:`d \ge 0`, the length of the slow decay.
      end_value: :math:`c`.
      power: :math:`p > 0`.

    Example:
      In the records of modded-nanogpt's optimizer track, for Muon on the hyperball and 3125 steps:

      >>> rate = fast_slow_decay_schedule(0.0003, 0.03, 0.006, 99, 101, 1550, 1375)

    Reference: Jordan et al., *modded-nanogpt*, track 3, 2026.
    """
    fall = warmup_steps + stable_steps
    return through(
        count,
        [
            Knot(0.0, init_value),
            Knot(warmup_steps, peak_value),
            Knot(fall, peak_value, curves.hold),
            Knot(fall + fast_steps, knee_value, curves.early(power)),
            Knot(fall + fast_steps + slow_steps, end_value),
        ],
    )

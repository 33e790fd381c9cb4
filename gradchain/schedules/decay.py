"""Schedules from one value to another: constant, linear, polynomial, exponential, cosine, inverse square root."""

from typing import Annotated

import jax.numpy as jnp
from jax import Array

from gradchain.core.hyper import Hyper, Number, Positive, Real
from gradchain.schedules import curves
from gradchain.schedules.base import PositiveSteps, Steps, counted
from gradchain.schedules.curves import Knot, mix, powered, progress

BetweenZeroAndOne = Annotated[Real, Number("Decay", "(0, 1)")]


@counted
def constant_schedule(count: Array, value: Hyper):
    """Return ``value`` at every step.

    Args:
      value: any real number.
    """
    return value + jnp.zeros(count.shape, float)


@counted
def linear_schedule(
    count: Array, init_value: Hyper, end_value: Hyper, transition_steps: Steps, transition_begin: Steps = 0.0
):
    r"""Move linearly from one value to another.

    .. math:: a + (b - a)\,x_k, \qquad x_k = \mathrm{clip}((k - k_0) / n,\, 0,\, 1)

    The value is ``init_value`` up to step ``transition_begin``, and ``end_value`` from step
    ``transition_begin + transition_steps`` on. With ``transition_steps=0`` it jumps there at ``transition_begin``
    (Optax stays at ``init_value`` forever). Negative lengths are errors (Optax treats them as 0).

    Args:
      init_value: :math:`a`, the first value.
      end_value: :math:`b`, the last value.
      transition_steps: :math:`n \ge 0`, in updates.
      transition_begin: :math:`k_0 \ge 0`, in updates.
    """
    return mix(init_value, end_value, progress(count, transition_begin, transition_steps))


@counted
def polynomial_schedule(
    count: Array,
    init_value: Hyper,
    end_value: Hyper,
    power: Positive,
    transition_steps: Steps,
    transition_begin: Steps = 0.0,
):
    r"""Move from one value to another as a power of the remaining time.

    .. math:: b + (a - b)\,(1 - x_k)^p, \qquad x_k = \mathrm{clip}((k - k_0) / n,\, 0,\, 1)

    The value is ``init_value`` up to step ``transition_begin``, and ``end_value`` from step
    ``transition_begin + transition_steps`` on. With ``transition_steps=0`` it jumps there at ``transition_begin``
    (Optax stays at ``init_value`` forever). Negative lengths are errors (Optax treats them as 0).

    With ``end_value=0`` and a late beginning it is a *power cooldown*: constant, then
    :math:`a\,((T - k) / (f T))^p` for the last part :math:`f` of :math:`T` steps. With a warm-up before, it is
    :func:`warmup_stable_decay_schedule`.

      >>> cooldown = polynomial_schedule(0.0375, 0.0, 1.2, transition_steps=2400, transition_begin=500)

    Args:
      init_value: :math:`a`, the first value.
      end_value: :math:`b`, the last value.
      power: :math:`p > 0`; 1 is :func:`linear_schedule`, larger powers fall fast at first and level off towards the
        end.
      transition_steps: :math:`n \ge 0`, in updates.
      transition_begin: :math:`k_0 \ge 0`, in updates.
    """
    curve = powered(curves.linear, power)
    return mix(init_value, end_value, curve(*progress(count, transition_begin, transition_steps)))


@counted
def linear_half_life_schedule(
    count: Array,
    init_value: BetweenZeroAndOne,
    end_value: BetweenZeroAndOne,
    transition_steps: Steps,
    transition_begin: Steps = 0.0,
):
    r"""Move from one decay of an average to another, so that the half-life of what it remembers grows linearly.

    .. math:: \beta_k = \exp\left( \frac{1}{(1 - x_k) / \ln a + x_k / \ln b} \right),
        \qquad x_k = \mathrm{clip}((k - k_0) / n,\, 0,\, 1)

    The half-life of an average with decay :math:`\beta` is :math:`\ln \tfrac12 / \ln \beta` updates. A decay that moves
    linearly would come close to 1, where the half-life is long, far too early. It is the warm-up of the slow average in
    :func:`ademamix`:

      >>> b3 = linear_half_life_schedule(0.9, 0.9999, 10_000)
      >>> tx = ademamix(1e-3, b3=b3, alpha=linear_schedule(0.0, 5.0, 10_000))

    Args:
      init_value: :math:`a` in (0, 1), the first decay.
      end_value: :math:`b` in (0, 1), the last decay.
      transition_steps: :math:`n \ge 0`, in updates.
      transition_begin: :math:`k_0 \ge 0`, in updates.

    Reference: Pagliardini et al., *The AdEMAMix Optimizer: Better, Faster, Older*, 2024, section 3.
    """
    weights = progress(count, transition_begin, transition_steps)
    return jnp.exp(1 / mix(1 / curves.log(init_value), 1 / curves.log(end_value), weights))


@counted
def exponential_decay(
    count: Array,
    init_value: Hyper,
    transition_steps: Steps,
    decay_rate: Positive,
    transition_begin: Steps = 0.0,
    staircase: bool = False,
    end_value: Hyper | None = None,
):
    r"""Multiply by ``decay_rate`` every ``transition_steps`` updates, smoothly or at once.

    .. math:: a\,r^{x_k}, \qquad x_k = \max(k - k_0, 0) / n \quad (\lfloor x_k \rfloor \text{ with staircase})

    The value is ``init_value`` up to step ``transition_begin``. With ``end_value`` it stays there from the step where
    the formula reaches it; without, it decays towards 0 forever. Growth (:math:`r > 1`) stops at a factor of 1.8e19 in
    float32 (1.3e154 in float64), so that the value stays finite. With ``transition_steps=0`` it is ``init_value``
    throughout, as in Optax. Negative lengths and ``decay_rate=0``, where Optax returns ``init_value``, are errors.

    Args:
      init_value: :math:`a`, the first value.
      transition_steps: :math:`n \ge 0`, in updates.
      decay_rate: :math:`r > 0`.
      transition_begin: :math:`k_0 \ge 0`, in updates.
      staircase: change only at multiples of ``transition_steps``: the classical step decay.
      end_value: a bound, from below if :math:`r < 1` and else from above; it holds at every step.

    Example:
      >>> halve = exponential_decay(0.1, transition_steps=1000, decay_rate=0.5, staircase=True)
      >>> halve(jnp.array([0, 999, 1000, 2000]))
      Array([0.1  , 0.1  , 0.05 , 0.025], dtype=float32)
    """
    return curves.exponential(count, init_value, transition_steps, decay_rate, transition_begin, staircase, end_value)


@counted
def cosine_decay_schedule(
    count: Array, init_value: Hyper, decay_steps: PositiveSteps, alpha: Hyper = 0.0, exponent: Positive = 1.0
):
    r"""Decay along half a cosine wave.

    .. math:: a \left[\alpha + (1 - \alpha) \left(\tfrac12 (1 + \cos \pi x_k)\right)^p\right],
        \qquad x_k = \min(k / n,\, 1)

    The first value is ``init_value``; from step ``decay_steps`` on it is ``alpha * init_value``.

    Args:
      init_value: :math:`a`.
      decay_steps: :math:`n > 0`, in updates.
      alpha: :math:`\alpha`, the last value as a fraction of the first.
      exponent: :math:`p > 0`.

    Reference: Loshchilov and Hutter, *SGDR: Stochastic Gradient Descent with Warm Restarts*, 2017, equation 5.
    """
    weights = powered(curves.cosine, exponent)(*progress(count, 0.0, decay_steps))
    return mix(init_value, alpha * init_value, weights)


@counted
def inverse_sqrt_schedule(
    count: Array,
    init_value: Hyper,
    peak_value: Hyper,
    warmup_steps: Steps,
    timescale: PositiveSteps | None = None,
):
    r"""Warm up linearly, then decay with the inverse square root of time, without end.

    .. math:: a + (b - a)\,k / w \;\text{ for } k < w, \qquad b \Big/ \sqrt{1 + (k - w) / s} \;\text{ for } k \ge w

    The first value is ``init_value`` (``peak_value`` if there is no warm-up); ``peak_value`` is reached at step
    ``warmup_steps``, and from there the value tends to 0. With the default time scale the second part is
    :math:`b \sqrt{w / k}`, the original Transformer's schedule.

    Args:
      init_value: :math:`a`.
      peak_value: :math:`b`.
      warmup_steps: :math:`w \ge 0`, in updates.
      timescale: :math:`s > 0`, in updates: after this many further updates the value has fallen to :math:`b / \sqrt 2`.
        By default it is :math:`\max(w, 1)`.

    References:
      Vaswani et al., *Attention Is All You Need*, 2017, equation 3.
      Zhai et al., *Scaling Vision Transformers*, 2022, section 3.5 (with a time scale).
    """
    scale = jnp.maximum(warmup_steps, 1) if timescale is None else timescale
    fall = 1 / jnp.sqrt(1 + jnp.asarray(jnp.maximum(curves.since(count, warmup_steps), 0), float) / scale)
    return curves.through(count, [Knot(0.0, init_value), Knot(warmup_steps, peak_value)]) * fall

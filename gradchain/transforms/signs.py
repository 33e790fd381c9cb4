"""Rules that use the signs of gradients and ignore their size."""

from typing import Annotated, Any

import jax.numpy as jnp
from jax import Array

from gradchain.core.hyper import Decay, DType, Fraction, NonNegative, Positive
from gradchain.core.rule import elementwise
from gradchain.core.spec import At, Slot, Slots
from gradchain.core.value import Choice
from gradchain.numerics import by_parts, ema, magnitude


def _tanh(x: Array, steepness: Any) -> Array:
    """Return tanh of the magnitude, with the sign (the direction in the complex plane) of ``x``."""
    return jnp.sign(x) * jnp.tanh(steepness * magnitude(x)) if jnp.iscomplexobj(x) else jnp.tanh(steepness * x)


@elementwise(slots={"mu": Slot(dtype="mu_dtype")})
def scale_by_lion(
    g: Array,
    slot: Slots,
    at: At,
    b1: Decay = 0.9,
    b2: Decay = 0.99,
    mu_dtype: DType | None = None,
    *,
    mode: Annotated[str, Choice("hard", "smooth", "refined")] = "hard",
    smooth_beta: Positive = 1.0,
):
    r"""Take the sign of a moving average of gradients in which the newest weighs more than in the stored average.

    .. math::
        c_k = \beta_1 \mu_{k-1} + (1 - \beta_1)\,g_k, \qquad u_k = \mathrm{sign}(c_k), \qquad
        \mu_k = \beta_2 \mu_{k-1} + (1 - \beta_2)\,g_k

    Args:
      b1: :math:`\beta_1` in [0, 1), weight of the past in the average whose sign is taken.
      b2: :math:`\beta_2` in [0, 1), decay of the average that is kept.
      mu_dtype: dtype of the stored average; by default the parameter's, and at least float32.
      mode: "hard" for :math:`\mathrm{sign}(c)`, "smooth" for :math:`\tanh(\gamma c)`, "refined" for :math:`c` where
        :math:`|c| < 1` and its sign elsewhere. Signs of complex numbers are :math:`c / |c|`, and so is the direction of
        the smooth form, whose size is :math:`\tanh(\gamma |c|)` (Optax takes the complex tanh, which has poles).
      smooth_beta: :math:`\gamma > 0`, the steepness of the smooth form.

    References:
      Chen et al., *Symbolic Discovery of Optimization Algorithms*, 2023, algorithm 2.
      Chen et al., *Cautious Optimizers and Refined Lion*, 2024 (the other modes).
    """
    c = ema(slot.mu, g, b1)
    if mode == "smooth":
        update = _tanh(c, smooth_beta)
    elif mode == "refined":
        update = jnp.where(magnitude(c) < 1, c, jnp.sign(c))
    else:
        update = jnp.sign(c)
    return update, slot(mu=ema(slot.mu, g, b2))


def _initial_step(p: Array, hyper: Any) -> Array:
    return by_parts(lambda x: jnp.full_like(x, hyper.learning_rate), p)


@elementwise(slots={"step_sizes": Slot(_initial_step), "prev_updates": Slot()})
def scale_by_rprop(
    g: Array,
    slot: Slots,
    at: At,
    learning_rate: NonNegative,
    eta_minus: Fraction = 0.5,
    eta_plus: Positive = 1.2,
    min_step_size: NonNegative = 1e-6,
    max_step_size: Positive = 50.0,
):
    r"""Step by the gradient's sign; the step size grows while the sign stays the same and shrinks when it changes.

    .. math::
        \delta_k = \begin{cases}
            \min(\eta_+ \delta_{k-1}, \delta_\mathrm{max}) & g_k u_{k-1} > 0 \\
            \max(\eta_- \delta_{k-1}, \delta_\mathrm{min}) & g_k u_{k-1} < 0 \\
            \delta_{k-1} & \text{else} \end{cases}
        \qquad
        u_k = \begin{cases} 0 & g_k u_{k-1} < 0 \\ \delta_k\,\mathrm{sign}(g_k) & \text{else} \end{cases}

    The step just computed is returned, as in the paper and in PyTorch; Optax returns the previous one, so that its
    first update is 0. The rule compares signs, not products, which would underflow for small gradients. It needs
    full-batch gradients, not those of mini-batches. Real and imaginary parts are treated separately.

    Args:
      learning_rate: :math:`\delta_0 \ge 0`. Only ``init`` reads it: of a schedule, the first value is used.
      eta_minus: :math:`\eta_-` in [0, 1].
      eta_plus: :math:`\eta_+`, should be above 1.
      min_step_size: :math:`\delta_\mathrm{min} \ge 0`.
      max_step_size: :math:`\delta_\mathrm{max} > 0`.

    Reference: Riedmiller and Braun, *A direct adaptive method for faster backpropagation learning: the RPROP
    algorithm*, 1993; the variant iRprop- of Igel and Hüsken, *Improving the Rprop Learning Algorithm*, 2000.
    """

    def rule(g: Array, step: Array, previous: Array) -> tuple[Array, Array]:
        agree = jnp.sign(g) * jnp.sign(previous)
        changed = jnp.clip(step * jnp.where(agree > 0, eta_plus, eta_minus), min_step_size, max_step_size)
        step = jnp.where(agree == 0, step, changed)
        return jnp.where(agree < 0, 0, step * jnp.sign(g)), step

    update, step = by_parts(rule, g, slot.step_sizes, slot.prev_updates)
    return update, slot(step_sizes=step, prev_updates=update)

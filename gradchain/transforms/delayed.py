"""Division by second moments that don't include the current gradient yet.

Numerator and denominator are then independent, and the counterexamples to Adam's convergence don't apply. As in
:mod:`~gradchain.transforms.adaptive`, the update is 0 where its denominator is 0, which only happens with ``eps=0``.
"""

import jax.numpy as jnp
from jax import Array

from gradchain.core.hyper import Decay, DType, NonNegative
from gradchain.core.rule import elementwise
from gradchain.core.spec import At, Slot, Slots
from gradchain.numerics import abs_sq, bounded, clamp, divide, ema, magnitude, sqrt
from gradchain.transforms.adaptive import SECOND_MOMENT


@elementwise(slots={"mu": Slot(dtype="mu_dtype"), "nu": SECOND_MOMENT._replace(counted=True)})
def scale_by_adopt(
    g: Array,
    slot: Slots,
    at: At,
    b1: Decay = 0.9,
    b2: Decay = 0.9999,
    eps: NonNegative = 1e-6,
    mu_dtype: DType | None = None,
    *,
    nesterov: bool = False,
    use_clipping: bool = True,
    clip_value_fn: NonNegative | None = None,
):
    r"""Average gradients that were divided by the root of the second moment of earlier gradients.

    .. math::
        n_k = \frac{g_k}{\max(\sqrt{\nu_{k-1}}, \epsilon)}, \quad
        u_k = \mu_k = \beta_1 \mu_{k-1} + (1 - \beta_1)\,\mathrm{clip}(n_k, \pm c_k), \quad
        \nu_k = \beta_2 \nu_{k-1} + (1 - \beta_2)\,|g_k|^2

    with :math:`c_k = (k - 1)^{1/4}`. The first update is 0: its gradient only starts :math:`\nu_1 = |g_1|^2`. The
    method converges for any :math:`\beta_2`. Real and imaginary parts are clipped separately.

    Args:
      b1: :math:`\beta_1` in [0, 1).
      b2: :math:`\beta_2` in [0, 1).
      eps: :math:`\epsilon \ge 0`, a lower bound; it isn't added.
      mu_dtype: dtype of the stored average; by default the parameter's, and at least float32.
      nesterov: look ahead, :math:`u_k = \beta_1 \mu_k + (1 - \beta_1)\,\mathrm{clip}(n_k, \pm c_k)`.
      use_clipping: False leaves the clipping out, as in the paper's theory.
      clip_value_fn: a schedule or number :math:`c` in place of :math:`(k - 1)^{1/4}`; schedules see :math:`k - 1`.
        (The package pytorch_optimizer has :math:`k^{1/4}`, ``lambda count: (count + 1.0) ** 0.25``.)

    Reference: Taniguchi et al., *ADOPT: Modified Adam Can Converge with Any* :math:`\beta_2` *with the Optimal Rate*,
    2024.
    """
    g = bounded(g)
    first = at.t == 1
    normed = divide(g, jnp.maximum(sqrt(slot.nu), eps), eps == 0)
    if use_clipping:
        normed = clamp(normed, (at.t - 1) ** 0.25 if clip_value_fn is None else clip_value_fn)
    normed = jnp.where(first, 0, normed)
    mu = ema(slot.mu, normed, b1)
    nu = jnp.where(first, abs_sq(g), ema(slot.nu, abs_sq(g), b2))
    return ema(mu, normed, b1) if nesterov else mu, slot(mu=mu, nu=nu)


@elementwise(slots={"mu": Slot(), "nu": SECOND_MOMENT}, debiased=("b2",))
def scale_by_acprop(
    g: Array,
    slot: Slots,
    at: At,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-16,
    eps_root: NonNegative = 1e-16,
):
    r"""Divide gradients by the root mean square of past prediction errors: AdaBelief, asynchronous.

    .. math::
        u_k = \frac{g_k}{\sqrt{\nu_{k-1} / (1 - \beta_2^{k-1})} + \epsilon}, \quad
        \nu_k = \beta_2 \nu_{k-1} + (1 - \beta_2)\,|g_k - \mu_{k-1}|^2 + \bar\epsilon, \quad
        \mu_k = \beta_1 \mu_{k-1} + (1 - \beta_1)\,g_k

    The first update is :math:`g_1 / (1 + \epsilon)`. The prediction error is taken from the previous average, as in
    Optax. Taken from :math:`\mu_k`, as in the paper, it is :math:`\beta_1` times as large, which only changes the
    effective learning rate. There is no momentum in the numerator.

    Where every prediction error so far is 0, as for a weight whose gradients were all 0, there is no root mean square
    to divide by. The root is then at least :math:`\sqrt{1 - \beta_2}\,|g_k - \mu_{k-1}|`, so that the step is at most
    about :math:`1 / \sqrt{1 - \beta_2}` and not :math:`g_k / \epsilon`.

    Args:
      b1: :math:`\beta_1` in [0, 1), decay of the average that predicts the gradients.
      b2: :math:`\beta_2` in [0, 1), decay of the squared prediction error.
      eps: :math:`\epsilon \ge 0`.
      eps_root: :math:`\bar\epsilon \ge 0`; it accumulates.

    Reference: Zhuang et al., *Momentum Centering and Asynchronous Update for Adaptive Gradient Methods*, 2021.
    """
    g = bounded(g)
    surprise = g - slot.mu
    first = at.t == 1
    nu_hat = jnp.where(first, 1, slot.nu / jnp.where(first, 1, at.weight_sum("b2", ahead=-1)))
    wakes = ~first & (slot.nu <= 2 * eps_root / (1 - b2))  # no surprise so far, only what was added
    root = jnp.maximum(sqrt(nu_hat), jnp.where(wakes, (1 - b2) ** 0.5 * magnitude(surprise), 0))
    nu = ema(slot.nu, abs_sq(surprise), b2) + eps_root
    return divide(g, root + eps, eps == 0), slot(mu=ema(slot.mu, g, b1), nu=nu)

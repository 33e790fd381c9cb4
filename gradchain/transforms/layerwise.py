"""Rules that use each parameter array as a whole: its norm and the norm of its update."""

import jax.numpy as jnp
from jax import Array

from gradchain.core.hyper import Decay, DType, Fraction, Mask, NonNegative, TermMask
from gradchain.core.rule import elementwise, leafwise
from gradchain.core.spec import At, Slot, Slots
from gradchain.numerics import abs_sq, bounded_square, divide, ema, quotient, safe_norm, safe_root_mean_squares, sqrt


@leafwise(param=True)
def scale_by_param_block_norm(g: Array, slot: Slots, at: At, min_scale: NonNegative = 1e-3):
    r"""Multiply each array's update by the norm of its parameters: :math:`u = \max(\|w\|_2, c)\,g`.

    Args:
      min_scale: :math:`c \ge 0`, so that parameters that start at zero can change.
    """
    return g * safe_norm(at.param, min_scale)


@leafwise(param=True)
def scale_by_param_block_rms(g: Array, slot: Slots, at: At, min_scale: NonNegative = 1e-3):
    r"""Multiply each array's update by the root mean square of its parameters: :math:`u = \max(\mathrm{rms}(w), c)\,g`.

    Args:
      min_scale: :math:`c \ge 0`, so that parameters that start at zero can change.

    Reference: Shazeer and Stern, *Adafactor: Adaptive Learning Rates with Sublinear Memory Cost*, 2018, section 8.
    """
    return g * safe_root_mean_squares(at.param, min_scale)


@leafwise(param=True)
def scale_by_trust_ratio(
    g: Array,
    slot: Slots,
    at: At,
    min_norm: NonNegative = 0.0,
    trust_coefficient: NonNegative = 1.0,
    eps: NonNegative = 0.0,
    *,
    mask: Mask | None = None,
):
    r"""Scale each array's update to a fixed fraction of the norm of its parameters, as in LARS and LAMB.

    .. math:: u = \frac{c\,\max(\|w\|_2, m)}{\max(\|g\|_2, m) + \epsilon}\,g, \qquad u = g \text{ if either norm is } 0

    Args:
      min_norm: :math:`m \ge 0`, a lower bound on both norms.
      trust_coefficient: :math:`c \ge 0`.
      eps: :math:`\epsilon \ge 0`.
      mask: a tree of bools like the parameters (or a prefix of it), or a function from parameters to one; where it is
        False, updates pass unchanged. (Optax has no such argument; wrap its transformation in ``masked``.)

    Reference: You et al., *Large Batch Training of Convolutional Networks*, 2017, equation 6.
    """
    param_norm, update_norm = safe_norm(at.param, min_norm), safe_norm(g, min_norm)
    zero = (param_norm == 0) | (update_norm == 0)
    ratio = quotient(trust_coefficient * param_norm, jnp.where(zero, 1, update_norm + eps))
    return g * jnp.where(zero, 1, ratio)


@elementwise(param=True)
def descend_and_shrink(g: Array, slot: Slots, at: At, learning_rate: NonNegative):
    r"""Step downhill, then divide the weights by :math:`\sqrt{1 + \eta^2}`: the last stage of :func:`fromage`.

    .. math:: u = \frac{w - \eta g}{\sqrt{1 + \eta^2}} - w

    After :func:`scale_by_trust_ratio`, a step at right angles to the weights then leaves their norm unchanged.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule.

    Reference: Bernstein et al., *On the distance between two neural networks and the stability of learning*, 2020,
    algorithm 1.
    """
    root = jnp.sqrt(1 + learning_rate * learning_rate)
    shrinkage = learning_rate * learning_rate / (root * (1 + root))  # 1 - 1 / root, without cancellation
    return -learning_rate / root * g - shrinkage * at.param


@leafwise(
    slots={
        "mu": Slot(dtype="mu_dtype"),
        "nu": Slot(lambda p, hyper: jnp.sum(jnp.zeros_like(jnp.real(p))), real=True, nonnegative=True, counted=True),
    },
    param=True,
)
def scale_by_novograd(
    g: Array,
    slot: Slots,
    at: At,
    b1: Fraction = 0.9,
    b2: Decay = 0.25,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    weight_decay: NonNegative = 0.0,
    mu_dtype: DType | None = None,
    weight_decay_mask: TermMask | None = None,
):
    r"""Normalise each array's gradient by the moving average of its squared norm, add weight decay, then momentum.

    .. math::
        \nu_k = \beta_2 \nu_{k-1} + (1 - \beta_2)\,\|g_k\|_2^2 \;(\nu_1 = \|g_1\|_2^2), \qquad
        u_k = \mu_k = \beta_1 \mu_{k-1} + \frac{g_k}{\sqrt{\nu_k + \bar\epsilon} + \epsilon} + \lambda w

    The second moment is one number per parameter array. :math:`\mu` is a sum, not an average.

    Args:
      b1: :math:`\beta_1` in [0, 1].
      b2: :math:`\beta_2` in [0, 1).
      eps: :math:`\epsilon \ge 0`.
      eps_root: :math:`\bar\epsilon \ge 0`.
      weight_decay: :math:`\lambda \ge 0`; it is included in the momentum.
      mu_dtype: dtype of the stored momentum; by default the parameter's, and at least float32.
      weight_decay_mask: which parameters to decay, a mask as in :func:`add_decayed_weights`; ``None`` for all.

    Reference: Ginsburg et al., *Stochastic Gradient Methods with Layer-wise Adaptive Moments for Training of Deep
    Networks*, 2019, algorithm 1.
    """
    factor, size = bounded_square(safe_norm(g), jnp.sum(abs_sq(g)))
    g = g * factor
    nu = jnp.where(at.t == 1, size, ema(slot.nu, size, b2))
    mu = b1 * slot.mu + divide(g, sqrt(nu + eps_root) + eps, eps == 0)
    mu = mu + weight_decay * at.param if weight_decay_mask else mu
    return mu, slot(mu=mu, nu=nu)

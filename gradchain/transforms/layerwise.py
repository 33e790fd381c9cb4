"""Rules that use each parameter array as a whole: its norm and the norm of its update."""

import math
from typing import Annotated, Any

import jax.numpy as jnp
from jax import Array

from gradchain.core.hyper import Decay, DType, Fraction, Mask, NonNegative, TermMask
from gradchain.core.rule import elementwise, leafwise
from gradchain.core.spec import At, Slot, Slots
from gradchain.core.value import Choice, Integer
from gradchain.eager import fused
from gradchain.matrices.factors import gathered, spectral_norm, spread_like
from gradchain.matrices.views import DimensionNumbersOrVectors, MatrixView, MuonDimensionNumbers, view
from gradchain.numerics import (
    abs_sq,
    bounded_square,
    divide,
    ema,
    quotient,
    root_plus,
    safe_norm,
    safe_root_mean_squares,
)


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
    return _trusted(g, safe_norm(at.param, min_norm), safe_norm(g, min_norm), trust_coefficient, eps)


@fused
def _trusted(g: Array, param_norm: Array, update_norm: Array, trust_coefficient: Any, eps: Any) -> Array:
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
    mu = b1 * slot.mu + divide(g, root_plus(nu, eps_root, eps), eps == 0)
    mu = mu + weight_decay * at.param if weight_decay_mask else mu
    return mu, slot(mu=mu, nu=nu)


def _views(shape: tuple[int, ...], dims: MuonDimensionNumbers | None) -> MatrixView:
    """Return how an array is seen as matrices, with a vector as a row: one input, many outputs."""
    flat = len(shape) < 2 and dims is None
    return view((1, math.prod(shape)) if flat else shape, dims, where="scale_by_spectral_norm")


def _first_vectors(param: Array, hyper: Any) -> list[Array]:
    seen = _views(param.shape, hyper.weight_dimension_numbers)
    blocks = seen.split(param.reshape(1, -1) if len(seen.order) > param.ndim else param)
    return [jnp.zeros_like(block.sum(axis=-2)) for block in blocks]


@leafwise(slots={"vector": Slot(_first_vectors)})
def scale_by_spectral_norm(
    g: Array,
    slot: Slots,
    at: At,
    target: Annotated[str, Choice("sqrt(out/in)", "one")] = "sqrt(out/in)",
    steps: Annotated[int, Integer(1)] = 1,
    *,
    weight_dimension_numbers: DimensionNumbersOrVectors | None = None,
):
    r"""Divide each matrix by an estimate of its spectral norm, so that any direction suits every width.

    .. math:: u = \sqrt{n_\mathrm{out} / n_\mathrm{in}}\; g / \hat\sigma

    for a matrix :math:`(n_\mathrm{in}, n_\mathrm{out})`. A layer's outputs then change by about the learning rate,
    whatever the rule and the width, and :func:`mup` has the factor 1 for it. :math:`\hat\sigma \le \sigma` comes from a
    power iteration (:func:`gradchain.matrices.spectral_norm`) that goes on from the vector of the last update: it costs
    two products with a vector for each step, and memory for one number a column. An array with fewer than two axes
    counts as a row, so that its root mean square becomes 1. A zero matrix stays zero.

    Args:
      target: the spectral norm of the result: ``"sqrt(out/in)"``, or ``"one"``.
      steps: the number of steps of the power iteration at each update.
      weight_dimension_numbers: how arrays are seen as matrices, as in :func:`scale_by_muon`; arrays with more than two
        axes need them. Blocks are matrices of their own.

    References:
      Yang, Simon and Bernstein, *A Spectral Condition for Feature Learning*, 2023.
      Qiu et al., *Hyperparameter Transfer Enables Consistent Gains of Matrix-Preconditioned Optimizers Across Scales*,
      2025.
    """
    seen = _views(g.shape, weight_dimension_numbers)
    blocks, vectors = seen.split(g.reshape(1, -1) if len(seen.order) > g.ndim else g), list[Array]()
    for i, (block, vector) in enumerate(zip(blocks, slot.vector, strict=True)):
        norm, new = spectral_norm(gathered(block), gathered(vector, 1), steps)
        rows, columns = block.shape[-2:]
        size = (columns / max(rows, 1)) ** 0.5 if target == "sqrt(out/in)" else 1.0
        blocks[i] = size * divide(block, norm[..., None, None])
        vectors.append(spread_like(new, vector))
    return seen.join(blocks).reshape(g.shape), slot(vector=vectors)

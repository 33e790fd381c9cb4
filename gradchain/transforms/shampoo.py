"""Directions preconditioned by roots of the second moments of rows, columns and other axes."""

from typing import Annotated, Any, Literal

import jax.numpy as jnp
from jax import Array

from gradchain import numerics
from gradchain.core.hyper import Count, Decay, DType, NonNegative, Positive
from gradchain.core.rule import leafwise
from gradchain.core.spec import At, Slot, Slots
from gradchain.core.value import Integer
from gradchain.matrices.axes import along_axes, axis_gram
from gradchain.matrices.factors import METHOD, gathered, inverse_root
from gradchain.matrices.frames import Frame, FrameNumbers, Sides, frame
from gradchain.matrices.refreshing import due, refresh
from gradchain.numerics import abs_sq, divide, ema, sqrt


def _grams(own: Frame, x: Array, sides: str) -> list[Array]:
    return [axis_gram(x, axis, own.order) for axis in own.axes(x, sides)]


def _no_factors(param: Array, hyper: Any) -> list[list[Array]]:
    own = frame(param.shape, hyper.weight_dimension_numbers, hyper.block_size, "scale_by_shampoo")
    return [_grams(own, jnp.zeros_like(x), hyper.sides) for x in own.blocks(param)]


def _identities(param: Array, hyper: Any) -> list[list[Array]]:
    return [[_identity_like(factor) for factor in factors] for factors in _no_factors(param, hyper)]


def _identity_like(a: Array) -> Array:
    return jnp.zeros_like(a) + jnp.expand_dims(jnp.eye(a.shape[-1], dtype=a.dtype), tuple(range(a.ndim - 2)))


def _second_moment(param: Array, hyper: Any) -> Any:
    return jnp.zeros_like(param.real) if hyper.graft else ()


@leafwise(
    slots={
        "mu": Slot(dtype="mu_dtype"),
        "nu": Slot(init=_second_moment, real=True, nonnegative=True),
        "factors": Slot(init=_no_factors, exact=True),
        "roots": Slot(init=_identities, exact=True),
    },
    debiased=("b1", "b2", "shampoo_beta"),
    turn=True,
)
def scale_by_shampoo(
    g: Array,
    slot: Slots,
    at: At,
    b1: Decay = 0.9,
    b2: Decay = 0.95,
    shampoo_beta: Decay = 0.95,
    eps: NonNegative = 1e-8,
    ridge: NonNegative = 1e-6,
    shift: NonNegative = 0.0,
    exponent: Positive | None = None,
    update_interval: Count = 10,
    start_preconditioning_step: Count = 1,
    mu_dtype: DType | None = None,
    *,
    graft: bool = True,
    nesterov: bool = False,
    block_size: Annotated[int, Integer(1)] = 1024,
    sides: Sides = "both",
    method: Annotated[Literal["eigh", "newton"], METHOD] = "eigh",
    stagger: bool = False,
    weight_dimension_numbers: FrameNumbers | None = None,
):
    r"""Precondition momentum by inverse roots of the second moments of rows and columns: Shampoo.

    .. math::
        L_k = \beta L_{k-1} + (1 - \beta)\,g_k g_k^*, \qquad
        R_k = \beta R_{k-1} + (1 - \beta)\,g_k^* g_k, \qquad
        d_k = \hat L_k^{-p}\,\hat\mu_k\,\hat R_k^{-p}

    Hats are divided by the sums of their weights, such as :math:`1 - \beta^k`, and :math:`\mu` is the moving average of
    gradients with decay ``b1``. With ``graft``, each block's direction has the norm that Adam's has,

    .. math::
        u_k = d_k\,\frac{\|a_k\|}{\|d_k\|}, \qquad a_k = \frac{\hat\mu_k}{\sqrt{\hat\nu_k} + \epsilon},

    so that a learning rate for Adam is one for Shampoo, too. Without it, :math:`u_k = d_k`.

    Arrays are cut into blocks whose axes are at most ``block_size`` long, each with factors of its own. Arrays of n
    axes have n factors. Axes are never merged, unless dimension numbers say so. The factor of an axis along which all
    gradients so far were zero has the identity for its root.

    A root is computed at each ``update_interval``-th update, from the factors with the present gradient in them. In a
    sweep JAX computes it at every update for all runs, so there ``update_interval=1`` costs the same, and is better.

    Args:
      b1: decay of the momentum.
      b2: decay of the second moment that Adam's direction has; 0.95 to 0.999.
      shampoo_beta: :math:`\beta`, the decay of the factors; 0.9 to 0.99.
      eps: :math:`\epsilon`, added to Adam's root.
      ridge: added to a factor's eigenvalues before the root, relative to the largest; above the dtype's precision. With
        ``ridge=0`` and ``shift=0``, roots are those of pseudo-inverses.
      shift: added likewise, as it is.
      exponent: :math:`p`; ``None`` for 1/4 with two factors, 1/2 with one, and 1 / (2 n) with n.
      update_interval: updates from one computation of the roots to the next.
      start_preconditioning_step: the first update, from 1, with preconditioning. Those before are :math:`a_k`, or
        :math:`\hat\mu_k` without ``graft``.
      mu_dtype: dtype of the stored momentum.
      graft: whether updates have the norms of Adam's.
      nesterov: look ahead along the momentum, as NAdam does.
      block_size: the most rows and columns of a block. Static.
      sides: which factors a matrix has: ``"both"``, that of its ``"rows"`` (inputs), of its ``"columns"`` (outputs), or
        of the ``"smaller"`` side of each block, which costs less than half of both where it isn't square. Static.
      method: ``"eigh"``, or ``"newton"``, see :func:`gradchain.matrices.inverse_root`.
      stagger: compute the roots of different arrays at different updates, so that no update takes much longer than the
        others. At the first one, all are computed.
      weight_dimension_numbers: how arrays are seen as matrices: :class:`MuonDimensionNumbers` for all, a tree of them
        (or a prefix) like the parameters, or a function from parameters to one. Axes that they don't name, such as
        layers, are batches of matrices. ``"axes"`` in their place is for a factor of each axis: four for a kernel of a
        convolution, one of full size for a vector. Without any, an array with two axes is a matrix, and vectors and
        scalars have no factors: their updates are :math:`a_k`.

    Raises:
      ValueError: at ``init``, for an array of three axes or more for which there is neither.

    References:
      Gupta, Koren and Singer, *Shampoo: Preconditioned Stochastic Tensor Optimization*, 2018. There, factors are sums.
      Anil et al., *Scalable Second Order Optimization for Deep Learning*, 2020 (blocks, grafting).
      Shi et al., *A Distributed Data-Parallel PyTorch Implementation of the Distributed Shampoo Optimizer*, 2023.
    """
    own = frame(g.shape, weight_dimension_numbers, block_size, "scale_by_shampoo")
    seen, order = own
    g = numerics.bounded(g, g.size)
    mu, weight = ema(slot.mu, g, b1), at.weight_sum("b1")
    mu_hat = numerics.debias_nesterov(mu, g, b1, weight, at.weight_sum("b1", ahead=1)) if nesterov else mu / weight
    factors = [
        [ema(old, new, shampoo_beta) for old, new in zip(kept, _grams(own, x, sides), strict=True)]
        for kept, x in zip(slot.factors, own.blocks(g), strict=True)
    ]

    def roots() -> list[list[Array]]:
        total = at.weight_sum("shampoo_beta")
        return [[_root(x / total, exponent or 0.5 / len(some), ridge, shift, method) for x in some] for some in factors]

    since = at.count - (start_preconditioning_step - 1)
    is_due = (since >= 0) & due(since, update_interval, at.turn if stagger else None)
    new_roots = refresh(is_due, roots, slot.roots, finite=True)
    directions = [
        along_axes(x, dict(zip(own.axes(x, sides), some, strict=True)), order)
        for x, some in zip(own.blocks(mu_hat), new_roots, strict=True)
    ]
    if not graft:
        return seen.join(directions), slot(mu=mu, nu=(), factors=factors, roots=new_roots)
    nu = ema(slot.nu, abs_sq(g), b2)
    adam = divide(mu_hat, sqrt(nu / at.weight_sum("b2")) + eps, eps == 0)
    updates = [
        jnp.where(since >= 0, _with_norm_of(a, x, order), a) for a, x in zip(own.blocks(adam), directions, strict=True)
    ]
    return seen.join(updates), slot(mu=mu, nu=nu, factors=factors, roots=new_roots)


def _root(a: Array, exponent: Any, ridge: Any, shift: Any, method: Any) -> Array:
    whole = isinstance(exponent, float) and (1 / exponent).is_integer()
    root = inverse_root(
        gathered(a), round(1 / exponent) if whole else 1 / exponent, ridge=ridge, shift=shift, method=method
    )
    return jnp.where(jnp.any(a != 0, axis=(-2, -1), keepdims=True), root, _identity_like(a))


def _with_norm_of(a: Array, x: Array, order: int) -> Array:
    """Return blocks ``x`` with the norms of ``a``."""
    axes = tuple(range(-order, 0))
    x = numerics.bounded(x, x.size)
    return x * divide(numerics.unitwise_norm(a, axes), numerics.unitwise_norm(x, axes))

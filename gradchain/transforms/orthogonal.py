"""Updates whose singular values are about 1: the direction of steepest descent in the spectral norm."""

from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from gradchain import numerics
from gradchain.core.hyper import Decay, DType, NonNegative
from gradchain.core.rule import leafwise
from gradchain.core.spec import At, Slot, Slots
from gradchain.core.value import Integer
from gradchain.matrices.factors import gathered
from gradchain.matrices.orthogonal import PRECONDITIONING, PRESETS, Coefficients, orthogonalize
from gradchain.matrices.views import DimensionNumbers, MuonDimensionNumbers, view
from gradchain.numerics import ema
from gradchain.signatures import public


@public
def orthogonalize_via_newton_schulz(
    x: Array,
    ns_coeffs: Any,
    ns_steps: int = 5,
    preconditioning: str = "frobenius",
    eps: Any = 1e-8,
    dimension_numbers: MuonDimensionNumbers | None = None,
) -> Array:
    r"""Drive the singular values of an array's matrices towards 1: :func:`gradchain.matrices.orthogonalize`.

    The result has the dtype of ``x``, though half precision is computed in float32. Apart from ``eps``, the result
    doesn't depend on the scale of ``x``; in Optax, ``"aol"`` and ``"schatten"`` underflow for small matrices.

    Args:
      x: a matrix, or an array with dimension numbers; real or complex.
      ns_coeffs: :math:`(a, b, c)`, or one such row for each step.
      ns_steps: number of steps, if ``ns_coeffs`` is a single row.
      preconditioning: how ``x`` is scaled first: ``"frobenius"``, ``"spectral"``, ``"schatten"`` or ``"aol"``.
      eps: added to the norm.
      dimension_numbers: which axes are rows and columns, and blocks of them. Other axes are batch axes.

    Raises:
      ValueError: if ``x`` isn't a matrix and no dimension numbers are given, or if a row of coefficients doesn't have
        three entries.

    Reference: Jordan et al., *Muon: An optimizer for hidden layers in neural networks*, 2024.
    """
    where = "orthogonalize_via_newton_schulz"
    if np.ndim(ns_coeffs) not in (1, 2) or np.shape(ns_coeffs)[-1] != 3:
        raise ValueError(f"{where}: ns_coeffs must have shape (3,) or (n, 3), got {np.shape(ns_coeffs)}")
    seen = view(x.shape, dimension_numbers, where=where)
    return seen.map(lambda m: orthogonalize(gathered(m), ns_coeffs, ns_steps, preconditioning, eps), x).astype(x.dtype)


@leafwise(slots={"mu": Slot(dtype="mu_dtype")}, debiased=("beta",))
def scale_by_muon(
    g: Array,
    slot: Slots,
    at: At,
    ns_coeffs: Coefficients = PRESETS["standard"],
    ns_steps: Annotated[int, Integer()] = 5,
    beta: Decay = 0.95,
    eps: NonNegative = 1e-8,
    mu_dtype: DType | None = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: Annotated[str, PRECONDITIONING] = "frobenius",
    weight_dimension_numbers: DimensionNumbers | None = None,
):
    r"""Orthogonalise momentum: replace it by (nearly) the closest matrix with orthonormal rows or columns.

    .. math::
        \mu_k = \beta \mu_{k-1} + (1 - \beta)\,g_k, \qquad
        \hat\mu_k = \frac{\beta \mu_k}{1 - \beta^{k+1}} + \frac{(1 - \beta)\,g_k}{1 - \beta^k}, \qquad
        u_k = \mathrm{NewtonSchulz}(\hat\mu_k) \approx U V^*

    with :math:`\hat\mu_k = \mu_k / (1 - \beta^k)` without ``nesterov``. See
    :func:`gradchain.matrices.orthogonalize` for the iteration. Every direction moves equally fast, even those in which
    gradients are always small.

    Args:
      ns_coeffs: coefficients of the iteration, as one row for all steps or one for each (all are used, and ``ns_steps``
        is ignored; Optax rejects more rows than steps); or a preset, ``"standard"`` or ``"dion"``. Static.
      ns_steps: number of steps. Static.
      beta: :math:`\beta` in [0, 1).
      eps: added to the norm that matrices are divided by before the iteration.
      mu_dtype: dtype of the stored momentum; by default the parameter's, and at least float32.
      nesterov: look ahead along the momentum.
      adaptive: multiply by the dual norm :math:`\Re\langle \hat\mu_k, u_k \rangle`, about the sum of
        the momentum's singular values; separately for each matrix along batch axes (Optax takes their sum) and for each
        block.
      preconditioning: ``"frobenius"``, ``"spectral"``, ``"aol"`` or ``"schatten"``.
      weight_dimension_numbers: how arrays are seen as matrices: :class:`MuonDimensionNumbers` for all, a tree of them
        (or a prefix) like the parameters, or a function from parameters to one. ``None`` means that every array is a
        matrix.

    References:
      Jordan et al., *Muon: An optimizer for hidden layers in neural networks*, 2024.
      Bernstein and Newhouse, *Old Optimizer, New Norm: An Anthology*, 2024 (``adaptive``).
      Ahn et al., *Dion: Distributed Orthonormalized Updates*, 2025 (the preset).
    """
    g = numerics.bounded(g, power=1)
    mu = ema(slot.mu, g, beta)
    weight = at.weight_sum("beta")
    mu_hat = numerics.debias_nesterov(mu, g, beta, weight, at.weight_sum("beta", ahead=1)) if nesterov else mu / weight

    def direction(x: Array) -> Array:
        x = gathered(x)
        u = orthogonalize(x, ns_coeffs, ns_steps, preconditioning, eps)
        return u * jnp.sum(jnp.real(jnp.conj(x) * u), axis=(-2, -1), keepdims=True) if adaptive else u

    return view(g.shape, weight_dimension_numbers).map(direction, mu_hat), slot(mu=mu)


@leafwise()
def scale_by_shape(
    g: Array,
    slot: Slots,
    at: At,
    weight_dimension_numbers: DimensionNumbers | None = None,
    consistent_rms: NonNegative | None = None,
):
    r"""Scale orthogonal updates by the shape of their matrix.

    .. math::
        u = \sqrt{\max(1, \mathrm{columns} / \mathrm{rows})}\;g \qquad\text{or}\qquad
        u = c\,\sqrt{\max(\mathrm{rows}, \mathrm{columns})}\;g

    With the first form, a learning rate carries over from one width to another. With the second, the root mean square
    of the elements is :math:`c`, whatever the shape. A block counts as a matrix of its own.

    Args:
      weight_dimension_numbers: which axes are rows (inputs) and columns (outputs), as in :func:`scale_by_muon`.
      consistent_rms: :math:`c \ge 0`; 0.2 is about the root mean square of AdamW's updates. ``None`` gives the first
        form.

    Reference: Liu et al., *Muon is Scalable for LLM Training*, 2025, section 2.2.
    """

    def scaled(x: Array, rows: int, columns: int) -> Array:
        if consistent_rms is None:
            return x * max(1, columns / max(rows, 1)) ** 0.5
        return x * (consistent_rms * max(rows, columns) ** 0.5)

    seen = view(g.shape, weight_dimension_numbers)
    if seen.is_cut:
        return seen.map(lambda x: scaled(x, *x.shape[-2:]), g)
    return scaled(g, seen.rows, seen.columns)

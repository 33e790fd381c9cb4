"""Updates whose singular values are about 1: the direction of steepest descent in the spectral norm."""

from collections.abc import Sequence
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from gradchain import numerics
from gradchain.core.hyper import Decay, DType, NonNegative
from gradchain.core.rule import leafwise
from gradchain.core.spec import At, Slot, Slots
from gradchain.core.value import Choice, Integer, Kind
from gradchain.numerics import compute_dtype, divide, ema, magnitude, safe_norm, sqrt
from gradchain.signatures import public
from gradchain.transforms.matrices import DimensionNumbers, MuonDimensionNumbers, View, view

PRESETS = {
    "standard": (3.4445, -4.7750, 2.0315),
    "dion": (
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ),
}
"""Coefficients (a, b, c) for all steps, or for each."""

PRECONDITIONING = Choice("frobenius", "spectral", "aol", "schatten")


class CoefficientsKind(Kind):
    """Three numbers, a sequence of threes, or a preset's name; stored as tuples."""

    label = "str | Sequence"

    def normalize(self, where: str, value: Any) -> Any:
        if isinstance(value, str):
            value = PRESETS[Choice(*PRESETS).normalize(where, value)]
        table = np.asarray(value)
        if table.ndim not in (1, 2) or table.shape[-1] != 3:
            raise ValueError(f"{where} must have shape (3,) or (n, 3), got {table.shape}")
        return tuple(map(tuple, table.tolist())) if table.ndim == 2 else tuple(table.tolist())


Coefficients = Annotated[Any, CoefficientsKind()]


def _gram(x: Array) -> Array:
    return x @ jnp.conj(x.mT)


def _precondition(x: Array, how: str, eps: Any) -> tuple[Array, Array]:
    """Return matrices (no more rows than columns), scaled to a spectral norm of 1 or less, and their Gram matrices."""
    if how == "spectral":
        x = divide(x, jnp.linalg.norm(x, ord=2, axis=(-2, -1), keepdims=True) + eps)
        return x, _gram(x)
    x = divide(x, safe_norm(x, axis=(-2, -1), keepdims=True) + eps)
    a = _gram(x)
    if how == "frobenius":
        return x, a
    rows = how == "aol"
    size = jnp.sum(magnitude(a), axis=-1, keepdims=True) if rows else safe_norm(a, axis=(-2, -1), keepdims=True)
    s = divide(jnp.ones_like(size), sqrt(size))
    return x * s, a * s * s.mT


def _newton_schulz(x: Array, coefficients: Sequence[Any], how: str, eps: Any) -> Array:
    """Return matrices of shape (..., m, n) after one step X <- a X + (b A + c A A) X, A = X X*, for each (a, b, c)."""
    if x.shape[-2] > x.shape[-1]:
        return _newton_schulz(x.mT, coefficients, how, eps).mT
    x, gram = _precondition(x, how, eps)
    for i, (a, b, c) in enumerate(coefficients):
        gram = _gram(x) if i else gram
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def _each_step(coefficients: Any, steps: int) -> Sequence[Any]:
    return coefficients if np.ndim(coefficients) == 2 else [coefficients] * steps


@public
def orthogonalize_via_newton_schulz(
    x: Array,
    ns_coeffs: Any,
    ns_steps: int = 5,
    preconditioning: str = "frobenius",
    eps: Any = 1e-8,
    dimension_numbers: MuonDimensionNumbers | None = None,
) -> Array:
    r"""Drive the singular values of a matrix towards 1 by an iteration of matrix products.

    .. math::
        X \leftarrow a\,X + (b\,A + c\,A^2)\,X, \qquad A = X X^*

    Singular vectors stay what they are, and each step maps the singular values by the odd polynomial
    :math:`a s + b s^3 + c s^5`. With (15/8, -10/8, 3/8) they converge to 1, and the result to :math:`U V^*` for
    :math:`X = U S V^*`. The presets grow small singular values faster, and end near 1 without converging.

    The scale of ``x`` has no influence but for ``eps``, also where Optax's ``"aol"`` and ``"schatten"`` lose small
    matrices. Half precision is computed in float32.

    Args:
      x: a matrix, or an array with dimension numbers; real or complex.
      ns_coeffs: :math:`(a, b, c)`, or one such row for each step.
      ns_steps: number of steps, where ``ns_coeffs`` is a single row.
      preconditioning: how ``x`` is scaled first, to singular values of at most 1: by its Frobenius norm
        (``"frobenius"``), by its largest singular value (``"spectral"``, exact and expensive), by the root of its Gram
        matrix's norm (``"schatten"``), or each row by itself (``"aol"``), which changes the singular vectors a little.
      eps: added to the norm.
      dimension_numbers: which axes are rows and columns. Other axes are batches.

    Raises:
      ValueError: if ``x`` is no matrix and has no dimension numbers, or coefficients don't come in threes.

    References:
      Jordan et al., *Muon: An optimizer for hidden layers in neural networks*, 2024.
      Boissin et al., *Turbo-Muon*, 2025 (``"aol"``). Grishina et al., *Accelerating Newton-Schulz Iteration for
      Orthogonalization via Chebyshev-type Polynomials*, 2025 (``"schatten"``).
    """
    where = "orthogonalize_via_newton_schulz"
    if np.ndim(ns_coeffs) not in (1, 2) or np.shape(ns_coeffs)[-1] != 3:
        raise ValueError(f"{where}: ns_coeffs must have shape (3,) or (n, 3), got {np.shape(ns_coeffs)}")
    how = PRECONDITIONING.normalize(f"{where}: preconditioning", preconditioning)
    seen = view(where, x.shape, dimension_numbers)
    matrices = seen.whole(seen.matrices(x.astype(compute_dtype(x.dtype))))
    return seen.array(_newton_schulz(matrices, _each_step(ns_coeffs, ns_steps), how, eps)).astype(x.dtype)


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
    :func:`orthogonalize_via_newton_schulz` for the iteration. Every direction moves equally fast, also those in
    which gradients are always small.

    Args:
      ns_coeffs: coefficients of the iteration, as one row for all steps or one for each (all are used, and ``ns_steps``
        is ignored; Optax refuses more rows than steps); or a preset, ``"standard"`` or ``"dion"``. Static.
      ns_steps: number of steps. Static.
      beta: :math:`\beta` in [0, 1).
      eps: added to the norm that the iteration starts by dividing by.
      mu_dtype: dtype of the stored momentum; by default the parameter's, and at least float32.
      nesterov: look ahead along the momentum.
      adaptive: multiply by the dual norm :math:`\Re\langle \hat\mu_k, u_k \rangle`, about the sum of
        the momentum's singular values; matrix by matrix, also along batch axes, where Optax takes their sum.
      preconditioning: ``"frobenius"``, ``"spectral"``, ``"aol"`` or ``"schatten"``.
      weight_dimension_numbers: how arrays are seen as matrices: :class:`MuonDimensionNumbers` for all, a tree of them
        (or a prefix) like the parameters, or a function from parameters to one. ``None`` is for matrices.

    References:
      Jordan et al., *Muon: An optimizer for hidden layers in neural networks*, 2024.
      Bernstein and Newhouse, *Old Optimizer, New Norm: An Anthology*, 2024 (``adaptive``).
      Ahn et al., *Dion: Distributed Orthonormalized Updates*, 2025 (the preset).
    """
    g = numerics.bounded(g, power=1)
    mu = ema(slot.mu, g, beta)
    weight = at.weight_sum("beta")
    mu_hat = numerics.debias_nesterov(mu, g, beta, weight, at.weight_sum("beta", ahead=1)) if nesterov else mu / weight
    seen = view("scale_by_muon", g.shape, weight_dimension_numbers)
    x = seen.whole(seen.matrices(mu_hat))
    u = _newton_schulz(x, _each_step(ns_coeffs, ns_steps), preconditioning, eps)
    if adaptive:
        u = u * jnp.sum(jnp.real(jnp.conj(x) * u), axis=(-2, -1), keepdims=True)
    return seen.array(u), slot(mu=mu)


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

    The first lets a learning rate carry over from one width to another. The second makes each
    number's root mean square :math:`c`, whatever the shape.

    Args:
      weight_dimension_numbers: which axes are rows (inputs) and columns (outputs), as in :func:`scale_by_muon`.
      consistent_rms: :math:`c \ge 0`; 0.2 is about what AdamW's updates have. ``None`` gives the first form.

    Reference: Liu et al., *Muon is Scalable for LLM Training*, 2025, section 2.2.
    """
    seen: View = view("scale_by_shape", g.shape, weight_dimension_numbers)
    if consistent_rms is None:
        return g * max(1, seen.columns / max(seen.rows, 1)) ** 0.5
    return g * (consistent_rms * max(seen.rows, seen.columns) ** 0.5)

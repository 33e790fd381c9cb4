"""Orthogonalisation by products of matrices: Newton-Schulz iterations."""

from collections.abc import Sequence
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from gradchain.core.value import Choice, Kind
from gradchain.numerics import compute_dtype, divide, magnitude, safe_norm, sqrt
from gradchain.signatures import public

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


@public
def orthogonalize(
    x: Array,
    coefficients: Any = "standard",
    steps: int = 5,
    preconditioning: str = "frobenius",
    eps: Any = 1e-8,
) -> Array:
    r"""Drive the singular values of matrices towards 1 by an iteration of matrix products.

    .. math::
        X \leftarrow a\,X + (b\,A + c\,A^2)\,X, \qquad A = X X^*

    on the shorter side. Singular vectors stay what they are, and each step maps the singular values by the odd
    polynomial :math:`a s + b s^3 + c s^5`. With (15/8, -10/8, 3/8) they converge to 1, and the result to
    :math:`U V^*` for :math:`X = U S V^*`. The presets grow small singular values faster, and end near 1 without
    converging. A zero matrix stays zero. The scale of ``x`` has no influence but for ``eps``.

    Args:
      x: an array ``(..., m, n)``, real or complex.
      coefficients: :math:`(a, b, c)` for all steps, one such row for each step, or a preset: ``"standard"``,
        ``"dion"``.
      steps: number of steps, where ``coefficients`` is a single row.
      preconditioning: how ``x`` is scaled first, to singular values of at most 1: by its Frobenius norm
        (``"frobenius"``), by its largest singular value (``"spectral"``, exact and expensive), by the root of its Gram
        matrix's norm (``"schatten"``), or each row by itself (``"aol"``), which changes the singular vectors a little.
      eps: added to the norm.

    Raises:
      ValueError: if ``x`` has less than two axes, coefficients don't come in threes, or a name is unknown.

    References:
      Jordan et al., *Muon: An optimizer for hidden layers in neural networks*, 2024.
      Ahn et al., *Dion: Distributed Orthonormalized Updates*, 2025 (the preset).
      Boissin et al., *Turbo-Muon*, 2025 (``"aol"``). Grishina et al., *Accelerating Newton-Schulz Iteration for
      Orthogonalization via Chebyshev-type Polynomials*, 2025 (``"schatten"``).
    """
    where = "orthogonalize"
    if x.ndim < 2:
        raise ValueError(f"{where}: an array of shape {x.shape} is no matrix")
    if isinstance(coefficients, str):
        coefficients = PRESETS[Choice(*PRESETS).normalize(f"{where}: coefficients", coefficients)]
    if np.ndim(coefficients) not in (1, 2) or np.shape(coefficients)[-1] != 3:
        raise ValueError(f"{where}: coefficients must have shape (3,) or (n, 3), got {np.shape(coefficients)}")
    how = PRECONDITIONING.normalize(f"{where}: preconditioning", preconditioning)
    each = coefficients if np.ndim(coefficients) == 2 else [coefficients] * steps
    return _newton_schulz(x.astype(compute_dtype(x.dtype)), each, how, eps)


def _newton_schulz(x: Array, coefficients: Sequence[Any], how: str, eps: Any) -> Array:
    """Return matrices of shape (..., m, n) after one step X <- a X + (b A + c A A) X, A = X X*, for each (a, b, c)."""
    if x.shape[-2] > x.shape[-1]:
        return _newton_schulz(x.mT, coefficients, how, eps).mT
    x, gram = _precondition(x, how, eps)
    for i, (a, b, c) in enumerate(coefficients):
        gram = _gram(x) if i else gram
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x

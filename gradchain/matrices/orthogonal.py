"""Orthogonalisation by products of matrices: Newton-Schulz iterations."""

import itertools
from collections.abc import Iterable
from typing import Annotated, Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from gradchain.core.value import Choice, Integer, Kind
from gradchain.matrices.factors import gathered
from gradchain.numerics import compute_dtype, divide, magnitude, safe_norm, sqrt
from gradchain.signatures import public


class CoefficientSet(NamedTuple):
    """Coefficients (a, b, c), a row for each step, and how matrices are scaled before the first."""

    rows: tuple[tuple[float, float, float], ...]
    preconditioning: str = "frobenius"


STANDARD = (3.4445, -4.7750, 2.0315)
CONVERGING = (2.0, -1.5, 0.5)
MARGIN = 1.02
"""What ``polar_express_5`` divides matrices by besides their norm: its first row maps s / 1.02."""
PRESETS = {
    "standard": CoefficientSet((STANDARD,) * 5),
    "quintic": CoefficientSet(
        (
            (4.0848, -6.8946, 2.9270),
            (3.9505, -6.3029, 2.6377),
            (3.7418, -5.5913, 2.3037),
            (2.8769, -3.1427, 1.2046),
            (2.8366, -3.0525, 1.2012),
        )
    ),
    "polar_express": CoefficientSet(
        (
            (8.2051, -22.9019, 16.4607),
            (4.0664, -2.8612, 0.5184),
            (3.9096, -2.8234, 0.5250),
            (3.2856, -2.4153, 0.4853),
            (2.2779, -1.6198, 0.3985),
            (1.8726, -1.2307, 0.3585),
            (1.8564, -1.2132, 0.3568),
            (1.8750, -1.2500, 0.3750),
        )
    ),
    "polar_express_5": CoefficientSet(
        (
            (8.156554524902461 / MARGIN, -22.48329292557795 / MARGIN**3, 15.878769915207462 / MARGIN**5),
            (4.042929935166739, -2.808917465908714, 0.5000178451051316),
            (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
            (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
            (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
        )
    ),
    "cans": CoefficientSet(
        (
            (8.4703, -25.1081, 18.6293),
            (4.1828, -3.1087, 0.5806),
            (3.9619, -2.9541, 0.5630),
            (3.2866, -2.4647, 0.5074),
            (2.2737, -1.6447, 0.4162),
        )
    ),
    "aol": CoefficientSet(
        (
            (4.0098, -7.0585, 2.4635),
            (3.4585, -5.5479, 2.5959),
            (2.7573, -3.2939, 1.4254),
            (2.7215, -3.0494, 1.3169),
        ),
        "aol",
    ),
    "converging": CoefficientSet((CONVERGING,) * 12),
    "deepseekv4": CoefficientSet((STANDARD,) * 8 + (CONVERGING,) * 2),
    "cubic": CoefficientSet(((1.5, -0.5, 0.0),) * 5),
}
"""Sets of coefficients by name."""

PRECONDITIONING = Choice("frobenius", "spectral", "aol", "schatten")


class CoefficientsKind(Kind):
    """The name of a set, three numbers, or a sequence of threes; numbers are stored as tuples."""

    label = "str | Sequence"

    def normalize(self, where: str, value: Any) -> Any:
        if isinstance(value, str):
            return Choice(*PRESETS).normalize(where, value)
        table = np.asarray(value)
        if table.ndim not in (1, 2) or table.shape[-1] != 3 or not table.size:
            raise ValueError(f"{where} must have shape (3,) or (n, 3), got {table.shape}")
        return tuple(map(tuple, table.tolist())) if table.ndim == 2 else tuple(table.tolist())


Coefficients = Annotated[Any, CoefficientsKind()]
"""What drives singular values towards 1: a set's name, a row (a, b, c), or one for each step."""
Steps = Annotated[int, Integer()] | None
"""The number of steps; ``None`` for one for each row of coefficients."""
Preconditioning = Annotated[str, PRECONDITIONING] | None
"""How matrices are scaled before the first step; ``None`` for what goes with the coefficients."""


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
    steps: int | None = None,
    preconditioning: str | None = None,
    eps: Any = 1e-8,
) -> Array:
    r"""Drive the singular values of matrices towards 1 by an iteration of matrix products.

    .. math::
        X \leftarrow a\,X + (b\,A + c\,A^2)\,X, \qquad A = X X^*

    on the shorter side. Singular vectors stay what they are, and each step maps the singular values by the odd
    polynomial :math:`a s + b s^3 + c s^5`. A zero matrix stays zero. The scale of ``x`` has no influence but for
    ``eps``. A matrix that is spread over devices is gathered once, before the first step; batch axes stay spread.

    .. list-table:: Sets of coefficients
       :header-rows: 1

       * - name
         - steps
         - what it is
       * - ``"standard"``
         - 5
         - Muon's first: the steepest at 0. It doesn't converge; singular values end between 0.7 and 1.2.
       * - ``"quintic"``
         - 5
         - One row for each step, fitted so that singular values end nearer to 1. Optax calls it ``"dion"``.
       * - ``"polar_express"``
         - 8
         - Polar Express: each row is the best polynomial for what the rows before leave. It converges.
       * - ``"polar_express_5"``
         - 5
         - Polar Express for five steps, as in Dion's code. The norm is multiplied by 1.02, for safety.
       * - ``"cans"``
         - 5
         - Chebyshev-type polynomials.
       * - ``"aol"``
         - 4
         - For the preconditioning ``"aol"``, which saves a step.
       * - ``"converging"``
         - 12
         - (2, -1.5, 0.5) in all steps: slower at 0, and converges.
       * - ``"deepseekv4"``
         - 10
         - Eight steps of ``"standard"``, then two of ``"converging"``.
       * - ``"cubic"``
         - 5
         - (1.5, -0.5, 0), the classical iteration of Newton and Schulz; one product less in each step.

    Args:
      x: an array ``(..., m, n)``, real or complex.
      coefficients: a set's name, :math:`(a, b, c)` for all steps, or one such row for each step.
      steps: the number of steps. Fewer than there are rows take the first ones; further ones repeat the last. ``None``
        for a step for each row, and five for a single row that isn't in a set.
      preconditioning: how ``x`` is scaled first, to singular values of at most 1: by its Frobenius norm
        (``"frobenius"``), by its largest singular value (``"spectral"``, exact and expensive), by the root of its Gram
        matrix's norm (``"schatten"``), or each row by itself (``"aol"``), which changes the singular vectors a little.
        ``None`` for what the set is made for: ``"frobenius"`` but for ``"aol"``.
      eps: added to the norm.

    Raises:
      ValueError: if ``x`` has less than two axes, coefficients don't come in threes, or a name is unknown.

    References:
      Jordan et al., *Muon: An optimizer for hidden layers in neural networks*, 2024 (``"standard"``).
      Cesista, *Squeezing 1-2% Efficiency Gains Out of Muon by Optimizing the Newton-Schulz Coefficients*, 2025
      (``"quintic"``). Amsel et al., *The Polar Express: Optimal Matrix Sign Methods and Their Application to the Muon
      Algorithm*, 2025. Grishina et al., *Accelerating Newton-Schulz Iteration for Orthogonalization via Chebyshev-type
      Polynomials*, 2025 (``"cans"``, ``"schatten"``). Boissin et al., *Turbo-Muon*, 2025 (``"aol"``).
      Higham, *Functions of Matrices*, 2008, chapter 8 (``"cubic"``).
    """
    where = "orthogonalize"
    if x.ndim < 2:
        raise ValueError(f"{where}: an array of shape {x.shape} is not a matrix")
    rows, how = _scheme(where, coefficients, steps, preconditioning)
    x = gathered(x.astype(compute_dtype(x.dtype)))
    return gathered(_newton_schulz(x, rows, how, eps))  # the compiler would else spread it from its end on


def _scheme(where: str, coefficients: Any, steps: int | None, preconditioning: str | None) -> tuple[list[Any], str]:
    """Return the coefficients of each step, and how matrices are scaled first."""
    if isinstance(coefficients, str):
        rows, own = PRESETS[Choice(*PRESETS).normalize(f"{where}: coefficients", coefficients)]
    elif np.ndim(coefficients) not in (1, 2) or np.shape(coefficients)[-1] != 3 or not np.size(coefficients):
        raise ValueError(f"{where}: coefficients must have shape (3,) or (n, 3), got {np.shape(coefficients)}")
    else:
        rows, own = ([coefficients] * 5 if np.ndim(coefficients) == 1 else coefficients), "frobenius"
    how = own if preconditioning is None else PRECONDITIONING.normalize(f"{where}: preconditioning", preconditioning)
    number = len(rows) if steps is None else steps
    return list(itertools.islice(itertools.chain(rows, itertools.repeat(rows[-1])), number)), how


def _newton_schulz(x: Array, coefficients: Iterable[Any], how: str, eps: Any) -> Array:
    """Return matrices of shape (..., m, n) after one step X <- a X + (b A + c A A) X, A = X X*, for each (a, b, c)."""
    if x.shape[-2] > x.shape[-1]:
        return _newton_schulz(x.mT, coefficients, how, eps).mT
    x, gram = _precondition(x, how, eps)
    for i, (a, b, c) in enumerate(coefficients):
        gram = _gram(x) if i else gram
        cubic = isinstance(c, float) and not c
        x = a * x + (b * gram if cubic else b * gram + c * gram @ gram) @ x
    return x

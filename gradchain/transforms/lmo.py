"""Steepest descent in a norm: the update is the point of a ball that lies furthest along the gradient."""

import math
from typing import Annotated, Any

import jax.numpy as jnp
from jax import Array

from gradchain.core.hyper import NonNegative
from gradchain.core.rule import leafwise
from gradchain.core.spec import At, Slots
from gradchain.core.value import Choice
from gradchain.matrices.orthogonal import Coefficients, Steps, orthogonalize
from gradchain.matrices.views import DimensionsKind, MatrixView, MuonDimensionNumbers, as_hashable, axes_of, view
from gradchain.numerics import divide, safe_norm, safe_root_mean_squares

NORM = Choice("auto", "spectral", "conv", "sign", "outputs", "inputs", "rms")
OptionalDimensions = Annotated[
    Any,
    DimensionsKind(
        "MuonDimensionNumbers",
        MuonDimensionNumbers,
        as_hashable,
        lambda where, shape, dims: None if dims is None else view(shape, dims, where=where),
    ),
]
"""Dimension numbers of those arrays that need them."""


def norm_of(norm: str, shape: tuple[int, ...], dims: MuonDimensionNumbers | None) -> str:
    """Return the norm that goes with an array: ``"auto"`` means one by its number of axes, or by its rows' axes."""
    if norm != "auto":
        return norm
    if dims is not None:
        return "conv" if len(axes_of(dims.reduction_axis)) > 2 else "spectral"
    return "rms" if len(shape) < 2 else "spectral" if len(shape) == 2 else "conv"


def seen_as(norm: str, shape: tuple[int, ...], dims: MuonDimensionNumbers | None, where: str) -> tuple[MatrixView, int]:
    """Return an array as matrices, and how many places the window of a convolution has: 1 for other layers."""
    if norm != "conv":
        return view(shape, dims, where=where), 1
    if len(shape) < 3:
        raise ValueError(
            f"{where}: norm='conv' is for kernels (..., inputs, outputs), got {shape}; use norm='spectral'"
        )
    dims = dims or MuonDimensionNumbers(tuple(range(len(shape) - 1)), len(shape) - 1)
    return view(shape, dims, where=where), math.prod(shape[axis] for axis in axes_of(dims.reduction_axis)[:-1])


def spectral_size(window: int, rows: int, columns: int) -> float:
    """Return the singular values of a point on the boundary of the unit ball."""
    return (columns * window / max(1, rows)) ** 0.5 / max(1, window)


@leafwise()
def scale_by_lmo(
    g: Array,
    slot: Slots,
    at: At,
    norm: Annotated[str, NORM] = "auto",
    radius: NonNegative = 1.0,
    ns_coeffs: Coefficients = "standard",
    ns_steps: Steps = None,
    eps: NonNegative = 1e-8,
    *,
    weight_dimension_numbers: OptionalDimensions | None = None,
):
    r"""Replace each array by the point of a norm's ball that lies furthest along it.

    .. math:: u = \arg\max_{\|x\| \le \rho} \langle g, x \rangle

    It is the (negative) linear minimisation oracle of conditional gradient methods. Behind an average of gradients and
    before the learning rate it makes Scion; with ``add_decayed_weights(1.0)`` between the two, weights stay in the ball
    that they start in (:func:`scion` does this). The scale of :math:`g` has no influence but for ``eps``. For a matrix
    :math:`m \times n` of inputs and outputs:

    .. list-table::
       :header-rows: 1

       * - ``norm``
         - :math:`u / \rho`
         - for
       * - ``"spectral"``
         - :math:`\sqrt{n / m}\;\mathrm{NewtonSchulz}(g)`
         - hidden matrices
       * - ``"conv"``
         - :math:`\sqrt{n / m}\;\mathrm{NewtonSchulz}(g) / k`, with :math:`k` places in the window
         - kernels (..., :math:`m`, :math:`n`) of convolutions
       * - ``"sign"``
         - :math:`\mathrm{sign}(g_{ij}) / m`
         - output layers, and embeddings that share their weights
       * - ``"outputs"``
         - :math:`g_{ij} / (\sqrt{m}\,\|g_{:j}\| + \epsilon)`, each output by itself
         - output layers
       * - ``"inputs"``
         - :math:`g_{ij} / (\|g_{i:}\| / \sqrt n + \epsilon)`, each input by itself
         - embeddings
       * - ``"rms"``
         - :math:`g / (\mathrm{rms}(g) + \epsilon)`
         - vectors
       * - ``"auto"``
         - ``"spectral"`` for arrays with two axes, ``"rms"`` with fewer, ``"conv"`` with more; with dimension numbers
           ``"conv"`` for more than two axes of inputs, the last of them the channels, and else ``"spectral"``
         -

    Args:
      norm: see above. Static.
      radius: :math:`\rho \ge 0`.
      ns_coeffs: coefficients of the iteration; see :func:`gradchain.matrices.orthogonalize`. Static.
      ns_steps: number of its steps. Static.
      eps: :math:`\epsilon \ge 0`; in the iteration it is added to the norm.
      weight_dimension_numbers: how arrays are seen as matrices, as in :func:`scale_by_muon`, where they aren't (inputs,
        outputs). Blocks and matrices along batch axes are treated one by one.

    Raises:
      ValueError: if an array is no matrix where the norm needs one.

    Reference: Pethick et al., *Training Deep Learning Models with Norm-Constrained LMOs*, 2025, table 2.
    """
    norm = norm_of(norm, g.shape, weight_dimension_numbers)
    if norm == "rms":
        return radius * divide(g, safe_root_mean_squares(g) + eps, eps == 0)

    seen, window = seen_as(norm, g.shape, weight_dimension_numbers, "scale_by_lmo")

    def direction(x: Array) -> Array:
        rows, columns = x.shape[-2:]
        if norm in ("spectral", "conv"):
            u = orthogonalize(x, ns_coeffs, ns_steps, eps=eps)
            return u * (radius * spectral_size(window, rows, columns))
        if norm == "sign":
            return jnp.sign(x) * (radius / max(1, rows))
        side, size = (-2, rows**0.5) if norm == "outputs" else (-1, max(1, columns) ** -0.5)
        return radius * divide(x, safe_norm(x, axis=side, keepdims=True) * size + eps, eps == 0)

    return seen.map(direction, g)

"""What rules for matrices are written with: views of arrays as matrices, refreshing now and then, factors and roots.

Everything here works on the last two axes of an array, for any number of batch axes in front of them, for real and
complex dtypes, and under ``jit`` and ``vmap``. Half precision is computed in float32 and returned in it.
"""

from gradchain.matrices.axes import AxesView, along_axes, axes_view, axis_gram
from gradchain.matrices.bases import align_signs, track_basis
from gradchain.matrices.factors import gathered, gram, inverse_root, spectral_norm
from gradchain.matrices.orthogonal import orthogonalize
from gradchain.matrices.refreshing import due, refresh
from gradchain.matrices.views import DimensionNumbers, MatrixView, view

__all__ = [
    "AxesView",
    "DimensionNumbers",
    "MatrixView",
    "align_signs",
    "along_axes",
    "axes_view",
    "axis_gram",
    "due",
    "gathered",
    "gram",
    "inverse_root",
    "orthogonalize",
    "refresh",
    "spectral_norm",
    "track_basis",
    "view",
]

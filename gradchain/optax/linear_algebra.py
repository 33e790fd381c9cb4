"""Norms, eigenvalues, roots and least squares, under Optax's names: those of :mod:`gradchain.linear_algebra`."""

import warnings
from typing import Any

from jax import Array

from gradchain.linear_algebra import matrix_inverse_pth_root, nnls, power_iteration
from gradchain.optax.tree_utils import tree_norm
from gradchain.signatures import public

__all__ = ["global_norm", "matrix_inverse_pth_root", "nnls", "power_iteration"]


@public
def global_norm(updates: Any) -> Array:
    """Return the Euclidean norm of all elements together, with the warning that it is now ``optax.tree.norm``."""
    warnings.warn("optax.global_norm is deprecated: use optax.tree.norm", DeprecationWarning, stacklevel=3)
    return tree_norm(updates)

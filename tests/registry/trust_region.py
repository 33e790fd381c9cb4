"""Rules that ask for products with the Hessian."""

from typing import Any

import jax
import numpy as np

import gradchain as gc
from tests import oracles
from tests.registry.row import Row


def ridge(params: Any) -> Any:
    """Return the sum of |w|^2 / 2 - |w|^4 / 4 over JAX's or NumPy's arrays, in at least single precision.

    It curves down where |w| > 0.6, and falls ever more steeply: long steps are taken, along whatever gradient.
    """
    wide = [w.astype("float32") if w.dtype.itemsize < 4 else w for w in jax.tree.leaves(params)]
    squares = [(w * w.conj()).real for w in wide]
    return sum(((s / 2 - s * s / 4).sum() for s in squares), start=0.0)


def ridge_product(params: Any, v: Any) -> Any:
    """Return the product of the Hessian of ``ridge`` and a vector, NumPy's."""
    return {n: (1 - np.abs(w) ** 2) * v[n] - 2 * (w.conj() * v[n]).real * w for n, w in params.items()}


def with_ridge(params: Any) -> dict[str, Any]:
    """Return the extra arguments of a rule that minimises ``ridge``."""
    return {"value": ridge(params), "value_fn": ridge}


TRUST_REGION = [
    Row(
        "scale_by_newton_cg",
        lambda: gc.scale_by_newton_cg(40.0, 10.0, 3),
        lambda: oracles.newton_cg(ridge, ridge_product, 40.0, 10.0, 3),
        needs_params=True,
        extra=with_ridge,
        reverses=False,
        smooth=False,
    ),
]

"""Rules that multiply by the inverse of a curvature matrix."""

from typing import Any

import jax
import jax.numpy as jnp

import gradchain as gc
from tests import oracles
from tests.registry.row import Row, loss, ramp, ramp_value


def cubic(params: Any) -> Any:
    """Return w + w^3 / 10 of each number."""
    return jax.tree.map(lambda w: w + 0.1 * w**3, params)


def squares(outputs: Any) -> Any:
    """Return |z|^2."""
    return sum((jnp.sum((z * z.conj()).real) for z in jax.tree.leaves(outputs)), start=0.0)


def with_model(params: Any) -> dict[str, Any]:
    """Return the extra arguments of a rule that asks for the loss, a model and what its outputs are worth."""
    return {"value": loss(params), "model_fn": cubic, "outer": squares}


EXACT = {"max_cg_steps": 60, "cg_tol": 1e-15}

CURVATURE = [
    Row(
        "scale_by_gauss_newton",
        lambda: gc.scale_by_gauss_newton(ramp(), **EXACT),
        lambda: oracles.gauss_newton(loss, ramp_value),
        needs_params=True,
        extra=with_model,
        trains=False,
    ),
    Row(
        "scale_by_gauss_newton_fixed",
        lambda: gc.scale_by_gauss_newton(0.5, adaptive=False, **EXACT),
        lambda: oracles.gauss_newton(loss, 0.5, adaptive=False),
        needs_params=True,
        extra=with_model,
        trains=False,
    ),
]
"""The model's outputs don't mix parameters, so that the matrix is diagonal; products with others have tests of their
own."""

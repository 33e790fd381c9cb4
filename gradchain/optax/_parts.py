"""What transforms with states of Optax's have in common: copies and zeros of parameters, and what their steps need."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gradchain.combinators._weights import widened
from gradchain.core.transform import scalar_dtype
from gradchain.numerics import compute_dtype
from gradchain.optax._base import NO_PARAMS_MSG
from gradchain.tree import Tree
from gradchain.tree import vdot as full_vdot


def wide_zeros(params: Tree) -> Tree:
    """Return zeros like the parameters, in at least float32."""
    return jax.tree.map(lambda x: jnp.zeros_like(x, dtype=compute_dtype(jnp.result_type(x))), params)


def own(params: Tree) -> Tree:
    """Return a copy of the parameters, in at least float32."""
    return jax.tree.map(lambda x: jnp.array(x, compute_dtype(jnp.result_type(x)), copy=True), params)


def scalar(x: Any, params: Tree) -> Array:
    """Return one number as states keep it."""
    return jnp.array(x, scalar_dtype(params), copy=True)


def inner_product(x: Tree, y: Tree) -> Array:
    """Return the real part of an inner product."""
    return jnp.real(full_vdot(x, y))


def needed(where: str, params: Tree | None) -> Tree:
    """Return parameters in at least float32, or raise ``ValueError`` where they are missing."""
    if params is None:
        raise ValueError(f"{where}: {NO_PARAMS_MSG}")
    return widened(params)


def value_of(where: str, extra: dict[str, Any]) -> Any:
    """Return the extra argument ``value``, which must be there."""
    if "value" not in extra:
        raise TypeError(f"{where}.update() missing 1 required keyword-only argument: 'value'")
    if extra["value"] is None:
        raise ValueError(f"{where}: pass the latest loss as update(..., value=loss), got None")
    return extra["value"]

"""Nearest points of sets, under Optax's names: those of :mod:`gradchain.projections`, which are finite everywhere.

Whole numbers are taken, too. They become floating-point numbers where a projection divides, and stay whole in boxes.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from gradchain import projections
from gradchain.signatures import public

__all__ = [
    "projection_box",
    "projection_halfspace",
    "projection_hypercube",
    "projection_hyperplane",
    "projection_l1_ball",
    "projection_l1_sphere",
    "projection_l2_ball",
    "projection_l2_sphere",
    "projection_linf_ball",
    "projection_non_negative",
    "projection_simplex",
    "projection_vector",
]

F = TypeVar("F", bound=Callable[..., Any])


def _is_whole(x: Any) -> bool:
    return not jnp.issubdtype(jnp.result_type(x), jnp.inexact)


def _divided(function: F, trees: int = 1) -> F:
    """Make whole numbers in the first arguments floating-point ones."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        floats = jax.tree.map(lambda x: jnp.asarray(x, float) if _is_whole(x) else x, args[:trees])
        return function(*floats, *args[trees:], **kwargs)

    return call  # pyright: ignore[reportReturnType]


projection_halfspace = _divided(projections.projection_halfspace, 2)
projection_hyperplane = _divided(projections.projection_hyperplane, 2)
projection_l1_ball = _divided(projections.projection_l1_ball)
projection_l1_sphere = _divided(projections.projection_l1_sphere)
projection_l2_ball = _divided(projections.projection_l2_ball)
projection_l2_sphere = _divided(projections.projection_l2_sphere)
projection_simplex = _divided(projections.projection_simplex)
projection_vector = _divided(projections.projection_vector, 2)


@public
def projection_non_negative(tree: Any) -> Any:
    """Return the tree without negative numbers: see :func:`gradchain.projections.projection_non_negative`."""
    return jax.tree.map(lambda x: jnp.maximum(x, 0) if _is_whole(x) else projections.projection_non_negative(x), tree)


@public
def projection_box(tree: Any, lower: Any, upper: Any) -> Any:
    """Return the tree with each number in an interval: see :func:`gradchain.projections.projection_box`."""
    if not any(map(_is_whole, jax.tree.leaves(tree))):
        return projections.projection_box(tree, lower, upper)
    ends = (x if jax.tree.structure(x) == jax.tree.structure(tree) else _filled(tree, x) for x in (lower, upper))
    return jax.tree.map(jnp.clip, tree, *ends)


def _filled(tree: Any, end: Any) -> Any:
    return jax.tree.map(lambda _: end, tree)


@public
def projection_hypercube(tree: Any, scale: Any = 1) -> Any:
    """Return the tree with each number in [0, scale]: see :func:`gradchain.projections.projection_hypercube`."""
    return projection_box(tree, 0, scale)


@public
def projection_linf_ball(tree: Any, scale: Any = 1) -> Any:
    """Return the tree with each magnitude at most ``scale``: see :func:`gradchain.projections.projection_linf_ball`."""
    if not any(map(_is_whole, jax.tree.leaves(tree))):
        return projections.projection_linf_ball(tree, scale)
    ends = (jax.tree.map(lambda x, end=end: jnp.full_like(x, end), tree) for end in (-scale, scale))
    return projection_box(tree, *ends)

"""What all projections do with their arguments: check them, and widen them to the dtype to compute in."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gradchain import tree as trees
from gradchain.core.hyper import Number
from gradchain.numerics import compute_dtype

Tree = Any
ANY = Number("a number", "(-inf, inf)")
RADIUS = Number("a radius", "[0, inf)")


def arrays(where: str, tree: Tree, kind: Any = jnp.floating) -> Tree:
    """Return the tree's leaves as arrays, which must be of a ``kind`` of dtype."""

    def leaf(path: Any, x: Any) -> jax.Array:
        array = jnp.asarray(x)
        if not jnp.issubdtype(array.dtype, kind):
            wanted = "floating-point" if kind is jnp.floating else "floating-point or complex"
            raise TypeError(f"{where}: {trees.show_path(path)} must be {wanted}, got {array.dtype}")
        return array

    return jax.tree_util.tree_map_with_path(leaf, tree)


def widened(where: str, tree: Tree, kind: Any = jnp.floating) -> Tree:
    """Return the tree's leaves as arrays of the compute dtype."""
    return jax.tree.map(lambda x: x.astype(compute_dtype(x.dtype)), arrays(where, tree, kind))


def scalar(where: str, name: str, value: ArrayLike, kind: Number = RADIUS) -> Any:
    """Return one number, checked where it isn't traced."""
    if jnp.ndim(value) != 0:
        raise ValueError(f"{where}: {name} must be one number, got shape {jnp.shape(value)}")
    return kind.normalize(f"{where}: {name}", value)


def largest(tree: Tree) -> jax.Array:
    """Return the largest magnitude in a tree, 1 if there is none above 0: what to divide by so as not to overflow."""
    size = jax.lax.stop_gradient(trees.norm(tree, ord="inf"))
    return jnp.where(size == 0, 1, size)

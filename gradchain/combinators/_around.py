"""What transforms around others have in common."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from gradchain import tree
from gradchain.core.transform import Transform
from gradchain.numerics import safe_increment
from gradchain.tree import Tree


def one_boolean(where: str, value: Any) -> Array:
    """Return ``value`` as an array, after checking that it is one boolean."""
    if jnp.shape(value) != () or not jnp.issubdtype(jnp.result_type(value), jnp.bool_):
        raise TypeError(f"{where} must return one boolean, got {jnp.result_type(value)} of shape {jnp.shape(value)}")
    return jnp.asarray(value)


def counted(emitted: Any, count: Array) -> Array:
    """Return the next count of updates, after a step that ``emitted`` one or not."""
    return where(emitted, safe_increment(count), count)


def where(emitted: Any, new: Tree, old: Tree) -> Tree:
    """Return what is ``new`` after a step that emitted an update, else what is ``old``."""
    return new if emitted is True else tree.where(emitted, new, old)


def check_own_gradients(where: str, tx: Transform) -> None:
    """Raise ``ValueError`` if updates of ``tx`` may be made of other gradients than the present one."""
    if tx.collects:
        raise ValueError(
            f"{where} compares each update with its gradient, but accumulate inside makes one update of several "
            f"gradients; put accumulate around it: accumulate({where}(...), every)"
        )

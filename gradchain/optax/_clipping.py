"""Clipping of single arrays and of gradients by example, as functions."""

from typing import Any

import jax
import jax.numpy as jnp

from gradchain import numerics, tree
from gradchain.signatures import public


@public
def unitwise_norm(x: Any, axis: int | tuple[int, ...] | None = None) -> jax.Array:
    """Return the norm of each unit's weights, in the shape of ``x`` (:func:`gradchain.numerics.unitwise_norm`)."""
    return numerics.unitwise_norm(x, axis)


@public
def unitwise_clip(g_norm: Any, max_norm: Any, grad: Any, div_eps: Any = 1e-6) -> jax.Array:
    """Return the gradient, scaled down to ``max_norm`` where its norm, given as ``g_norm``, isn't below it.

    All have the shape of the gradient; the divisor is at least ``div_eps``.

    Raises:
      ValueError: if shapes differ.
    """
    shapes = [jnp.shape(x) for x in (g_norm, max_norm, grad)]
    if len(set(shapes)) > 1:
        raise ValueError(f"unitwise_clip: g_norm, max_norm and grad must have one shape, got {shapes}")
    return jnp.where(g_norm < max_norm, grad, grad * (max_norm / jnp.maximum(g_norm, div_eps)))


@public
def per_example_global_norm_clip(grads: Any, l2_norm_clip: Any) -> tuple[Any, jax.Array]:
    """Return the sum of examples' gradients, each clipped to a global norm, and how many were clipped.

    Args:
      grads: a tree of arrays with one leading axis of examples.
      l2_norm_clip: the largest norm of one example's gradients.

    Raises:
      ValueError: if there is no such axis.
    """
    _check_batch("per_example_global_norm_clip", grads)
    norms = jax.vmap(tree.norm)(grads)
    factors = jnp.where(norms > l2_norm_clip, l2_norm_clip / jnp.where(norms > 0, norms, 1), 1.0)
    total = jax.tree.map(lambda g: jnp.tensordot(factors.astype(g.dtype), g, axes=1), grads)
    return total, jnp.sum(factors < 1)


@public
def per_example_layer_norm_clip(grads: Any, global_l2_norm_clip: Any, uniform: bool = True) -> tuple[Any, Any]:
    """Return the sum of examples' gradients, clipped array by array, and how many were clipped of each array.

    Args:
      grads: a tree of arrays with one leading axis of examples.
      global_l2_norm_clip: the largest norm of one example's gradients; its square is divided among the arrays.
      uniform: whether all arrays get equal shares, or such as their sizes.

    Raises:
      ValueError: if there is no leading axis.
    """
    _check_batch("per_example_layer_norm_clip", grads)
    leaves, treedef = jax.tree.flatten(grads)
    sizes = [1 if uniform else g[0].size for g in leaves]
    bounds = [global_l2_norm_clip * (size / sum(sizes)) ** 0.5 for size in sizes]
    pairs = [per_example_global_norm_clip(g, bound) for g, bound in zip(leaves, bounds, strict=True)]
    return treedef.unflatten([x for x, _ in pairs]), treedef.unflatten([n for _, n in pairs])


def _check_batch(where: str, grads: Any) -> None:
    """Raise ``ValueError`` unless all arrays have a leading axis of one length."""
    shapes = [jnp.shape(g) for g in jax.tree.leaves(grads)]
    if not all(shape and shape[0] == shapes[0][0] for shape in shapes):
        raise ValueError(f"{where}: grads need one leading axis of examples, got shapes {shapes}")

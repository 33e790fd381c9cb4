"""Running moments and slow copies of trees, each in its own dtype: the averages of :mod:`gradchain.numerics`, mapped.

Where an update is ``None``, or JAX's ``float0``, the result is ``None``. Integer moments become floating-point.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gradchain.numerics import abs_sq, compute_dtype, decaying_max, ema, magnitude, one_minus_power
from gradchain.signatures import public
from gradchain.tree.alignment import T, Tree, map_optional, without_float0
from gradchain.tree.construction import cast_like, converted, narrowed


@public
def update_moment(updates: Tree, moments: T, decay: ArrayLike, order: int) -> T:
    r"""Return the moving average of a power of the updates, :math:`\beta m + (1 - \beta) g^k`.

    Args:
      updates: :math:`g`.
      moments: :math:`m`, the average so far.
      decay: :math:`\beta` in [0, 1].
      order: :math:`k`, 1 for the mean.
    """
    return _average(lambda g, m: ema(m, g**order, decay), updates, moments, "update_moment")


@public
def update_moment_per_elem_norm(updates: Tree, moments: T, decay: ArrayLike, order: int) -> T:
    r"""Return the moving average of a power of the updates' magnitudes, :math:`\beta m + (1 - \beta) |g|^k`.

    It is real for complex updates. For odd :math:`k` and real updates Optax averages :math:`g^k`, with its sign.

    Args:
      updates: :math:`g`.
      moments: :math:`m`, the average so far.
      decay: :math:`\beta` in [0, 1].
      order: :math:`k`, 2 for the second moment.
    """

    def power(g: Array) -> Array:
        return abs_sq(g) ** (order // 2) if order % 2 == 0 else magnitude(g) ** order

    return _average(lambda g, m: ema(m, power(g), decay), updates, moments, "update_moment_per_elem_norm")


@public
def update_infinity_moment(updates: Tree, moments: T, decay: ArrayLike, eps: ArrayLike) -> T:
    r"""Return the decaying maximum of the updates' magnitudes, :math:`\max(\beta m, |g| + \epsilon)`.

    Args:
      updates: :math:`g`.
      moments: :math:`m`, the maximum so far.
      decay: :math:`\beta` in [0, 1].
      eps: :math:`\epsilon \ge 0`.
    """
    return _average(lambda g, m: decaying_max(m, g, decay, eps), updates, moments, "update_infinity_moment")


@public
def bias_correction(moment: T, decay: ArrayLike, count: ArrayLike) -> T:
    r"""Return bias-corrected moving averages, :math:`m / (1 - \beta^t)`.

    Args:
      moment: :math:`m`, after :math:`t` updates.
      decay: :math:`\beta` in [0, 1).
      count: :math:`t`, at least 1.
    """

    def leaf(m: ArrayLike) -> Array:
        dtype = compute_dtype(jnp.result_type(m))
        corrected = jnp.asarray(m, dtype) / one_minus_power(decay, jnp.asarray(count, jnp.finfo(dtype).dtype))
        return narrowed(corrected, m)

    return jax.tree.map(leaf, without_float0(moment))


def _average(function: Callable[[Array, Array], Array], updates: Tree, moments: Tree, where: str) -> Tree:
    """Map ``function(g, m)``, computed in at least float32 and stored in the dtype of ``m``, if it can be."""

    def leaf(path: Any, g: Any, m: Any) -> Any:
        if g is None:
            return None
        new = function(*(jnp.asarray(x, compute_dtype(jnp.result_type(x))) for x in (g, m)))
        whole = not jnp.issubdtype(jnp.result_type(m), jnp.inexact)
        return new if whole else converted(path, new, jnp.result_type(m))

    return map_optional(leaf, without_float0(updates), moments, where)


@public
def incremental_update(new_tensors: Tree, old_tensors: T, step_size: ArrayLike) -> T:
    r"""Return :math:`s\,w_{new} + (1 - s)\,w_{old}`, in the old arrays' dtypes: Polyak averaging, target networks.

    Computed in at least float32. A small step is lost where the old arrays are stored in half precision: keep those in
    float32. Integers and keys aren't averaged; they are taken from the new tree.

    Args:
      new_tensors: the latest values.
      old_tensors: their average so far; ``None`` where the new tree has it.
      step_size: :math:`s` in [0, 1].

    Reference: Polyak and Juditsky, *Acceleration of Stochastic Approximation by Averaging*, 1992.
    """

    def leaf(path: Any, new: Any, old: Any) -> Any:
        if new is None or not jnp.issubdtype(jnp.result_type(old), jnp.inexact):
            return new
        wide = compute_dtype(jnp.result_type(old))
        return ema(jnp.asarray(new, wide), jnp.asarray(old, wide), step_size).astype(jnp.result_type(old))

    return map_optional(leaf, new_tensors, old_tensors, "incremental_update")


@public
def periodic_update(new_tensors: Tree, old_tensors: T, steps: ArrayLike, update_period: ArrayLike) -> T:
    """Return the new tree at every ``update_period``-th step and the old one otherwise, in the old arrays' dtypes.

    It selects with ``where``, so that the cost is the same under ``vmap``.

    Args:
      new_tensors: the latest values.
      old_tensors: a slow copy, such as a target network's.
      steps: the number of steps so far; at 0 the new tree is returned.
      update_period: an integer, at least 1.

    Raises:
      TypeError: where the old arrays' dtype can't hold the new ones.

    Reference: Mnih et al., *Playing Atari with Deep Reinforcement Learning*, 2013.
    """
    due = jnp.asarray(steps) % update_period == 0
    return cast_like(jax.tree.map(lambda new, old: jnp.where(due, new, old), new_tensors, old_tensors), old_tensors)

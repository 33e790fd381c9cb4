"""What happens to parameters after a transform's update."""

from typing import Any

import jax
import jax.numpy as jnp

from gradchain.signatures import public


@public
def apply_updates(params: Any, updates: Any) -> Any:
    """Return ``params + updates`` in the parameters' dtypes, whatever those of the updates are.

    :func:`gradchain.apply_updates` refuses what would be lost by that. Where a parameter is ``None``, so is the result.
    """

    def leaf(param: Any, update: Any) -> Any:
        return None if param is None else jnp.asarray(param + update).astype(jnp.asarray(param).dtype)

    return jax.tree.map(leaf, params, updates, is_leaf=lambda x: x is None)


@public
def incremental_update(new_tensors: Any, old_tensors: Any, step_size: Any) -> Any:
    """Return the average ``step_size * new + (1 - step_size) * old`` (:func:`gradchain.incremental_update`)."""

    def leaf(new: Any, old: Any) -> Any:
        return None if new is None else step_size * new + (1.0 - step_size) * old

    return jax.tree.map(leaf, new_tensors, old_tensors, is_leaf=lambda x: x is None)


@public
def periodic_update(new_tensors: Any, old_tensors: Any, steps: Any, update_period: Any) -> Any:
    """Return the new tensors where ``steps`` is a multiple of the period, else the old ones."""
    return jax.lax.cond(jnp.mod(steps, update_period) == 0, lambda: new_tensors, lambda: old_tensors)

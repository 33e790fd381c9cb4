"""``update_params``: an update and the parameters' sum with it, in one."""

from typing import Any, cast

import jax
import jax.numpy as jnp

from gradchain.combinators.chain import Chain
from gradchain.core.foreign import Child, as_transform
from gradchain.core.transform import Transform, apply_updates
from gradchain.native.library import available
from gradchain.native.steps import add_to_params, fits
from gradchain.signatures import public
from gradchain.tree import Tree
from gradchain.tree.alignment import S, T


@public
def update_params(tx: Child, grads: Tree, state: S, params: T, **extra: Any) -> tuple[T, S]:
    """Return the parameters after an update, and the next state.

    It is ``update`` and :func:`apply_updates` in one. Where kernels in C++ can be compiled (see :doc:`/performance`), a
    compiled step of elementwise rules on a CPU (Adam's family, SGD with momentum, Lion, with or without
    :func:`clip_by_global_norm` in front) never writes the update to memory: AdamW takes seven words for each parameter
    in place of ten. Its parameters differ from those of ``update`` by one rounding at most.

    Args:
      tx: the transform.
      grads: gradients, or updates from an earlier transform: a tree like ``params``.
      state: from ``init`` or the last update.
      params: the current parameters.
      **extra: further arguments of ``update``.

    Returns:
      ``(params, state)``.

    Example:
      >>> tx = adamw(1e-3)
      >>> params, state = update_params(tx, grads, tx.init(params), params)
    """
    tx = as_transform(tx)
    dtype = _fusable(tx, grads, params)
    if dtype is None:
        updates, state = tx.update(grads, state, params, **extra)
        return apply_updates(params, updates), state
    both = Chain((tx, add_to_params(dtype)))
    new, (state, _) = both.update(grads, cast(Any, (state, add_to_params.State())), params, **extra)
    return new, state


def _fusable(tx: Transform, grads: Tree, params: Tree) -> Any:
    """Return the dtype of all gradients and parameters if kernels can be of use, else ``None``."""
    if not (fits(_stages(tx)) and available()):
        return None
    leaves = jax.tree.leaves((grads, params), is_leaf=lambda x: x is None)
    dtypes = {getattr(x, "dtype", None) for x in leaves}
    return dtypes.pop() if dtypes in ({jnp.dtype(jnp.float32)}, {jnp.dtype(jnp.bfloat16)}) else None


def _stages(tx: Transform) -> list[Transform]:
    """Return the stages of a chain, those of chains inside it in their places."""
    return [one for stage in tx.stages for one in _stages(stage)] if isinstance(tx, Chain) else [tx]

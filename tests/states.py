"""States filled with numbers that tell every array and every element from the others, without compiling anything."""

import jax
import jax.numpy as jnp
import numpy as np

from gradchain.introspect.paths import abstract_state


def filled(tx, params):
    """Return a state of ``tx`` in which all arrays differ."""
    leaves, treedef = jax.tree.flatten(abstract_state(tx, params))
    return treedef.unflatten([_array(i, like) for i, like in enumerate(leaves)])


def _array(index, like):
    if like.weak_type:
        return jnp.asarray(np.asarray(index + 1, like.dtype).item())
    values = np.arange(np.prod(like.shape, dtype=int)).reshape(like.shape)
    if like.dtype == bool:
        return jnp.asarray((values + index) % 2 == 0)
    return jnp.asarray((values % 7 + 7 * (index % 30)).astype(like.dtype))


def assert_same(state, other):
    """Assert equal structure, dtypes, weak types and bits."""
    assert jax.tree.structure(state) == jax.tree.structure(other)
    for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(other), strict=True):
        assert jax.typeof(x) == jax.typeof(y)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()

"""Steps of a transform of either JAX library, as users run them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Arrays = dict[str, np.ndarray]


class Jitted:
    """A compiled step of a transform, with parameters and state donated."""

    def __init__(self, library: Any, tx: Any, params: Arrays, grads: Arrays, **extra: Any):
        self.params, self.grads = (jax.tree.map(jnp.array, tree) for tree in (params, grads))
        self.state = jax.tree.map(jnp.copy, tx.init(self.params))  # optax's may share arrays, which can't be donated

        def step(params: Any, state: Any, grads: Any) -> Any:
            return self.new(library, tx, grads, state, params, extra)

        self.step = jax.jit(step, donate_argnums=(0, 1))

    def new(self, library: Any, tx: Any, grads: Any, state: Any, params: Any, extra: Any) -> Any:
        """Return the parameters and the state after a step."""
        updates, state = tx.update(grads, state, params, **extra)
        return library.apply_updates(params, updates), state

    def __call__(self) -> None:
        self.params, self.state = jax.block_until_ready(self.step(self.params, self.state, self.grads))

    def sample(self) -> np.ndarray:
        return np.asarray(jax.tree.leaves(self.params)[0]).ravel()[:100]

"""A zero gradient gives a finite update, with finite derivatives with respect to gradient, parameters and numbers."""

import jax
import jax.numpy as jnp
import numpy as np

from tests import trees
from tests.contract.cases import cases


@cases()
def test_zero_gradients(case):
    zeros = jax.tree.map(jnp.zeros_like, case.params)

    def total(tx, gradient, params):
        state = tx.init(params)
        parts = []
        for _ in range(2):
            updates, state = tx.update(gradient, state, params)
            parts += [jnp.sum(jnp.real(u).astype(jnp.float32)) for u in jax.tree.leaves(updates)]
        return sum(parts)

    derive = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), allow_int=True))
    for params in (case.params, zeros):
        value, derivatives = derive(case.tx, zeros, params)
        assert np.isfinite(value)
        numbers = [x for x in jax.tree.leaves(derivatives) if x.dtype != jax.dtypes.float0]
        for x in trees.as_numpy(numbers):
            assert np.all(np.isfinite(x))


@cases()
def test_tiny_and_huge_gradients(case):
    largest = float(jnp.finfo(case.dtype).max) ** 0.25
    for size in (1 / largest, largest):
        gradient = jax.tree.map(lambda p, s=size: jnp.full_like(p, s), case.params)
        updates, _ = case.step(gradient, case.tx.init(case.params), case.params)
        for x in trees.as_numpy(jax.tree.leaves(updates)):
            assert np.all(np.isfinite(x))

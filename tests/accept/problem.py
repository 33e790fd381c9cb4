"""The small problem that every client trains on, an optimizer from either library, and how results are compared."""

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradchain

STEPS = 30
TOLERANCE = {"float32": 3e-5, "bfloat16": 2.0**-7}
"""Largest max|err| / max|ref| against optax over a whole training run: in bfloat16 two roundings of one number."""

each_dtype = pytest.mark.parametrize("dtype", ["float32", "bfloat16"])


def optimizer(library: ModuleType, learning_rate: Any = 0.03) -> Any:
    """Return clipped AdamW from gradchain or optax: the same call builds it from both."""
    return library.chain(library.clip_by_global_norm(1.0), library.adamw(learning_rate, weight_decay=0.01))


def with_float32_state(tx: Any) -> Any:
    """Return an optax transformation that computes and keeps its state in float32, as gradchain's do by themselves."""

    tx = optax.with_extra_args_support(tx)

    def wide(tree: Any) -> Any:
        return jax.tree.map(lambda x: x.astype(jnp.float32), tree)

    def update(updates: Any, state: Any, params: Any, **extra: Any) -> Any:
        updates, state = tx.update(wide(updates), state, wide(params), **extra)
        return jax.tree.map(lambda u, p: u.astype(p.dtype), updates, params), state

    return optax.GradientTransformationExtraArgs(lambda params: tx.init(wide(params)), update)


def data(dtype: str) -> tuple[jax.Array, jax.Array]:
    """Return 32 inputs of 3 numbers, and a smooth function of them with values of shape (32, 1)."""
    x = np.random.default_rng(0).uniform(-1, 1, (32, 3))
    y = np.sin(3 * x[:, :1]) + x[:, 1:2] * x[:, 2:]
    return rounded((jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)), dtype)


def rounded(tree: Any, dtype: str) -> Any:
    """Return ``tree`` in ``dtype``, holding numbers that bfloat16 represents, so that all dtypes start alike."""
    return jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(dtype), tree)


def mlp(dtype: str) -> dict[str, jax.Array]:
    """Return the parameters of a small network as a plain dict."""
    rng = np.random.default_rng(1)
    shapes = {"kernel_1": (3, 8), "bias_1": (1, 8), "kernel_2": (8, 1), "bias_2": (1, 1)}
    return rounded({k: jnp.asarray(0.5 * rng.normal(size=shape), jnp.float32) for k, shape in shapes.items()}, dtype)


def mlp_loss(params: dict[str, jax.Array], batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Return the mean squared error of the small network, in float32."""
    hidden = jnp.tanh(batch[0] @ params["kernel_1"] + params["bias_1"])
    return jnp.mean((hidden @ params["kernel_2"] + params["bias_2"] - batch[1]).astype(jnp.float32) ** 2)


def train_mlp(tx: Any, dtype: str) -> tuple[Any, jax.Array]:
    """Train the small network inside ``lax.scan``, handing ``value``, ``grad`` and ``value_fn`` to ``update``."""
    batch = data(dtype)
    if isinstance(tx, optax.GradientTransformation):
        tx = optax.with_extra_args_support(tx)

    def body(carry: Any, _: None) -> Any:
        params, state = carry
        loss, grads = jax.value_and_grad(mlp_loss)(params, batch)
        extra = {"value": loss, "grad": grads, "value_fn": lambda p: mlp_loss(p, batch)}
        updates, state = tx.update(grads, state, params, **extra)
        return (optax.apply_updates(params, updates), state), loss

    params = mlp(dtype)
    carry = params, jax.tree.map(jnp.asarray, tx.init(params))
    (params, _), losses = jax.jit(lambda carry: jax.lax.scan(body, carry, length=STEPS))(carry)
    return params, losses


def assert_dtype(tree: Any, dtype: str) -> None:
    """Check the dtype of every array of a tree."""
    found = {x.dtype.name for x in jax.tree.leaves(tree)}
    assert found == {dtype}, found


def assert_close(got: Any, want: Any, tolerance: float) -> None:
    """Check that two trees agree to ``tolerance``, relative to the largest number in ``want``."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    pairs = [
        (np.asarray(x, np.float64), np.asarray(y, np.float64))
        for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    ]
    assert [x.shape for x, _ in pairs] == [y.shape for _, y in pairs]
    error = max(np.max(np.abs(x - y)) for x, y in pairs) / max(np.max(np.abs(y)) for _, y in pairs)
    assert error <= tolerance, f"{error:.2e} > {tolerance:.0e}"


def assert_trains_like_optax(train: Any, dtype: str) -> None:
    """Check ``train(tx, dtype) -> (params, losses)``: gradchain against the same client with optax."""
    params, losses = train(optimizer(gradchain), dtype)
    want, want_losses = train(with_float32_state(optimizer(optax)), dtype)
    assert_dtype(params, dtype)
    assert losses[-1] < 0.5 * losses[0]
    assert_close(losses, want_losses, TOLERANCE[dtype])
    assert_close(jax.tree.leaves(params), jax.tree.leaves(want), TOLERANCE[dtype])

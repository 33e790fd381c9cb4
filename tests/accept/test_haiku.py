"""Haiku: a transformed function's parameters, trained by a gradchain transform."""

import haiku as hk
import jax
import jax.numpy as jnp
import pytest

import gradchain as gc
from tests.accept.problem import STEPS, assert_trains_like_optax, data, each_dtype, rounded

pytestmark = pytest.mark.accept

model = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([8, 1], activation=jax.nn.tanh)(x)))


def start(dtype):
    return rounded(model.init(jax.random.key(0), jnp.zeros((1, 3))), dtype)


def one_step(tx, params, state, batch):
    def loss_fn(params):
        return jnp.mean((model.apply(params, batch[0]) - batch[1]).astype(jnp.float32) ** 2)

    loss, grads = jax.value_and_grad(loss_fn)(params)
    updates, state = tx.update(grads, state, params)
    return gc.apply_updates(params, updates), state, loss


def train_by_loop(tx, dtype):
    params, losses, step = start(dtype), [], jax.jit(lambda params, state: one_step(tx, params, state, data(dtype)))
    state = tx.init(params)
    for _ in range(STEPS):
        params, state, loss = step(params, state)
        losses.append(loss)
    return params, jnp.stack(losses)


def train_by_scan(tx, dtype):
    def body(carry, _):
        params, state, loss = one_step(tx, *carry, data(dtype))
        return (params, state), loss

    params = start(dtype)
    (params, _), losses = jax.jit(lambda carry: jax.lax.scan(body, carry, length=STEPS))((params, tx.init(params)))
    return params, losses


@each_dtype
@pytest.mark.parametrize("train", [train_by_loop, train_by_scan])
def test_transformed_function_trains_like_optax(train, dtype):
    assert_trains_like_optax(train, dtype)

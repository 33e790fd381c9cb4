"""Flax linen: ``TrainState`` with a gradchain transform as its ``tx``."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from flax.training.train_state import TrainState

import gradchain as gc
from tests.accept.problem import (
    STEPS,
    TOLERANCE,
    assert_close,
    assert_trains_like_optax,
    data,
    each_dtype,
    rounded,
    with_float32_state,
)

pytestmark = pytest.mark.accept


class MLP(nn.Module):
    dtype: str

    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Dense(8, dtype=self.dtype, param_dtype=self.dtype)(x))
        return nn.Dense(1, dtype=self.dtype, param_dtype=self.dtype)(x)


def new_state(tx, dtype):
    model = MLP(dtype)
    params = MLP("float32").init(jax.random.key(0), jnp.zeros((1, 3)))["params"]
    return TrainState.create(apply_fn=model.apply, params=rounded(params, dtype), tx=tx)


def one_step(state, batch):
    def loss_fn(params):
        return jnp.mean((state.apply_fn({"params": params}, batch[0]) - batch[1]).astype(jnp.float32) ** 2)

    loss, grads = jax.value_and_grad(loss_fn)(state.params)
    return state.apply_gradients(grads=grads), loss


step = jax.jit(one_step)


def train_by_loop(tx, dtype):
    state, batch, losses = new_state(tx, dtype), data(dtype), []
    for _ in range(STEPS):
        state, loss = step(state, batch)
        losses.append(loss)
    assert state.step == STEPS
    return state.params, jnp.stack(losses)


def train_by_scan(tx, dtype):
    batch = data(dtype)
    state, losses = jax.jit(lambda s: jax.lax.scan(lambda s, _: step(s, batch), s, length=STEPS))(new_state(tx, dtype))
    return state.params, losses


@each_dtype
@pytest.mark.parametrize("train", [train_by_loop, train_by_scan])
def test_train_state_trains_like_optax(train, dtype):
    assert_trains_like_optax(train, dtype)


def train_with_two_rates(tx, dtype, name):
    """Assign one learning rate, train, assign another, train on; return the parameters and the number of traces."""
    traces = []

    @jax.jit
    def counted(state, batch):
        traces.append(state)
        return one_step(state, batch)[0]

    state, batch = new_state(tx, dtype).replace(step=jnp.asarray(0)), data(dtype)
    for rate in (0.05, 0.2):
        state.opt_state.hyperparams[name] = rate
        for _ in range(10):
            state = counted(state, batch)
    return state.params, len(traces)


@each_dtype
def test_a_new_learning_rate_in_the_state_does_not_recompile(dtype):
    tx = gc.hyperparams_in_state(gc.sgd(0.01, momentum=0.9))
    params, traces = train_with_two_rates(tx, dtype, "scale_by_learning_rate.learning_rate")
    steered = optax.inject_hyperparams(optax.sgd)(0.01, momentum=0.9)
    want, _ = train_with_two_rates(with_float32_state(steered), dtype, "learning_rate")
    assert traces == 1
    assert_close(params, want, TOLERANCE[dtype])


@each_dtype
def test_a_schedule_counts_the_steps_of_the_state(dtype):
    tx = gc.sgd(lambda count: 0.1 / (1 + count))
    state = new_state(tx, dtype)
    for _ in range(3):
        state, _ = step(state, data(dtype))
    assert jnp.allclose(gc.hyperparams(tx, state.opt_state)["scale_by_learning_rate.learning_rate"], 0.1 / 4)

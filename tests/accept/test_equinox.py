"""Equinox: modules as parameters, with leaves that aren't arrays filtered to ``None``."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import gradchain as gc
from tests.accept.problem import STEPS, assert_trains_like_optax, data, each_dtype, rounded

pytestmark = pytest.mark.accept


def new_model(dtype):
    model = eqx.nn.MLP(3, 1, 8, depth=1, activation=jax.nn.tanh, key=jax.random.key(0))
    arrays, rest = eqx.partition(model, eqx.is_inexact_array)
    return eqx.combine(rounded(arrays, dtype), rest)


def loss_fn(model, batch):
    return jnp.mean((jax.vmap(model)(batch[0]) - batch[1]).astype(jnp.float32) ** 2)


def arrays_of(model):
    return eqx.filter(model, eqx.is_inexact_array)


def train_on_filtered_params(tx, dtype):
    """The loop of Equinox's documentation: ``init`` and ``update`` see the filtered model."""

    @eqx.filter_jit
    def step(model, state):
        loss, grads = eqx.filter_value_and_grad(loss_fn)(model, data(dtype))
        updates, state = tx.update(grads, state, arrays_of(model))
        return eqx.apply_updates(model, updates), state, loss

    model, losses = new_model(dtype), []
    state = tx.init(arrays_of(model))
    for _ in range(STEPS):
        model, state, loss = step(model, state)
        losses.append(loss)
    assert model.activation is jax.nn.tanh
    return arrays_of(model), jnp.stack(losses)


def train_by_scan(tx, dtype):
    arrays, rest = eqx.partition(new_model(dtype), eqx.is_inexact_array)

    def body(carry, _):
        arrays, state = carry
        loss, grads = eqx.filter_value_and_grad(loss_fn)(eqx.combine(arrays, rest), data(dtype))
        updates, state = tx.update(grads, state, arrays)
        return (gc.apply_updates(arrays, updates), state), loss

    (arrays, _), losses = jax.jit(lambda carry: jax.lax.scan(body, carry, length=STEPS))((arrays, tx.init(arrays)))
    return arrays, losses


@each_dtype
@pytest.mark.parametrize("train", [train_on_filtered_params, train_by_scan])
def test_filtered_models_train_like_optax(train, dtype):
    assert_trains_like_optax(train, dtype)


@each_dtype
def test_update_takes_a_whole_model_with_callable_leaves_as_params(dtype):
    model, tx = new_model(dtype), gc.adamw(0.1, weight_decay=0.1)
    grads = eqx.filter_grad(loss_fn)(model, data(dtype))
    state = tx.init(arrays_of(model))
    whole, _ = tx.update(grads, state, model)
    filtered, _ = tx.update(grads, state, arrays_of(model))
    assert eqx.tree_equal(whole, filtered)
    assert whole.activation is None


@each_dtype
def test_apply_updates_leaves_the_rest_of_a_model_alone(dtype):
    model = new_model(dtype)
    updates = jax.tree.map(jnp.ones_like, arrays_of(model))
    assert eqx.tree_equal(gc.apply_updates(model, updates), eqx.apply_updates(model, updates))


def test_a_transform_goes_through_filter_jit_as_an_argument():
    traces = []

    @eqx.filter_jit
    def first_update(tx, grads):
        traces.append(tx)
        return tx.update(grads, tx.init(grads))[0]

    model = arrays_of(new_model("float32"))
    small, large = (first_update(gc.sgd(jnp.float32(rate)), model) for rate in (0.5, 1.0))
    assert eqx.tree_equal(jax.tree.map(lambda x: 2 * x, small), large)
    assert isinstance(traces[0], gc.Transform)

"""Haiku in ``training``: the loop of its ImageNet example is the one to equal."""

import haiku as hk
import jax
import jax.numpy as jnp
import pytest

import gradchain as gc
from gradchain import training
from tests.accept import image_training
from tests.accept.image_training import Case, accuracy_of, loss_and_accuracy

pytestmark = pytest.mark.accept


def net(x, is_training):
    x = hk.Conv2D(8, 3)(x)
    x = jax.nn.relu(hk.BatchNorm(True, True, decay_rate=0.9)(x, is_training))
    x = hk.max_pool(x, (1, 2, 2, 1), (1, 2, 2, 1), "SAME").reshape(len(x), -1)
    if is_training:
        x = hk.dropout(hk.next_rng_key(), 0.2, x)
    return hk.Linear(10)(x)


NET = hk.transform_with_state(net)


def loss_fn(apply, batch, training):
    return loss_and_accuracy(apply(batch["image"], is_training=training), batch)


@jax.jit
def step(tx, params, state, opt_state, batch, key):
    def loss(params):
        logits, new_state = NET.apply(params, state, key, batch["image"], is_training=True)
        return loss_and_accuracy(logits, batch)[0], new_state

    (value, state), grads = jax.value_and_grad(loss, has_aux=True)(params)
    updates, opt_state = tx.update(grads, opt_state, params)
    return gc.apply_updates(params, updates), state, opt_state, value


def by_hand(tx, params_and_state, batches, keys):
    (params, state), losses = params_and_state, []
    opt_state = tx.init(params)
    for batch, key in zip(batches, keys, strict=True):
        params, state, opt_state, loss = step(tx, params, state, opt_state, batch, key)
        losses.append(loss)
    return (params, state), jnp.stack(losses)


def accuracy(params_and_state, batch):
    return accuracy_of(NET.apply(*params_and_state, None, batch["image"], is_training=False)[0], batch)


def init(key):
    return NET.init(key, jnp.zeros((1, 8, 8, 1)), is_training=True)


CASE = Case(training.haiku(NET, loss_fn), init, by_hand, accuracy, lambda pair: pair, "linear/w")


def test_fit_equals_a_loop_of_haiku_step_for_step():
    image_training.assert_equals_loop(CASE)


def test_a_sweep_trains_what_fit_trains():
    image_training.assert_sweeps(CASE)


def test_labels_see_the_paths_of_the_parameters():
    image_training.assert_labels_see_its_paths(CASE)


def test_a_killed_run_resumes_bit_for_bit(tmp_path):
    image_training.assert_resumes("haiku", tmp_path)


def test_eight_devices_take_the_steps_of_one(tmp_path):
    image_training.assert_is_the_same_on_eight_devices("haiku", tmp_path)


def test_a_function_without_state_has_its_parameters_alone():
    transformed = hk.transform(lambda x: hk.nets.MLP([4, 1])(x))
    data = {"x": jnp.ones((8, 2)), "y": jnp.ones((8, 1))}
    params = transformed.init(jax.random.key(0), data["x"])

    def loss_fn(apply, batch):
        return jnp.mean((apply(batch["x"]) - batch["y"]) ** 2)

    adapter = training.haiku(transformed, loss_fn)
    result = training.fit(adapter, params, gc.sgd(0.1), data, epochs=5, batch_size=4)
    assert jax.tree.structure(result.params) == jax.tree.structure(params)
    assert training.evaluate(adapter, result.params, data).loss < 0.1 * training.evaluate(adapter, params, data).loss

"""Equinox in ``training``: the loop of its guide to stateful models is the one to equal."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import gradchain as gc
from gradchain import training
from tests.accept import image_training
from tests.accept.image_training import Case, accuracy_of, loss_and_accuracy

pytestmark = pytest.mark.accept


class Net(eqx.Module):
    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    out: eqx.nn.Linear
    activation: Callable

    def __init__(self, key):
        first, second = jax.random.split(key)
        self.conv = eqx.nn.Conv2d(1, 8, 3, padding=1, key=first)
        self.norm = eqx.nn.BatchNorm(8, "batch", momentum=0.9, mode="batch")
        self.dropout = eqx.nn.Dropout(0.2)
        self.out = eqx.nn.Linear(128, 10, key=second)
        self.activation = jax.nn.relu

    def __call__(self, x, state, key):
        x, state = self.norm(self.conv(jnp.moveaxis(x, -1, 0)), state)
        x = self.activation(x).reshape(8, 4, 2, 4, 2).max((2, 4)).reshape(-1)
        return self.out(self.dropout(x, key=key)), state


def logits_of(model, state, batch, key):
    keys = None if key is None else jax.random.split(key, len(batch["image"]))
    run = jax.vmap(model, axis_name="batch", in_axes=(0, None, 0), out_axes=(0, None))
    return run(batch["image"], state, keys)


def loss_fn(model, state, batch, key):
    logits, state = logits_of(model, state, batch, key)
    loss, aux = loss_and_accuracy(logits, batch)
    return loss, (state, aux)


@eqx.filter_jit
def step(tx, model, state, opt_state, batch, key):
    (value, (state, _)), grads = eqx.filter_value_and_grad(loss_fn, has_aux=True)(model, state, batch, key)
    updates, opt_state = tx.update(grads, opt_state, eqx.filter(model, eqx.is_inexact_array))
    return eqx.apply_updates(model, updates), state, opt_state, value


def by_hand(tx, model_and_state, batches, keys):
    (model, state), losses = model_and_state, []
    opt_state = tx.init(eqx.filter(model, eqx.is_inexact_array))
    for batch, key in zip(batches, keys, strict=True):
        model, state, opt_state, loss = step(tx, model, state, opt_state, batch, key)
        losses.append(loss)
    return (model, state), jnp.stack(losses)


def accuracy(model_and_state, batch):
    model, state = model_and_state
    return accuracy_of(logits_of(eqx.nn.inference_mode(model), state, batch, None)[0], batch)


def numbers(model_and_state):
    return eqx.filter(model_and_state, eqx.is_array)


CASE = Case(training.equinox(loss_fn), eqx.nn.make_with_state(Net), by_hand, accuracy, numbers, "out/weight")


def test_fit_equals_a_loop_of_equinox_step_for_step():
    image_training.assert_equals_loop(CASE)


def test_a_sweep_trains_what_fit_trains():
    image_training.assert_sweeps(CASE)


def test_labels_see_the_paths_of_the_fields():
    image_training.assert_labels_see_its_paths(CASE)


def test_a_killed_run_resumes_bit_for_bit(tmp_path):
    image_training.assert_resumes("equinox", tmp_path)


def test_eight_devices_take_the_steps_of_one(tmp_path):
    image_training.assert_is_the_same_on_eight_devices("equinox", tmp_path)


def test_a_model_without_state_goes_in_alone_and_comes_out_alone():
    model = eqx.nn.MLP(2, "scalar", 4, 1, activation=jax.nn.tanh, key=jax.random.key(0))

    def loss_fn(model, batch):
        return jnp.mean((jax.vmap(model)(batch["x"]) - batch["y"]) ** 2)

    data = {"x": jnp.ones((8, 2)), "y": jnp.ones(8)}
    result = training.fit(training.equinox(loss_fn), model, gc.sgd(0.1), data, epochs=5, batch_size=4)
    assert isinstance(result.params, eqx.nn.MLP)
    assert result.params.activation is jax.nn.tanh
    assert loss_fn(result.params, data) < 0.1 * loss_fn(model, data)

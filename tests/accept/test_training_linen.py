"""Flax linen in ``training``: ``TrainState`` with statistics, as Flax's guide writes it, is the loop to equal."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax.training.train_state import TrainState

from gradchain import training
from tests.accept import image_training
from tests.accept.image_training import Case, accuracy_of, loss_and_accuracy

pytestmark = pytest.mark.accept


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, training):
        x = nn.Conv(8, (3, 3))(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not training, momentum=0.9)(x))
        x = nn.max_pool(x, (2, 2), (2, 2)).reshape(len(x), -1)
        return nn.Dense(10)(nn.Dropout(0.2, deterministic=not training)(x))


class State(TrainState):
    batch_stats: Any


def loss_fn(net, batch, training):
    return loss_and_accuracy(net(batch["image"], training=training), batch)


@jax.jit
def step(state, batch, key):
    def loss(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        options = {"training": True, "rngs": {"dropout": key}, "mutable": ["batch_stats"]}
        logits, changed = state.apply_fn(variables, batch["image"], **options)
        return loss_and_accuracy(logits, batch)[0], changed["batch_stats"]

    (value, batch_stats), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
    return state.apply_gradients(grads=grads, batch_stats=batch_stats), value


def by_hand(tx, variables, batches, keys):
    state, losses = State.create(apply_fn=NET.apply, tx=tx, **variables), []
    for batch, key in zip(batches, keys, strict=True):
        state, loss = step(state, batch, key)
        losses.append(loss)
    return {"params": state.params, "batch_stats": state.batch_stats}, jnp.stack(losses)


def accuracy(variables, batch):
    return accuracy_of(NET.apply(variables, batch["image"], training=False), batch)


def init(key):
    return NET.init(key, jnp.zeros((1, 8, 8, 1)), training=False)


NET = Net()
CASE = Case(training.linen(NET, loss_fn), init, by_hand, accuracy, lambda variables: variables, "Dense_0/kernel")


def test_fit_equals_a_loop_of_flax_step_for_step():
    image_training.assert_equals_loop(CASE)


def test_a_sweep_trains_what_fit_trains():
    image_training.assert_sweeps(CASE)


def test_labels_see_the_paths_of_the_variables():
    image_training.assert_labels_see_its_paths(CASE)


def test_a_killed_run_resumes_bit_for_bit(tmp_path):
    image_training.assert_resumes("linen", tmp_path)


def test_eight_devices_take_the_steps_of_one(tmp_path):
    image_training.assert_is_the_same_on_eight_devices("linen", tmp_path)

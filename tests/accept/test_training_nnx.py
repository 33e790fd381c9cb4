"""Flax NNX in ``training``: ``nnx.Optimizer`` and ``nnx.jit`` are the loop to equal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gradchain as gc
from gradchain import training
from tests.accept import image_training
from tests.accept.image_training import Case, accuracy_of, loss_and_accuracy

pytestmark = pytest.mark.accept


class Net(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 8, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(8, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.out = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(x)))
        x = nnx.max_pool(x, (2, 2), (2, 2)).reshape(len(x), -1)
        return self.out(self.dropout(x))


def loss_fn(net, batch):
    return loss_and_accuracy(net(batch["image"]), batch)


@nnx.jit
def step(net, optimizer, batch):
    (value, _), grads = nnx.value_and_grad(loss_fn, has_aux=True)(net, batch)
    optimizer.update(net, grads)
    return value


def by_hand(tx, net, batches, keys):
    net.train()
    optimizer = nnx.Optimizer(net, tx, wrt=nnx.Param)
    losses = [step(net, optimizer, batch) for batch in batches]
    return net, jnp.stack(losses)


def accuracy(net, batch):
    return accuracy_of(nnx.view(net, deterministic=True, use_running_average=True)(batch["image"]), batch)


def init(key):
    return Net(nnx.Rngs(key))


def numbers(net):
    return nnx.to_pure_dict(nnx.state(net))


CASE = Case(training.nnx(loss_fn), init, by_hand, accuracy, numbers, "out/kernel")


def test_fit_equals_a_loop_of_nnx_step_for_step():
    image_training.assert_equals_loop(CASE)


def test_a_sweep_trains_what_fit_trains():
    image_training.assert_sweeps(CASE)


def test_labels_see_the_paths_of_the_module():
    image_training.assert_labels_see_its_paths(CASE)


def test_a_killed_run_resumes_bit_for_bit(tmp_path):
    image_training.assert_resumes("nnx", tmp_path)


def test_eight_devices_take_the_steps_of_one(tmp_path):
    image_training.assert_is_the_same_on_eight_devices("nnx", tmp_path)


def test_the_mode_and_the_arrays_of_the_users_module_stay_as_they_are():
    net = init(jax.random.key(0))
    net.eval()
    before = numbers(net)
    trained = image_training.fit(CASE, image_training.optimizer(), net).params
    assert image_training.error(numbers(net), before) == 0
    assert net.norm.use_running_average
    assert trained.norm.use_running_average
    assert trained is not net
    assert image_training.error(numbers(trained)["norm"]["mean"], before["norm"]["mean"]) > 0.01
    assert numbers(trained)["dropout"]["rngs"]["count"] == image_training.STEPS


def accuracies(loss, model, seed):
    """Return the accuracies in the last epoch's steps and on held-out images, after six epochs of AdamW."""
    train, held_out = image_training.digits()
    options = {"epochs": 6, "batch_size": 32, "validation": held_out, "has_aux": True, "seed": seed}
    history = training.fit(loss, model, gc.adamw(0.01, weight_decay=0.01), train, **options).history
    return history["accuracy"][-1], history["val_accuracy"][-1]


def with_statistics_as_parameters(net):
    """Return what people write without an adapter, and the parameters of it: the statistics are among them."""
    graph, arrays, rest = nnx.split(net, nnx.Any(nnx.Param, nnx.BatchStat), ...)

    def loss(params, batch, training):
        given = jax.tree.map(jnp.asarray, arrays)
        nnx.replace_by_pure_dict(given, params)
        whole = nnx.merge(graph, given, jax.tree.map(jnp.asarray, rest))
        return loss_fn(nnx.view(whole, deterministic=not training, use_running_average=not training), batch)

    return loss, nnx.to_pure_dict(arrays)


def test_accuracy_on_new_images_is_that_of_statistics_that_move():
    moving, decayed = [], []
    for seed in range(3):
        net = init(jax.random.key(seed))
        moving.append(accuracies(CASE.adapter, net, seed))
        decayed.append(accuracies(*with_statistics_as_parameters(net), seed))
    (trained, new), (trained_decayed, new_decayed) = np.mean(moving, 0), np.mean(decayed, 0)
    assert trained > 0.94
    assert new > 0.915
    assert trained_decayed > 0.95  # as if all were well
    assert new_decayed < 0.87
    for whole in (net, nnx.state(net)):
        with pytest.raises(TypeError, match=r"training.nnx\(loss_fn\) in the place of loss_fn"):
            accuracies(loss_fn, whole, 0)

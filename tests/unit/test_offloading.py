"""State in the host's memory: where it lies, and that it changes nothing."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

import gradchain as gc
from tests import trees
from tests.nests import BASES


def kinds(state):
    return {x.sharding.memory_kind for x in jax.tree.leaves(state) if x.ndim}


def descend(tx, params, steps=3):
    def step(carry, g):
        updates, state = tx.update(g, carry[1], carry[0])
        return (gc.apply_updates(carry[0], updates), state), None

    return jax.lax.scan(step, (params, tx.init(params)), trees.stream(steps))[0]


@pytest.mark.parametrize("name", ["adam", "adafactor"])
def test_results_are_the_same_bits(name):
    tx, params = BASES[name], trees.standard()
    new, state = jax.jit(descend, static_argnums=0)(gc.offload_state(tx), params)
    old, plain = jax.jit(descend, static_argnums=0)(tx, params)
    trees.assert_close((new, state), (old, plain), 0.0)
    assert kinds(state) == {"pinned_host"}
    assert kinds(plain) == {"device"}


def test_numbers_stay_on_the_device():
    tx = gc.offload_state(gc.adam(gc.schedules.linear_schedule(0.1, 0.01, 10)))
    params = trees.standard()
    updates, state = tx.update(params, tx.init(params), params)
    assert state[0].count.sharding.memory_kind == "device"
    assert kinds(state) == {"pinned_host"}
    assert kinds(updates) == {"device"}
    assert gc.hyperparams(tx, state)["scale_by_learning_rate.learning_rate"] == pytest.approx(0.091)


def test_evaluation_weights_come_back_to_the_device():
    tx, params = gc.offload_state(gc.average_params(gc.sgd(0.1), 0.5)), trees.standard()
    _, state = tx.update(params, tx.init(params), params)
    weights = jax.jit(lambda state, params: gc.eval_params(tx, state, params))(state, params)
    assert kinds(weights) == {"device"}
    assert kinds(state) == {"pinned_host"}


def test_batches_of_transforms_run_side_by_side():
    params = trees.standard()
    many = gc.offload_state(gc.adam(jnp.array([0.1, 0.2])))
    together, _ = jax.jit(jax.vmap(descend, in_axes=(gc.batch_axes(many), None)))(many, params)
    alone, _ = descend(gc.adam(0.2), params)
    trees.assert_close(trees.at(together, 1), alone, 1e-6)


def test_a_backend_without_host_memory_is_an_error(monkeypatch):
    device = SimpleNamespace(addressable_memories=lambda: [SimpleNamespace(kind="device")])
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    with pytest.raises(RuntimeError, match=r"has no memory of kind pinned_host, only device"):
        gc.offload_state(gc.adam(0.1)).init(trees.standard())

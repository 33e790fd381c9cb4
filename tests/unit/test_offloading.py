"""State in the host's memory: where it lies, and that it changes nothing."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from gradchain import training
from tests import states, trees
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


@pytest.mark.slow
@pytest.mark.parametrize("inside", [gc.sgd(0.1, momentum=0.9), gc.store(gc.adam(0.1), "int8", min_size=0)])
def test_a_state_comes_back_to_the_hosts_memory(inside, tmp_path):
    tx, params = gc.chain(gc.clip(1.0), gc.offload_state(inside)), trees.standard()
    state = tx.init(params)
    saved = gc.to_state_dict(tx, state)
    np.savez(tmp_path / "state.npz", **saved)
    with np.load(tmp_path / "state.npz") as loaded:
        for entries in (saved, loaded):
            states.assert_same(gc.from_state_dict(tx, params, entries), state)
    training.save_checkpoint(tmp_path / "run", state)
    for like in (state, jax.eval_shape(tx.init, params)):
        states.assert_same(training.load_checkpoint(tmp_path / "run", like).tree, state)


def test_a_state_leaves_the_hosts_memory_with_the_transform():
    tx, params = gc.adam(0.1), trees.standard()
    offloaded = gc.offload_state(tx)
    saved = gc.to_state_dict(offloaded, offloaded.init(params))
    states.assert_same(gc.from_state_dict(tx, params, saved), tx.init(params))


@pytest.mark.parametrize("derivative", [jax.grad, jax.jacfwd])
def test_a_derivative_through_the_state_is_refused_by_name(derivative):
    def loss(decay, tx):
        params, _ = descend(tx.replace(decay=decay), trees.standard())
        return gc.tree.vdot(params, params)

    tx = gc.sgd(0.1, momentum=0.9)
    assert jnp.isfinite(jax.grad(loss)(0.9, tx))
    with pytest.raises(TypeError, match=r"offload_state: JAX can't differentiate .* without offload_state"):
        derivative(loss)(0.9, gc.offload_state(tx))


def test_slots_in_the_hosts_memory_are_not_stored_in_fewer_bits_around_it():
    with pytest.raises(ValueError, match=r"store: offload_state inside .* offload_state\(store\(\.\.\.\)\)"):
        gc.store(gc.chain(gc.clip(1.0), gc.offload_state(gc.adam(0.1))))

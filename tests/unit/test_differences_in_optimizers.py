"""Optimizers that can't be compared with Optax's in the registry, and what differs on purpose."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradchain as gc
from tests import trees


def updates_of(tx, gradients, params):
    """Return all updates on stacked gradients, with the parameters at rest."""

    def step(state, gradient):
        updates, state = tx.update(gradient, state, params)
        return state, updates

    return jax.jit(lambda: jax.lax.scan(step, tx.init(params), gradients)[1])()


ADAFACTOR = [
    {},
    {"learning_rate": 0.01, "min_dim_size_to_factor": 2},
    {"learning_rate": 0.01, "multiply_by_parameter_scale": False, "clipping_threshold": None, "factored": False},
    {"min_dim_size_to_factor": 2, "momentum": 0.9, "weight_decay_rate": 0.01, "decay_rate": 0.5, "eps": 1e-3},
]


@pytest.mark.parametrize("arguments", ADAFACTOR)
def test_adafactor_agrees_with_optax_whose_decay_is_always_in_single_precision(arguments):
    params, gradients = trees.standard(), trees.stream(100)
    ours, theirs = (updates_of(lib.adafactor(**arguments), gradients, params) for lib in (gc, optax))
    trees.assert_close(ours, theirs, 3e-5)


def test_sm3_agrees_with_optax_on_arrays_with_axes():
    params, gradients = ({n: tree[n] for n in ("bias", "kernel")} for tree in (trees.standard(), trees.stream(100)))
    ours, theirs = (updates_of(lib.sm3(0.1, 0.8), gradients, params) for lib in (gc, optax))
    trees.assert_close(ours, theirs, 3e-5)


def test_adadelta_without_a_rate_goes_downhill_here_and_uphill_there():
    ours, theirs = (updates_of(lib.adadelta(), jnp.ones((1, 2)), jnp.ones(2)) for lib in (gc, optax))
    np.testing.assert_allclose(ours, -theirs, rtol=1e-6)
    assert np.all(ours < 0)


def test_fromage_keeps_the_rate_it_was_given():
    assert gc.fromage(0.01).replace(learning_rate=0.5) == gc.fromage(0.5)


def test_fromage_is_precise_with_a_schedule_of_small_rates_where_optax_loses_the_shrinkage():
    params, gradient = jnp.array([1e4, 0.0]), jnp.array([[0.0, 1.0]])
    ours, theirs = (
        updates_of(lib.fromage(lambda count: jnp.float32(1e-4)), gradient, params)[0][0] for lib in (gc, optax)
    )
    np.testing.assert_allclose(ours, -0.5e-4, rtol=1e-6)
    assert abs(theirs / -0.5e-4 - 1) > 1e-3


def test_optimistic_descent_converges_in_a_game_where_plain_descent_circles_outwards():
    def distance(tx):
        players = jnp.array([1.0, 1.0])

        def step(carry, _):
            players, state = carry
            updates, state = tx.update(jnp.array([players[1], -players[0]]), state)  # x y: min over x, max over y
            return (players + updates, state), None

        return jnp.linalg.norm(jax.lax.scan(step, (players, tx.init(players)), length=300)[0][0])

    assert distance(gc.optimistic_gradient_descent(0.2)) < 0.01
    assert distance(gc.sgd(0.2)) > 10

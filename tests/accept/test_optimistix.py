"""optimistix: ``OptaxMinimiser`` with a gradchain transform."""

import jax.numpy as jnp
import optax
import optimistix
import pytest

import gradchain as gc
from tests.accept.problem import TOLERANCE, assert_close, assert_dtype, each_dtype, optimizer, with_float32_state

pytestmark = pytest.mark.accept


def minimise(tx, dtype, max_steps=200):
    """Run optimistix on a quadratic of two variables; its loop is a ``while_loop`` over our update."""

    def f(y, args):
        return (y["a"] - 3.0) ** 2 + args * jnp.sum((y["b"] + 1.0) ** 2)

    solver = optimistix.OptaxMinimiser(tx, rtol=1e-4, atol=1e-4)
    start = {"a": jnp.zeros((), dtype), "b": jnp.ones(2, dtype)}
    return optimistix.minimise(f, solver, start, args=jnp.asarray(0.25, dtype), max_steps=max_steps, throw=False)


@each_dtype
def test_minimiser_ends_where_optax_ends(dtype):
    got, want = minimise(optimizer(gc), dtype), minimise(with_float32_state(optimizer(optax)), dtype)
    assert_dtype(got.value, dtype)
    assert_close(got.value, want.value, TOLERANCE[dtype])


def test_minimiser_converges_in_as_many_steps_as_with_optax():
    got, want = (minimise(library.adam(0.1), "float32", 1000) for library in (gc, optax))
    assert got.result == want.result == optimistix.RESULTS.successful
    assert got.stats["num_steps"] == want.stats["num_steps"] < 1000
    assert abs(got.value["a"] - 3.0) < 0.05


@each_dtype
def test_the_value_arrives(dtype):
    @gc.elementwise(extra=("value",))
    def polyak(g, slot, at):
        return -g * at.value / 4.0

    solution = minimise(polyak(), dtype, max_steps=1)
    value, gradient = 9.0 + 0.25 * 8.0, -6.0
    assert_close(solution.value["a"], jnp.float32(-gradient * value / 4.0), TOLERANCE[dtype])

"""gradchain.assignment against SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from gradchain.assignment import base_hungarian_algorithm, hungarian_algorithm

solve = jax.jit(hungarian_algorithm)
SHAPES = [(1, 1), (2, 2), (5, 5), (3, 8), (8, 3), (1, 6), (6, 1), (40, 40), (25, 60), (60, 25)]


def matrices(shape):
    """Return costs by kind: random, with many ties, all equal, negative, a product of two vectors, of two sizes."""
    rng = np.random.default_rng(sum(shape))
    yield rng.normal(size=shape)
    yield rng.integers(0, 3, size=shape)
    yield np.ones(shape)
    yield -rng.exponential(size=shape)
    yield np.outer(np.arange(shape[0]), np.arange(shape[1]))
    yield rng.integers(0, 2, size=shape) * 1e6 + rng.integers(0, 5, size=shape)


def assert_optimal(cost, pairs):
    rows, columns = (np.asarray(x) for x in pairs)
    best_rows, best_columns = linear_sum_assignment(cost)
    np.testing.assert_array_equal(rows, np.sort(rows))
    assert len(set(rows)) == len(set(columns)) == len(rows) == min(cost.shape)
    assert columns.min() >= 0
    assert columns.max() < cost.shape[1]
    np.testing.assert_allclose(cost[rows, columns].sum(), cost[best_rows, best_columns].sum(), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_as_cheap_as_scipys(shape):
    for cost in matrices(shape):
        assert_optimal(np.asarray(cost, np.float32).astype(np.float64), solve(jnp.asarray(cost, "float32")))


def test_integers_and_half_precision():
    cost = np.random.default_rng(0).integers(-(2**20), 2**20, size=(12, 15))
    assert_optimal(cost, solve(jnp.asarray(cost)))
    half = jnp.asarray(cost / 2**20, "bfloat16")
    assert_optimal(np.asarray(half, np.float64), solve(half))


def test_double_precision_tells_costs_apart_that_single_takes_for_equal(x64):
    cost = np.random.default_rng(0).integers(2**40, 2**40 + 50, size=(10, 10))
    rows, columns = jax.jit(hungarian_algorithm)(jnp.asarray(cost))
    best = linear_sum_assignment(cost)
    assert cost[rows, columns].sum() == cost[best].sum()


def test_a_batch():
    costs = np.random.default_rng(0).normal(size=(30, 6, 9)).astype(np.float32)
    rows, columns = jax.jit(jax.vmap(hungarian_algorithm))(costs)
    for cost, i, j in zip(costs, rows, columns, strict=True):
        np.testing.assert_array_equal((i, j), linear_sum_assignment(cost))


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0)])
def test_empty(shape):
    rows, columns = solve(jnp.zeros(shape))
    assert rows.shape == columns.shape == (0,)
    assert jnp.issubdtype(rows.dtype, jnp.integer)


@pytest.mark.parametrize("forbidden", [np.inf, np.nan])
def test_forbidden_pairs(forbidden):
    rng = np.random.default_rng(1)
    for _ in range(20):
        cost = rng.normal(size=(6, 8)).astype(np.float32)
        cost[rng.random(size=cost.shape) < 0.5] = forbidden
        cost[np.arange(6), rng.permutation(8)[:6]] = 3.0  # one assignment is always allowed
        assert_optimal(np.where(np.isnan(cost), np.inf, cost), solve(jnp.asarray(cost)))


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_where_no_assignment_is_cheapest_some_is_returned(value):
    for cost in (np.full((4, 5), value), np.array([[1, value], [value, value]]), np.array([[1.0], [value], [value]])):
        rows, columns = (np.asarray(x) for x in solve(jnp.asarray(cost, "float32")))
        assert len(set(rows)) == len(set(columns)) == min(cost.shape)


def test_the_cost_is_differentiable():
    cost = jnp.array([[4.0, 1.0, 3.0], [2.0, 0.0, 5.0]])
    grad = jax.jit(jax.grad(lambda c: c[hungarian_algorithm(c)].sum()))(cost)
    np.testing.assert_array_equal(grad, [[0, 1, 0], [1, 0, 0]])


def test_both_of_optaxs_names():
    cost = jnp.array([[8, 4, 7], [5, 2, 3], [9, 6, 7], [9, 4, 8]])
    np.testing.assert_array_equal(base_hungarian_algorithm(cost), hungarian_algorithm(cost))
    np.testing.assert_array_equal(hungarian_algorithm(cost), [[0, 1, 3], [0, 2, 1]])


def test_what_is_no_matrix_of_real_numbers_is_an_error():
    with pytest.raises(ValueError, match=r"must be a matrix, got shape \(2, 2, 2\)"):
        hungarian_algorithm(jnp.ones((2, 2, 2)))
    with pytest.raises(TypeError, match="must be real, got complex64"):
        hungarian_algorithm(jnp.ones((2, 2), "complex64"))

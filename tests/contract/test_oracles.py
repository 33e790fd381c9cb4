"""Every rule against its oracle in NumPy: on a stream of random gradients, and descending a quadratic."""

from typing import Any

import jax
import numpy as np
import pytest

from tests import trees
from tests.contract.cases import case_of, each, secondary
from tests.registry import ROWS, Row

STEPS = 100
WITH_ORACLE = [row for row in ROWS if row.oracle]
SINGLE, DOUBLE = 1e-6, 1e-12


def on_a_stream(row: Row, dtype: str) -> tuple[Any, Any]:
    """Return all updates on one stream of gradients, ours and the oracle's, with the parameters at rest."""
    case, oracle = case_of(row, dtype), row.oracle()
    gradients = jax.tree.map(np.asarray, trees.stream(STEPS, dtype))
    exact_params, exact = trees.as_numpy((case.params, gradients))
    state, exact_state = case.tx.init(case.params), oracle.init(exact_params)
    ours, theirs = [], []
    for k in range(STEPS):
        updates, state = case.step(trees.at(gradients, k), state, case.params)
        exact_updates, exact_state = oracle.update(trees.at(exact, k), exact_state, exact_params)
        ours.append(updates)
        theirs.append(exact_updates)
    return ours, theirs


def steepness(row: Row, dtype: str) -> float:
    """Return how many times the oracle enlarges a small relative change of the gradients on the stream."""
    params, exact = trees.as_numpy((trees.standard(dtype), trees.stream(STEPS, dtype)))
    changed = trees.disturbed(exact, 1e-9, np.random.default_rng(5))

    def updates_on(gradients: Any) -> Any:
        oracle = row.oracle()
        state, results = oracle.init(params), []
        for k in range(STEPS):
            updates, state = oracle.update(trees.at(gradients, k), state, params)
            results.append(updates)
        return results

    return max(1.0, trees.relative_error(updates_on(changed), updates_on(exact)) / 1e-9)


def curvature(params: Any) -> Any:
    """Return the curvatures h, between 0.5 and 2, of the quadratic sum(h |w|^2) / 2, in single precision."""
    return {n: np.asarray(np.random.default_rng(2).uniform(0.5, 2, w.shape), "float32") for n, w in params.items()}


def descend(row: Row, dtype: str) -> Any:
    """Return all parameters on the way down the quadratic."""
    case = case_of(row, dtype)
    params = jax.tree.map(np.asarray, case.params)
    state, path, h = case.tx.init(case.params), [], curvature(params)
    for _ in range(STEPS):
        updates, state = case.step({n: h[n] * w for n, w in params.items()}, state, params)
        params = {n: w + np.asarray(updates[n]) for n, w in params.items()}
        path.append(params)
    return path


def descend_exactly(row: Row, dtype: str, disturbance: float = 0.0) -> Any:
    """Return the oracle's way down the quadratic, from a start changed by +-``disturbance`` of each number."""
    oracle, params = row.oracle(), trees.as_numpy(trees.standard(dtype))
    params = trees.disturbed(params, disturbance, np.random.default_rng(5))
    state, path, h = oracle.init(params), [], trees.as_numpy(curvature(params))
    for _ in range(STEPS):
        updates, state = oracle.update({n: h[n] * w for n, w in params.items()}, state, params)
        params = {n: w + updates[n] for n, w in params.items()}
        path.append(params)
    return path


def check_descent(row: Row, dtype: str, tolerance: float) -> None:
    """Assert that ours is the oracle's way down, to a tolerance times how ill-conditioned that way is."""
    exact = descend_exactly(row, dtype)
    trees.assert_close(descend(row, dtype), exact, tolerance * condition(row, dtype, exact))


def condition(row: Row, dtype: str, exact: Any) -> float:
    """Return how many times the exact descent enlarges a small relative change of its start.

    It is 1 for most. RMSprop without momentum jumps to and fro over the minimum, at a constant rate, and each jump
    divides by a root mean square that is small there: an error grows 40-fold within 100 steps.
    """
    return max(1.0, trees.relative_error(descend_exactly(row, dtype, 1e-9), exact) / 1e-9)


@pytest.mark.parametrize("dtype", ["float64", pytest.param("complex128", marks=pytest.mark.slow)])
@each(WITH_ORACLE)
def test_double_precision(row, dtype, x64):
    trees.assert_close(*on_a_stream(row, dtype), DOUBLE)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("complex64", marks=pytest.mark.slow)])
@each([row for row in WITH_ORACLE if not row.composed], slow=secondary)
def test_single_precision(row, dtype):
    trees.assert_close(*on_a_stream(row, dtype), SINGLE * (steepness(row, dtype) if row.steep else 1))


@each([row for row in WITH_ORACLE if row.descends], slow=secondary)
def test_descent_in_double_precision(row, x64):
    check_descent(row, "float64", DOUBLE)


@each([row for row in WITH_ORACLE if row.descends], slow=secondary)
def test_descent_in_single_precision(row):
    check_descent(row, "float32", SINGLE)

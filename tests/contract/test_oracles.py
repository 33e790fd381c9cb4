"""Every rule against its oracle in NumPy: a stream of random gradients, and descent on a quadratic."""

from typing import Any

import jax
import numpy as np
import pytest

import gradchain as gc
from tests import trees
from tests.registry import ROWS, Row

STEPS = 100
WITH_ORACLE = [row for row in ROWS if row.oracle]


def update_of(row: Row) -> tuple[Any, Any]:
    """Return the transform and its compiled update."""
    tx = row.build()
    return tx, jax.jit(lambda g, s, p: tx.update(g, s, p))


def stream_pair(row: Row, dtype: str) -> tuple[Any, Any]:
    """Return all updates on one stream of gradients, ours and the oracle's, with the parameters at rest."""
    (tx, update), oracle = update_of(row), row.oracle()
    params, gradients = trees.standard(dtype), trees.stream(STEPS, dtype)
    exact_params, exact = trees.as_numpy(params), trees.as_numpy(gradients)
    state, exact_state = tx.init(params), oracle.init(exact_params)
    ours, theirs = [], []
    for k in range(STEPS):
        updates, state = update(trees.at(gradients, k), state, params)
        exact_updates, exact_state = oracle.update(trees.at(exact, k), exact_state, exact_params)
        ours.append(updates)
        theirs.append(exact_updates)
    return ours, theirs


def quadratic_pair(row: Row, dtype: str) -> tuple[Any, Any]:
    """Return all parameters of a descent on sum(h w^2) / 2 with 0.5 <= h <= 2, ours and the oracle's."""
    (tx, update), oracle = update_of(row), row.oracle()
    params = trees.standard(dtype)
    curvature = {n: np.random.default_rng(2).uniform(0.5, 2, w.shape).astype(w.real.dtype) for n, w in params.items()}
    exact_curvature, exact_params = trees.as_numpy(curvature), trees.as_numpy(params)
    state, exact_state = tx.init(params), oracle.init(exact_params)
    ours, theirs = [], []
    for _ in range(STEPS):
        updates, state = update(gc.tree.mul(curvature, params), state, params)
        params = gc.apply_updates(params, updates)
        gradients = {n: exact_curvature[n] * w for n, w in exact_params.items()}
        exact_updates, exact_state = oracle.update(gradients, exact_state, exact_params)
        exact_params = {n: w + exact_updates[n] for n, w in exact_params.items()}
        ours.append(params)
        theirs.append(exact_params)
    return ours, theirs


@pytest.mark.parametrize("row", WITH_ORACLE, ids=str)
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_stream_in_double_precision(row, dtype, x64):
    trees.assert_close(*stream_pair(row, dtype), 1e-12)


@pytest.mark.parametrize("row", WITH_ORACLE, ids=str)
def test_stream_in_single_precision(row):
    trees.assert_close(*stream_pair(row, "float32"), 1e-6)

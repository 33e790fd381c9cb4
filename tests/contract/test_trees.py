"""Any tree of parameters will do: empty, with None, scalars, zero-size arrays, tuples, dataclasses, FrozenDict."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradchain.core.rule import Rule
from tests import quick, trees
from tests.contract.cases import SLOW, STEPS, TOLERANCE, beside_the_rules, each, follows, secondary
from tests.registry import ROWS

ANY_TREE = [row for row in ROWS if row.any_tree]


def run(row, params, prepare):
    """Return the updates of a few steps, the gradients being multiples of the parameters, and check their kind."""
    tx = row.build()
    state = start = tx.init(params)
    update, results = prepare(functools.partial(row.update, tx)), []
    for k in range(STEPS):
        gradient = jax.tree.map(lambda p, k=k: ((2 - k) * p).astype(p.dtype), params)
        updates, state = update(gradient, state, params)
        trees.assert_same_kind(updates, params)
        trees.assert_same_kind(state, start)
        results.append(updates)
    return results


def expected(row, params, disturbance=0.0):
    """Return what the oracle makes of the same run, or of gradients changed by +-``disturbance`` of each number.

    Leaf by leaf in one flat dict.
    """
    oracle, signs = row.oracle(), np.random.default_rng(5)
    exact = {str(i): x for i, x in enumerate(jax.tree.leaves(trees.as_numpy(params)))}
    state, results = oracle.init(exact), []
    for k in range(STEPS):
        gradient = trees.disturbed({name: (2 - k) * x for name, x in exact.items()}, disturbance, signs)
        updates, state = oracle.update(gradient, state, exact)
        results.append(updates)
    return results


def check(row, params, prepare, tolerance):
    """Assert that a run keeps structures and agrees with the oracle's."""
    results = run(row, params, prepare)
    assert all(jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(results))
    if row.oracle:
        exact = expected(row, params)
        leaves = [{str(i): x for i, x in enumerate(jax.tree.leaves(updates))} for updates in results]
        enlarged = trees.relative_error(expected(row, params, 1e-9), exact) / 1e-9 if row.steep else 1.0
        trees.assert_close(trees.as_numpy(leaves), exact, tolerance * max(1.0, enlarged))


@each(ANY_TREE, slow=beside_the_rules)
def test_a_tree_of_all_kinds_of_nests(row):
    check(row, trees.nests(), quick.jit, 2e-6)


def sees_nests(row):
    """Whether trees of no array, or of one, could show more of a row than all kinds of nests in one tree.

    Of a rule that sees one array at a time they could not; the first one of each family is tested nevertheless.
    """
    tx = row.build()
    by_array = isinstance(tx, Rule) and tx.by_leaf and not tx.unlayered.spec.whole
    return not secondary(row) and not (follows(row) and by_array)


@pytest.mark.slow
@pytest.mark.parametrize("nest", ["empty", "only_none", "array", "scalar"])
@each([row for row in ANY_TREE if sees_nests(row)])
def test_trees_of_no_array_or_one(row, nest):
    check(row, trees.nests()[nest], lambda update: update, 2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", *SLOW])
@each([row for row in ANY_TREE if not beside_the_rules(row)])
def test_all_kinds_of_nests_in_any_dtype_compiled(row, dtype):
    if dtype in row.excludes:
        return
    with jax.enable_x64(dtype == "float64"):
        check(row, trees.nests(dtype), quick.jit, 3 * TOLERANCE[dtype])


@each(ANY_TREE, slow=secondary)
def test_none_in_gradients_leaves_that_parameter_alone(row):
    tx, params = row.build(), trees.standard()
    gradient = {**trees.at(trees.stream(1), 0), "kernel": None}
    partial = {**params, "kernel": None}
    state = tx.init(partial)
    updates, new_state = row.update(tx, gradient, state, partial)
    assert updates["kernel"] is None
    trees.assert_same_kind(new_state, state)
    np.testing.assert_array_equal(jnp.isfinite(updates["bias"]), True)

"""Weights for evaluation: asked for in one way of every transform, at any depth."""

import functools
import operator

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradchain as gc
from tests import quick, trees
from tests.contract.cases import STEPS, beside_the_rules, each, secondary
from tests.registry import ROWS
from tests.registry.averages import AVERAGES
from tests.unit.test_routing_laws import law

STAGES = st.sampled_from([row for row in ROWS if not row.random])
SEEDS = st.integers(0, 2**16)


def descended(tx, params, gradients, extra):
    """Return parameters and state after a few steps."""
    state = tx.init(params)
    for k in range(STEPS):
        updates, state = tx.update(trees.at(gradients, k), state, params, **extra(params))
        params = gc.apply_updates(params, updates)
    return params, state


def keeps_weights(row):
    """Whether a transform's evaluation weights are others than the parameters."""
    tx, params = row.build(), trees.standard()
    return gc.eval_params(tx, tx.init(params), params)["kernel"] is not params["kernel"]


WITH_WEIGHTS = [row for row in AVERAGES if keeps_weights(row)]


def extra_of(*rows):
    """Return the extra arguments of several rows, as a function of the parameters."""
    return lambda params: functools.reduce(operator.or_, (row.extra(params) for row in rows))


@each(slow=secondary)
def test_evaluation_weights_start_as_the_parameters_and_keep_their_kind(row):
    tx, start = row.build(), trees.standard("bfloat16")
    trees.assert_close(gc.eval_params(tx, tx.init(start), start), start, 0)
    params, state = descended(tx, start, trees.stream(STEPS, "bfloat16"), row.extra)
    weights = gc.eval_params(tx, state, params)
    trees.assert_same_kind(weights, start)
    trees.assert_close(quick.jit(lambda *args: gc.eval_params(tx, *args))(state, params), weights, 1e-2)


@law(STAGES, STAGES, SEEDS, few=4, many=25)
def test_evaluation_weights_commute_with_chain(first, second, seed):
    a, b = first.build(), second.build()

    def run(tx):
        return descended(tx, trees.standard(seed=seed), trees.stream(STEPS, seed=seed), extra_of(first, second))

    tx = gc.chain(a, b)
    params, state = run(tx)
    one_by_one = gc.eval_params(b, state[1], gc.eval_params(a, state[0], params))
    trees.assert_close(gc.eval_params(tx, state, params), one_by_one, 0)
    nested = gc.chain(gc.named_chain(("only", gc.chain(gc.float32_updates(a), gc.identity()))), b)
    params, state = run(nested)
    trees.assert_close(gc.eval_params(nested, state, params), one_by_one, 1e-6)


@law(STAGES, SEEDS, few=6, many=25)
def test_evaluation_weights_are_the_same_through_what_routes_and_accumulates(row, seed):
    start, gradients = trees.standard(seed=seed), trees.stream(STEPS, seed=seed)

    def weights(tx):
        params, state = descended(tx, start, gradients, row.extra)
        return gc.eval_params(tx, state, params)

    expected = weights(row.build())
    for around in (
        gc.accumulate(row.build(), 1),
        gc.masked(row.build(), True),
        gc.partition({"all": row.build(), "none": gc.average_params(gc.identity())}, "all"),
        gc.apply_if_finite(row.build(), 3),
        gc.parallel(row.build(), gc.identity(), merge=lambda first, _: first),
    ):
        trees.assert_close(weights(around), expected, 0)


@given(st.sampled_from(WITH_WEIGHTS), st.sampled_from(WITH_WEIGHTS), SEEDS)
def test_evaluation_weights_of_both_branches_are_an_error(first, second, seed):
    tx = gc.parallel(first.build(), second.build(), merge=gc.tree.add)
    params, state = descended(tx, trees.standard(seed=seed), trees.stream(STEPS, seed=seed), extra_of(first, second))
    with pytest.raises(ValueError, match="parallel: two parts have evaluation weights for"):
        gc.eval_params(tx, state, params)


@each(slow=beside_the_rules)
def test_evaluation_weights_of_half_precision_are_finite(row):
    tx, zeros = row.build(), jax.tree.map(jnp.zeros_like, trees.standard("float16"))
    params, state = descended(tx, zeros, jax.tree.map(jnp.zeros_like, trees.stream(STEPS, "float16")), row.extra)
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(gc.eval_params(tx, state, params)))

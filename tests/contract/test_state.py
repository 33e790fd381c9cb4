"""State can be carried, donated and compiled: it is a fixed point of update, and shares no memory."""

import functools

import jax
import jax.numpy as jnp

import gradchain as gc
from tests import quick, trees
from tests.contract.cases import SLOW, cases, each, follows, secondary
from tests.registry import ROWS


@cases()
def test_state_and_updates_keep_structure_shape_dtype_and_weak_type(case):
    state = case.tx.init(case.params)
    for update in (case.update, case.step):
        now = state
        for k in range(2):
            updates, now = update(case.gradient(k), now, case.params)
            trees.assert_same_kind(now, state)
            trees.assert_same_kind(updates, case.params)


@each([row for row in ROWS if follows(row) and "bfloat16" not in row.excludes])
def test_a_trace_in_half_precision_keeps_them_too(row):
    """Most rows are compiled slowly in half precision, but their own dtypes are seen in a trace."""
    tx, params, gradient = row.build(), trees.standard("bfloat16"), trees.at(trees.stream(1, "bfloat16"), 0)
    state = jax.eval_shape(tx.init, params)
    updates, now = jax.eval_shape(functools.partial(row.update, tx), gradient, state, params)
    trees.assert_same_kind(now, state)
    trees.assert_same_kind(updates, jax.eval_shape(lambda: params))


@cases()
def test_jit_equals_eager(case):
    eager, compiled = case.loop(case.update), case.loop(case.step)
    case.assert_close(compiled, eager)


@cases(fast=("float32",), slow=follows, without=lambda row: ("bfloat16", *SLOW))
def test_a_scan_with_donated_carry_equals_the_loop(case):
    """In single precision: a scan asks of other dtypes only that the state keeps its kind, as shown above."""

    def body(carry, gradient):
        params, state = carry
        updates, state = case.update(gradient, state, params)
        return (gc.apply_updates(params, updates), state), None

    epoch = quick.jit(lambda carry, gradients: jax.lax.scan(body, carry, gradients)[0], donate_argnums=0)
    params = jax.tree.map(lambda x: jnp.array(x, copy=True), case.params)
    carry = params, case.tx.init(params)
    for _ in range(2):
        donated, carry = carry, epoch(carry, case.gradients)
        assert all(x.is_deleted() for x in jax.tree.leaves(donated))
    case.assert_close(carry, case.loop(case.step, epochs=2))


def pointers(tree):
    """Return the address of every array that has any bytes."""
    return [x.unsafe_buffer_pointer() for x in jax.tree.leaves(tree) if x.size]


@each(slow=secondary)
def test_no_two_arrays_share_a_buffer(row):
    tx, params = row.build(), trees.standard()
    for init in (tx.init, quick.jit(tx.init)):
        state = init(params)
        gradient = trees.at(trees.stream(1), 0)
        _, later = row.update(tx, gradient, state, params)
        for tree in (state, later):
            addresses = pointers((tree, params, gradient))
            assert len(addresses) == len(set(addresses))


@each([row for row in ROWS if not row.rounds])
def test_the_state_of_half_precision_parameters_is_that_of_single_precision(row):
    tx = row.build()
    trees.assert_same_kind(tx.init(trees.standard("bfloat16")), tx.init(trees.standard("float32")))


@each()
def test_init_is_deterministic_and_needs_only_shapes(row):
    tx, params = row.build(), trees.standard()
    shapes = jax.eval_shape(tx.init, params)
    assert jax.tree.map(jnp.shape, tx.init(params)) == jax.tree.map(lambda x: x.shape, shapes)
    assert tx.init(jax.eval_shape(lambda: params)) == shapes
    trees.assert_close(tx.init(params), tx.init(params), 0)

"""Optax's states: runs that Optax begins go on here to the end that they would have had, and back again."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradchain as gc
from tests import quick, states, trees
from tests.contract.cases import each
from tests.registry import ROWS, Row

STEPS = 50


def runner(row, tx):
    """Return a function that takes ``STEPS`` steps along the gradients and returns parameters and state."""

    def body(carry, gradient):
        updates, state = row.update(tx, gradient, carry[1], carry[0])
        return (optax.apply_updates(carry[0], updates), state), None

    return quick.jit(lambda params, state, gradients: jax.lax.scan(body, (params, state), gradients)[0])


def assert_goes_on(row):
    """Assert that 50 steps here end where Optax's own would have, and that the last state is Optax's again."""
    tx, optimizer, params = row.build(), row.optax(), trees.standard("float64")
    first, second = (trees.stream(STEPS, "float64", seed) for seed in (1, 2))
    theirs = runner(row, optimizer)
    middle, state = theirs(params, optimizer.init(params), first)
    end, last = theirs(middle, state, second)
    here, mine = runner(row, tx)(middle, gc.from_optax_state(tx, middle, state), second)
    trees.assert_close(here, end, 1e-6)
    back = gc.to_optax_state(tx, mine, optimizer, here)
    trees.assert_close(_slots(back), _slots(last), 1e-6)
    states.assert_same(*(jax.tree.map(jnp.zeros_like, x) for x in (back, optimizer.init(params))))


def _slots(state):
    return [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.inexact)]


SCHEDULE = gc.cosine_decay_schedule(0.1, 40)


def decayed(path, leaf):
    return leaf.ndim > 1


def mask(params):
    return jax.tree.map(lambda x: x.ndim > 1, params)


def labels(params):
    return {"kernel": "a", "bias": "b", "scale": "b"}


PAIRS = [
    Row(
        "adamw",
        lambda: gc.chain(gc.clip_by_global_norm(1.0), gc.adamw(SCHEDULE, mask=gc.by_leaf(decayed))),
        optax=lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(SCHEDULE, mask=mask)),
    ),
    Row(
        "routed",
        lambda: gc.partition({"a": gc.adafactor(0.01, 2), "b": gc.radam(0.01)}, labels),
        optax=lambda: optax.partition({"a": optax.adafactor(0.01, 2), "b": optax.radam(0.01)}, labels),
    ),
    Row(
        "accumulated",
        lambda: gc.accumulate(gc.chain(gc.trace(0.9), gc.scale_by_learning_rate(SCHEDULE)), 3),
        optax=lambda: optax.MultiSteps(
            optax.chain(optax.trace(0.9), optax.scale_by_learning_rate(SCHEDULE)), 3, accumulator_dtype=None
        ).gradient_transformation(),
    ),
    Row("optimistic", lambda: gc.optimistic_adam_v2(0.01), optax=lambda: optax.optimistic_adam_v2(0.01)),
]


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_a_run_goes_on(pair, x64):
    assert_goes_on(pair)


@pytest.mark.slow
@each([row for row in ROWS if row.optax and not row.random and isinstance(row.optax(), optax.GradientTransformation)])
def test_every_run_goes_on(row, x64):
    assert_goes_on(row)


def test_lookahead_keeps_its_slow_weights_in_the_parameters(x64):
    optimizer, tx = optax.lookahead(optax.adam(0.1), 3, 0.5), gc.lookahead(gc.adam(0.1), 3, 0.5)
    pair = optax.LookaheadParams.init_synced(trees.standard("float64"))
    state = optimizer.init(pair)
    gradients = trees.stream(20, "float64")
    for k in range(4):
        updates, state = optimizer.update(trees.at(gradients, k), state, pair)
        pair = optax.apply_updates(pair, updates)
    params, mine = pair.fast, gc.from_optax_state(tx, pair, state)
    np.testing.assert_array_equal(mine.slow["kernel"], pair.slow["kernel"])
    for k in range(4, 20):
        updates, state = optimizer.update(trees.at(gradients, k), state, pair)
        pair = optax.apply_updates(pair, updates)
        updates, mine = tx.update(trees.at(gradients, k), mine, params)
        params = gc.apply_updates(params, updates)
    trees.assert_close(params, pair.fast, 1e-12)
    trees.assert_close(gc.eval_params(tx, mine, params), pair.slow, 1e-12)


PARAMS = trees.standard()


def state_of(optimizer: Any, steps: int = 1):
    state = optimizer.init(PARAMS)
    for _ in range(steps):
        _, state = optimizer.update(PARAMS, state, PARAMS)
    return state


def test_counts_that_optax_lacks_are_those_of_the_neighbours():
    tx = gc.chain(gc.trace(0.9), gc.accumulate(gc.chain(gc.trace(0.9), gc.adam(0.1)), 2), gc.scale(2.0))
    inner = optax.chain(optax.trace(0.9), optax.adam(0.1))
    optimizer = optax.chain(optax.trace(0.9), optax.MultiSteps(inner, 2).gradient_transformation(), optax.scale(2.0))
    found = gc.state_paths(tx, gc.from_optax_state(tx, PARAMS, state_of(optimizer, 5), count=5))
    counts = {address: int(x) for address, x in found.items() if address.endswith("/count")}
    assert counts == {
        "trace/count": 5,
        "accumulate/count": 2,
        "trace_2/count": 2,
        "scale_by_adam/count": 2,
        "scale_by_learning_rate/count": 2,
        "scale/count": 5,
    }
    assert found["accumulate/weight"] == found["accumulate/mini_step"] == 1
    assert not found["accumulate/emitted"]


def test_counts_of_parts_beside():
    tx = gc.lookahead(gc.adam(0.1), 2, 0.5)
    pair = optax.LookaheadParams.init_synced(PARAMS)
    state = optax.lookahead(optax.adam(0.1), 2, 0.5).init(pair)
    restored = gc.from_optax_state(tx, pair, state._replace(fast_state=state_of(optax.adam(0.1), 3)))
    assert int(restored.slow_state.count) == 0
    assert int(restored.fast_state[1].count) == 3


def test_what_cant_be_carried_over_is_listed():
    with pytest.raises(
        ValueError, match=r"from_optax_state: 3 entries .*\n  scale_by_rss/sum_of_squares/bias: expected"
    ):
        gc.from_optax_state(gc.adagrad(0.1), PARAMS, state_of(optax.sgd(0.1)))
    with pytest.raises(ValueError, match=r"3 entries .*\n  Optax's trace/trace/bias: unexpected float32\[2\]"):
        gc.from_optax_state(gc.sgd(0.1), PARAMS, state_of(optax.sgd(0.1, 0.9)))
    dropped = gc.from_optax_state(gc.sgd(0.1), PARAMS, state_of(optax.sgd(0.1, 0.9)), unexpected="drop")
    states.assert_same(dropped, gc.sgd(0.1).init(PARAMS))
    with pytest.raises(
        ValueError, match=r"to_optax_state: 3 entries .*\n  trace/trace/bias: expected float32\[2\], got"
    ):
        gc.to_optax_state(gc.sgd(0.1), gc.sgd(0.1).init(PARAMS), optax.sgd(0.1, 0.9), PARAMS)
    with pytest.raises(ValueError, match=r"to_optax_state: 3 entries .*\n  gradchain's trace/trace/bias: unexpected"):
        gc.to_optax_state(gc.sgd(0.1, 0.9), gc.sgd(0.1, 0.9).init(PARAMS), optax.sgd(0.1), PARAMS)


def test_no_two_arrays_share_a_buffer_with_optaxs_state():
    tx = gc.adam(0.1)
    state = gc.from_optax_state(tx, PARAMS, state_of(optax.adam(0.1)))
    buffers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(state)]
    assert len(set(buffers)) == len(buffers)


def bumpy(params):
    """Return a loss with negative curvature at the start of a run from ``PARAMS``, so that pairs are left out."""
    return sum(jnp.sum(jnp.square(x) / 2 + jnp.cos(2 * x)) for x in jax.tree.leaves(params))


MEMORY = 3


@functools.partial(jax.jit, static_argnums=0)
def minimised(tx, steps, params, state):
    """Return parameters and state after some steps down ``bumpy``."""

    def step(_, carry):
        params, state = carry
        value, grad = jax.value_and_grad(bumpy)(params)
        updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=bumpy)
        return optax.apply_updates(params, updates), state

    return jax.lax.fori_loop(0, steps, step, (params, state))


OURS, THEIRS = gc.lbfgs(0.3, MEMORY, linesearch=None), optax.lbfgs(0.3, MEMORY, linesearch=None)


@pytest.mark.parametrize("before", [5, 7])
def test_l_bfgs_goes_on_both_ways(before, x64):
    """Before the memory is full and when it has been written round; here a slot is written when a pair is kept."""
    params = trees.standard("float64")
    middle, state = minimised(OURS, before, params, OURS.init(params))
    end, _ = minimised(OURS, 4, middle, state)
    there, _ = minimised(THEIRS, 4, middle, gc.to_optax_state(OURS, state, THEIRS, middle))
    assert state[0].position != (state[0].count - 1) % MEMORY
    trees.assert_close(there, end, 1e-9)
    middle, state = minimised(THEIRS, 4 + before, params, THEIRS.init(params))
    end, _ = minimised(THEIRS, 4, middle, state)
    here, mine = minimised(OURS, 4, middle, gc.from_optax_state(OURS, middle, state))
    trees.assert_close(here, end, 1e-9)
    assert mine[0].count == 8 + before


@pytest.mark.slow
def test_l_bfgs_goes_on_with_its_search(x64):
    params, ours, theirs = trees.standard("float64"), gc.lbfgs(), optax.lbfgs()
    middle, state = minimised(theirs, 5, params, theirs.init(params))
    mine = gc.from_optax_state(ours, middle, state)
    assert mine[0].count == mine[2].searches == 5
    here, _ = minimised(ours, 3, middle, mine)
    there, _ = minimised(theirs, 3, middle, state)
    trees.assert_close(here, there, 1e-9)

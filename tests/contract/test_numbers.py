"""Promise 2: numbers are leaves. They change without a retrace, batch under vmap, differentiate, become schedules."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from gradchain.schedules import constant_schedule
from tests import quick, trees
from tests.contract.cases import STEPS, beside_the_rules, case_of, each, follows, least, secondary
from tests.contract.numbers import TYPES, changed, neighbour, numbers_of
from tests.registry import ROWS

WITH_NUMBERS = [row for row in ROWS if numbers_of(row.build())]


def run(row, tx, params, gradients):
    """Return the updates of a few steps, stacked."""

    def step(state, gradient):
        updates, state = row.update(tx, gradient, state, params)
        return state, updates

    return jax.lax.scan(step, tx.init(params), gradients)[1]


@each(WITH_NUMBERS, slow=secondary)
def test_new_numbers_dont_retrace(row):
    case = case_of(row, "float32")
    params, gradient = least(row, case.params), least(row, case.gradient(0))
    state = case.tx.init(params)
    case.step_of(case.tx, gradient, state, params)
    traces = case.traces
    for k in range(24):
        case.step_of(changed(case.tx, k, TYPES), gradient, state, params)
    assert case.traces == traces == 1


@each([row for row in WITH_NUMBERS if not secondary(row)], slow=beside_the_rules)
def test_a_batch_under_vmap_equals_separate_runs(row):
    case = case_of(row, "float32")
    values = {name: [neighbour(value, 10 * k) for k in range(3)] for name, value in numbers_of(case.tx).items()}
    batch = case.tx.replace(**{name: jnp.asarray(xs) for name, xs in values.items()})
    params, gradients = least(row, case.params), least(row, case.gradients)
    axes = (gc.batch_axes(batch), None, None)
    together = quick.jit(jax.vmap(functools.partial(run, row), in_axes=axes))(batch, params, gradients)
    for k in range(3):
        tx = case.tx.replace(**{name: xs[k] for name, xs in values.items()})
        state = tx.init(params)
        for step in range(STEPS):
            updates, state = case.step_of(tx, trees.at(gradients, step), state, params)
            trees.assert_close(trees.at(trees.at(together, k), step), updates, 2e-6)


@each([row for row in WITH_NUMBERS if row.smooth and not secondary(row)], slow=beside_the_rules)
def test_the_gradient_of_every_number_agrees_with_finite_differences(row, x64):
    params, gradient, weights = (least(row, trees.standard("float64", seed)) for seed in range(3))
    gradient = jax.tree.map(lambda g: g + jnp.sign(g), gradient)

    @quick.jit
    @functools.partial(jax.value_and_grad, allow_int=True)
    def total(tx):
        first, state = row.update(tx, gradient, tx.init(params), params)
        second, _ = row.update(tx, params, state, params)
        return gc.tree.vdot(weights, first) + 2 * gc.tree.vdot(weights, second)

    leaves, treedef = jax.tree.flatten(row.build())
    derivatives = jax.tree.leaves(total(row.build())[1])
    for i, (leaf, derivative) in enumerate(zip(leaves, derivatives, strict=True)):
        if isinstance(leaf, float):
            h = 3e-7 * max(abs(leaf), 0.01)
            up, down = (total(treedef.unflatten([*leaves[:i], leaf + d, *leaves[i + 1 :]]))[0] for d in (h, -h))
            np.testing.assert_allclose(derivative, (up - down) / (2 * h), rtol=1e-6, atol=1e-6)


@each([row for row in WITH_NUMBERS if not row.numbers_in_state], slow=follows)
def test_whether_a_number_is_a_schedule_changes_neither_state_nor_updates(row):
    tx, params, gradients = row.build(), least(row, trees.standard()), least(row, trees.stream(STEPS))
    plain = {name: value for name, value in numbers_of(tx).items() if isinstance(value, float) and name.count(".") < 2}
    scheduled = tx.replace(**{name: constant_schedule(value) for name, value in plain.items()})
    trees.assert_same_kind(scheduled.init(params), tx.init(params))
    trees.assert_close(run(row, scheduled, params, gradients), run(row, tx, params, gradients), 2e-6)


@each(WITH_NUMBERS)
def test_a_batch_without_vmap_is_an_error_that_tells_what_to_do(row):
    tx, params = row.build(), trees.standard()
    for name, value in numbers_of(tx).items():
        batch = tx.replace(**{name: jnp.asarray([value, value])})
        with pytest.raises(ValueError, match=r"holds a batch of shape \(2,\).*jax\.vmap\(run, in_axes=\(batch_axes"):
            row.update(batch, trees.at(trees.stream(1), 0), batch.init(params), params)


@each(WITH_NUMBERS)
def test_listed_numbers_can_be_set_by_the_same_name(row):
    tx = row.build()
    for name, value in numbers_of(tx).items():
        new = neighbour(value, 32)
        after = gc.hyperparams(gc.set_hyperparams(tx, {name: new}))
        assert after[name] == new
        same = {k: v for k, v in numbers_of(tx).items() if k != name}
        assert {k: after[k] for k in same} == same

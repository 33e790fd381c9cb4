"""Promise 1: a transform is a pair of pure functions with one signature."""

import jax
import jax.numpy as jnp
import pytest

from tests import trees
from tests.contract.cases import cases, each, secondary
from tests.registry import ROWS
from tests.registry.row import no_extra

WITHOUT_PARAMS = [row for row in ROWS if not row.needs_params]


@each(slow=secondary)
def test_unpacks_into_init_and_update(row):
    tx, params = row.build(), trees.standard()
    gradient = trees.at(trees.stream(1), 0)
    init, update = tx
    expected = row.update(tx, gradient, tx.init(params), params)
    trees.assert_close(update(gradient, init(params), params, **row.extra(params)), expected, 0)


@each()
def test_update_takes_its_arguments_by_name_and_ignores_unknown_ones(row):
    tx, params = row.build(), trees.standard()
    gradient, state = trees.at(trees.stream(1), 0), tx.init(params)
    extra = {"value": jnp.ones(())} | row.extra(params)
    named = tx.update(updates=gradient, state=state, params=params, nobody_knows_this="text", **extra)
    trees.assert_close(named, tx.update(gradient, state, params, **extra), 0)


@each()
def test_update_changes_none_of_its_arguments(row):
    tx, params = row.build(), trees.standard()
    gradient, state = trees.at(trees.stream(1), 0), tx.init(params)
    before = trees.as_numpy((gradient, state, params))
    row.update(tx, gradient, state, params)
    trees.assert_close((gradient, state, params), before, 0)


@cases(WITHOUT_PARAMS, slow=secondary)
def test_params_may_be_missing(case):
    gradient, state = case.gradient(0), case.tx.init(case.params)
    updates, new_state = case.tx.update(gradient, state, **case.row.extra(case.params))
    trees.assert_same_kind(updates, gradient)
    trees.assert_close((updates, new_state), case.update(gradient, state, case.params), 0)


@each([row for row in ROWS if row.needs_params])
def test_missing_params_are_an_error_that_says_so(row):
    tx, params = row.build(), trees.standard()
    with pytest.raises(ValueError, match=r"\w+ needs params: call update\(updates, state, params\)"):
        tx.update(trees.at(trees.stream(1), 0), tx.init(params), **row.extra(params))


@each([row for row in ROWS if row.extra is not no_extra])
def test_a_missing_extra_argument_is_an_error_that_names_it(row):
    tx, params = row.build(), trees.standard()
    for name in row.extra(params):
        others = {other: x for other, x in row.extra(params).items() if other != name}
        with pytest.raises(
            ValueError, match=rf"\w+ needs '{name}': call update\(updates, state, params, .*{name}=\.\.\."
        ):
            tx.update(trees.at(trees.stream(1), 0), tx.init(params), params, **others)


@each([row for row in ROWS if row.random])
def test_randomness_comes_from_the_seed_alone_and_differs_between_updates_and_arrays(row):
    tx = row.build()
    params = {"left": jnp.ones((5, 4)), "right": jnp.ones((5, 4))}

    def two_updates(tx):
        first, state = row.update(tx, params, tx.init(params), params)
        return first, row.update(tx, params, state, params)[0]

    first, second = two_updates(tx)
    trees.assert_close(two_updates(row.build()), (first, second), 0)
    draws = [*first.values(), *second.values(), *two_updates(tx.replace(key=8))[0].values()]
    for i, x in enumerate(draws):
        assert all(trees.relative_error(x, y) > 0.1 for y in draws[:i])
    trees.assert_close(tx.replace(key=jax.random.key(7)).init(params), tx.init(params), 0)

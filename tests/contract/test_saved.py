"""What outlives a run, for every row and for nests drawn at random: state dicts exact, configs equal."""

import io
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings

import gradchain as gc
from tests import nests, states, trees
from tests.contract.cases import each, secondary
from tests.registry import ROWS

WRAPPERS = {
    "accumulate": lambda tx: gc.accumulate(tx, 2),
    "apply_if_finite": lambda tx: gc.apply_if_finite(tx, 3),
    "average_params": gc.average_params,
    "watch": gc.watch,
    "masked": lambda tx: gc.masked(tx, True),
    "behind": lambda tx: gc.chain(gc.scale_by_rss(), tx),
    "before": lambda tx: gc.chain(tx, gc.scale_by_rss()),
    "scheduled": lambda tx: tx.replace(**{name: gc.linear_schedule(0.1, 0.2, 10) for name in rates(tx)}),
}
"""What people do to an optimizer between two runs; each keeps the names of what is inside."""


def rates(tx):
    return [name for name in gc.hyperparams(tx) if name.endswith("scale_by_learning_rate.learning_rate")]


def stages(tx, params):
    return {address.partition("/")[0] for address in gc.state_paths(tx, states.filled(tx, params))}


def assert_round_trip(tx, params):
    """Assert that a state comes back exactly, from JAX's arrays and from a file of NumPy's."""
    state = states.filled(tx, params)
    saved = gc.to_state_dict(tx, state)
    states.assert_same(gc.from_state_dict(tx, params, saved), state)
    file = io.BytesIO()
    np.savez(file, **saved)
    file.seek(0)
    with np.load(file) as loaded:
        states.assert_same(gc.from_state_dict(tx, params, loaded), state)


def assert_survives(tx, params, name):
    """Assert that wrapping ``tx``, or a stage beside it, leaves every array of ``tx`` as it is, bit for bit."""
    changed = WRAPPERS[name](tx)
    before, state = stages(tx, params), states.filled(tx, params)
    added = stages(changed, params) - before
    if {stage.rpartition("_")[0] for stage in added} & before:
        return  # a second stage of one name: see test_state_dict.py
    saved = gc.to_state_dict(tx, state)
    restored = gc.to_state_dict(changed, gc.from_state_dict(changed, params, saved, missing="init"))
    for address, x in saved.items():
        assert np.asarray(x).tobytes() == np.asarray(restored[address]).tobytes(), address


def config_round_trip(tx):
    """Assert that a config makes an equal transform; return the error where a function can't be described."""
    try:
        config = gc.to_config(tx)
    except ValueError as error:
        return str(error)
    assert gc.from_config(json.loads(json.dumps(config, allow_nan=False))) == tx
    return ""


@each()
def test_a_state_dict_gives_the_state_back(row):
    assert_round_trip(row.build(), trees.standard())


@each()
def test_a_config_gives_the_transform_back(row):
    problem = config_round_trip(row.build())
    assert not problem or (not row.rebuilds and re.search("a config can't hold\n  .*: .*<function", problem))


@each(slow=secondary)
def test_what_is_there_survives_a_new_stage(row):
    assert_survives(row.build(), trees.standard(), "behind")


@pytest.mark.slow
@pytest.mark.parametrize("name", WRAPPERS)
@each([row for row in ROWS if not secondary(row)])
def test_what_is_there_survives(row, name):
    if not (row.numbers_in_state and name == "scheduled"):  # a schedule has other numbers than a number
        assert_survives(row.build(), trees.standard(), name)


@pytest.mark.slow
@given(nests.nests(depth=3))
@settings(max_examples=10)
def test_nests(nest):
    params = trees.standard()
    assert_round_trip(nest.tx, params)
    problem = config_round_trip(nest.tx)
    assert not problem or "<function" in problem or "inject_hyperparams(and_scale)" in problem
    assert_survives(nest.tx, params, "before")


@pytest.mark.slow
@pytest.mark.parametrize("name", WRAPPERS)
@given(nests.nests(depth=3))
@settings(max_examples=12)
def test_nests_survive(name, nest):
    assert_round_trip(nest.tx, trees.standard("bfloat16"))
    if not (name == "scheduled" and nest.inside & {"hyperparams_in_state", "inject_hyperparams"}):
        assert_survives(nest.tx, trees.standard(), name)

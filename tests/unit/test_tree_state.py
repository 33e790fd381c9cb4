"""gradchain.tree.get, set and map_params: parts of a state by key, by address, and errors that list what there is."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradchain as gc
from gradchain import tree
from gradchain.core.hyperparams import walk
from gradchain.core.rule import Rule
from gradchain.tree.state import nodes
from tests import trees
from tests.registry import ROWS

PARAMS = {"layer": {"kernel": jnp.ones((2, 2)), "bias": jnp.zeros(2)}, "blocks": [jnp.ones(3), jnp.ones(1)]}
TX = gc.chain(gc.clip_by_global_norm(1.0), gc.trace(0.9), gc.named_chain(("fast", gc.trace(0.5))), gc.adam(0.1))
STATE = TX.init(PARAMS)


UNSEEN = {"outer", "adversary", "average"}
"""Labels of parts that combinators keep in a field of their own: the state doesn't show them, but numbers its names."""


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_addresses_are_the_names_of_hyperparameters(row):
    tx = row.build()
    state = tx.init({"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3), "scale": jnp.ones(())})
    by_address = {node.address: node.value for node in nodes(state)}
    for part in walk(tx, state):
        if isinstance(part.transform, Rule):
            if part.name.partition(".")[0] in UNSEEN:
                assert any(value is part.state for value in by_address.values())
            else:
                assert by_address[part.name] is part.state


def test_addresses_reach_transforms_fields_and_parameters():
    assert tree.get(STATE, "scale_by_adam") is STATE[3][0]
    assert tree.get(STATE, "scale_by_adam.mu") is STATE[3][0].mu
    assert tree.get(STATE, "scale_by_adam.mu['layer']['kernel']") is STATE[3][0].mu["layer"]["kernel"]
    assert tree.get(STATE, "mu['blocks'][1]") is STATE[3][0].mu["blocks"][1]
    assert tree.get(STATE, "fast.trace.trace") is STATE[2]["fast"].trace
    assert tree.get(STATE, "trace.trace") is STATE[1].trace  # the whole address comes before a part of another
    selected = tree.get_all_with_path(STATE, "['layer']['bias']")
    assert len(selected) == 4  # two traces, mu and nu


def test_states_of_one_name_are_numbered():
    state = gc.chain(gc.trace(0.9), gc.trace(0.5)).init(PARAMS)
    assert tree.get(state, "trace_2.trace") is state[1].trace


def test_an_inserted_stage_leaves_addresses_alone():
    state = gc.chain(gc.add_noise(0.1, 0.5, 0), gc.hyperparams_in_state(gc.adam(0.1))).init(PARAMS)
    assert tree.get(state, "scale_by_adam.mu") is state[1].inner_state[0].mu
    assert tree.get(state, "scale_by_learning_rate.learning_rate") == jnp.float32(0.1)


def test_params_that_are_named_tuples_belong_to_their_slot():
    params = optax.TraceState(trace=jnp.ones(2))
    state = gc.adam(0.1).init(params)
    assert tree.get(state, "scale_by_adam.mu.trace") is state[0].mu.trace
    assert tree.get(state, "scale_by_adam.nu.trace") is state[0].nu.trace


def test_what_is_missing():
    assert tree.get(STATE, "momentum") is None
    assert tree.get(STATE, "momentum", 7) == 7
    assert tree.get(STATE, "scale_by_adam.momentum", 7) == 7
    with pytest.raises(KeyError, match=r"'scale_by_adam.momentum'; there is: .*scale_by_adam.mu, scale_by_adam.nu"):
        tree.get(STATE, "scale_by_adam.momentum")
    with pytest.raises(KeyError) as error:
        tree.get(STATE, "scale_by_adam.mu['layer']['weight']")
    assert "there is: scale_by_adam.mu['blocks'][0], scale_by_adam.mu['blocks'][1], " in error.value.args[0]
    assert ".nu" not in error.value.args[0]
    with pytest.raises(KeyError, match="the tree is empty"):
        tree.get((), "scale_by_adam.mu")


def test_long_lists_are_cut():
    state = gc.trace(0.9).init({"w": [jnp.ones(())] * 100})
    with pytest.raises(KeyError, match=r"\[29\] and 70 more"):
        tree.get(state, "trace['v']")


def test_what_is_ambiguous():
    with pytest.raises(
        KeyError,
        match=r"'count' fits several: clip_by_global_norm.count, trace.count, fast.trace.count, scale_by_adam.count.*; "
        "give one of these, or use get_all_with_path",
    ):
        tree.get(STATE, "count")


def in_adam(path, value):
    return any(getattr(key, "tuple_name", "") == "ScaleByAdamState" for key in path)


def test_filters_see_path_and_value():
    assert tree.get(STATE, "count", filtering=in_adam) is STATE[3][0].count
    assert tree.get(STATE, "ScaleByAdamState") is STATE[3][0]
    path, value = tree.get_all_with_path(STATE, "count", in_adam)[0]
    assert str(path[-1]) == "ScaleByAdamState.count"
    assert value is STATE[3][0].count
    assert tree.get_all_with_path(STATE, "kernel", lambda path, value: False) == []
    with pytest.raises(KeyError, match="nothing is called 'count' that passes the filter"):
        tree.set(STATE, lambda path, value: False, count=1)


def test_set_replaces_by_key_and_by_address():
    kernel = jnp.full((2, 2), 5.0, "float32")
    new = tree.set(STATE, count=jnp.int32(7), **{"scale_by_adam.mu['layer']['kernel']": kernel})
    assert [int(value) for _, value in tree.get_all_with_path(new, "count")] == [7] * 5
    assert new[3][0].mu["layer"]["kernel"] is kernel
    assert new[3][0].nu["layer"]["kernel"] is STATE[3][0].nu["layer"]["kernel"]
    trees.assert_same_kind(new, STATE)
    assert int(STATE[3][0].count) == 0
    only_adam = tree.set(STATE, in_adam, count=jnp.int32(7))
    assert [int(value) for _, value in tree.get_all_with_path(only_adam, "count")] == [0, 0, 0, 7, 0]


def test_set_whole_states_and_parts_of_other_pytrees():
    fresh = gc.scale_by_adam().init(jnp.ones(2))
    assert tree.set(STATE, ScaleByAdamState=fresh)[3][0] is fresh
    tx = gc.adam(0.1)
    assert tree.set({"tx": tx, "n": 1}, n=2) == {"tx": tx, "n": 2}


def test_set_lists_what_there_is():
    with pytest.raises(KeyError, match=r"tree.set: nothing is called 'momentum'; there is: .*scale_by_adam.mu"):
        tree.set(STATE, momentum=1)


@pytest.mark.parametrize("key", ["count", "mu", "ScaleByAdamState", "learning_rate", "kernel", "none"])
def test_keys_select_what_they_select_in_optax(key):
    state = optax.inject_hyperparams(optax.adam)(0.1).init(PARAMS)
    ours = {id(value): tuple(map(str, path)) for path, value in tree.get_all_with_path(state, key)}
    theirs = {id(value): tuple(map(str, path)) for path, value in optax.tree.get_all_with_path(state, key)}
    assert ours == theirs


def test_map_params_maps_what_is_shaped_like_the_parameters():
    specs = {"layer": {"kernel": "k", "bias": "b"}, "blocks": ["0", "1"]}
    mapped = tree.map_params(TX, lambda x, spec: spec, STATE, specs, transform_non_params=lambda x: "count")
    assert mapped[3][0] == type(STATE[3][0])("count", {"b1": "count", "b2": "count"}, specs, specs)
    assert mapped[1].count == "count"
    doubled = tree.map_params(TX.init, lambda x: x + 1, STATE)
    np.testing.assert_array_equal(doubled[3][0].nu["blocks"][0], np.ones(3))
    assert doubled[3][0].count is STATE[3][0].count


def test_map_params_with_masks_and_optax_inside():
    mask = {"layer": {"kernel": True, "bias": False}, "blocks": [True, True]}
    tx = gc.chain(gc.adamw(0.1, mask=mask), optax.trace(0.9))
    mapped = tree.map_params(tx, lambda x: "p", tx.init(PARAMS), transform_non_params=lambda x: "n")
    assert set(jax.tree.leaves((mapped[0][0].mu, mapped[1].trace))) == {"p"}
    assert set(jax.tree.leaves([tree.get(mapped, "scale_by_adam.count"), mapped[0][1]])) == {"n"}


def test_placeholders_are_equal():
    assert tree.Placeholder() == tree.Placeholder()
    assert hash(tree.Placeholder()) == hash(tree.Placeholder())
    assert jax.tree.leaves(tree.Placeholder()) == []

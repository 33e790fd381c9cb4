"""What ``init`` takes besides arrays: shapes of arrays, and leaves that aren't arrays where no slot is made of them."""

import jax
import jax.numpy as jnp
import optax
import pytest

import gradchain as gc
from gradchain.core.transform import Transform
from tests import trees

PARAMS = {"w": jnp.ones((2, 3)), "b": jnp.ones(3), "none": None}
SHAPES = jax.eval_shape(lambda: PARAMS)
MODEL = {**PARAMS, "act": jax.nn.relu, "name": "dense"}
GRADS = {**PARAMS, "act": None, "name": None}


def test_init_of_shapes_returns_shapes_also_beside_functions():
    tx = gc.partition({"all": gc.adam(0.1)}, "all")
    state = tx.init({**SHAPES, "act": jax.nn.relu})
    assert state == jax.eval_shape(lambda: tx.init({**PARAMS, "act": jax.nn.relu}))
    assert state.inner_states["all"][0].mu["w"] == jax.ShapeDtypeStruct((2, 3), jnp.float32)


def test_one_shape_among_arrays_is_enough():
    state = gc.trace(0.9).init({**PARAMS, "b": SHAPES["b"]})
    assert state.trace == SHAPES


@pytest.mark.parametrize(
    "tx", [gc.from_optax(optax.adam(0.1)), gc.inject_hyperparams(gc.adam)(0.1), gc.prodigy()], ids=lambda tx: tx.name
)
def test_init_of_shapes_reaches_every_kind_of_transform(tx):
    assert tx.init(SHAPES) == jax.eval_shape(tx.init, PARAMS)


def test_a_combinator_of_ones_own_needs_to_know_nothing_of_shapes():
    @gc.combinator
    class around(Transform):
        """Keep a sum."""

        tx: gc.Child

        def init(self, params):
            return {"inner": self.tx.init(params), "sum": jnp.sum(params["w"])}

        def step(self, updates, state, params, extra):
            return updates, state

    state = around(gc.adam(0.1)).init(SHAPES)
    assert state == {"inner": gc.adam(0.1).init(SHAPES), "sum": jax.ShapeDtypeStruct((), jnp.float32)}


STATELESS = [
    gc.identity(),
    gc.negate(),
    gc.scale(0.5),
    gc.clip(1.0),
    gc.clip_by_global_norm(1.0),
    gc.centralize(),
    gc.add_decayed_weights(0.1),
    gc.set_to_zero(),
    gc.sgd(0.1, weight_decay=0.1),
]


@pytest.mark.parametrize("tx", STATELESS, ids=lambda tx: tx.name)
def test_a_transform_without_slots_starts_on_a_model_with_functions(tx):
    state = tx.init(MODEL)
    trees.assert_close(state, tx.init(PARAMS), 0)
    updates, _ = tx.update(GRADS, state, MODEL)
    expected, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    trees.assert_close(updates, {**expected, "act": None, "name": None}, 0)


def test_whole_numbers_and_what_slots_are_made_of_are_refused_as_before():
    with pytest.raises(TypeError, match=r"scale.init: parameter \['n'\] is int32"):
        gc.scale(0.5).init({"n": jnp.arange(3)})
    with pytest.raises(TypeError, match=r"trace.init: parameter \['act'\] is "):
        gc.trace(0.9).init(MODEL)

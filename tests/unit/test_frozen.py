"""Parameters that are never computed with: whole numbers, bools and keys, and JAX's float0 for their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from gradchain import tree
from tests import trees

LARGE = 2**24 + 1  # no float32
PARAMS = {
    "w": jnp.ones((4, 3)),
    "step": jnp.array(LARGE),
    "small": jnp.arange(3, dtype=jnp.uint8),
    "on": jnp.array([True, False]),
    "key": jax.random.key(7),
}
MOVES = {name: name == "w" for name in PARAMS}
STAYS = {name: name != "w" for name in PARAMS}


def freezing(tx):
    return gc.selective_transform(tx, freeze_mask=STAYS)


def loss(params):
    return jnp.sum(params["w"] ** 2) * params["step"] / LARGE * jnp.where(params["on"][0], 0.5, 1)


FLOAT0 = jax.grad(loss, allow_int=True)(PARAMS)
NONE = {name: grad if name == "w" else None for name, grad in FLOAT0.items()}
NUMBERS = {name: grad if name == "w" else None if name == "key" else jnp.ones_like(PARAMS[name])
           for name, grad in FLOAT0.items()}  # fmt: skip
ROUTED = {
    "partition": gc.partition(
        {"t": gc.adam(0.1), "f": gc.set_to_zero()}, {name: "t" if on else "f" for name, on in MOVES.items()}
    ),
    "by path": gc.partition({"t": gc.adam(0.1), "f": gc.set_to_zero()}, gc.by_path([("w", "t")], default="f")),
    "selective_transform": freezing(gc.adam(0.1)),
    "masked and frozen": gc.chain(gc.masked(gc.adam(0.1), MOVES), gc.freeze(STAYS)),
}
AROUND = {
    "masked": gc.masked(gc.adam(0.1), MOVES),
    "mask of a rule": gc.chain(gc.add_decayed_weights(0.1, mask=MOVES), gc.masked(gc.sgd(0.1), MOVES)),
    "all": gc.freeze(True),
    "average_params": gc.average_params(freezing(gc.adam(0.1))),
    "lookahead": gc.lookahead(freezing(gc.sgd(0.1)), 2, 0.5, reset_state=True),
    "schedule_free": gc.schedule_free(freezing(gc.sgd(0.1)), 0.1),
    "ema_nesterov": gc.ema_nesterov(freezing(gc.sgd(0.1))),
    "mechanize": gc.mechanize(freezing(gc.sgd(0.1))),
    "apply_if_finite": gc.apply_if_finite(freezing(gc.adam(0.1)), 3),
    "accumulate": gc.accumulate(freezing(gc.adam(0.1)), 2),
    "loss_scale": gc.loss_scale(freezing(gc.adam(0.1))),
    "kahan": gc.kahan(freezing(gc.adam(0.1))),
    "master_weights": gc.master_weights(freezing(gc.adam(0.1))),
    "store": gc.store(freezing(gc.adam(0.1)), "int8"),
    "cautious": gc.cautious(freezing(gc.adam(0.1))),
    "split_real_and_imaginary": gc.split_real_and_imaginary(freezing(gc.adam(0.1))),
}


def raw(x):
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def assert_stay(new):
    for name, old in PARAMS.items():
        if name != "w":
            assert new[name].dtype == old.dtype
            np.testing.assert_array_equal(raw(new[name]), raw(old))


def trained(tx, grads, steps=3):
    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(steps):
        updates, state = tx.update(grads, state, params)
        params = gc.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize("grads", [FLOAT0, NONE, NUMBERS], ids=["float0", "None", "numbers"])
@pytest.mark.parametrize("name", ROUTED)
def test_what_is_frozen_stays_whatever_its_dtype_and_gradient(name, grads):
    params, _ = trained(ROUTED[name], grads)
    assert_stay(params)
    trees.assert_close(params["w"], jnp.full((4, 3), 0.7), 1e-5)


@pytest.mark.parametrize("name", AROUND)
def test_wrappers_pass_frozen_parameters_by(name):
    tx = AROUND[name]
    params, state = trained(tx, FLOAT0)
    assert_stay(params)
    assert_stay(gc.eval_params(tx, state, params))
    expected, _ = trained(tx, NONE)
    trees.assert_close(params["w"], expected["w"], 0)


def test_frozen_parameters_are_compiled_reported_and_saved():
    tx = ROUTED["selective_transform"]
    state = jax.jit(tx.init)(PARAMS)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.grad(loss, allow_int=True)(params), state, params)
        return gc.apply_updates(params, updates), state

    params, state = step(PARAMS, state)
    assert_stay(params)
    assert "set_to_zero" in gc.describe(tx, PARAMS, state).table()
    loaded = gc.from_state_dict(tx, PARAMS, gc.to_state_dict(tx, state))
    trees.assert_close(loaded, state, 0)


def test_float0_is_no_update_anywhere():
    updates = {"w": jnp.ones((4, 3)), **{name: FLOAT0[name] for name in PARAMS if name != "w"}}
    assert_stay(gc.apply_updates(PARAMS, updates))
    assert gc.tree.cast_like(updates, PARAMS)["step"].dtype == jax.dtypes.float0
    found, _ = gc.masked(gc.sgd(0.1), MOVES).update(updates, gc.masked(gc.sgd(0.1), MOVES).init(PARAMS))
    assert {name for name, x in found.items() if x is not None} == {"w"}


def test_float0_is_no_number_of_a_tree():
    w = {"w": FLOAT0["w"]}
    for function in (
        gc.global_norm,
        tree.sum,
        tree.max,
        tree.min,
        lambda g: tree.norm(g, 1),
        lambda g: tree.vdot(g, g),
    ):
        assert float(function(FLOAT0)) == float(function(w))
    for function in (
        lambda g: tree.scale(2.0, g),
        lambda g: tree.add(g, g),
        lambda g: tree.where(jnp.array(True), g, g),
        lambda g: tree.clip(g, -1.0, 1.0),
        lambda g: tree.cast(g, jnp.bfloat16),
        tree.zeros_like,
    ):
        found = function(FLOAT0)
        trees.assert_close(found["w"], function(w)["w"], 0)
        assert all(found[name] is FLOAT0[name] for name in PARAMS if name != "w")


def test_float0_changes_nothing_of_another_tree():
    numbers = {name: x for name, x in PARAMS.items() if name != "key"}
    nothing = {name: FLOAT0[name] for name in numbers if name != "w"}
    updates = {"w": jnp.ones((4, 3)), **nothing}
    for found, factor in (
        (tree.add(numbers, updates), 1.0),
        (tree.add(numbers, updates, updates), 2.0),
        (tree.sub(numbers, updates), -1.0),
        (tree.add_scale(numbers, -0.5, updates), -0.5),
    ):
        np.testing.assert_array_equal(found["w"], numbers["w"] + factor)
        assert all(bool(jnp.all(found[name] == numbers[name])) for name in nothing)
    assert tree.allclose(updates, updates)
    moments = tree.update_moment(updates, tree.zeros_like(updates), 0.5, 2)
    np.testing.assert_array_equal(tree.bias_correction(moments, 0.5, 1)["w"], updates["w"])
    assert all(moments[name] is None for name in nothing)


def test_zero_updates_have_the_dtypes_of_what_stays():
    updates, _ = gc.set_to_zero().update(PARAMS, gc.set_to_zero().init(PARAMS), PARAMS)
    assert [updates[name].dtype for name in ("step", "small", "on")] == ["int32", "uint8", "bool"]
    assert updates["key"].dtype == jax.dtypes.float0
    assert_stay(gc.apply_updates(PARAMS, updates))
    with pytest.raises(TypeError, match=r"set_to_zero: update \['act'\] is function, expected an array"):
        gc.set_to_zero().update({"act": lambda x: x}, gc.set_to_zero().init(PARAMS))


def test_what_is_computed_with_is_still_refused():
    with pytest.raises(TypeError, match=r"scale_by_adam.init: parameter \['step'\] is int32"):
        gc.chain(gc.adam(0.1), gc.freeze(STAYS)).init({name: PARAMS[name] for name in ("w", "step")})
    with pytest.raises(TypeError, match=r"\['key'\] is a PRNG key, expected None for its update"):
        gc.apply_updates(PARAMS, {**NONE, "key": jax.random.key(0)})

"""chain, named_chain, apply_updates, float32_updates, and the errors around them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradchain as gc
from tests import public

PARAMS = {"w": jnp.ones((2, 3)), "b": jnp.zeros(3)}
GRADS = {"w": jnp.full((2, 3), 0.5), "b": jnp.ones(3)}


def close(x, y):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), x, y)


def test_empty_chain_is_the_identity():
    updates, state = gc.chain().update(GRADS, gc.chain().init(PARAMS), PARAMS)
    assert state == ()
    close(updates, GRADS)


def test_grouped_stages_equal_one_after_another():
    stages = [
        gc.scale(2.0),
        gc.clip_by_global_norm(0.5),
        gc.trace(0.9),
        gc.centralize(),
        optax.scale(3.0),
        gc.clip(0.1),
    ]
    tx = gc.chain(*stages)
    updates, states = GRADS, []
    for stage in stages:
        state = stage.init(PARAMS)
        updates, state = stage.update(updates, state, PARAMS)
        states.append(state)
    together, state = jax.jit(tx.update)(GRADS, tx.init(PARAMS), PARAMS)
    close(together, updates)
    close(state, tuple(states))


def test_one_inner_trace_serves_equal_leaves():
    calls = 0

    @gc.elementwise()
    def counting(g, slot, at):
        nonlocal calls
        calls += 1
        return g

    tx = gc.chain(counting(), gc.scale(2.0))
    grads = {str(i): jnp.ones(3 if i % 2 else 4) for i in range(20)}
    jax.jit(tx.update)(grads, tx.init(grads))
    assert calls == 2


def test_named_chain_keeps_states_by_name():
    tx = gc.named_chain(("momentum", gc.trace(0.9)), ("rate", gc.scale_by_learning_rate(0.1)))
    state = tx.init(PARAMS)
    assert list(state) == ["momentum", "rate"]
    updates, state = tx.update(GRADS, state, PARAMS)
    close(updates, gc.sgd(0.1, momentum=0.9).update(GRADS, gc.sgd(0.1, momentum=0.9).init(PARAMS))[0])
    assert repr(tx).startswith("named_chain(('momentum', trace(0.9")
    assert eval(repr(tx), public.NAMES) == tx


def test_named_chain_refuses_equal_names():
    with pytest.raises(ValueError, match="names must be different strings"):
        gc.named_chain(("a", gc.identity()), ("a", gc.identity()))


@pytest.mark.parametrize("wrong", [3, None, gc.scale, lambda g: g])
def test_chain_refuses_what_is_no_transform(wrong):
    with pytest.raises(TypeError, match="expected a transform"):
        gc.chain(gc.scale(1.0), wrong)


def test_misuse_of_chains_is_refused_with_the_cure():
    with pytest.raises(TypeError, match="call it to get one"):
        gc.chain(gc.adam)
    with pytest.raises(TypeError, match=r"chain\(first, second, ...\) makes one of several"):
        gc.chain([gc.adam(0.1)])
    with pytest.raises(TypeError, match="named_chain takes pairs of a name and a transform"):
        gc.named_chain(gc.adam(0.1))


def test_apply_updates_adds_in_at_least_float32():
    params = jnp.ones(3, "float8_e4m3fn")
    np.testing.assert_array_equal(gc.apply_updates(params, jnp.full(3, 0.5)).astype("float32"), 1.5)


def test_optax_stage_in_half_precision_keeps_its_state_fixed():
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    tx = gc.chain(gc.clip(1.0), optax.scale_by_adam(), gc.scale_by_learning_rate(0.1))
    state = tx.init(params)
    _, (end, _) = jax.lax.scan(lambda c, _: (tx.update(params, c[0], params)[::-1], None), (state, params), None, 3)[
        ::-1
    ]
    assert jax.tree.map(lambda x: x.dtype, end) == jax.tree.map(lambda x: x.dtype, state)


def test_extra_arguments_reach_the_stage_that_takes_them():
    def update(updates, state, params=None, *, value):
        return jax.tree.map(lambda g: g * value, updates), state

    needs_value = optax.GradientTransformation(lambda params: (), update)
    tx = gc.chain(gc.scale(2.0), needs_value, optax.scale(0.5))
    updates, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS, value=3.0, unknown=object())
    close(updates, jax.tree.map(lambda g: 3.0 * g, GRADS))


def test_half_precision_updates_stay_float32_between_stages_and_leave_as_the_parameters():
    params = jnp.ones(4, jnp.bfloat16)
    tx = gc.chain(gc.scale(1 / 3), gc.scale(3.0))
    grads = jnp.asarray([1.0, 1.0078125, 3.0, 7.0], jnp.bfloat16)
    updates, _ = tx.update(grads, tx.init(params), params)
    assert updates.dtype == jnp.bfloat16
    np.testing.assert_array_equal(updates, grads)
    wide, _ = gc.float32_updates(tx).update(grads, tx.init(params), params)
    assert wide.dtype == jnp.float32


def test_apply_updates_keeps_dtypes_and_leaves_nones_alone():
    params = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2), "c": 1.0}
    new = gc.apply_updates(params, {"a": jnp.full(2, 0.5), "b": None, "c": jnp.ones(())})
    assert new["a"].dtype == jnp.bfloat16
    assert new["b"] is params["b"]
    assert float(new["c"]) == 2.0


def test_apply_updates_names_the_path_of_a_wrong_shape_or_structure():
    with pytest.raises(ValueError, match=r"\['b'\] has shape \(2,\), its parameter \(3,\)"):
        gc.apply_updates(PARAMS, {**GRADS, "b": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"updates has \['c'\], which params lacks"):
        gc.apply_updates(PARAMS, {**GRADS, "c": jnp.ones(2)})


@pytest.mark.parametrize(
    ("grads", "params", "message"),
    [
        ({**GRADS, "b": jnp.ones(2)}, PARAMS, r"chain: \['b'\] has shape \(3,\) in params but \(2,\) in updates"),
        ({"w": GRADS["w"]}, PARAMS, r"chain: .*params has \['b'\], which updates lacks"),
        ({**GRADS, "b": jnp.ones(3, int)}, PARAMS, r"update \['b'\] is int32"),
        (GRADS, None, "add_decayed_weights needs params"),
        (
            {**GRADS, "b": jnp.ones(3, jnp.complex64)},
            PARAMS,
            r"mu at \[\'b\'\] is float32, too narrow for a complex64 update",
        ),
    ],
)
def test_update_refuses(grads, params, message):
    tx = gc.adamw(0.1)
    with pytest.raises((ValueError, TypeError), match=message):
        tx.update(grads, tx.init(PARAMS), params)


def test_shapes_are_checked_against_the_state_where_params_are_missing():
    tx = gc.sgd(0.1, momentum=0.9)
    with pytest.raises(
        ValueError, match=r"trace: the state's trace at \['b'\] has shape \(3,\), but the update has \(2,\)"
    ):
        tx.update({**GRADS, "b": jnp.ones(2)}, tx.init(PARAMS))


@pytest.mark.parametrize("state", [(), gc.sgd(0.1).init(PARAMS), gc.adamw(0.1).init(PARAMS), {}])
def test_a_state_from_another_transform_is_refused(state):
    with pytest.raises(ValueError, match="the state is from another transform"):
        gc.adam(0.1).update(GRADS, state, PARAMS)


def test_init_refuses_integer_parameters_and_what_is_no_array_by_path():
    with pytest.raises(TypeError, match=r"scale_by_adam.init: parameter \['steps'\] is int32"):
        gc.adam(0.1).init({"steps": jnp.arange(3)})
    with pytest.raises(TypeError, match=r"parameter \['activation'\] is function"):
        gc.adam(0.1).init({"activation": lambda x: x})


@pytest.mark.parametrize(
    ("tx", "name"),
    [(gc.scale(2.0), "scale"), (gc.chain(gc.scale(2.0), gc.scale_by_sign()), r"chain \(scale, scale_by_sign\)")],
    ids=["one", "several"],
)
def test_errors_name_the_rules_that_run_together(tx, name):
    with pytest.raises(TypeError, match=rf"^{name}: update \['w'\] is int"):
        tx.update({"w": 1}, tx.init({"w": jnp.ones(2)}))

"""Optax's types and states on gradchain's transforms; results are compared with Optax in tests/accept."""

import ast
import copy
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from gradchain import optax
from gradchain.core.transform import Transform
from tests.trees import as_numpy, at, relative_error, standard, stream

PACKAGE = Path(optax.__file__).parent


def run(tx, steps=4, **extra):
    params, gradients = standard(), stream(steps)
    state = tx.init(params)
    for index in range(steps):
        updates, state = tx.update(at(gradients, index), state, params, **extra)
        params = optax.apply_updates(params, updates)
    return params, state


def test_importing_the_package_loads_no_rule_and_not_optax():
    code = "import sys; from gradchain import optax; print(*sorted(m for m in sys.modules if 'optax' in m))"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert loaded == ["gradchain.optax", "gradchain.optax._deprecated"]


@pytest.mark.parametrize("stub", sorted(PACKAGE.rglob("*.pyi")), ids=lambda path: f"{path.parent.stem}.{path.stem}")
def test_stubs_name_what_is_there(stub):
    """``a as a`` is how a stub exports; each name is where it says."""
    for node in ast.parse(stub.read_text()).body:
        module = sys.modules.get(node.module) or __import__(node.module, fromlist=["x"])
        for alias in node.names:
            assert alias.name == alias.asname
            assert getattr(module, alias.name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'adamm'"):
        optax.adamm  # noqa: B018


def test_states_have_optaxs_classes_and_fields():
    params, state = run(optax.adam(0.1))
    assert type(state) is tuple
    first, second = state
    assert isinstance(first, optax.ScaleByAdamState)
    assert first._fields == ("count", "mu", "nu")
    assert first.count == 4
    assert second == optax.EmptyState()
    falling, masked = optax.adamw(lambda count: 0.1, mask=True).init(params)[::-1][:2]
    assert isinstance(falling, optax.ScaleByScheduleState)
    assert masked == optax.MaskedState(optax.EmptyState()) == run(optax.adamw(0.1, mask=True))[1][1]


@pytest.mark.parametrize("name", ["adam", "sgd", "rmsprop", "adabelief", "lion", "adan", "yogi"])
def test_steps_are_gradchains_own(name):
    rate = {"learning_rate": 0.1}
    ours, shown = (run(getattr(library, name)(**rate))[0] for library in (gc, optax))
    assert relative_error(shown, ours) < 1e-6


def test_a_state_that_is_changed_by_hand_is_what_counts():
    """Sums of weights, which Optax doesn't keep, follow the count that is set."""
    tx, params, grads = optax.adam(0.1), standard(), at(stream(1), 0)
    first, rest = run(tx)[1]
    young, _ = tx.update(grads, (first._replace(count=jnp.array(0)), rest), params)
    weights = 1 - 0.9, 1 - 0.999
    moments = as_numpy(
        (first.mu["kernel"] * 0.9 + grads["kernel"] * 0.1, first.nu["kernel"] * 0.999 + grads["kernel"] ** 2 * 0.001)
    )
    want = -0.1 * (moments[0] / weights[0]) / (np.sqrt(moments[1] / weights[1]) + 1e-8)
    assert relative_error(young["kernel"], want) < 1e-5


def test_transforms_stay_values():
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1))
    assert isinstance(tx, Transform)
    assert "scale_by_adam(b1=0.9" in repr(tx)
    assert gc.hyperparams(tx)["scale_by_learning_rate.learning_rate"] == 0.1
    assert gc.hyperparams(tx.replace(learning_rate=0.2))["scale_by_learning_rate.learning_rate"] == 0.2
    assert tx == optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1)) != optax.adam(0.1)
    assert pickle.loads(pickle.dumps(tx)) == copy.deepcopy(tx) == tx
    assert "scale_by_adam/mu/kernel" in gc.state_paths(tx, tx.init(standard()))
    assert "scale_by_adam" in str(tx.describe(standard()))


def test_hyperparameters_are_read_at_the_states_count():
    tx = optax.adam(lambda count: 0.1 * 0.5**count)
    assert gc.hyperparams(tx, run(tx)[1])["scale_by_learning_rate.learning_rate"] == pytest.approx(0.1 / 16)


def test_a_batch_of_rates_is_mapped_over():
    rates = jnp.array([0.1, 0.3])
    tx = optax.adam(rates)
    params = jax.vmap(lambda tx: run(tx)[0], in_axes=(gc.batch_axes(tx),))(tx)
    for index, rate in enumerate(rates):
        assert relative_error(at(params, index), run(optax.adam(rate))[0]) < 1e-6


def test_a_chain_runs_its_rules_in_one_call_for_each_kind_of_array():
    tx, params = optax.adamw(0.1), standard()
    jaxpr = str(jax.make_jaxpr(tx.update)(params, tx.init(params), params))
    assert "scale_by_adam_then_add_decayed_weights_then_scale_by_learning_rate" in jaxpr


def test_updates_keep_the_dtype_that_optax_would_give_them():
    half, full = standard("bfloat16"), standard()
    tx = optax.adam(0.1)
    assert tx.update(half, tx.init(half), half)[0]["kernel"].dtype == jnp.bfloat16
    assert tx.update(full, tx.init(half), half)[0]["kernel"].dtype == jnp.float32
    assert tx.update(half, tx.init(full), full)[0]["kernel"].dtype == jnp.float32
    assert optax.scale(2.0).update(half, optax.EmptyState(), full)[0]["kernel"].dtype == jnp.bfloat16


def double():
    def init(params):
        return optax.EmptyState()

    def update(updates, state, params=None):
        return jax.tree.map(lambda x: 2 * x, updates), state

    return init, update


def test_a_transform_of_two_functions():
    init, update = double()
    tx = optax.GradientTransformation(init, update)
    assert (tx.init, tx.update) == (init, update) == tuple(tx)
    assert isinstance(tx, Transform)
    assert isinstance(tx, optax.GradientTransformation)
    assert not isinstance(tx, optax.GradientTransformationExtraArgs)
    assert isinstance(optax.GradientTransformationExtraArgs(init, update), optax.GradientTransformationExtraArgs)
    assert isinstance(optax.adam(0.1), optax.GradientTransformationExtraArgs)
    assert not isinstance(update, optax.GradientTransformation)
    assert tx._replace(init=None).update is update


def test_further_arguments_reach_only_those_that_take_them():
    seen = []

    def update(updates, state, params=None, **extra):
        seen.append(extra)
        return updates, state

    plain = optax.GradientTransformation(*double())
    tx = optax.chain(plain, optax.GradientTransformationExtraArgs(optax.init_empty_state, update), optax.sgd(0.1))
    params, _ = run(tx, value=3.0)
    assert [extra["value"] for extra in seen] == [3.0] * 4
    assert relative_error(params, run(optax.sgd(0.2))[0]) < 1e-6
    with pytest.raises(TypeError, match="value"):
        plain.update(params, optax.EmptyState(), params, value=3.0)


def test_numbers_may_be_out_of_gradchains_ranges():
    up = run(optax.sgd(-0.1, momentum=1.0))[0]
    down = run(optax.chain(optax.trace(1.0), optax.scale(0.1)))[0]
    assert relative_error(up, down) < 1e-6
    assert optax.adam(None).init(standard())[1] == optax.EmptyState()


def test_a_chain_needs_a_state_of_its_length():
    with pytest.raises(ValueError, match="1 parts and the chain 2"):
        optax.adam(0.1).update(standard(), (optax.EmptyState(),))
    with pytest.raises(ValueError, match="expected ScaleByAdamState, got TraceState"):
        optax.adam(0.1).update(standard(), optax.sgd(0.1, 0.9).init(standard()))


def test_a_named_chain_keeps_its_order():
    tx = optax.named_chain(("second", optax.scale(2.0)), ("first", optax.scale_by_adam()))
    assert list(run(tx)[1]) == ["second", "first"]
    with pytest.raises(ValueError, match="must be different"):
        optax.named_chain(("x", optax.scale(2.0)), ("x", optax.scale(2.0)))


def test_apply_updates_casts_to_the_parameters():
    params = {"whole": jnp.array([1, 2]), "none": None}
    assert optax.apply_updates(params, {"whole": jnp.array([0.6, 1.6]), "none": None})["whole"].tolist() == [1, 3]


def test_states_are_made_for_shapes_and_whole_numbers():
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), standard())
    assert optax.adam(0.1).init(shapes)[0].mu["kernel"].shape == standard()["kernel"].shape
    updates, _ = optax.sgd(0.1).update(jnp.array([10, 20]), optax.sgd(0.1).init(jnp.array([1, 2])))
    np.testing.assert_allclose(updates, [-1, -2], rtol=1e-6)
    assert optax.sgd(0.1).init({"f": jnp.sin}) == (optax.EmptyState(), optax.EmptyState())


def test_whole_numbers_stay_whole_where_optax_keeps_them():
    whole = jnp.array([1, -2, 0])
    expected = {"scale_by_sign": [1, -1, 0], "zero_nans": [1, -2, 0], "keep_params_nonnegative": [1, 2, 0]}
    for name, values in expected.items():
        tx = getattr(optax, name)()
        updates, _ = tx.update(whole, tx.init(whole), whole)
        assert updates.dtype == whole.dtype
        np.testing.assert_array_equal(updates, values)


def test_an_array_of_rates_is_broadcast():
    rates, g = jnp.array([1.0, 2.0, 3.0]), jnp.full(3, 2.0)
    for tx, expected in (
        (optax.scale(rates), [2, 4, 6]),
        (optax.sgd(rates), [-2, -4, -6]),
        (optax.adam(rates), [-1, -2, -3]),
        (optax.chain(optax.trace(0.5), optax.scale_by_learning_rate(rates, flip_sign=False)), [2, 4, 6]),
    ):
        state = tx.init(g)
        updates, after = tx.update(g, state, g)
        np.testing.assert_allclose(updates, expected, rtol=1e-5)
        assert jax.tree.structure(after) == jax.tree.structure(state)


def test_lookaheads_pairs_go_through_a_chain():
    tx, g = optax.chain(optax.lookahead(optax.sgd(0.1), 2, 0.5)), jnp.ones(3)
    params = optax.LookaheadParams.init_synced(g)
    state = tx.init(params)
    for _ in range(3):
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params.slow, 0.9 * g, rtol=1e-6)
    np.testing.assert_allclose(params.fast, 0.8 * g, rtol=1e-6)

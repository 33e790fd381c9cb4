"""Hyperparameters in the state: hyperparams_in_state and inject_hyperparams."""

import functools
import inspect
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradchain as gc
from gradchain.training import grid
from tests import public

PARAMS = jnp.ones(3)
GRADS = jnp.asarray([0.5, -1.0, 2.0])
RATE = "scale_by_learning_rate.learning_rate"


def test_numbers_live_in_the_state_and_an_assigned_one_is_used_without_a_new_trace():
    tx = gc.hyperparams_in_state(gc.chain(gc.clip(10.0), gc.sgd(0.1)))
    traces = 0

    @jax.jit
    def step(state):
        nonlocal traces
        traces += 1
        return tx.update(GRADS, state, PARAMS)

    state = tx.init(PARAMS)
    assert state.hyperparams.keys() == gc.hyperparams(tx).keys()
    for rate in (0.1, 0.5, 2):
        state.hyperparams[RATE] = float(rate)
        updates, state = step(state)
        np.testing.assert_allclose(updates, -rate * GRADS, rtol=1e-6)
        assert float(gc.hyperparams(tx, state)[RATE]) == pytest.approx(rate)
    assert traces == 1


@pytest.mark.parametrize("rate", [0.1, gc.linear_schedule(0.1, 0.0, 10)], ids=["number", "schedule"])
def test_an_injected_number_takes_an_array_with_a_dtype_without_a_new_trace(rate):
    tx = gc.inject_hyperparams(gc.adam)(rate)
    traces = []

    @jax.jit
    def step(state):
        traces.append(state)
        return tx.update(GRADS, state, PARAMS)[1]

    state = step(tx.init(PARAMS))
    for value in (jnp.float32(0.5), gc.linear_schedule(1.0, 0.0, 10)(3), np.float32(2.0)):
        state.hyperparams["learning_rate"] = value
        state = step(state)
    assert len(traces) == 1


def test_numbers_inside_schedules_are_steered_too():
    tx = gc.hyperparams_in_state(gc.sgd(gc.linear_schedule(1.0, 0.0, 10)))
    state = tx.init(PARAMS)
    state.hyperparams[f"{RATE}.init_value"] = 3.0
    np.testing.assert_allclose(tx.update(GRADS, state, PARAMS)[0], -3.0 * GRADS)


def test_numbers_in_a_schedules_table_are_steered():
    tx = gc.hyperparams_in_state(gc.sgd(gc.piecewise_constant_schedule(1.0, {1: 0.5})))
    state = tx.init(PARAMS)
    state.hyperparams[f"{RATE}.boundaries_and_scales.scales.0"] = 0.25
    _, state = tx.update(GRADS, state, PARAMS)
    np.testing.assert_allclose(tx.update(GRADS, state, PARAMS)[0], -0.25 * GRADS)


def test_state_is_a_scan_carry():
    tx = gc.hyperparams_in_state(gc.adam(0.1))
    state, _ = jax.lax.scan(lambda s, _: (tx.update(GRADS, s, PARAMS)[1], None), tx.init(PARAMS), None, 3)
    assert state.inner_state[0].count == 3


def test_added_and_lost_keys_are_refused_at_the_next_update():
    tx = gc.hyperparams_in_state(gc.sgd(0.1))
    state = tx.init(PARAMS)
    state.hyperparams["learning_rate"] = 0.5
    with pytest.raises(ValueError, match=r"wrong or missing keys \['learning_rate'\]; it must hold"):
        tx.update(GRADS, state, PARAMS)


def test_batch_of_rates_in_the_state():
    tx = gc.hyperparams_in_state(gc.sgd(jnp.asarray([0.1, 0.2])))
    run = jax.vmap(lambda tx: tx.update(GRADS, tx.init(PARAMS), PARAMS)[0], in_axes=(gc.batch_axes(tx),))
    np.testing.assert_allclose(run(tx), -jnp.outer(jnp.asarray([0.1, 0.2]), GRADS), rtol=1e-6)


@pytest.mark.parametrize("rate", [0.1, gc.linear_schedule(1.0, 0.0, 4), lambda count: 0.5 / (count + 1)])
def test_inject_equals_optaxs(rate):
    ours = gc.inject_hyperparams(gc.adamw, static_args="mask")(rate, weight_decay=0.1)
    theirs = optax.inject_hyperparams(optax.adamw, static_args="mask")(rate, weight_decay=0.1)
    state, their_state = ours.init(PARAMS), theirs.init(PARAMS)
    for _ in range(3):
        updates, state = ours.update(GRADS, state, PARAMS)
        expected, their_state = theirs.update(GRADS, their_state, PARAMS)
        np.testing.assert_allclose(updates, expected, rtol=1e-5)
        assert state.hyperparams.keys() == their_state.hyperparams.keys()
        np.testing.assert_allclose(
            state.hyperparams["learning_rate"], their_state.hyperparams["learning_rate"], rtol=1e-6
        )


def test_injected_number_may_be_assigned_to():
    tx = gc.inject_hyperparams(gc.sgd)(0.1, momentum=0.9)
    state = tx.init(PARAMS)
    state.hyperparams["learning_rate"] = jnp.asarray(2.0)
    updates, state = jax.jit(tx.update)(GRADS, state, PARAMS)
    np.testing.assert_allclose(updates, -2 * GRADS)
    assert gc.hyperparams(tx, state)["inject_hyperparams.learning_rate"] == 2.0


def test_inject_works_around_optax_factories_and_refuses_unknown_static_names():
    tx = gc.inject_hyperparams(optax.sgd)(0.1)
    np.testing.assert_allclose(tx.update(GRADS, tx.init(PARAMS), PARAMS)[0], -0.1 * GRADS, rtol=1e-6)
    with pytest.raises(ValueError, match=r"has no arguments \['lr'\]"):
        gc.inject_hyperparams(gc.sgd, static_args="lr")


def test_injected_numbers_may_have_a_dtype():
    tx = gc.inject_hyperparams(gc.sgd, hyperparam_dtype="bfloat16")(gc.linear_schedule(1.0, 0.0, 3), momentum=0.9)
    state = tx.init(PARAMS)
    _, new = tx.update(GRADS, state, PARAMS)
    for now in (state, new):
        assert {k: v.dtype for k, v in now.hyperparams.items()} == dict.fromkeys(now.hyperparams, jnp.bfloat16)


def test_repr_is_the_expression_that_builds_it():
    tx = gc.inject_hyperparams(gc.adam, hyperparam_dtype="bfloat16")(gc.linear_schedule(1.0, 0.0, 3))
    assert eval(repr(tx), public.NAMES) == tx


def test_what_keeps_its_numbers_in_the_state_is_not_steered_twice():
    with pytest.raises(ValueError, match="inject_hyperparams inside keeps its hyperparameters in the state already"):
        gc.hyperparams_in_state(gc.chain(gc.inject_hyperparams(gc.sgd)(0.1)))


def test_masks_and_keys_are_static_for_gradchains_own_factories():
    tx = gc.inject_hyperparams(gc.adamw)(0.1, mask=lambda params: True)
    assert "mask" not in tx.init(PARAMS).hyperparams
    noise = gc.inject_hyperparams(gc.add_noise)(0.1, 0.5, key=jax.random.key(0))
    np.testing.assert_allclose(
        noise.update(GRADS, noise.init(PARAMS))[0],
        gc.add_noise(0.1, 0.5, jax.random.key(0)).update(GRADS, gc.add_noise(0.1, 0.5, 0).init(PARAMS))[0],
        rtol=1e-6,
    )


def test_equal_arguments_make_equal_values():
    make = gc.inject_hyperparams(gc.adam)
    assert make(0.1) == make(0.1)
    assert hash(make(0.1)) == hash(make(0.1))
    assert make(0.1) != make(0.2)


def with_state_changed(tx, name):
    """Run an update from a state in which a number is missing."""
    state = tx.init(PARAMS)
    state.hyperparams[name] = None
    return tx.update(GRADS, state, PARAMS)


@pytest.mark.parametrize(
    "without_rate",
    [
        lambda: gc.adam(0.1).replace(learning_rate=None),
        lambda: gc.set_hyperparams(gc.chain(gc.clip(1.0), gc.lion(0.1)), {RATE: None}),
        lambda: gc.from_config({"version": 1, "name": "sgd", "learning_rate": None}),
        lambda: gc.inject_hyperparams(gc.adam)(None),
        lambda: gc.inject_hyperparams(gc.adam)(0.1).replace(learning_rate=None),
        lambda: with_state_changed(gc.inject_hyperparams(gc.adam)(0.1), "learning_rate"),
        lambda: with_state_changed(gc.hyperparams_in_state(gc.adam(0.1)), RATE),
        lambda: jax.jit(lambda: with_state_changed(gc.inject_hyperparams(gc.adam)(0.1), "learning_rate"))(),
        lambda: grid(gc.adam(0.1), {"learning_rate": [0.1, None]}),
    ],
)
def test_a_missing_rate_is_refused_wherever_it_is_set(without_rate):
    with pytest.raises((TypeError, ValueError), match=r"learning_rate.* None"):
        without_rate()


def test_a_missing_number_is_refused_when_it_is_injected_and_a_rate_that_may_be_missing_is_not():
    with pytest.raises(TypeError, match=r"inject_hyperparams: b1 must be .*, got None"):
        gc.inject_hyperparams(gc.adam)(0.1, b1=None)
    tx = gc.inject_hyperparams(gc.adadelta)()
    assert tx.build(tx.arguments) == gc.adadelta()


def test_a_pair_of_numbers_is_handed_on_as_it_is():
    tx = gc.inject_hyperparams(gc.prodigy)(betas=(0.8, 0.9))
    assert "betas" not in tx.init(PARAMS).hyperparams
    assert tx.build(tx.arguments) == gc.prodigy(betas=(0.8, 0.9))


@pytest.mark.parametrize("optimizer", [gc.adamw, gc.lion, gc.galore, gc.schedule_free_adamw])
def test_negated_gradients_climb_and_weight_decay_still_shrinks_the_weights(optimizer):
    tx = gc.chain(gc.scale(-1.0), optimizer(0.1, weight_decay=0.5))
    params = jnp.array([[0.0, 2.0], [0.0, -2.0]])
    updates, _ = tx.update(jnp.array([[3.0, 0.0], [-3.0, 0.0]]), tx.init(params), params)
    np.testing.assert_array_equal(jnp.sign(updates), [[1, -1], [-1, 1]])


SCHEDULE = gc.warmup_cosine_decay_schedule(0.0, 0.1, 3, 10)
MASK = {"bias": True, "kernel": [False, {"inner": True}]}
INJECTED = {
    "plain": gc.inject_hyperparams(gc.adam)(1e-3, mu_dtype=jnp.bfloat16),
    "a schedule": gc.inject_hyperparams(gc.sgd)(SCHEDULE, momentum=0.9),
    "a table": gc.inject_hyperparams(gc.sgd)(gc.piecewise_constant_schedule(0.1, {10: 0.5})),
    "numbers held fixed": gc.inject_hyperparams(gc.adam, static_args=("b1", "eps"), hyperparam_dtype="float32")(1e-3),
    "a mask": gc.inject_hyperparams(gc.adamw)(1e-3, mask=MASK),
    "labels": gc.inject_hyperparams(gc.partition)({"a": gc.adam(0.1), "b": gc.sgd(0.1)}, {"x": "a", "y": ["b"]}),
    "a mask of a combinator": gc.inject_hyperparams(gc.masked)(gc.adam(0.1), MASK),
    "tuples": gc.inject_hyperparams(gc.muon)(0.1, ns_coeffs=(3.0, -4.0, 2.0)),
    "dimensions": gc.inject_hyperparams(gc.scale_by_galore)(2, weight_dimension_numbers=gc.MuonDimensionNumbers(1, 0)),
    "layers": gc.inject_hyperparams(gc.per_layer)(gc.scale_by_lion(), {"k": 0, "b": None}),
    "stages": gc.inject_hyperparams(gc.chain)(gc.clip(1.0), gc.adam(0.1)),
    "named stages": gc.inject_hyperparams(gc.named_chain)(("clip", gc.clip(1.0)), ("adam", gc.adam(0.1))),
    "in itself": gc.inject_hyperparams(gc.accumulate)(gc.inject_hyperparams(gc.adam)(SCHEDULE), 2),
}


@pytest.mark.parametrize("name", INJECTED)
def test_an_injected_transform_comes_back_from_its_repr_and_its_config(name):
    tx = INJECTED[name]
    assert eval(repr(tx), public.NAMES) == tx
    config = json.dumps(gc.to_config(tx))
    assert gc.from_config(json.loads(config)) == tx
    assert json.dumps(gc.to_config(gc.from_config(json.loads(config)))) == config


def test_an_injected_constructor_may_take_arguments_by_position_alone():
    tx = gc.inject_hyperparams(gc.store)(gc.adam(0.1), "int8", min_size=0, mu="float32")
    assert eval(repr(tx), public.NAMES) == tx
    plain = gc.store(gc.adam(0.1), "int8", min_size=0, mu="float32").init(PARAMS)
    assert jax.tree.structure(tx.init(PARAMS).inner_state) == jax.tree.structure(plain)


class Factory:
    """A factory that is an object."""

    def __call__(self, learning_rate=0.1):
        return gc.sgd(learning_rate)


@pytest.mark.parametrize(
    ("factory", "name"),
    [(functools.partial(gc.sgd, momentum=0.5), r"partial\(sgd\)"), (Factory(), "Factory")],
    ids=["partial", "object"],
)
def test_a_factory_need_not_be_a_function(factory, name):
    inject = gc.inject_hyperparams(factory)
    tx = inject(learning_rate=0.5)
    updates, state = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    np.testing.assert_array_equal(updates, -0.5 * GRADS)
    assert state.hyperparams["learning_rate"] == 0.5
    assert re.match(rf"inject_hyperparams\({name}\)\(learning_rate=0.5", repr(tx))
    with pytest.raises(TypeError, match=rf"^inject_hyperparams\({name}\) has no argument 'lr'; .*'learning_rate'"):
        inject(lr=0.1)


def test_an_injected_constructor_has_the_factorys_signature():
    inject = gc.inject_hyperparams(gc.adamw)
    assert str(inspect.signature(inject)) == str(inspect.signature(gc.adamw))
    assert inject.__name__ == "inject_hyperparams(adamw)"
    assert inject.__doc__ == gc.adamw.__doc__


@pytest.mark.parametrize("around", [lambda tx: tx, lambda tx: gc.accumulate(gc.chain(gc.clip(1.0), tx), 2)])
@pytest.mark.parametrize(
    "tx",
    [
        *(INJECTED[name] for name in ("plain", "a schedule", "a table", "in itself")),
        gc.scale_by_galore(2, scale=SCHEDULE),
        gc.hyperparams_in_state(gc.sgd(SCHEDULE)),
    ],
    ids=lambda x: x.name,
)
def test_numbers_have_the_same_names_with_and_without_a_state(tx, around):
    tx, params = around(tx), jnp.ones((3, 4))
    assert list(gc.hyperparams(tx, tx.init(params))) == list(gc.hyperparams(tx))


def test_numbers_inside_an_injected_schedule_are_listed_beside_its_present_value():
    tx = gc.inject_hyperparams(gc.sgd, hyperparam_dtype="bfloat16")(gc.linear_schedule(0.1, 0.0, 10))
    _, state = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    numbers = gc.hyperparams(tx, state)
    assert numbers["inject_hyperparams.learning_rate"] == jnp.bfloat16(0.09)
    assert numbers["inject_hyperparams.learning_rate.transition_steps"] == 10


def test_injected_whole_numbers_stay_whole():
    tx = gc.inject_hyperparams(gc.accumulate, hyperparam_dtype="bfloat16")(gc.sgd(0.1), 257)
    state = tx.init(PARAMS)
    assert repr(gc.hyperparams(tx)["inject_hyperparams.every"]) == "257"
    assert state.hyperparams["every"].dtype == jnp.int32
    assert state.hyperparams["every"] == 257
    assert repr(gc.hyperparams(tx.replace(every=3.0))["inject_hyperparams.every"]) == "3"
    many = tx.replace(every=jnp.array([2, 3]))
    states = jax.vmap(lambda tx: tx.init(PARAMS), in_axes=(gc.batch_axes(many),))(many)
    assert gc.hyperparams(many)["inject_hyperparams.every"].dtype == jnp.int32
    assert states.hyperparams["every"].dtype == jnp.int32
    for every in (0, 2.5, jnp.array([2.5, 3.0])):
        with pytest.raises(ValueError, match=r"every must be"):
            tx.replace(every=every)

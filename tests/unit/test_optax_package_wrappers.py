"""Transforms of the package ``gradchain.optax`` around others, its contrib, and its line searches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradchain.optax import _conditional, _inject, _linesearch, _optimizers, _routing, _states, _wrappers, contrib

PARAMS = {"b": jnp.array([0.5, -1.0]), "w": jnp.ones((2, 2))}
GRADS = {"b": jnp.array([1.0, 2.0]), "w": jnp.full((2, 2), 3.0)}
MASK = {"b": False, "w": True}


def test_a_masked_transform_has_a_masked_node_in_the_place_of_what_it_does_not_get():
    tx = _routing.masked(_optimizers.sgd(0.5, momentum=0.9), MASK)
    updates, state = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    assert type(state) is _states.MaskedState
    assert state.inner_state[0].trace["b"] == _states.MaskedNode()
    assert updates["b"].tolist() == [1.0, 2.0]
    assert updates["w"].tolist() == [[-1.5, -1.5]] * 2


def test_labels_of_a_partition_may_be_bools():
    tx = _routing.partition({True: _optimizers.sgd(1.0), False: _optimizers.sgd(0.0)}, MASK)
    updates, state = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    assert set(state.inner_states) == {False, True}
    assert updates["b"].tolist() == [0.0, 0.0]
    assert updates["w"].tolist() == [[-3.0, -3.0]] * 2


def test_a_label_without_a_transform_is_named():
    with pytest.raises(ValueError, match="'lost'"):
        _routing.partition({"a": _optimizers.sgd(1.0)}, {"b": "a", "w": "lost"}).init(PARAMS)


def test_multi_steps_takes_the_mean_of_a_round_and_says_when_it_has_updated():
    steps = _conditional.MultiSteps(_optimizers.sgd(1.0), 2)
    state = steps.init(PARAMS)
    first, state = steps.update(GRADS, state, PARAMS)
    assert not steps.has_updated(state)
    second, state = steps.update(jax.tree.map(lambda g: 3 * g, GRADS), state, PARAMS)
    assert steps.has_updated(state)
    assert first["b"].tolist() == [0.0, 0.0]
    assert second["b"].tolist() == [-2.0, -4.0]
    assert (int(state.mini_step), int(state.gradient_step)) == (0, 1)


def test_a_nan_in_a_skipped_round_does_not_stay_in_the_accumulator():
    steps = _conditional.MultiSteps(_optimizers.sgd(1.0), 1)
    state = steps.init(PARAMS)
    _, state = steps.update({"b": jnp.full(2, jnp.nan), "w": GRADS["w"]}, state, PARAMS)
    updates, _ = steps.update(GRADS, state, PARAMS)
    assert updates["b"].tolist() == [-1.0, -2.0]


def test_hyperparameters_assigned_in_the_state_count_at_the_next_update():
    tx = _inject.inject_hyperparams(_optimizers.sgd)(learning_rate=1.0)
    state = tx.init(PARAMS)
    state.hyperparams["learning_rate"] = jnp.asarray(0.25, jnp.float32)
    updates, state = tx.update(GRADS, state, PARAMS)
    assert type(state) is _states.InjectStatefulHyperparamsState
    assert updates["b"].tolist() == [-0.25, -0.5]
    assert float(state.hyperparams["learning_rate"]) == 0.25


def test_whole_numbers_that_programs_are_compiled_for_need_no_static_args():
    tx, kernel = _inject.inject_hyperparams(contrib.muon)(learning_rate=1.0, ns_steps=3), {"w": jnp.eye(2)}
    state = tx.init(kernel)
    assert int(state.hyperparams["ns_steps"]) == 3
    updates, _ = jax.jit(tx.update)(kernel, state, kernel)
    once = contrib.muon(1.0, ns_steps=3)
    np.testing.assert_array_equal(updates["w"], jax.jit(once.update)(kernel, once.init(kernel), kernel)[0]["w"])
    state.hyperparams["ns_steps"] = 5
    with pytest.raises(ValueError, match="ns_steps can't change from 3 to 5"):
        tx.update(kernel, state, kernel)


def test_an_injected_schedule_has_a_count_of_its_own():
    tx = _inject.inject_hyperparams(_optimizers.sgd)(learning_rate=lambda count: 1.0 + count)
    state = tx.init(PARAMS)
    for expected in (-1.0, -2.0):
        updates, state = tx.update(GRADS, state, PARAMS)
        assert float(updates["b"][0]) == expected
    assert int(state.hyperparams_states["learning_rate"].count) == 2


def test_lookahead_takes_and_returns_pairs_and_synchronises_them():
    tx = _wrappers.lookahead(_optimizers.sgd(1.0), sync_period=2, slow_step_size=0.5)
    pair = _states.LookaheadParams.init_synced(PARAMS)
    state = tx.init(pair)
    for _ in range(2):
        updates, state = tx.update(GRADS, state, pair)
        pair = jax.tree.map(jnp.add, pair, updates)
    assert pair.slow["b"].tolist() == pair.fast["b"].tolist() == [-0.5, -3.0]
    assert int(state.steps_since_sync) == 0


def test_a_search_that_fails_takes_its_last_trial():
    tx = _linesearch.scale_by_backtracking_linesearch(1, decrease_factor=0.5)
    x = jnp.array([1.0])
    value, grad = jax.value_and_grad(lambda x: jnp.sum(x**2))(x)
    updates, state = tx.update(grad, tx.init(x), x, value=value, grad=grad, value_fn=lambda x: jnp.sum(x**2))
    assert updates.tolist() == [1.0]  # uphill: half of the first trial
    assert float(state.learning_rate) == 0.5
    assert int(state.info.num_linesearch_steps) == 2


def test_an_argument_that_nobody_takes_is_an_error_of_a_search():
    tx = _linesearch.lbfgs()
    x = jnp.array([1.0])
    extra = {"value": x[0], "grad": x, "value_fn": jnp.sum, "batch": 1}
    with pytest.raises(TypeError, match="batch"):
        tx.update(x, tx.init(x), x, **extra)


def test_value_and_gradient_come_from_the_state_where_a_search_has_left_them():
    tx, x = _linesearch.lbfgs(), jnp.array([1.0, 2.0])
    ask = _linesearch.value_and_grad_from_state(lambda x: jnp.sum(x**2))
    state = tx.init(x)
    value, grad = ask(x, state=state)
    updates, state = tx.update(grad, state, x, value=value, grad=grad, value_fn=lambda x: jnp.sum(x**2))
    known, _ = _linesearch.value_and_grad_from_state(lambda x: jnp.sum(x) * jnp.nan)(x + updates, state=state)
    assert float(known) == pytest.approx(float(jnp.sum((x + updates) ** 2)), rel=1e-6)


def test_muon_gives_matrices_to_muon_and_the_rest_to_adam():
    tx = contrib.muon(0.1)
    state = tx.init(PARAMS)
    assert type(state.inner_states["muon"].inner_state[0]) is _states.MuonState
    assert state.inner_states["muon"].inner_state[0].mu["b"] == _states.MaskedNode()
    assert state.inner_states["adam"].inner_state[0].mu["w"] == _states.MaskedNode()


def test_prodigy_decays_what_its_mask_selects():
    def moved(mask):
        tx = contrib.prodigy(weight_decay=0.5, weight_decay_mask=mask)
        return tx.update(GRADS, tx.init(PARAMS), PARAMS)[0]

    decayed, plain = moved(MASK), moved({"b": False, "w": False})
    assert decayed["b"].tolist() == plain["b"].tolist()
    assert (decayed["w"] < plain["w"]).all()

"""Momentum on several time scales: its weights, its state, and its place before Muon's direction."""

from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from gradchain.core.hyper import Number, Numbers
from gradchain.core.value import Kind
from tests import trees

DECAYS = tuple(tau / (1 + tau) for tau in np.geomspace(3, 64, 8))
NUMBERS = Numbers(Number("Hyper"))
PARAMS = {"kernel": jnp.ones((3, 2)), "pair": (jnp.ones(2), jnp.ones(()))}


def test_weights_of_a_mean_age_are_those_of_the_records():
    first = gc.weights_of_mean_age(DECAYS, 58.0)
    last = gc.weights_of_mean_age(DECAYS, 26.0)
    np.testing.assert_allclose(
        [first[0], first[-1], last[0], last[-1]], [0.005094, 0.857369, 0.032262, 0.096669], atol=5e-7
    )
    np.testing.assert_allclose(gc.weights_of_mean_age([0.85, 0.98], 30.0), [0.4385, 0.5615], atol=5e-5)


@pytest.mark.parametrize("age", [22.0, 40.0, 63.9])
def test_weights_of_a_mean_age_add_up_to_one_and_to_that_age(age):
    weights = np.array(gc.weights_of_mean_age(DECAYS, age))
    ages = np.array(DECAYS) / (1 - np.array(DECAYS))
    assert weights.min() > 0
    np.testing.assert_allclose([weights.sum(), weights @ ages], [1.0, age], rtol=1e-12)


def test_a_gradient_counts_at_the_mean_age_that_was_asked_for():
    """The kernel is what one gradient's impulse leaves in later updates, long after the start."""
    tx, late = gc.ema_mixture([0.5, 0.8], mean_age=3.0), 200
    impulse = jnp.zeros(300).at[late].set(1.0)
    kernel = jax.lax.scan(lambda s, g: tx.update(g, s)[::-1], tx.init(impulse[0]), impulse)[1][late:]
    np.testing.assert_allclose([jnp.sum(kernel), jnp.arange(100) @ kernel], [1.0, 3.0], rtol=1e-4)


def test_a_steady_gradient_is_its_own_mixture_from_the_first_update_on():
    tx = gc.ema_mixture(DECAYS, mean_age=gc.linear_schedule(58.0, 26.0, 2), share=0.95)
    state = tx.init(PARAMS)
    for _ in range(4):
        updates, state = tx.update(PARAMS, state)
        trees.assert_close(updates, PARAMS, 1e-5)


def test_one_average_is_ema_and_its_share_makes_nesterovs_form():
    gradients = trees.stream(3)
    for share in (1.0, 0.9):
        tx, plain = gc.ema_mixture([0.8], [1.0], share=share), gc.ema(0.8)
        state, other = tx.init(trees.standard()), plain.init(trees.standard())
        for k in range(3):
            g = trees.at(gradients, k)
            updates, state = tx.update(g, state)
            expected, other = plain.update(g, other)
            mixed = jax.tree.map(lambda m, g, mu=share: mu * m + (1 - mu) * g, expected, g)
            trees.assert_close(updates, mixed, 1e-6)


def test_state_is_named_stored_and_described_like_any_slot():
    tx = gc.ema_mixture([0.5, 0.9], mean_age=5.0)
    state = tx.init(PARAMS)
    assert [*gc.to_state_dict(tx, state)] == [
        "schema_version",
        "ema_mixture/count",
        *(f"ema_mixture/averages/{path}/{i}" for path in ("kernel", "pair/0", "pair/1") for i in range(2)),
    ]
    large = {"kernel": jnp.ones((64, 64))}
    stored = gc.store(tx, averages="int8")
    kept = stored.init(large).inner_state.averages["kernel"]
    assert [x.codes.dtype for x in kept] == ["uint8", "uint8"]
    updates, _ = stored.update(large, stored.init(large), large)
    trees.assert_close(updates, large, 1e-2)
    assert gc.per_layer(tx, 0) == tx
    assert gc.from_config(gc.to_config(tx)) == tx


def test_it_takes_the_place_of_muons_momentum():
    mixture = gc.ema_mixture([0.5, 0.9], mean_age=5.0, share=0.95)
    tx = gc.chain(mixture, gc.orthogonalize_updates(), gc.scale_by_learning_rate(0.1))
    state, w = tx.init(jnp.eye(3, 2)), jnp.eye(3, 2)
    for g in (jnp.arange(6.0).reshape(3, 2), jnp.ones((3, 2)) - 4 * w):
        updates, state = tx.update(g, state, w)
    mixed = mixture.update(jnp.arange(6.0).reshape(3, 2), mixture.init(w))[1]
    mixed = mixture.update(jnp.ones((3, 2)) - 4 * w, mixed)[0]
    trees.assert_close(updates, -0.1 * gc.matrices.orthogonalize(mixed), 1e-5)


def test_mixtures_that_cant_be_are_errors():
    for make, error, message in (
        (
            lambda: gc.ema_mixture([0.5]),
            ValueError,
            "ema_mixture: give either weights, one for each decay, or mean_age",
        ),
        (lambda: gc.ema_mixture([0.5], [1.0], mean_age=1.0), ValueError, "ema_mixture: give either weights"),
        (
            lambda: gc.ema_mixture([0.5, 0.9], [1.0]),
            ValueError,
            "one weight for each decay, got 1 weights for 2 decays",
        ),
        (lambda: gc.ema_mixture([], []), ValueError, r"decays must have at least one decay, got \[\]"),
        (
            lambda: gc.ema_mixture([0.5, 1.0], [1, 1]),
            ValueError,
            r"ema_mixture: decays\[1\] must be in \[0, 1\), got 1",
        ),
        (lambda: gc.ema_mixture([jnp.ones(2) / 2], [1]), TypeError, r"decays\[0\] must be a Python number, the same"),
        (lambda: gc.ema_mixture([0.9, 0.5], mean_age=5.0), ValueError, "must be two decays or more that increase"),
        (lambda: gc.ema_mixture(DECAYS, mean_age=20.0), ValueError, "mean_age must be between 21.93 and 64, got 20.0"),
        (lambda: gc.weights_of_mean_age(DECAYS, 65.0), ValueError, "mean_age must be between 21.93 and 64, got 65.0"),
        (lambda: gc.weights_of_mean_age([0.5], 1.0), ValueError, r"weights_of_mean_age: .* increase, got \(0.5,\)"),
    ):
        with pytest.raises(error, match=message):
            make()
    state = gc.ema_mixture([0.5], [1.0]).init(PARAMS)
    with pytest.raises(
        ValueError, match=r"averages at \['kernel'\] holds 1 arrays, expected 2, one for each of decays"
    ):
        gc.ema_mixture([0.5, 0.9], [0.5, 0.5]).update(PARAMS, state)


def test_a_rule_of_ones_own_may_have_a_slot_for_each_entry_of_a_field():
    @gc.elementwise(slots={"sums": gc.Slot(each="names")})
    def add_up(g: Any, slot: gc.Slots, at: gc.At, names: Annotated[Any, Kind()], factors: Annotated[Any, NUMBERS]):
        sums = tuple(s + factor * g for s, factor in zip(slot.sums, factors, strict=True))
        return sums[-1], slot(sums=sums)

    tx = add_up(("constant", "growing"), (1.0, gc.linear_schedule(0.0, 4.0, 2)))
    updates, state = tx.update(PARAMS, tx.update(PARAMS, tx.init(PARAMS))[1])
    trees.assert_close(updates, jax.tree.map(lambda w: 2 * w, PARAMS), 0)
    trees.assert_close(state.sums["kernel"][0], 2 * PARAMS["kernel"], 0)
    assert jax.tree.structure(state.sums["kernel"]) == jax.tree.structure((0, 0))
    with pytest.raises(TypeError, match=r"other: a slot has one array for each of 'weights', which isn't a parameter"):

        @gc.elementwise(slots={"sums": gc.Slot(each="weights")})
        def other(g: Any, slot: gc.Slots, at: gc.At):
            return g, slot(sums=slot.sums)

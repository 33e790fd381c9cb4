"""``training.renew_state``: running statistics become the mean over a pass, whatever they were; the rest moves on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from gradchain import training
from gradchain.training import Variables
from tests import trees

DECAYS = (0.0, 0.5, 0.9, 0.99, 0.999)
X = np.random.default_rng(0).normal(3.0, 2.0, (10, 5)).astype(np.float32)
MATRIX = jnp.array([[2.0, 0.5], [0.1, 1.0]])


def loss_fn(params, state, batch, key, training):
    """A loss whose state has every kind of array; in evaluation it must not be called."""
    assert training
    mean = jnp.mean(batch, 0)
    u = MATRIX @ state["u"]
    new = {
        "averages": {f"{decay:g}": decay * state["averages"][f"{decay:g}"] + (1 - decay) * mean for decay in DECAYS},
        "half": 0.9 * state["half"] + 0.1 * mean.astype(jnp.bfloat16),
        "u": u / jnp.linalg.norm(u),
        "last": jnp.sum(batch).astype(int),
        "constant": state["constant"],
        "squared": 0.1 * state["squared"] ** 2 + 0.1,
        "total": state["total"] + jnp.sum(mean),
        "count": state["count"] + 1,
        "key": jax.random.fold_in(state["key"], 1),
        "noise": 0.9 * state["noise"] + 0.1 * jax.random.normal(key),
    }
    return jnp.sum(params * mean), new


def start(offset=0.0):
    return {
        "averages": {f"{decay:g}": offset + jnp.arange(5.0) for decay in DECAYS},
        "half": jnp.zeros(5, jnp.bfloat16),
        "u": jnp.array([0.6, 0.8]),
        "last": jnp.zeros((), int),
        "constant": jnp.full(3, 7.0),
        "squared": jnp.full(2, 0.25),
        "total": jnp.ones(()),
        "count": jnp.array(5),
        "key": jax.random.key(2),
        "noise": jnp.full((), offset),
    }


def renewed(batch_size, **options):
    variables = Variables(jnp.ones(5), start(**options))
    result = training.renew_state(loss_fn, variables, X, batch_size=batch_size, key=0, takes_key=True)
    trees.assert_close(result.params, variables.params, 0)
    return result.model_state


def after_each_batch(batch_size):
    """Return the state as a plain loop leaves it."""
    state = start()
    for i, first in enumerate(range(0, 10, batch_size)):
        batch, key = jnp.asarray(X[first : first + batch_size]), jax.random.fold_in(jax.random.key(0), i)
        state = loss_fn(jnp.ones(5), state, batch, key, training=True)[1]
    return state


@pytest.mark.parametrize("offset", [0.0, 10.0])
def test_running_averages_of_any_decay_become_the_mean_over_all_batches(offset):
    state = renewed(4, offset=offset)
    for decay, average in state["averages"].items():
        trees.assert_close(average, jnp.asarray(X.mean(0)), 1e-6 / (1 - float(decay)))
    weights = jnp.array([0.4, 0.4, 0.2])
    noise = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(jax.random.key(0), i)))(jnp.arange(3))
    trees.assert_close(state["noise"], jnp.sum(weights * noise), 1e-4)


def test_all_else_is_as_after_the_last_batch():
    state, want = renewed(4), after_each_batch(4)
    for name in ("half", "u", "last", "constant", "squared", "total", "count"):
        trees.assert_close(state[name], want[name], 1e-5)
        assert state[name].dtype == want[name].dtype
    assert (jax.random.key_data(state["key"]) == jax.random.key_data(want["key"])).all()


def test_data_may_come_in_batches():
    def of_tuples(params, state, batch, key, training):
        return loss_fn(params, state, batch[0], key, training)

    batches = [X[i : i + 4] for i in range(0, 10, 4)]
    whole, variables = renewed(4), Variables(jnp.ones(5), start())
    memory_mapped = X.view(np.memmap)
    for data, options in (
        ([(x,) for x in batches], {}),
        (lambda epoch: [[], [(x,) for x in batches]][epoch == 0], {}),
        (iter([(x,) for x in batches]), {}),
        ((memory_mapped,), {"batch_size": 4}),
    ):
        found = training.renew_state(of_tuples, variables, data, key=0, takes_key=True, **options)
        trees.assert_close(found.params, variables.params, 0)
        trees.assert_close({**found.model_state, "key": 0}, {**whole, "key": 0}, 1e-5)
    with pytest.raises(ValueError, match="renew_state: data in arrays need a batch_size"):
        training.renew_state(loss_fn, variables, X, key=0, takes_key=True)


def test_what_has_no_state_or_no_key_is_refused():
    with pytest.raises(TypeError, match=r"no state to renew; hand in Variables\(params, model_state\)"):
        training.renew_state(loss_fn, jnp.ones(5), X, batch_size=4)
    with pytest.raises(ValueError, match="renew_state: takes_key=True needs a PRNG key"):
        training.renew_state(loss_fn, Variables(jnp.ones(5), start()), X, batch_size=4, takes_key=True)


def normed_loss(params, state, batch, training):
    mean = jnp.mean(batch["x"], 0) if training else state
    loss = jnp.mean((batch["y"] - (batch["x"] - mean[None]) @ params) ** 2)
    return loss, 0.99 * state + 0.01 * mean


def test_fit_renews_the_state_of_evaluation_weights_and_validates_with_it():
    data = {"x": jnp.asarray(X), "y": jnp.asarray(X[:, 0])}

    def fit(**options):
        variables = Variables(jnp.zeros(5), jnp.zeros(5))
        tx = gc.average_params(gc.sgd(0.01))
        budget = {"epochs": 2} if "steps" not in options else {}
        return training.fit(normed_loss, variables, tx, data, batch_size=5, validation=data, **budget, **options)

    plain = fit()
    for renewed_run in (fit(renew_state=True), fit(renew_state=True, steps=4, validate_every=1)):
        trees.assert_close(renewed_run.params, plain.params, 1e-6)
        trees.assert_close(renewed_run.eval_params.params, plain.eval_params.params, 1e-6)
        trees.assert_close(renewed_run.eval_params.model_state, jnp.asarray(X.mean(0)), 1e-4)
        loss = training.evaluate(normed_loss, renewed_run.eval_params, data).loss
        assert abs(renewed_run.history["val_loss"][-1] - loss) < 1e-5
        assert abs(plain.history["val_loss"][-1] - loss) > 0.1
    with pytest.raises(TypeError, match="no state to renew"):
        training.fit(lambda w, x: jnp.sum(w), 1.0, gc.sgd(0.1), data, epochs=1, batch_size=5, renew_state=True)


def test_fit_renews_the_state_on_streams_too():
    data = {"x": jnp.asarray(X), "y": jnp.asarray(X[:, 0])}
    batches = [{"x": x, "y": x[:, 0]} for x in jnp.asarray(X).reshape(-1, 5, 5)]

    def fit(data, **options):
        variables, tx = Variables(jnp.zeros(5), jnp.zeros(5)), gc.average_params(gc.sgd(0.01))
        return training.fit(
            normed_loss, variables, tx, data, steps=6, validate_every=3, renew_state=True, validation=batches, **options
        )

    expected = fit(data, batch_size=5, shuffle=False)
    for stream in (batches, lambda epoch: iter(batches)):
        result = fit(stream, steps_per_call=2)
        trees.assert_close(result.params, expected.params, 1e-6)
        trees.assert_close(result.eval_params.params, expected.eval_params.params, 1e-6)
        trees.assert_close(result.eval_params.model_state, jnp.asarray(X.mean(0)), 1e-4)
        np.testing.assert_allclose(result.history["val_loss"], expected.history["val_loss"], rtol=1e-5)
    with pytest.raises(ValueError, match=r"renew_state=True passes over the data again.*hand in a list"):
        fit(iter(batches))

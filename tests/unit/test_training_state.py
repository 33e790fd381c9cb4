"""A model that carries more than parameters, through all loops; budgets in steps; streams in sweeps."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from gradchain.training import (
    Epochs,
    LogUniform,
    Steps,
    Variables,
    evaluate,
    fit,
    make_step,
    population_based_training,
    scan_epoch,
    successive_halving,
    sweep,
    train_step,
)

X = np.asarray(jax.random.normal(jax.random.key(0), (48, 3)))
Y = X @ np.array([1.0, 2.0, 3.0], np.float32)
DATA = X, Y
BATCHES = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 48, 8)]
START = jnp.zeros(3)


def plain_loss(w, batch):
    return jnp.mean((batch[0] @ w - batch[1]) ** 2)


def loss_fn(w, state, batch, key, training):
    """A loss on inputs with running means taken off, as BatchNorm does; noisy in training."""
    x, y = batch
    mean = jnp.mean(x, axis=0) if training else state["mean"]
    noise = jnp.zeros((1, 1)) if key is None else jax.random.normal(key, (len(x), 1))
    loss = plain_loss(w, (x - mean[None] + 0.1 * noise, y))
    state = {"mean": 0.8 * state["mean"] + 0.2 * mean, "steps": state["steps"] + 1, "key": state["key"]}
    return loss, (state, {"largest": jnp.max(jnp.abs(w))})


def start():
    return Variables(jnp.zeros(3), {"mean": jnp.zeros(3), "steps": jnp.int32(0), "key": jax.random.key(7)})


OPTIONS = {"has_aux": True, "takes_key": True}


def by_hand(tx, epochs, key=0):
    """The loop that ``fit`` spares people, over batches in order."""
    variables, key = start(), jax.random.key(key)
    w, model, state = variables.params, variables.model_state, tx.init(variables.params)
    for epoch in range(epochs):
        _, loss_key = jax.random.split(jax.random.fold_in(key, epoch))
        for i, batch in enumerate(BATCHES):
            step_key = jax.random.fold_in(loss_key, i)
            (_, (model, _)), grads = jax.value_and_grad(
                lambda w, m=model, b=batch, k=step_key: loss_fn(w, m, b, k, True), has_aux=True
            )(w)
            updates, state = tx.update(grads, state, w)
            w = gc.apply_updates(w, updates)
    return w, model


def assert_same(one, other, atol=1e-6):
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_allclose(x, y, atol=atol, rtol=0)


def test_fit_is_the_loop_by_hand():
    tx = gc.adamw(0.1)
    result = fit(loss_fn, start(), tx, DATA, epochs=3, batch_size=8, shuffle=False, **OPTIONS)
    assert_same(tuple(result.params), by_hand(tx, 3))
    assert int(result.params.model_state["steps"]) == 18
    assert result.params.model_state["steps"].dtype == jnp.int32


def test_evaluation_reads_the_state_and_leaves_it():
    seen = fit(
        loss_fn, start(), gc.sgd(0.1), DATA, epochs=2, batch_size=8, validation=DATA,
        metrics=lambda w, state, batch: {"shift": state["mean"][0], "n": state["steps"] * 1.0}, **OPTIONS,
    )  # fmt: skip
    assert int(seen.params.model_state["steps"]) == 12
    np.testing.assert_array_equal(seen.history["val_n"], [6, 12])
    measured = evaluate(loss_fn, seen.params, DATA, **OPTIONS)
    np.testing.assert_allclose(measured.loss, seen.history["val_loss"][-1], rtol=1e-6)
    w, state = seen.params
    np.testing.assert_allclose(measured.loss, plain_loss(w, (X - np.asarray(state["mean"]), Y)), rtol=1e-5)
    assert seen.history["val_loss"][-1] != seen.history["loss"][-1]


def test_steps_and_epochs_of_ones_own_carry_it_too():
    tx, variables = gc.sgd(0.1), start()
    state, key = tx.init(variables.params), jax.random.key(1)
    once = train_step(loss_fn, variables, tx, state, BATCHES[0], key, **OPTIONS)
    again = make_step(loss_fn, tx, **OPTIONS)(start(), tx.init(jnp.zeros(3)), BATCHES[0], key)
    assert_same(once[0], again[0])
    assert int(once[0].model_state["steps"]) == 1
    epoch = scan_epoch(loss_fn, start(), tx, tx.init(START), DATA, 0, batch_size=8, **OPTIONS)
    assert isinstance(epoch.params, Variables)
    assert int(epoch.params.model_state["steps"]) == 6


def test_sweeps_halvings_and_populations_carry_it_for_each_run():
    rates = jnp.array([0.03, 0.1])
    kwargs = {"batch_size": 8, "shuffle": False, **OPTIONS}
    swept = sweep(loss_fn, start(), gc.adam(rates), DATA, epochs=3, **kwargs)
    alone = fit(loss_fn, start(), gc.adam(0.1), DATA, epochs=3, **kwargs)
    assert_same(swept.params, alone.params)
    made = sweep(loss_fn, None, gc.adam(rates), DATA, epochs=3, init=lambda key: start(), **kwargs)
    assert_same(made.params, alone.params)
    halved = successive_halving(loss_fn, start(), gc.adam(rates), DATA, epochs=3, eta=2, **kwargs)
    assert_same(halved.params, alone.params)
    evolved = population_based_training(
        loss_fn, start(), gc.adam(rates), DATA, explore={"learning_rate": LogUniform(0.01, 0.2)}, epochs=3, interval=3,
        **kwargs,
    )  # fmt: skip
    assert_same(evolved.params, alone.params)


def test_a_state_of_another_structure_shape_or_dtype_is_named():
    def wrong(change):
        return lambda w, state, batch: (plain_loss(w, batch), change(state))

    variables, options = Variables(START, {"mean": jnp.zeros(3)}), {"epochs": 1, "batch_size": 8}
    with pytest.raises(ValueError, match="model_state that it returned"):
        fit(wrong(lambda s: {}), variables, gc.sgd(0.1), DATA, **options)
    with pytest.raises(ValueError, match=r"\(2,\)"):
        fit(wrong(lambda s: {"mean": jnp.zeros(2)}), variables, gc.sgd(0.1), DATA, **options)
    with pytest.raises(TypeError, match="complex64"):
        fit(wrong(lambda s: {"mean": s["mean"] + 1j}), variables, gc.sgd(0.1), DATA, **options)
    with pytest.raises(TypeError, match=r"a pair \(loss, model_state\)"):
        fit(lambda w, state, batch: plain_loss(w, batch), variables, gc.sgd(0.1), DATA, **options)
    with pytest.raises(TypeError, match=r"\(loss, \(model_state, aux\)\)"):
        fit(wrong(lambda s: s), variables, gc.sgd(0.1), DATA, has_aux=True, **options)
    with pytest.raises(TypeError, match=r"model_state.*is 'relu', expected an array"):
        fit(wrong(lambda s: s), Variables(START, {"activation": "relu"}), gc.sgd(0.1), DATA, **options)


def test_padding_is_told_by_weights_and_weighs_nothing():
    def weighted(w, batch, weights):
        return jnp.average((batch[0] @ w - batch[1]) ** 2, weights=weights)

    ragged = X[:45], Y[:45]
    kept = fit(plain_loss, START, gc.sgd(0.1), ragged, epochs=2, batch_size=8, remainder="keep")
    padded = fit(weighted, START, gc.sgd(0.1), ragged, epochs=2, batch_size=8, remainder="pad")
    np.testing.assert_allclose(padded.params, kept.params, atol=1e-6)
    np.testing.assert_allclose(padded.history["loss"], kept.history["loss"], rtol=1e-6)
    with pytest.raises(TypeError, match="a parameter called weights"):
        fit(plain_loss, START, gc.sgd(0.1), ragged, epochs=1, batch_size=8, remainder="pad")


def test_a_budget_in_steps_ends_within_an_epoch_and_goes_on_from_there():
    whole = fit(plain_loss, START, gc.adam(0.1), DATA, steps=20, batch_size=8, validation=DATA)
    assert (whole.stopped, whole.steps_done, whole.epochs_done) == ("steps", 20, 3)
    assert list(whole.history.numbers) == list(range(2, 21, 2))
    assert whole.history.unit == "step"
    assert whole.history.step_loss.shape == (20,)
    first = fit(plain_loss, START, gc.adam(0.1), DATA, steps=13, batch_size=8)
    rest = fit(
        plain_loss, first.params, gc.adam(0.1), DATA, steps=7, batch_size=8, state=first.state,
        steps_done=first.steps_done,
    )  # fmt: skip
    np.testing.assert_array_equal(rest.params, whole.params)
    assert rest.steps_done == 20
    epochs = fit(plain_loss, START, gc.adam(0.1), DATA, epochs=3, batch_size=8)
    steps = fit(plain_loss, START, gc.adam(0.1), DATA, steps=18, batch_size=8, validate_every=Epochs(1))
    np.testing.assert_array_equal(steps.params, epochs.params)
    np.testing.assert_allclose(steps.history["loss"], epochs.history["loss"], rtol=1e-6)


def test_rows_may_come_every_so_many_steps():
    result = fit(plain_loss, START, gc.sgd(0.1), DATA, epochs=2, batch_size=8, validate_every=Steps(5), validation=DATA)
    assert list(result.history.numbers) == [5, 10, 12]
    means = [result.history.step_loss[i:j].mean() for i, j in ((0, 5), (5, 10), (10, 12))]
    np.testing.assert_allclose(result.history["loss"], means, rtol=1e-6)
    assert result.history.table().split()[0] == "step"
    rare = fit(plain_loss, START, gc.sgd(0.1), DATA, epochs=5, batch_size=8, validate_every=2)
    assert list(rare.history.numbers) == [2, 4, 5]


def test_budgets_are_one_of_two():
    for options in ({}, {"epochs": 1, "steps": 1}):
        with pytest.raises(ValueError, match="give epochs or steps"):
            fit(plain_loss, START, gc.sgd(0.1), DATA, batch_size=8, **options)
    with pytest.raises(ValueError, match="steps must be a whole number, at least 1, got 0"):
        fit(plain_loss, START, gc.sgd(0.1), DATA, batch_size=8, steps=0)
    with pytest.raises(ValueError, match="validate_every must be a whole number, at least 1, got 0"):
        fit(plain_loss, START, gc.sgd(0.1), DATA, batch_size=8, steps=3, validate_every=Steps(0))
    with pytest.raises(ValueError, match="epochs_done or steps_done"):
        fit(plain_loss, START, gc.sgd(0.1), DATA, batch_size=8, steps=3, steps_done=1, epochs_done=1)


def test_a_transform_may_be_made_for_the_number_of_steps():
    seen = []

    def make(total_steps):
        seen.append(total_steps)
        return gc.sgd(gc.cosine_decay_schedule(0.1, total_steps))

    made = fit(plain_loss, START, make, DATA, epochs=3, batch_size=8)
    fixed = fit(plain_loss, START, gc.sgd(gc.cosine_decay_schedule(0.1, 18)), DATA, epochs=3, batch_size=8)
    np.testing.assert_array_equal(made.params, fixed.params)
    fit(plain_loss, START, make, DATA, steps=7, batch_size=8)
    fit(plain_loss, START, make, BATCHES, epochs=2)
    assert seen == [18, 7, 12]
    with pytest.raises(ValueError, match="give steps instead of epochs"):
        fit(plain_loss, START, make, lambda epoch: BATCHES, epochs=2)


@pytest.mark.slow
def test_sweeps_and_halvings_make_their_transforms_for_the_number_of_steps():
    rates, seen = jnp.array([0.03, 0.1]), []

    def make(total_steps):
        seen.append(total_steps)
        return gc.sgd(gc.cosine_decay_schedule(rates, total_steps))

    made = sweep(plain_loss, START, make, DATA, epochs=2, batch_size=8)
    fixed = sweep(plain_loss, START, gc.sgd(gc.cosine_decay_schedule(rates, 12)), DATA, epochs=2, batch_size=8)
    np.testing.assert_array_equal(made.scores, fixed.scores)
    assert made.winner == fixed.winner
    both = sweep(plain_loss, START, {"made": make, "fixed": gc.sgd(rates)}, DATA, epochs=2, batch_size=8)
    np.testing.assert_array_equal(both["made"].scores, fixed.scores)
    successive_halving(plain_loss, START, make, DATA, epochs=2, eta=2, batch_size=8)
    assert seen == [12, 12, 12]
    with pytest.raises(ValueError, match="sweep: tx is a function of total_steps, but nobody knows"):
        sweep(plain_loss, START, make, lambda epoch: BATCHES, epochs=2)


@pytest.mark.slow
def test_sweeps_halvings_and_populations_on_streams_are_those_on_arrays():
    tx = gc.adam(jnp.logspace(-2, -0.5, 4))
    kwargs = {"takes_key": True, "has_aux": True, "validation": DATA}
    arrays = {"batch_size": 8, "shuffle": False}
    for function, options in (
        (sweep, {"epochs": 3, "seeds": [0, 1]}),
        (sweep, {"steps": 14}),
        (successive_halving, {"epochs": 4, "eta": 2}),
        (population_based_training, {"explore": {"learning_rate": LogUniform(0.01, 0.3)}, "epochs": 4, "interval": 2}),
    ):
        on_arrays = function(loss_fn, start(), tx, DATA, **arrays, **options, **kwargs)
        on_stream = function(loss_fn, start(), tx, BATCHES, steps_per_call=4, **options, **kwargs)
        assert_same(on_stream.params, on_arrays.params)
        np.testing.assert_allclose(on_stream.scores, on_arrays.scores, rtol=1e-5)
        if "steps" not in options:
            np.testing.assert_allclose(on_stream.history["loss"], on_arrays.history["loss"], rtol=1e-5)


def test_progress_bars_of_sweeps_and_halvings_count_the_steps_of_a_stream(capsys, monkeypatch):
    monkeypatch.setattr("gradchain.training.watching.progress.INTERVAL", 0)
    monkeypatch.setenv("TQDM_MININTERVAL", "0")
    tx, few = gc.sgd(jnp.array([0.03, 0.1])), BATCHES[:4]
    for function, data, options, number, total in (
        (sweep, few, {"steps": 6}, 6, "/6"),
        (sweep, lambda epoch: few, {"epochs": 2}, 8, "step"),
        (successive_halving, few, {"epochs": 2, "eta": 2}, 8, "/8"),
    ):
        function(plain_loss, START, tx, data, steps_per_call=2, progress=True, **options)
        shown = [int(x) for x in re.findall(rf"(\d+){total} \[", capsys.readouterr().err)]
        assert shown == sorted(shown)
        assert shown[-1] == number
        assert any(0 < x < number for x in shown)  # which of these are shown is a matter of time


@pytest.mark.slow
def test_validation_data_may_come_in_batches():
    ragged = [*BATCHES[:2], (X[16:21], Y[16:21])]
    arrays = X[:21], Y[:21]
    options = {"epochs": 2, "batch_size": 8, "metrics": lambda w, batch: {"largest": jnp.mean(batch[1])}}
    expected = fit(plain_loss, START, gc.sgd(0.1), DATA, validation=arrays, **options)
    for data in (DATA, BATCHES):
        shuffled = {"shuffle": False} if data is BATCHES else {}
        found = fit(plain_loss, START, gc.sgd(0.1), data, validation=ragged, **options, **shuffled)
        assert list(found.history.columns) == ["loss", "val_loss", "val_largest"]
        if data is DATA:
            for name, column in expected.history.columns.items():
                np.testing.assert_allclose(found.history[name], column, rtol=1e-6)
    with pytest.raises(ValueError, match="an iterator gives its batches only once"):
        fit(plain_loss, START, gc.sgd(0.1), DATA, validation=iter(ragged), **options)
    rates = gc.sgd(jnp.array([0.1, 0.01]))
    swept, on_arrays = (sweep(plain_loss, START, rates, BATCHES, epochs=2, validation=x) for x in (ragged, arrays))
    np.testing.assert_allclose(swept.history["val_loss"], on_arrays.history["val_loss"], rtol=1e-6)
    with pytest.raises(TypeError, match="validation data: got a list of 3, expected a tree of arrays"):
        sweep(plain_loss, START, rates, DATA, epochs=2, batch_size=8, validation=ragged)

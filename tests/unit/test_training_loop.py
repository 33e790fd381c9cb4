"""``fit``: history, validation, early stopping, callbacks, interruption, progress; the caller's parameters survive."""

import csv
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from gradchain.training import EarlyStopping, fit, scan_epoch, sweep


def loss_fn(params, batch):
    return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)


def with_aux(params, batch):
    loss = loss_fn(params, batch)
    return loss, {"rmse": jnp.sqrt(loss), "largest": jnp.max(jnp.abs(params["w"]))}


def problem(n=20):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    data = {"x": x, "y": x @ np.array([1.0, -2.0, 0.5], np.float32)}
    return {"w": jnp.zeros(3)}, jax.tree.map(lambda a: a[:15], data), jax.tree.map(lambda a: a[15:], data)


def test_fit_is_a_loop_of_epochs():
    params, train, _ = problem()
    tx = gc.sgd(0.05)
    result = fit(loss_fn, params, tx, train, epochs=3, batch_size=4, seed=7, remainder="keep")
    state, losses = tx.init(params), []
    for i in range(3):
        key = jax.random.fold_in(jax.random.key(7), i)
        epoch = scan_epoch(loss_fn, params, tx, state, train, key, batch_size=4, remainder="keep")
        params, state = epoch.params, epoch.state
        losses.append(epoch.mean().loss)
    np.testing.assert_allclose(result.params["w"], params["w"], rtol=1e-5)
    np.testing.assert_allclose(result.history["loss"], losses, rtol=1e-5)
    assert result.history.step_loss.shape == (12,)
    assert (result.stopped, len(result.history)) == ("epochs", 3)


def test_columns_have_names_and_validation_is_measured_after_each_epoch():
    params, train, held_out = problem()
    result = fit(
        with_aux, params, gc.sgd(0.05), train, epochs=2, batch_size=5, validation=held_out, validation_batch_size=2,
        has_aux=True, metrics=lambda p, b: {"first": p["w"][0]},
    )  # fmt: skip
    history = result.history
    assert list(history.columns) == ["loss", "largest", "rmse", "val_loss", "val_first", "val_largest", "val_rmse"]
    np.testing.assert_allclose(history["val_loss"][-1], loss_fn(result.params, held_out), rtol=1e-5)
    np.testing.assert_allclose(history["val_first"][-1], result.params["w"][0], rtol=1e-6)
    with pytest.raises(KeyError, match="no column 'accuracy'; there are loss, largest"):
        history["accuracy"]


def test_the_given_params_survive_and_the_state_carries_on():
    params, train, _ = problem()
    tx = gc.adam(0.01)
    whole = fit(loss_fn, params, tx, train, epochs=2, batch_size=15)
    half = fit(loss_fn, params, tx, train, epochs=1, batch_size=15)
    again = fit(loss_fn, half.params, tx, train, epochs=1, batch_size=15, state=half.state)
    np.testing.assert_allclose(again.params["w"], whole.params["w"], rtol=1e-6)
    assert (params["w"] == 0).all()


def test_two_epochs_and_two_more_are_four():
    params, train, _ = problem()
    run = functools.partial(fit, noisy, tx=gc.adam(0.01), data=train, batch_size=4, takes_key=True, seed=3)
    whole, half = run(params, epochs=4), run(params, epochs=2)
    seen = []
    rest = run(
        half.params,
        epochs=2,
        state=half.state,
        epochs_done=half.epochs_done,
        on_epoch=lambda *args: seen.append(args[0]),
    )
    np.testing.assert_allclose(rest.params["w"], whole.params["w"], rtol=1e-6)
    np.testing.assert_allclose(rest.history["loss"], whole.history["loss"][2:], rtol=1e-6)
    assert (half.epochs_done, rest.epochs_done, seen) == (2, 4, [3, 4])


def test_seeds_and_keys_old_and_new_are_the_same():
    params, train, _ = problem()
    seeds = [3, np.int32(3), jax.random.key(3), jax.random.PRNGKey(3), np.asarray(jax.random.PRNGKey(3))]
    results = [
        fit(noisy, params, gc.sgd(0.01), train, epochs=1, batch_size=4, takes_key=True, seed=seed) for seed in seeds
    ]
    for result in results[1:]:
        np.testing.assert_array_equal(result.history.step_loss, results[0].history.step_loss)


def test_counts_and_booleans_in_aux_are_averaged():
    data = {"x": np.arange(4.0, dtype=np.float32), "y": np.array([1, 1, 0, 1])}

    def counts(params, batch):
        return params * 0, {"hits": jnp.sum(batch["y"]), "all": jnp.all(batch["y"] == 1)}

    history = fit(
        counts, jnp.zeros(()), gc.sgd(0.1), data, epochs=1, batch_size=2, validation=data, validation_batch_size=2,
        has_aux=True, shuffle=False,
    ).history  # fmt: skip
    assert history["hits"] == history["val_hits"] == 1.5
    assert history["all"] == history["val_all"] == 0.5


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (jax.nn.relu, r"params .*\['f'\] is the function relu, expected a floating-point.*eqx.partition"),
        ("tanh", r"params .*\['f'\] is 'tanh', expected"),
        (np.array(["a"]), r"params .*\['f'\] is an array of shape \(1,\) of <U1, expected"),
        (jnp.arange(3), r"params .*\['f'\] is an array of shape \(3,\) of int32, expected"),
    ],
)
def test_parameters_that_are_not_arrays_are_named(leaf, message):
    params, train, _ = problem()
    with pytest.raises(TypeError, match=message):
        fit(loss_fn, params | {"f": leaf}, gc.sgd(0.1), train, epochs=1, batch_size=5)


def test_another_learning_rate_or_seed_does_not_trace_again():
    traces = []

    def counted(params, batch):
        traces.append(1)
        return loss_fn(params, batch)

    params, train, held_out = problem()
    after: list[int] = []
    for rate, seed in ((0.1, 0), (0.2, 1), (1, 2)):
        fit(counted, params, gc.sgd(rate), train, epochs=2, batch_size=5, seed=seed, validation=held_out)
        after.append(len(traces))
    assert after[0] == after[-1]


def test_early_stopping_waits_for_patience_and_restores_the_best():
    def overshoots(**options):
        """Head for 1 past 0.5, where the validation data lie."""
        return fit(
            lambda w, batch: jnp.mean((w - batch) ** 2), jnp.zeros(()), gc.sgd(0.02), np.ones(2), epochs=90,
            batch_size=2, validation=np.full(2, 0.5), early_stopping=EarlyStopping(patience=4, **options),
        )  # fmt: skip

    best, last = overshoots(), overshoots(restore_best=False)
    assert best.stopped == last.stopped == "early"
    assert best.best_epoch == int(np.argmin(best.history["val_loss"])) + 1
    assert len(best.history) == best.best_epoch + 4
    np.testing.assert_allclose((best.params - 0.5) ** 2, best.history["val_loss"].min(), rtol=1e-4)
    np.testing.assert_allclose((last.params - 0.5) ** 2, best.history["val_loss"][-1], rtol=1e-4)


@pytest.mark.parametrize("stopping", [None, EarlyStopping(patience=3)])
def test_validation_and_the_result_are_at_the_evaluation_weights(stopping):
    params, train, held_out = problem()
    tx = gc.chain(gc.clip_by_global_norm(1.0), gc.average_params(gc.sgd(0.3), decay=0.9))
    result = fit(loss_fn, params, tx, train, epochs=12, batch_size=5, validation=held_out, early_stopping=stopping)
    measured = loss_fn(result.eval_params, held_out)
    row = result.best_epoch - 1 if stopping else -1
    np.testing.assert_allclose(measured, result.history["val_loss"][row], rtol=1e-4)
    assert abs(loss_fn(result.params, held_out) - measured) > 1e-3 * measured
    if not stopping:
        weights = gc.eval_params(tx, result.state, result.params)
        np.testing.assert_allclose(result.eval_params["w"], weights["w"], rtol=1e-6)
    plain = fit(loss_fn, params, gc.sgd(0.3), train, epochs=1, batch_size=5)
    assert plain.eval_params["w"] is plain.params["w"]


def test_tolerance_ends_a_run_that_hardly_improves():
    params, train, _ = problem()
    stop = EarlyStopping(patience=2, tolerance=0.01)
    result = fit(loss_fn, params, gc.sgd(0.1), train, epochs=500, batch_size=15, early_stopping=stop)
    best = result.history["loss"][result.best_epoch - 1]
    assert result.stopped == "early"
    assert len(result.history) < 200
    assert (result.history["loss"][result.best_epoch :] >= best - 0.01).all()


@pytest.mark.parametrize("value", [jnp.ones(3), np.ones(1), True, 1j, None])
def test_what_is_no_single_number_is_no_loss_to_stop_by(value):
    stop = EarlyStopping()
    with pytest.raises((TypeError, ValueError), match="EarlyStopping: value must be one"):
        stop.update(value, stop.init())


def test_a_loss_that_is_not_finite_stops_at_once():
    params, train, _ = problem()
    stop = EarlyStopping(patience=100)
    result = fit(loss_fn, params, gc.sgd(1e6), train, epochs=100, batch_size=15, early_stopping=stop)
    assert result.stopped == "diverged"
    assert len(result.history) < 20
    assert jnp.isfinite(result.params["w"]).all()


def test_monitoring_another_column():
    params, train, _ = problem()
    stop = EarlyStopping(patience=1, monitor="largest", mode="min")
    result = fit(with_aux, params, gc.sgd(0.1), train, epochs=50, batch_size=15, has_aux=True, early_stopping=stop)
    assert (len(result.history), result.best_epoch) == (2, 1)
    stop = EarlyStopping(monitor="accuracy", mode="max")
    with pytest.raises(ValueError, match="no column 'accuracy'; there are"):
        fit(loss_fn, params, gc.sgd(0.1), train, epochs=1, batch_size=15, early_stopping=stop)


def test_a_callback_sees_each_epoch_and_can_end_training():
    params, train, _ = problem()
    seen = []

    def on_epoch(epoch, row, params, state):
        seen.append((epoch, row["loss"], params["w"].shape))
        return epoch == 3

    result = fit(loss_fn, params, gc.sgd(0.1), train, epochs=9, batch_size=5, on_epoch=on_epoch)
    assert [x[0] for x in seen] == [1, 2, 3]
    assert [x[1] for x in seen] == result.history["loss"].tolist()
    assert result.stopped == "callback"


def test_an_interruption_returns_what_there_is():
    params, train, _ = problem()

    def on_epoch(epoch, row, params, state):
        if epoch == 2:
            raise KeyboardInterrupt

    result = fit(loss_fn, params, gc.sgd(0.1), train, epochs=9, batch_size=5, on_epoch=on_epoch)
    two = fit(loss_fn, params, gc.sgd(0.1), train, epochs=2, batch_size=5)
    assert (result.stopped, len(result.history)) == ("interrupted", 2)
    np.testing.assert_array_equal(result.params["w"], two.params["w"])


def noisy(params, batch, key):
    noise = 0.0 if key is None else jax.random.normal(key, ())
    return loss_fn(params, batch) + 100 * noise


def test_dropout_is_left_out_of_validation():
    params, train, held_out = problem()
    result = fit(noisy, params, gc.sgd(0.05), train, epochs=1, batch_size=5, takes_key=True, validation=held_out)
    np.testing.assert_allclose(result.history["val_loss"][0], loss_fn(result.params, held_out), rtol=1e-5)
    assert abs(result.history["loss"][0] - loss_fn(params, train)) > 10


def test_tables_and_csv_files(tmp_path):
    params, train, held_out = problem()
    history = fit(loss_fn, params, gc.sgd(0.05), train, epochs=12, batch_size=5, validation=held_out).history
    lines = history.table().splitlines()
    assert lines[0].split() == ["epoch", "loss", "val_loss"]
    assert [line.split()[0] for line in lines[1:]] == [str(i) for i in range(1, 13)]
    assert [line.split()[0] for line in history.table(rows=3).splitlines()[1:]] == ["1", "7", "12"]
    history.to_csv(tmp_path / "run.csv")
    with open(tmp_path / "run.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["val_loss"]) for row in rows] == history["val_loss"].tolist()


def test_a_progress_bar_ends_at_the_last_epoch(capsys):
    params, train, _ = problem()
    result = fit(loss_fn, params, gc.sgd(0.05), train, epochs=4, batch_size=5, progress=True)
    shown = capsys.readouterr().err
    assert "12/12" in shown
    assert "compiling" in shown
    assert f"loss {result.history['loss'][-1]:.4g}" in shown
    fit(loss_fn, params, gc.sgd(0.05), train, epochs=4, batch_size=5)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be a whole number, at least 1, got 0"),
        ({"epochs": 2.0}, "epochs must be a whole number, at least 1, got 2.0"),
        ({"epochs_done": -1}, "epochs_done must be a whole number, at least 0, got -1"),
        ({"seed": 0.5}, "seed must be .*PRNG key.*0.5"),
        ({"seed": np.arange(3)}, r"seed must be one seed or PRNG key, got an array of shape \(3,\)"),
        ({"validation_batch_size": 2.5, "validation": problem()[2]}, "validation_batch_size must be .* got 2.5"),
        ({"batch_size": 16}, "larger than the data, which has 15"),
        ({"validation": {"x": np.zeros((2, 3)), "y": np.zeros(1)}}, "validation data: the arrays differ"),
        ({"metrics": lambda p, b: {}}, "validation is None"),
        ({"early_stopping": EarlyStopping(patience=0)}, "patience must be a whole number, at least 1, got 0"),
    ],
)
def test_bad_options_are_named(options, message):
    params, train, _ = problem()
    with pytest.raises(ValueError, match=message):
        fit(loss_fn, params, gc.sgd(0.1), train, **{"epochs": 1, "batch_size": 5} | options)


@pytest.mark.parametrize(
    ("aux", "message"),
    [({"logits": jnp.zeros(3)}, r"aux ['logits'] has shape (3,)"), ({"loss": 1.0}, "called 'loss'")],
)
def test_aux_that_can_not_be_a_column_is_named(aux, message):
    params, train, _ = problem()
    with pytest.raises(ValueError, match=re.escape(message)):
        fit(lambda p, b: (loss_fn(p, b), aux), params, gc.sgd(0.1), train, epochs=1, batch_size=5, has_aux=True)


def test_metrics_with_a_name_of_aux_are_refused():
    params, train, held_out = problem()
    with pytest.raises(ValueError, match="the same names: val_rmse"):
        fit(
            with_aux, params, gc.sgd(0.1), train, epochs=1, batch_size=5, has_aux=True, validation=held_out,
            metrics=lambda p, b: {"rmse": 0.0},
        )  # fmt: skip


ROUND = {"x": np.random.default_rng(0).normal(size=(10, 3)).astype("float32"), "y": np.arange(10.0, dtype="float32")}


def squares(w, batch):
    return jnp.mean((batch["x"] @ w - batch["y"]) ** 2)


def descent(w):
    return w - 0.1 * jax.grad(squares)(w, ROUND)


def test_a_short_last_batch_counts_by_its_examples_in_a_round():
    """Batches of 4, 4 and 2 in one round are one step of gradient descent on the 10 examples."""
    options = {"batch_size": 4, "shuffle": False, "remainder": "keep"}
    tx, start = gc.accumulate(gc.sgd(0.1), every=3), jnp.zeros(3)
    result = fit(squares, start, tx, ROUND, epochs=2, **options)
    np.testing.assert_allclose(result.params, descent(descent(start)), rtol=1e-4)
    epoch = scan_epoch(squares, start, tx, tx.init(start), ROUND, **options)
    np.testing.assert_allclose(epoch.params, descent(start), rtol=1e-4)
    runs = sweep(squares, start, gc.accumulate(gc.sgd(jnp.array([0.1])), 3), ROUND, epochs=2, **options)
    np.testing.assert_allclose(runs.params, descent(descent(start)), rtol=1e-4)


def test_a_round_goes_on_in_the_next_epoch_and_the_next_fit_and_flush_ends_it():
    tx, start = gc.accumulate(gc.sgd(0.1), every=4), jnp.zeros(3)
    options = {"batch_size": 4, "shuffle": False, "remainder": "keep"}
    first = fit(squares, start, tx, ROUND, epochs=1, **options)
    np.testing.assert_array_equal(first.params, start)
    whole = fit(squares, start, tx, ROUND, epochs=2, **options)
    again = fit(squares, first.params, tx, ROUND, epochs=1, state=first.state, epochs_done=1, **options)
    np.testing.assert_allclose(again.params, whole.params, rtol=1e-6)
    updates, state = gc.flush(tx, first.state, first.params)
    np.testing.assert_allclose(gc.apply_updates(first.params, updates), descent(start), rtol=1e-4)
    assert gc.has_updated(state)


def test_fit_and_sweep_run_sophia():
    """The loops know the loss as a function of the parameters, from which a curvature can be had."""
    result = fit(squares, jnp.zeros(3), gc.sophia(0.1), ROUND, epochs=2, batch_size=5)
    assert result.history["loss"][-1] < result.history["loss"][0]
    runs = sweep(squares, jnp.zeros(3), gc.sophia(jnp.array([0.1])), ROUND, epochs=2, batch_size=5)
    np.testing.assert_allclose(runs.params, result.params, rtol=1e-4)

"""The learning-rate range test: its rates, its average, when it stops, what it suggests, what it trains."""

import csv
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from gradchain import plots, training
from gradchain.training import RangeTest, learning_rate_range_test

X = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
DATA = {"x": X, "y": X @ np.array([1.0, -2.0, 0.5], np.float32)}
PARAMS = {"w": jnp.zeros(3)}


def loss_fn(params, batch):
    return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)


ramp = functools.partial(learning_rate_range_test, loss_fn, PARAMS, data=DATA, batch_size=4)


def by_hand(tx, rates, batches, beta):
    """Return losses and smoothed losses of a loop."""
    params, state, losses, smoothed, total = PARAMS, tx.init(PARAMS), [], [], 0.0
    for k, rate in enumerate(rates):
        batch = {name: x[batches[k % len(batches)]] for name, x in DATA.items()}
        params, state, metrics = training.train_step(loss_fn, params, tx.replace(learning_rate=rate), state, batch)
        losses.append(float(metrics.loss))
        total = beta * total + (1 - beta) * losses[-1]
        smoothed.append(total / (1 - beta ** (k + 1)))
    return losses, smoothed


@pytest.mark.parametrize(
    ("spacing", "rates"),
    [("exponential", [1e-3, 1e-3 * 10**0.5, 0.01, 0.01 * 10**0.5, 0.1]), ("linear", [0.1, 0.2, 0.3, 0.4, 0.5])],
)
def test_losses_are_those_of_a_loop_whose_rate_rises(spacing, rates):
    tx = gc.sgd(1.0, momentum=0.5)
    found = ramp(tx=tx, low=rates[0], high=rates[-1], steps=5, spacing=spacing, smoothing=0.7, shuffle=False)
    np.testing.assert_allclose(found.rates, rates, rtol=1e-6)
    losses, smoothed = by_hand(tx, rates, [slice(0, 4), slice(4, 8), slice(8, 12)], beta=0.7)
    np.testing.assert_allclose(found.losses, losses, rtol=1e-5)
    np.testing.assert_allclose(found.smoothed, smoothed, rtol=1e-5)
    assert found.stopped == "end"


def test_each_pass_has_its_own_order_and_every_example_once():
    def first(params, batch):
        return jnp.sum(params["w"]) * 0 + jnp.mean(batch)

    numbers = np.arange(12, dtype=np.float32)
    found = learning_rate_range_test(first, PARAMS, gc.sgd(1.0), numbers, batch_size=1, steps=36, stop_at=np.inf)
    passes = found.losses.reshape(3, 12)
    np.testing.assert_array_equal(np.sort(passes, 1), [numbers] * 3)
    assert len({tuple(order) for order in passes.tolist()}) == 3
    again = learning_rate_range_test(first, PARAMS, gc.sgd(1.0), numbers, batch_size=1, steps=36, stop_at=np.inf)
    np.testing.assert_array_equal(again.losses, found.losses)


@pytest.mark.parametrize("kind", ["list", "function", "iterator"])
def test_batches_of_a_stream_are_taken_one_after_the_other(kind):
    batches = [jax.tree.map(lambda x, i=i: x[i : i + 4], DATA) for i in (0, 4, 8)]
    streams = {"list": batches, "function": lambda epoch: batches, "iterator": itertools.cycle(batches)}
    options = {"low": 1e-3, "high": 0.1, "steps": 7}
    found = learning_rate_range_test(loss_fn, PARAMS, gc.sgd(1.0), streams[kind], **options)
    expected = ramp(tx=gc.sgd(1.0), shuffle=False, **options)
    np.testing.assert_array_equal(found.losses, expected.losses)


def test_arrays_come_in_the_order_in_which_fit_takes_them():
    history = training.fit(loss_fn, PARAMS, gc.sgd(1e-3), DATA, epochs=2, batch_size=4, seed=5).history
    found = ramp(tx=gc.sgd(1.0), low=1e-3, high=1.0001e-3, steps=6, seed=5)
    np.testing.assert_allclose(found.losses, history.step_loss, rtol=1e-4)


def test_a_smaller_last_batch_is_left_out_and_each_step_has_its_own_key():
    def drawn(params, batch, key):
        return jnp.sum(params["w"]) * 0 + len(batch["x"]) + jax.random.uniform(key)

    options = {"batch_size": 5, "steps": 5, "stop_at": np.inf, "takes_key": True}
    found = learning_rate_range_test(drawn, PARAMS, gc.sgd(1.0), DATA, **options)
    np.testing.assert_array_equal(found.losses // 1, 5)
    assert len({*found.losses.tolist()}) == 5
    other = learning_rate_range_test(drawn, PARAMS, gc.sgd(1.0), DATA, seed=1, **options)
    assert np.all(other.losses != found.losses)


def test_it_stops_where_the_loss_diverges_and_leaves_the_parameters_alone():
    found = ramp(tx=gc.sgd(1.0), low=1e-3, high=1e3, steps=100)
    assert found.stopped == "diverged"
    assert 30 < len(found.rates) < 90
    lowest = np.minimum.accumulate(found.smoothed)
    limit = lowest + np.maximum(3 * lowest, (found.smoothed[0] - lowest) / 2)
    assert (found.smoothed[10:-1] <= limit[10:-1]).all()
    assert found.smoothed[-1] > limit[-1]
    np.testing.assert_array_equal(PARAMS["w"], 0)


def test_noise_of_the_first_losses_is_no_divergence():
    losses = iter([1.0, 3.0, 1.0, 1.0, 1.0, 1.0, 5.0, 1.0])

    def scripted(params, batch):
        return jnp.mean(batch) + 0 * jnp.sum(params["w"])

    batches = (np.full(1, loss, np.float32) for loss in losses)
    options = {"low": 1e-3, "high": 1.0, "steps": 8, "smoothing": 0.8}
    found = learning_rate_range_test(scripted, PARAMS, gc.sgd(1.0), batches, stop_at=1.5, **options)
    np.testing.assert_array_equal(found.losses, [1, 3, 1, 1, 1, 1, 5])
    assert found.smoothed[1] > 1.5 * found.smoothed[0]


def test_it_goes_on_where_it_is_told_to_until_a_loss_is_not_finite():
    found = ramp(tx=gc.sgd(1.0), low=1e-3, high=1e9, steps=60, stop_at=np.inf)
    assert found.stopped == "diverged"
    assert np.isfinite(found.losses[:-1]).all()
    assert not np.isfinite(found.losses[-1])
    assert np.nanmax(found.losses[:-1]) > 1e6


def result(losses, rates=None, smoothing=0.0, stopped="end"):
    rates = np.geomspace(1e-3, 1.0, len(losses)) if rates is None else np.array(rates)
    return RangeTest(rates, np.array(losses), np.array(losses), smoothing, stopped)


def test_the_suggestion_is_a_tenth_of_the_rate_with_the_lowest_smoothed_loss():
    found = result([4.0, 3.9, 2.0, 1.0, 0.9, 3.0, np.nan])
    assert found.suggestion == found.suggest("tenth") == pytest.approx(0.1 / 10)
    assert found.suggest("steepest") == pytest.approx(10**-1.5 / 10**0.5)
    assert repr(found) == (
        "RangeTest(0.001 to 1 in 7 steps, suggestion=0.01, a tenth of the rate with the lowest smoothed loss)"
    )
    assert result([4.0, 1.0, 2.0, 5.0], [1.0, 2.0, 3.0, 4.0]).suggestion == 1.0


def test_the_steepest_fall_is_sought_where_the_average_has_settled():
    losses = [9.0, 4.0, 3.9, 3.8, 3.0, 2.0, 1.9, 5.0]
    assert result(losses).suggest("steepest") == pytest.approx(result(losses).rates[1])
    assert result(losses, smoothing=0.6).suggest("steepest") == pytest.approx(result(losses).rates[4])
    linear = result([9.0, 5.5, 4.0, 2.0, 1.0, 3.0], [1.0, 10.0, 20.0, 30.0, 40.0, 50.0])
    assert linear.suggest("steepest") == 30.0  # by 3 from 20 to 40, twice the rate; by 5 from 1 to 20, twenty times it


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([1.0, 1.1, 1.2, 9.0], "the loss never fell by more than its noise of 0: .* than 0.001 to 1"),
        ([4.0, 3.0, 2.0, 1.0], r"still falling at the last rate, 1: try a higher one \(high=...\)"),
    ],
)
def test_without_a_fall_and_a_rise_there_is_no_suggestion(losses, message):
    found = result(losses)
    assert not found.has_suggestion
    assert repr(found) == "RangeTest(0.001 to 1 in 4 steps, no suggestion)"
    for rule in ("tenth", "steepest"):
        with pytest.raises(ValueError, match=message):
            found.suggest(rule)


def test_a_fall_within_the_noise_counts_for_nothing():
    noise = np.tile([0.3, -0.3], 10)
    flat = RangeTest(np.geomspace(1e-3, 1, 20), 1 + noise, 1 - np.minimum(np.arange(20), 38 - 2 * np.arange(20)) / 100,
                     0.9, "end")  # fmt: skip
    with pytest.raises(ValueError, match=r"never fell by more than its noise of 0\.3"):
        _ = flat.suggestion


def test_the_suggested_rate_trains():
    found = ramp(tx=gc.adam(1.0), low=1e-4, high=100.0, steps=100)
    start = float(loss_fn(PARAMS, DATA))
    history = training.fit(loss_fn, PARAMS, gc.adam(found.suggestion), DATA, epochs=60, batch_size=4).history
    assert history["loss"][-1] < 0.05 * start


@pytest.mark.parametrize(
    "tx",
    [gc.adam(gc.cosine_decay_schedule(0.3, 4)), gc.muon(0.3), gc.chain(gc.trace(0.9), gc.sgd(0.1))],
    ids=["schedule", "two rates", "chain"],
)
def test_schedules_and_several_rates_give_way_to_the_tests_rate(tx):
    found = ramp(tx=tx, low=1e-3, high=1e-2, steps=3, shuffle=False)
    names = [name for name in gc.hyperparams(tx) if name.endswith("learning_rate")]
    fixed = gc.set_hyperparams(tx, dict.fromkeys(names, 1e-3))
    batch = jax.tree.map(lambda x: x[:4], DATA)
    params, _, metrics = training.train_step(loss_fn, PARAMS, fixed, fixed.init(PARAMS), batch)
    np.testing.assert_allclose(found.losses[0], metrics.loss, rtol=1e-6)
    np.testing.assert_allclose(found.losses[1], loss_fn(params, jax.tree.map(lambda x: x[4:8], DATA)), rtol=1e-5)


def test_model_state_keys_and_aux_go_through_the_test():
    def noisy(params, model_state, batch, key, *, training):
        assert training
        loss = loss_fn(params, batch) + 1e-6 * jax.random.uniform(key)
        return loss + model_state["steps"], ({"steps": model_state["steps"] + 1.0}, {"any": loss})

    variables = training.Variables(PARAMS, {"steps": jnp.zeros(())})
    options = {"batch_size": 4, "low": 1e-9, "high": 1e-8, "steps": 4, "has_aux": True, "takes_key": True}
    found = learning_rate_range_test(noisy, variables, gc.sgd(1.0), DATA, stop_at=100.0, **options)
    plain = learning_rate_range_test(loss_fn, PARAMS, gc.sgd(1.0), DATA, batch_size=4, low=1e-9, high=1e-8, steps=4)
    np.testing.assert_allclose(found.losses, plain.losses + np.arange(4), atol=1e-4)
    np.testing.assert_array_equal(variables.model_state["steps"], 0)


def test_another_transforms_numbers_do_not_compile_again():
    traces = []

    def counted(params, batch):
        traces.append(1)
        return loss_fn(params, batch)

    for tx, low in ((gc.sgd(0.1), 1e-3), (gc.sgd(0.2), 1e-4)):
        learning_rate_range_test(counted, PARAMS, tx, DATA, batch_size=4, low=low, high=0.1, steps=5)
    assert len(traces) == 1


def test_the_table_and_the_file_have_a_line_for_each_step(tmp_path):
    found = ramp(tx=gc.sgd(1.0), low=1e-3, high=0.1, steps=5)
    lines = found.table().splitlines()
    assert lines[0].split() == ["step", "learning_rate", "loss", "smoothed"]
    assert [line.split()[0] for line in lines[1:]] == ["0", "1", "2", "3", "4"]
    assert [line.split()[0] for line in found.table(rows=2).splitlines()[1:]] == ["0", "4"]
    found.to_csv(tmp_path / "test.csv")
    with open(tmp_path / "test.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["smoothed"]) for row in rows] == found.smoothed.tolist()
    assert [float(row["learning_rate"]) for row in rows] == found.rates.tolist()


def test_the_plot_marks_the_suggestion():
    found = result([4.0, 3.9, 2.0, 1.0, 0.9, 3.0, np.nan])
    ax = found.plot()
    each, smoothed, star = ax.get_lines()
    np.testing.assert_array_equal(each.get_ydata(), found.losses)
    np.testing.assert_array_equal(smoothed.get_xdata(), found.rates)
    np.testing.assert_allclose([star.get_xdata()[0], star.get_ydata()[0]], [0.01, 2.0])
    assert ax.get_legend_handles_labels()[1][-1] == "0.01, a tenth of the rate with the lowest smoothed loss"
    assert (ax.get_xscale(), ax.get_yscale(), ax.get_xlabel()) == ("log", "linear", "learning rate")
    assert plots.plot_range_test(result([2.0, 1.0, 3.0], [1.0, 2.0, 3.0]), yscale="log").get_xscale() == "linear"
    assert len(plots.plot_range_test(result([4.0, 3.0])).get_lines()) == 2
    ax.figure.canvas.draw()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 0.0}, "needs 0 < low < high, got low=0.0"),
        ({"low": 1.0, "high": 1.0}, "needs 0 < low < high"),
        ({"high": np.inf}, "needs 0 < low < high, got low=1e-06 and high=inf"),
        ({"steps": 1}, "steps must be a whole number, at least 2"),
        ({"spacing": "log"}, "spacing must be 'exponential' or 'linear', got 'log'"),
        ({"smoothing": 1.0}, "smoothing must be in .0, 1., got 1.0"),
        ({"stop_at": 1.0}, "stop_at must be above 1, got 1.0"),
        ({"name": "rate"}, "has no hyperparameter 'rate' to raise; there are .*learning_rate"),
        ({"batch_size": None}, "arrays need a batch_size"),
        ({"batch_size": 13}, "batch_size is 13, larger than the data"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ramp(tx=gc.sgd(0.1), **options)


def test_a_transform_without_a_rate_is_told_how_to_get_one():
    with pytest.raises(ValueError, match=r"put scale_by_learning_rate\(1.0\) behind it"):
        ramp(tx=gc.scale_by_sign())
    with pytest.raises(ValueError, match="rule must be one of tenth, steepest, got 'valley'"):
        result([1.0, 0.5, 2.0]).suggest("valley")

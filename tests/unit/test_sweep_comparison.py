"""A sweep over several optimizers: equal to a sweep of each, one table, one plot, one winner."""

import csv
import functools

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradchain as gc
from gradchain import plots
from gradchain.training import SweepComparison, sweep


def loss_fn(params, batch):
    return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)


X = np.random.default_rng(3).normal(size=(8, 3)).astype(np.float32)
DATA = {"x": X, "y": X @ np.array([1.0, -2.0, 0.5], np.float32)}
PARAMS = {"w": jnp.zeros(3)}
run = functools.partial(sweep, loss_fn, PARAMS, data=DATA, epochs=3, batch_size=4)
TXS = {
    "adam": gc.adam(jnp.array([1e-3, 0.01, 0.1])),
    "sgd": gc.sgd(jnp.array([0.01, 0.1, 1e30]), momentum=0.5),
    "prodigy": gc.prodigy(),
}


@pytest.fixture(scope="module")
def compared():
    return run(tx=TXS, seeds=[0, 1])


def test_each_optimizer_has_the_runs_of_its_own_sweep(compared):
    assert isinstance(compared, SweepComparison)
    assert list(compared.results) == ["adam", "sgd", "prodigy"]
    assert compared.losses.shape == (7, 2, 3)
    places = {"adam": slice(0, 3), "sgd": slice(3, 6), "prodigy": slice(6, 7)}
    for name, tx in TXS.items():
        alone = run(tx=tx, seeds=[0, 1])
        np.testing.assert_array_equal(compared[name].losses, alone.losses)
        np.testing.assert_array_equal(compared.losses[places[name]], alone.losses)
        np.testing.assert_array_equal(compared.scores[places[name]], alone.scores)
        np.testing.assert_array_equal(compared.start_loss, alone.start_loss)
    with pytest.raises(KeyError, match="no optimizer 'lion'; there are adam, sgd, prodigy"):
        compared["lion"]


def test_the_winner_is_the_best_of_all_with_its_parameters(compared):
    assert compared.best == int(np.argmin(compared.scores)) == 4
    assert compared.place(compared.best) == ("sgd", 1)
    assert compared.winner == gc.sgd(0.1, momentum=0.5)
    np.testing.assert_array_equal(compared.params["w"], compared["sgd"].params["w"])
    assert np.abs(compared.params["w"] - compared["adam"].params["w"]).max() > 1e-3
    assert repr(compared).startswith("SweepComparison(optimizers=adam, sgd, prodigy, runs=7, winner=sgd: chain(")


def test_runs_are_found_from_either_end(compared):
    assert [compared.place(i) for i in (0, 2, 3, 6)] == [("adam", 0), ("adam", 2), ("sgd", 0), ("prodigy", 0)]
    assert compared.transform(-1) == gc.prodigy()
    assert compared.transform(2) == gc.adam(0.1)
    with pytest.raises(IndexError, match="there are 7 runs, counted from 0"):
        compared.place(7)


def test_the_table_names_optimizers_and_leaves_out_what_they_lack(compared, tmp_path):
    lines = compared.table().splitlines()
    assert lines[0].split() == ["run", "optimizer", "learning_rate", "mean", "loss", "spread", "diverged"]
    assert lines[1].split()[:3] == ["4", "sgd", "0.1"]
    assert [line.split()[1] for line in lines[-1:]] == ["sgd"]
    prodigy = next(line for line in lines if "prodigy" in line)
    assert "nan" not in prodigy
    assert prodigy.split()[:2] == ["6", "prodigy"]
    best = compared.table(best_of_each=True).splitlines()
    assert [line.split()[1] for line in best[1:]] == list(compared.leaders)
    assert {line.split()[1]: int(line.split()[0]) for line in best[1:]} == compared.leaders
    assert compared.leaders["adam"] == 2
    compared.to_csv(tmp_path / "runs.csv")
    with open(tmp_path / "runs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["optimizer"] for row in rows] == ["adam"] * 3 + ["sgd"] * 3 + ["prodigy"]
    assert [row["learning_rate"] for row in rows] == ["0.001", "0.01", "0.1", "0.01", "0.1", "1e+30", ""]
    assert float(rows[1]["last_loss_1"]) == compared.losses[1, 1, -1]


def test_the_plot_has_a_line_for_each_optimizer(compared):
    ax = compared.plot()
    handles = ax.get_legend_handles_labels()[1]
    assert handles[:3] == ["adam", "sgd", "prodigy"]
    assert handles[-1] == "best: sgd, learning rate 0.1"
    adam, _, prodigy = ax.get_lines()[:3]
    np.testing.assert_allclose(adam.get_xdata(), [1e-3, 0.01, 0.1])
    np.testing.assert_allclose(adam.get_ydata(), compared.scores[:3], rtol=1e-6)
    np.testing.assert_allclose(prodigy.get_xdata(), [1e-3, 1e30])
    np.testing.assert_allclose(prodigy.get_ydata(), [compared.scores[6]] * 2, rtol=1e-6)
    ax.figure.canvas.draw()


def test_what_only_one_of_them_varies_is_in_its_labels_alone():
    slow = gc.sgd(jnp.array([0.01, 0.1, 0.01, 0.1]), momentum=jnp.array([0.0, 0.0, 0.5, 0.5]))
    ax = run(tx={"adam": gc.adam(jnp.array([0.01, 0.1])), "sgd": slow}).plot()
    assert ax.get_legend_handles_labels()[1][:3] == ["adam", "sgd, decay 0", "sgd, decay 0.5"]


def test_a_list_of_single_transforms_optaxs_too_is_compared_side_by_side():
    compared = run(tx=[gc.sgd(0.01), optax.sgd(0.1), gc.sgd(1e30)])
    assert list(compared.results) == ["0", "1", "2"]
    assert compared.place(compared.best) == ("1", 0)
    np.testing.assert_allclose(compared.losses[1], run(tx=gc.sgd(jnp.array([0.1]))).losses[0], rtol=1e-5)
    ax = plots.plot_sweep(compared)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "1", "2"]
    assert ax.get_legend_handles_labels()[1][-1] == "best: 1"


def test_rates_that_vary_together_are_one_column():
    """Muon has two rates, for matrices and for the rest, and ``muon(rates)`` sets both."""
    rates = jnp.array([0.01, 0.1])
    txs = {"adam": gc.adam(rates), "muon": gc.muon(rates)}
    compared = run(tx=txs)
    assert list(compared.varied) == ["optimizer", "learning_rate"]
    np.testing.assert_allclose(compared.varied["learning_rate"], [0.01, 0.1] * 2)
    apart = gc.set_hyperparams(txs["muon"], {"adam.scale_by_learning_rate.learning_rate": rates[::-1]})
    assert list(run(tx=apart).varied) == [
        "adam.scale_by_learning_rate.learning_rate",
        "muon.scale_by_learning_rate.learning_rate",
    ]


def test_highest_is_best_where_it_is_said():
    def with_aux(params, batch):
        return loss_fn(params, batch), {"gain": -loss_fn(params, batch)}

    options = {"epochs": 2, "batch_size": 4, "has_aux": True, "select": "gain", "mode": "max"}
    compared = sweep(with_aux, PARAMS, {"low": gc.sgd(1e-4), "good": gc.sgd(0.1)}, DATA, **options)
    assert list(compared.leaders) == ["good", "low"]
    np.testing.assert_array_equal(compared.params["w"], compared["good"].params["w"])


def test_if_all_diverged_there_is_no_winner():
    compared = run(tx={"a": gc.sgd(1e30), "b": gc.sgd(1e29)})
    assert repr(compared) == "SweepComparison(optimizers=a, b, runs=2, all diverged)"
    assert compared.params is None
    with pytest.raises(ValueError, match="there is no winner: every run diverged"):
        _ = compared.winner


@pytest.mark.slow
def test_batches_of_a_stream_are_the_same_for_all():
    batches = [{name: x[i : i + 4] for name, x in DATA.items()} for i in (0, 4)]
    txs = {"a": gc.sgd(jnp.array([0.01, 0.1])), "b": gc.sgd(0.1)}
    compared = sweep(loss_fn, PARAMS, txs, batches, epochs=2)
    np.testing.assert_allclose(compared.losses[1], compared.losses[2], rtol=1e-6)
    np.testing.assert_allclose(compared.losses, run(tx=txs, epochs=2, shuffle=False).losses, rtol=1e-5)
    with pytest.raises(ValueError, match="so several optimizers can't be compared on the same ones"):
        sweep(loss_fn, PARAMS, txs, iter(batches), steps=1)


@pytest.mark.parametrize(
    ("txs", "error", "message"),
    [
        ({}, ValueError, "there are no optimizers in {}"),
        ({1: gc.adam(0.1)}, TypeError, "optimizers are named by strings, got 1"),
        ([gc.adam(0.1)], ValueError, "sweep: 0: there is nothing to compare"),
        ({"adam": gc.adam(0.1), "sgd": 0.1}, TypeError, "0.1"),
        (
            {"adam": gc.adam(0.1), "sgd": gc.sgd(jnp.ones(2), momentum=jnp.ones(3) / 2)},
            ValueError,
            "sweep: sgd: the batches of hyperparameters differ in length",
        ),
    ],
    ids=["none", "number as name", "one alone", "no transform", "lengths"],
)
def test_what_cannot_be_compared_is_named(txs, error, message):
    with pytest.raises(error, match=message):
        run(tx=txs)


def test_one_compilation_for_each_optimizer():
    traces = []

    def counted(params, batch):
        traces.append(1)
        return loss_fn(params, batch)

    again = functools.partial(sweep, counted, PARAMS, data=DATA, epochs=2, batch_size=4)
    again(tx={"adam": gc.adam(jnp.array([0.1, 0.2])), "sgd": gc.sgd(0.1)})
    first = len(traces)
    again(tx={"a": gc.adam(jnp.array([0.3, 0.4])), "b": gc.sgd(0.2)})
    assert len(traces) == first

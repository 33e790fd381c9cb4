"""Successive halving and Hyperband: equal to plain Python over ``fit``; brackets, divergence, one compilation."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from gradchain.training import (
    LogUniform,
    Rung,
    fit,
    halving_rungs,
    hyperband,
    hyperband_brackets,
    hyperband_runs,
    sample,
    successive_halving,
)
from gradchain.training.search import chunks
from tests.unit.test_sweep import HELD_OUT, PARAMS, TRAIN, loss_fn

RATES = [0.1, 500.0, 0.001, 0.3, 0.03, 0.01, 0.2]


def plain_halving(rates, rungs):
    """Return each run's history, and the runs of each rung, by calls of ``fit``."""
    alive, done = list(range(len(rates))), 0
    runs = dict.fromkeys(alive, (PARAMS, None))
    history, trained = {i: [] for i in alive}, []
    for size, until in rungs:
        if done:
            alive = sorted(alive, key=lambda i: history[i][-1] if math.isfinite(history[i][-1]) else math.inf)[:size]
        trained.append(sorted(alive))
        for i in alive:
            result = fit(
                loss_fn, runs[i][0], gc.adam(rates[i]), TRAIN, epochs=until - done, batch_size=4, seed=5,
                state=runs[i][1], epochs_done=done, validation=HELD_OUT,
            )  # fmt: skip
            runs[i] = result.params, result.state
            history[i] += list(result.history["val_loss"])
        done = until
    best = min(alive, key=lambda i: history[i][-1])
    return history, trained, best, runs[best][0]


@functools.cache
def halved():
    return successive_halving(
        loss_fn, PARAMS, gc.adam(jnp.array(RATES)), TRAIN, epochs=5, batch_size=4, eta=2, seed=5, validation=HELD_OUT
    )


def test_halving_is_what_plain_python_does():
    rungs = halving_rungs(7, 5, 2)
    assert rungs == ((7, 1), (3, 2), (1, 5))
    history, trained, best, params = plain_halving(RATES, rungs)
    result = halved()
    for i in range(7):
        assert result.epochs[i] == len(history[i])
        assert result.epochs[i] == max(rung.until for rung, runs in zip(rungs, trained, strict=True) if i in runs)
        np.testing.assert_allclose(result.run(i)["val_loss"], history[i], rtol=1e-4)
        assert np.isnan(result.history["val_loss"][i, 0, len(history[i]) :]).all()
    assert result.best == best
    np.testing.assert_allclose(result.params["w"], params["w"], rtol=1e-4)


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(("cores", "chunk"), [(3, None), slow(1, None), slow(1, 3), slow(3, 5)])
def test_any_number_of_cores_gives_the_same_halving(cores, chunk, monkeypatch, capsys):
    expected = halved()
    monkeypatch.setattr(chunks, "cores", lambda: cores)
    result = successive_halving(
        loss_fn, PARAMS, gc.adam(jnp.array(RATES)), TRAIN, epochs=5, batch_size=4, eta=2, seed=5, validation=HELD_OUT,
        chunk=chunk, progress=True,
    )  # fmt: skip
    chunks_of_rungs = {(3, None): 3 + 3 + 1, (1, None): 1 + 3 + 1, (1, 3): 3 + 1 + 1, (3, 5): 7 + 3 + 1}
    assert "{0}/{0}".format(chunks_of_rungs[cores, chunk]) in capsys.readouterr().err
    assert result.best == expected.best
    np.testing.assert_array_equal(result.epochs, expected.epochs)
    np.testing.assert_allclose(result.history["val_loss"], expected.history["val_loss"], rtol=1e-4)
    np.testing.assert_allclose(result.params["w"], expected.params["w"], rtol=1e-4)


def test_what_a_halving_says():
    result = halved()
    assert result.winner == gc.adam(RATES[result.best])
    assert result.history["loss"].shape == (7, 1, 5)
    assert result.diverged[:, 0].tolist() == [i == 1 for i in range(7)]
    assert result.final[1, 0] == math.inf
    lines = result.table().splitlines()
    assert lines[0].split() == ["run", "learning_rate", "val_loss", "diverged", "epochs"]
    assert [int(line.split()[-1]) for line in lines[1:]] == [5, 2, 2, 1, 1, 1, 1]
    assert lines[-1].split()[0] == "1"
    assert repr(result).startswith(f"HalvingResult(runs=7, epochs in all=13, winner={result.winner!r}, val_loss=")
    axes = result.plot()
    assert len(axes.lines) == 7 + 1
    assert axes.get_legend_handles_labels()[1] == ["best"]


def test_the_csv_has_the_last_values_there_were(tmp_path):
    result = halved()
    result.to_csv(tmp_path / "runs.csv")
    header, *lines = [line.split(",") for line in (tmp_path / "runs.csv").read_text().splitlines()]
    for i, line in enumerate(lines):
        assert float(line[header.index("last_val_loss")]) == result.run(i)["val_loss"][-1]


@pytest.mark.slow
def test_hyperband_is_several_halvings():
    """Each bracket, begun with its own share of the batch, and the best of their winners."""
    rates = sample(gc.adam(0.1), {"learning_rate": LogUniform(1e-3, 1.0)}, hyperband_runs(3))
    result = hyperband(loss_fn, PARAMS, rates, TRAIN, epochs=3, batch_size=4, seed=5, validation=HELD_OUT)
    values = [gc.hyperparams(result.transform(i))["scale_by_learning_rate.learning_rate"] for i in range(5)]
    winners = {}
    for bracket, (first, last) in zip(hyperband_brackets(3), ((0, 3), (3, 5)), strict=True):
        history, _, best, params = plain_halving(values[first:last], bracket)
        for i in range(last - first):
            np.testing.assert_allclose(result.run(first + i)["val_loss"], history[i], rtol=1e-4)
        winners[first + best] = history[best][-1], params
    assert result.best == min(winners, key=lambda i: winners[i][0])
    np.testing.assert_allclose(result.params["w"], winners[result.best][1]["w"], rtol=1e-4)
    assert result.bracket.tolist() == [0, 0, 0, 1, 1]
    assert result.table().splitlines()[0].split()[-2:] == ["epochs", "bracket"]
    assert result.plot().get_legend_handles_labels()[1] == ["bracket 0", "bracket 1", "best"]


def test_other_numbers_do_not_trace_again_and_runs_may_start_anywhere():
    traces = []

    def counted(params, batch):
        traces.append(1)
        return loss_fn(params, batch)

    def init(key):
        return {"w": jax.random.normal(key, (3,))}

    again = functools.partial(successive_halving, counted, None, data=TRAIN, epochs=3, batch_size=4, init=init)
    result = again(tx=gc.sgd(jnp.array([0.1, 0.2, 0.01])))
    first = len(traces)
    assert again(tx=gc.sgd(jnp.array([0.3, 0.02, 1e9])), seed=1).diverged.any()
    assert len(traces) == first
    assert len(np.unique(result.start_loss)) == 3
    hopeless = again(tx=gc.sgd(jnp.array([1e8, 1e9, 1e10])))
    assert len(traces) == first
    assert hopeless.params is None
    assert not hopeless.has_winner
    assert repr(hopeless) == "HalvingResult(runs=3, epochs in all=5, all diverged)"
    with pytest.raises(ValueError, match="there is no winner"):
        _ = hopeless.winner


def test_rungs_and_brackets():
    assert halving_rungs(27, 27) == (Rung(27, 1), Rung(9, 3), Rung(3, 9), Rung(1, 27))
    assert halving_rungs(27, 27, rungs=2) == (Rung(27, 9), Rung(9, 27))
    assert halving_rungs(4, 100, 2) == (Rung(4, 25), Rung(2, 50), Rung(1, 100))
    assert halving_rungs(100, 4, 2) == (Rung(100, 1), Rung(50, 2), Rung(25, 4))
    # Table 1 of Li et al. (2018), R = 81 and eta = 3.
    wanted = [
        [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
        [(34, 3), (11, 9), (3, 27), (1, 81)],
        [(15, 9), (5, 27), (1, 81)],
        [(8, 27), (2, 81)],
        [(5, 81)],
    ]
    assert [list(bracket) for bracket in hyperband_brackets(81)] == wanted
    assert hyperband_runs(81) == 81 + 34 + 15 + 8 + 5


BAD = {
    "too many rungs": ({"rungs": 4}, "5 epochs and eta=2 leave room for 3 rungs, got rungs=4"),
    "eta": ({"eta": 1}, "eta must be a whole number, at least 2, got 1"),
    "no batch": ({"tx": gc.adam(0.1)}, "successive_halving: there is nothing to compare"),
    "two starts": ({"init": lambda key: PARAMS}, "successive_halving: give params or init, got both"),
    "no start": ({"params": None}, "successive_halving: give params or init, got neither"),
    "column": ({"select": "accuracy", "mode": "max"}, "select is 'accuracy', but the columns are loss"),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_arguments(name):
    changes, message = BAD[name]
    options = {"params": PARAMS, "tx": gc.adam(jnp.array(RATES)), "data": TRAIN, "epochs": 5, "batch_size": 4, "eta": 2}
    with pytest.raises(ValueError, match=message):
        successive_halving(loss_fn, **(options | changes))


def test_hyperband_says_how_many_runs_it_needs():
    with pytest.raises(ValueError, match=r"9 epochs and eta=3 need 17 runs, but tx has 3; draw them with sample"):
        hyperband(loss_fn, PARAMS, gc.adam(jnp.array([0.1, 0.2, 0.3])), TRAIN, epochs=9, batch_size=4)

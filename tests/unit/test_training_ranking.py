"""Which score is best: ``mode`` says whether the lowest or the highest, and only finite ones can be."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from gradchain.training import (
    EarlyStopping,
    LogUniform,
    fit,
    hyperband,
    population_based_training,
    successive_halving,
    sweep,
)
from gradchain.training.fitting.ranking import Goal
from gradchain.training.search import chunks
from tests.unit.test_sweep import HELD_OUT, PARAMS, TRAIN, loss_fn

RATES = np.array([0.01, 1e3, 0.2, 0.001, 0.3], np.float32)


def both_ways(params, batch):
    """A score for which lower is better, its negative, and one that isn't finite for the worst and the best."""
    cost = loss_fn(params, batch)
    return {"cost": cost, "gain": -cost, "holes": jnp.where(cost > 0.28, jnp.nan, jnp.where(cost < 0.2, jnp.inf, cost))}


options = {"data": TRAIN, "batch_size": 4, "validation": HELD_OUT, "metrics": both_ways}
population = functools.partial(population_based_training, explore={"learning_rate": LogUniform(1e-3, 1.0)})
SEARCHES = {
    "sweep": functools.partial(sweep, epochs=3),
    "sweep of seeds": functools.partial(sweep, epochs=2, seeds=[1, 2], chunk=4),
    "successive_halving": functools.partial(successive_halving, epochs=4, eta=2),
    "hyperband": functools.partial(hyperband, epochs=3),
    "population_based_training": functools.partial(population, epochs=3, truncation=0.4),
}


def search(name, select, mode=None, rates=RATES):
    return SEARCHES[name](loss_fn, PARAMS, tx=gc.sgd(jnp.asarray(rates)), select=f"val_{select}", mode=mode, **options)


SLOW = {"sweep", "sweep of seeds", "successive_halving", "hyperband"}


@pytest.mark.parametrize("name", [pytest.param(x, marks=pytest.mark.slow) if x in SLOW else x for x in SEARCHES])
def test_the_highest_gain_is_the_lowest_cost(name, monkeypatch):
    monkeypatch.setattr(chunks, "cores", lambda: 2)
    low, high = search(name, "cost", "min"), search(name, "gain", "max")
    np.testing.assert_allclose(high.scores, -low.scores, rtol=1e-6)
    np.testing.assert_allclose(high.final, -low.final, rtol=1e-6)
    assert high.order.tolist() == low.order.tolist()
    assert high.winner == low.winner
    assert (low.select, low.mode, high.select, high.mode) == ("val_cost", "min", "val_gain", "max")
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), high.params, low.params)
    ended = high.final[:, 0] if name == "sweep" else high.scores
    assert ended[high.best] == ended[np.isfinite(ended)].max()
    first = [[line.split()[0] for line in result.table().splitlines()[1:]] for result in (high, low)]
    assert first[0] == first[1] == [str(run) for run in high.order]
    assert f"val_gain={high.scores[high.best]:.4g}" in repr(high)


@pytest.mark.parametrize("mode", ["max", pytest.param("min", marks=pytest.mark.slow)])
def test_scores_that_are_not_finite_never_win(mode):
    result = search("sweep", "holes", mode, [0.0001, 0.2, 0.02, 0.03, 1e-5])
    column = result.history["val_holes"][:, 0, -1]
    assert np.isnan(column).any()
    assert np.isposinf(column).any()
    finite = np.where(np.isfinite(column), column, -np.inf if mode == "max" else np.inf)
    assert result.best == int(finite.argmax() if mode == "max" else finite.argmin())
    np.testing.assert_array_equal(np.isfinite(result.scores), np.isfinite(column))
    assert set(result.order[: np.isfinite(column).sum()]) == set(np.flatnonzero(np.isfinite(column)))


def test_a_sweep_without_a_finite_score_says_so():
    result = search("sweep", "holes", "max", [1e-5, 2e-5, 3e-5, 4e-5, 5e-5])
    assert result.params is None
    with pytest.raises(ValueError, match="ended with a val_holes that isn't finite"):
        assert result.winner


@pytest.mark.parametrize("mode", ["min", "max"])
def test_costs_order_scores_with_the_first_of_equals_in_front(mode):
    scores = np.array([1.0, np.nan, 3.0, -np.inf, 1.0, np.inf, 3.0])
    goal = Goal("val_accuracy", mode)
    for xp in (np, jnp):
        order = xp.argsort(goal.cost(xp.asarray(scores), xp), stable=True).tolist()
        assert order == ([2, 6, 0, 4] if mode == "max" else [0, 4, 2, 6]) + [1, 3, 5]


@pytest.mark.parametrize("name", [name for name in SEARCHES if " " not in name])
def test_a_search_by_a_score_must_be_told_which_way_is_better(name):
    for mode, message in ((None, f"{name}: select='val_gain' .*mode='max'"), ("best", "mode must be 'min' or 'max'")):
        with pytest.raises(ValueError, match=message):
            search(name, "gain", mode)
    with pytest.raises(ValueError, match="mode='max' would choose the highest val_loss"):
        search(name, "loss", "max")


def distance(w, batch):
    return jnp.mean((w - batch) ** 2)


def nearness(w, batch):
    return {"gain": 1 - distance(w, batch)}


def climb(stopping):
    """Head past the held-out data, so that the score has its best in between."""
    return fit(
        distance, jnp.zeros(()), gc.sgd(0.05), np.ones(2, np.float32), epochs=20, batch_size=2,
        validation=np.full(2, 0.5, np.float32), metrics=nearness, early_stopping=stopping,
    )  # fmt: skip


def test_early_stopping_keeps_the_highest_epoch():
    result = climb(EarlyStopping(patience=3, monitor="val_gain", mode="max"))
    scores = result.history["val_gain"]
    assert result.stopped == "early"
    assert result.best_epoch == int(scores.argmax()) + 1 == len(scores) - 3
    assert result.best_epoch > 1
    np.testing.assert_allclose(1 - (result.params - 0.5) ** 2, scores.max(), rtol=1e-6)
    low = climb(EarlyStopping(patience=3, monitor="val_gain", mode="min"))
    assert low.best_epoch == 1


def test_early_stopping_must_be_told_which_way_is_better():
    with pytest.raises(ValueError, match=r"EarlyStopping: monitor='val_gain' .*mode='max'"):
        climb(EarlyStopping(patience=3, monitor="val_gain"))
    with pytest.raises(ValueError, match="the highest val_loss"):
        climb(EarlyStopping(patience=3, mode="max"))
    with pytest.raises(ValueError, match="monitor='accuracy'"):
        EarlyStopping(monitor="accuracy").init()


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_rule_alone_ranks_finite_values_and_tolerates_small_steps(mode):
    stopping = EarlyStopping(patience=2, tolerance=0.15, monitor="score", mode=mode)
    sign, state, improved = (-1.0 if mode == "min" else 1.0), stopping.init(), []
    for value in (1.0, 1.1, 1.2, jnp.nan, jnp.inf, -jnp.inf, 1.3):
        state = jax.jit(stopping.update)(sign * value, state)
        improved.append(bool(state.improved))
    assert improved == [True, False, True, False, False, False, False]
    assert state.best == pytest.approx(sign * 1.2)
    assert state.should_stop

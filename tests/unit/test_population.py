"""Population-based training: equal to plain Python over ``fit``; exploiting, exploring, lineages, ranges, errors."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from gradchain.training import Choice, LogUniform, Uniform, fit, population_based_training, sample
from gradchain.training.search.population import EVOLUTION, exploit, vary
from tests.unit.test_sweep import PARAMS, TRAIN, loss_fn

SPACE = {"learning_rate": LogUniform(1e-3, 1.0), "trace.decay": Choice((0.0, 0.5, 0.9))}
FULL = ("scale_by_learning_rate.learning_rate", "trace.decay")
MEMBERS, ROUNDS, INTERVAL, SEED = 6, 4, 2, 7
TX = sample(gc.sgd(0.1, momentum=0.9), SPACE, MEMBERS, seed=1)
run = functools.partial(population_based_training, loss_fn, PARAMS, TX, TRAIN, explore=SPACE, batch_size=4)


@functools.cache
def trained():
    return run(epochs=ROUNDS * INTERVAL, interval=INTERVAL, truncation=0.34, seed=SEED, resample=0.3)


def keys(number):
    """Return the keys of exploiting and exploring before a round."""
    return jax.random.split(jax.random.fold_in(jax.random.fold_in(jax.random.key(SEED), EVOLUTION), number))


def plain_population():
    """Return what ``trained`` does, member by member, in plain Python."""
    members = [(PARAMS, None, {n: float(v[i]) for n, v in gc.hyperparams(TX).items()}) for i in range(MEMBERS)]
    scores, record = None, []
    for number in range(ROUNDS):
        parents = list(range(MEMBERS))
        if number:
            draws = np.asarray(jax.random.uniform(keys(number)[0], (MEMBERS,)))
            order = sorted(range(MEMBERS), key=scores.__getitem__)
            for i in order[-2:]:
                parents[i] = order[int(draws[i] * 2)]
            members = [members[parent] for parent in parents]
            members = [
                (p, s, h if parents[i] == i else varied(i, h, keys(number)[1])) for i, (p, s, h) in enumerate(members)
            ]
        results = [
            fit(
                loss_fn, params, gc.sgd(numbers[FULL[0]], momentum=numbers[FULL[1]]), TRAIN, epochs=INTERVAL,
                batch_size=4, seed=SEED, state=state, epochs_done=number * INTERVAL,
            )
            for params, state, numbers in members
        ]  # fmt: skip
        members = [(r.params, r.state, m[2]) for r, m in zip(results, members, strict=True)]
        scores = [r.history["loss"][-1] for r in results]
        record.append((parents, [m[2] for m in members], [r.history["loss"] for r in results]))
    return members, scores, record


def varied(i, numbers, key):
    """Return a member's numbers, each moved up or down or drawn anew."""
    new = {}
    for name, span in zip(FULL, SPACE.values(), strict=True):
        own = jax.random.fold_in(key, int.from_bytes(name.encode(), "big") % (2**31 - 1))
        up_key, anew_key, draw_key = jax.random.split(own, 3)
        up = bool(jax.random.bernoulli(up_key, 0.5, (MEMBERS,))[i])
        if bool(jax.random.bernoulli(anew_key, 0.3, (MEMBERS,))[i]):
            new[name] = float(span.draw(draw_key, MEMBERS)[i])
        elif isinstance(span, Choice):
            places = range(len(span.values))
            near = min(places, key=lambda k: abs(span.values[k] - numbers[name]))
            new[name] = span.values[min(max(near + (1 if up else -1), 0), len(places) - 1)]
        else:
            new[name] = min(max(numbers[name] * (1.2 if up else 0.8), span.low), span.high)
    return new


def test_a_population_is_what_plain_python_does():
    members, scores, record = plain_population()
    result = trained()
    for number, (parents, numbers, losses) in enumerate(record):
        assert result.parents[number].tolist() == parents
        for name in FULL:
            np.testing.assert_allclose(result.values[name][number], [n[name] for n in numbers], rtol=1e-5)
        epochs = slice(number * INTERVAL, (number + 1) * INTERVAL)
        np.testing.assert_allclose(result.history["loss"][:, 0, epochs], losses, rtol=1e-3)
    np.testing.assert_allclose(result.scores, scores, rtol=1e-3)
    assert result.best == int(np.argmin(scores))
    np.testing.assert_allclose(result.params["w"], members[result.best][0]["w"], rtol=1e-3)
    assert result.copies >= 2 * (ROUNDS - 1) - 2


def test_a_member_is_followed_back_through_those_it_copied():
    result = trained()
    for member in range(MEMBERS):
        places = result.lineage(member)
        assert places[-1] == member
        for number in range(1, ROUNDS):
            assert places[number - 1] == result.parents[number][places[number]]
        losses = result.run(member)["loss"]
        for epoch in range(ROUNDS * INTERVAL):
            assert losses[epoch] == result.history["loss"][places[epoch // INTERVAL], 0, epoch]
    schedule = result.schedule()
    assert list(schedule) == ["learning_rate", "decay"]
    assert schedule["learning_rate"][-1] == gc.hyperparams(result.tx)[FULL[0]][result.best]
    assert result.winner.replace(learning_rate=0.1, decay=0.5) == gc.sgd(0.1, momentum=0.5)


def test_table_repr_and_plots():
    result = trained()
    header, *lines = result.table().splitlines()
    assert header.split() == ["run", "decay", "learning_rate", "loss", "diverged", "began", "as"]
    assert int(lines[0].split()[0]) == result.best
    assert int(lines[0].split()[-1]) == result.lineage()[0]
    assert repr(result).startswith(f"PopulationResult(members=6, copies={result.copies}, best={{'learning_rate': ")
    axes = result.plot()
    assert (axes.get_ylabel(), axes.get_yscale(), len(axes.lines)) == ("learning rate", "linear", MEMBERS + 1)
    assert result.plot(yscale="log").get_yscale() == "log"
    np.testing.assert_allclose(axes.lines[-1].get_ydata(), np.repeat(result.schedule()["learning_rate"], INTERVAL))
    np.testing.assert_allclose(result.plot(y="loss").lines[-1].get_ydata(), result.run(result.best)["loss"])
    with pytest.raises(ValueError, match="y is 'momentum', but there are learning_rate, decay, loss"):
        result.plot(y="momentum")


def test_other_numbers_do_not_trace_again_and_what_diverged_is_replaced():
    traces = []

    def counted(params, batch):
        traces.append(1)
        return loss_fn(params, batch)

    space = {"learning_rate": LogUniform(1e-3, 1e9)}
    again = functools.partial(
        population_based_training, counted, PARAMS, data=TRAIN, explore=space, epochs=3, batch_size=4, resample=0.0
    )
    again(tx=gc.sgd(jnp.array([0.1, 0.2, 0.3, 0.4])))
    first = len(traces)
    result = again(tx=gc.sgd(jnp.array([1e8, 0.1, 1e8, 1e8])), seed=1)
    assert result.parents[1].tolist() == [1, 1, 1, 1]
    assert not result.diverged.any()
    hopeless = again(tx=gc.sgd(jnp.array([1e8, 2e8, 3e8, 4e8])))
    assert len(traces) == first
    assert hopeless.copies == 0
    assert (hopeless.params, hopeless.has_winner) == (None, False)
    assert repr(hopeless) == "PopulationResult(members=4, copies=0, all diverged)"


def test_truncation_selection():
    scores = jnp.array([3.0, 1.0, jnp.inf, 2.0, 5.0, 4.0, jnp.nan, 0.5, 9.0, 8.0])
    drawn = np.asarray(jax.vmap(lambda key: exploit(scores, 2, key))(jax.random.split(jax.random.key(0), 40)))
    stay = [0, 1, 3, 5, 7, 9, 4, 8]
    assert (drawn[:, stay] == stay).all()
    assert set(drawn[:, [2, 6]].ravel()) == {1, 7}
    one = exploit(jnp.array([jnp.inf, jnp.inf, 1.0, jnp.inf]), 2, jax.random.key(0))
    assert one.tolist() == [2, 2, 2, 2]
    none = exploit(jnp.full(3, jnp.inf), 1, jax.random.key(0))
    assert none.tolist() == [0, 1, 2]


vary = jax.jit(vary, static_argnums=(0, 1, 4, 5))


@pytest.mark.slow
def test_exploring_stays_in_its_range_and_draws_as_often_as_told():
    values = jnp.full(4000, 0.9)
    moved = vary("a", Uniform(0.1, 1.0), values, jax.random.key(0), (0.8, 1.2), 0.0)
    assert np.unique(np.round(moved, 6)).tolist() == pytest.approx([0.72, 1.0])
    assert abs(float(jnp.mean(moved == 1.0)) - 0.5) < 0.03
    some = vary("a", Uniform(0.1, 1.0), values, jax.random.key(0), (0.8, 1.2), 0.25)
    assert abs(float(jnp.mean(some == moved)) - 0.75) < 0.03
    anew = vary("a", Uniform(0.1, 1.0), values, jax.random.key(0), (0.8, 1.2), 1.0)
    assert abs(float(jnp.mean(anew)) - 0.55) < 0.02
    other = vary("b", Uniform(0.1, 1.0), values, jax.random.key(0), (0.8, 1.2), 1.0)
    assert not np.any(np.asarray(anew) == np.asarray(other))
    whole = vary("n", Choice((1, 2, 4)), jnp.tile(jnp.array([1, 2, 4]), 50), jax.random.key(1), (0.8, 1.2), 0.0)
    assert whole.dtype == jnp.int32
    for place, near in enumerate(({1, 2}, {1, 4}, {2, 4})):
        assert set(whole[place::3].tolist()) == near


def test_samples_fill_their_range():
    tx = sample(gc.adam(0.1), {"learning_rate": LogUniform(1e-4, 1.0), "b2": Choice((0.9, 0.99))}, 2000, seed=3)
    numbers = gc.hyperparams(tx)
    logs = np.log10(numbers["scale_by_learning_rate.learning_rate"])
    assert -4 <= logs.min() < -3.98
    assert -0.02 < logs.max() <= 0
    assert abs(logs.mean() + 2) < 0.1
    assert abs(np.mean(numbers["scale_by_adam.b2"] == np.float32(0.9)) - 0.5) < 0.05
    assert numbers["scale_by_adam.b1"] == 0.9
    alone = sample(gc.adam(0.1), {"learning_rate": LogUniform(1e-4, 1.0)}, 2000, seed=3)
    np.testing.assert_array_equal(gc.hyperparams(alone)[FULL[0]], numbers[FULL[0]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Uniform(1.0, 1.0), "Uniform needs finite numbers low < high, got 1.0 and 1.0"),
        (lambda: Uniform(0.0, math.inf), "Uniform needs finite numbers low < high, got 0.0 and inf"),
        (lambda: LogUniform(0.0, 1.0), "LogUniform needs numbers above 0, got low=0.0"),
        (lambda: Choice((1.0,)), r"Choice needs at least two numbers in rising order, got \(1.0,\)"),
        (lambda: Choice((2.0, 1.0)), "rising order"),
        (lambda: sample(gc.adam(0.1), {}, 3), "sample: give the range of at least one hyperparameter"),
        (lambda: sample(gc.adam(0.1), {"rate": Uniform(0, 1)}, 3), "hyperparameter 'rate' is unknown"),
        (lambda: sample(gc.adam(0.1), {"b1": Uniform(2, 3)}, 3), r"b1 must be in \[0, 1\), got"),
        (lambda: sample(gc.adam(0.1), {"b1": Uniform(0, 0.9)}, 0), "sample: runs must be a whole number, at least 1"),
        (lambda: run(epochs=3, interval=2), "epochs must be a multiple of interval, got 3 and 2"),
        (lambda: run(epochs=2, interval=0), "interval must be a whole number, at least 1, got 0"),
        (lambda: run(epochs=2, truncation=0.6), r"truncation must be in \(0, 0.5\], got 0.6"),
        (lambda: run(epochs=2, factors=(0.0, 1.2)), "factors must be two numbers above 0"),
        (lambda: run(epochs=2, resample=1.5), r"resample must be in \[0, 1\], got 1.5"),
        (lambda: run(epochs=2, explore={}), "explore: give the range of at least one hyperparameter"),
        (lambda: run(epochs=2, explore={"momentum": Uniform(0, 1)}), "hyperparameter 'momentum' is unknown"),
        (lambda: run(epochs=2, explore={"decay": Uniform(0, 2)}), r"decay must be in \[0, 1\], got"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_ranges_must_be_ranges_and_schedules_are_explored_by_their_numbers():
    with pytest.raises(TypeError, match=r"explore: decay needs Uniform, LogUniform or Choice, got 0\.5"):
        run(epochs=2, explore={"decay": 0.5})
    tx = gc.sgd(gc.cosine_decay_schedule(jnp.array([0.1, 0.2]), 100))
    with pytest.raises(ValueError, match=r"is a schedule; explore its numbers: .*learning_rate\.init_value"):
        population_based_training(
            loss_fn, PARAMS, tx, TRAIN, explore={"learning_rate": LogUniform(0.1, 1.0)}, epochs=2, batch_size=4
        )

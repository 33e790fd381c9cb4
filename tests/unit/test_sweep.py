"""``sweep``: equal to separate runs, in any chunks; winner, divergence, replicas, grids, tables, one compilation."""

import csv
import functools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from gradchain.training import fit, grid, has_diverged, sweep
from gradchain.training.search import chunks


def loss_fn(params, batch):
    return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)


def problem():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(12, 3)).astype(np.float32)
    data = {"x": x, "y": x @ np.array([1.0, -2.0, 0.5], np.float32)}
    return {"w": jnp.zeros(3)}, jax.tree.map(lambda a: a[:8], data), jax.tree.map(lambda a: a[8:], data)


PARAMS, TRAIN, HELD_OUT = problem()
run = functools.partial(sweep, loss_fn, PARAMS, data=TRAIN, epochs=3, batch_size=4)
RATES = [0.001, 0.01, 0.1, 0.3, 50.0]


@pytest.mark.parametrize("chunk", [None, 2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3, 100))])
def test_every_run_is_what_fit_does(chunk):
    result = run(tx=gc.adam(jnp.array(RATES)), seeds=5, validation=HELD_OUT, chunk=chunk)
    assert result.losses.shape == (5, 1, 3)
    for i, rate in enumerate(RATES):
        alone = fit(loss_fn, PARAMS, gc.adam(rate), TRAIN, epochs=3, batch_size=4, seed=5, validation=HELD_OUT).history
        for name in ("loss", "val_loss"):
            np.testing.assert_allclose(result.history[name][i, 0], alone[name], rtol=1e-4)
            np.testing.assert_array_equal(result.run(i)[name], result.history[name][i, 0])


@pytest.mark.parametrize(
    ("tx", "seeds"),
    [
        pytest.param(gc.adam(jnp.array(RATES)), 5, marks=pytest.mark.slow),
        pytest.param(gc.adam(0.1), [1, 2, 3, 4, 5], marks=pytest.mark.slow),
        pytest.param(gc.sgd(jnp.array([0.1, 0.2, 1e9])), [1, 2], marks=pytest.mark.slow),
        (gc.sgd(jnp.array([1e9, 0.1])), [1, 2, 3]),
    ],
    ids=["runs", "replicas of one run", "both", "fewer runs than cores"],
)
def test_any_number_of_cores_gives_the_same(tx, seeds, monkeypatch):
    results = []
    for cores in (1, 3):
        monkeypatch.setattr(chunks, "cores", lambda cores=cores: cores)
        results.append(run(tx=tx, seeds=seeds, validation=HELD_OUT))
    one, three = results
    assert three.best == one.best
    np.testing.assert_allclose(three.scores, one.scores, rtol=1e-5)
    np.testing.assert_allclose(three.params["w"], one.params["w"], rtol=1e-5)
    for name, column in one.history.items():
        np.testing.assert_allclose(three.history[name], column, rtol=1e-5)


def test_programs_that_decompose_batches_of_matrices_take_turns(monkeypatch):
    """Two of them at the same time can wait for each other for ever in XLA's pool of threads."""

    class InThreads(Exception):
        pass

    def no_pool(threads):
        raise InThreads

    def with_decompositions(matrices):
        def loss(params, batch):
            q, _ = jnp.linalg.qr(jnp.broadcast_to(jnp.eye(3), (*matrices, 3, 3)))
            return loss_fn(params, batch) * jnp.abs(q).sum() / jnp.abs(q).size

        return lambda: sweep(loss, PARAMS, gc.adam(jnp.array(RATES)), TRAIN, epochs=1, batch_size=4, chunk=2)

    monkeypatch.setattr(chunks, "cores", lambda: 2)
    monkeypatch.setattr(chunks, "ThreadPoolExecutor", no_pool)
    assert with_decompositions((2,))().best is not None
    with pytest.raises(InThreads):
        with_decompositions(())()


def test_the_loss_is_traced_in_the_callers_thread_and_context(monkeypatch):
    def noting(params, batch):
        seen.append((threading.current_thread(), jax.config.jax_default_matmul_precision))
        return loss_fn(params, batch)

    seen = []
    monkeypatch.setattr(chunks, "cores", lambda: 4)
    with jax.default_matmul_precision("highest"):
        sweep(noting, PARAMS, gc.adam(jnp.array(RATES)), TRAIN, epochs=1, batch_size=4)
    assert set(seen) == {(threading.main_thread(), "highest")}


def test_the_winner_is_an_ordinary_transform_with_its_parameters():
    result = run(tx=gc.adam(jnp.array(RATES), b1=0.8), validation=HELD_OUT)
    assert result.best == int(np.argmin(result.history["val_loss"][:, 0, -1]))
    assert result.winner == gc.adam(RATES[result.best], b1=0.8)
    assert hash(result.winner) == hash(gc.adam(RATES[result.best], b1=0.8))
    alone = fit(loss_fn, PARAMS, result.winner, TRAIN, epochs=3, batch_size=4)
    np.testing.assert_allclose(result.params["w"], alone.params["w"], rtol=1e-4)
    assert repr(result).startswith(f"SweepResult(runs=5, winner={result.winner!r}, val_loss=")


def test_the_winners_parameters_are_its_evaluation_weights():
    txs = gc.average_params(gc.sgd(jnp.array([0.01, 0.1])), decay=0.9)
    result = run(tx=txs, validation=HELD_OUT)
    alone = fit(loss_fn, PARAMS, result.winner, TRAIN, epochs=3, batch_size=4, validation=HELD_OUT)
    np.testing.assert_allclose(result.params["w"], alone.eval_params["w"], rtol=1e-4)
    assert np.max(np.abs(result.params["w"] - alone.params["w"])) > 1e-2
    np.testing.assert_allclose(loss_fn(result.params, HELD_OUT), result.scores[result.best], rtol=1e-4)


def test_select_decides():
    by_training = run(tx=gc.sgd(jnp.array(RATES)), validation=HELD_OUT, select="loss")
    assert by_training.best == int(np.argmin(by_training.history["loss"][:4, 0, -1]))
    with pytest.raises(ValueError, match="select is 'accuracy', but the columns are loss"):
        run(tx=gc.sgd(jnp.array(RATES)), select="accuracy", mode="max")


def test_other_numbers_do_not_trace_again():
    traces = []

    def counted(params, batch):
        traces.append(1)
        return loss_fn(params, batch)

    again = functools.partial(sweep, counted, PARAMS, data=TRAIN, epochs=2, batch_size=4)
    again(tx=gc.sgd(jnp.array([0.1, 0.2]), momentum=0.9), seeds=0)
    first = len(traces)
    again(tx=gc.sgd(jnp.array([0.3, 0.4]), momentum=0.8), seeds=1)
    again(tx=gc.sgd(np.array([1, 2]), momentum=0.5), seeds=2)
    assert len(traces) == first


def test_diverged_runs_are_marked_and_never_win():
    result = run(tx=gc.sgd(jnp.array([0.1, 1e2, 1e30])))
    assert result.diverged[:, 0].tolist() == [False, True, True]
    assert np.isfinite(result.losses[1]).all()
    assert result.scores.tolist() == [pytest.approx(result.final[0, 0]), np.inf, np.inf]
    assert result.best == 0


def test_a_sweep_in_which_all_diverged_has_no_winner():
    result = run(tx=gc.sgd(jnp.array([1e20, 1e30])), chunk=1)
    assert result.diverged.all()
    assert result.params is None
    assert not result.has_winner
    for name in ("winner", "best"):
        with pytest.raises(ValueError, match="there is no winner: every run diverged"):
            getattr(result, name)
    assert repr(result) == "SweepResult(runs=2, all diverged)"
    assert result.table().count("yes") == 2


@pytest.mark.parametrize(
    ("losses", "start", "diverged"),
    [
        ([1.0, 1.9], 1.0, False),
        ([1.0, 2.1], 1.0, True),
        ([9.0, 0.5], 1.0, False),
        ([np.nan, 0.5], 1.0, True),
        ([np.inf, 0.5], 1.0, True),
        ([-1.0, -3.0], -2.0, False),
        ([-1.0, 0.5], -2.0, True),
        ([3e-3, 2e-3], 1e-3, False),
        ([3e-3, 2.1e-3], 1e-3, True),
        ([0.1, 0.2], 0.0, False),
        ([0.1, 0.2], 1e-9, False),
        ([1e3, 1e5], 0.0, True),
        ([-1e-3, 2e-3], -1e-3, False),
        ([-5.0, -4.9], -5.0, False),
        ([-3.0, 1.0], -0.1, False),
        ([-3.0, 1e3], -0.1, True),
        ([-3.0, 2.5], 1.0, False),
        ([np.inf, np.inf], np.inf, True),
        ([np.nan, np.nan], 0.0, True),
    ],
)
def test_the_criterion_of_divergence(losses, start, diverged):
    assert has_diverged(np.array(losses), start) == diverged
    assert has_diverged(jnp.array(losses), start, jnp) == diverged
    several = np.array([losses, losses])
    assert has_diverged(several, np.array([start, 1e30])).tolist() == [diverged, not np.isfinite(losses).all()]


@pytest.mark.parametrize("offset", [0.0, -3.0])
def test_a_sweep_that_begins_at_the_optimum_has_a_winner(offset):
    loss_fn = lambda w, batch: jnp.mean(w**2 * batch + w * (batch - 1.5)) + offset  # noqa: E731
    result = sweep(loss_fn, jnp.zeros(()), gc.sgd(jnp.array([0.01, 0.1])), np.array([1.0, 2.0]), epochs=3, batch_size=1)
    assert result.start_loss.tolist() == [offset]
    assert (result.losses[..., -1] > offset - 1).all()
    assert not result.diverged.any()


def test_several_seeds_are_averaged():
    result = run(tx=gc.sgd(jnp.array([0.01, 0.1, 1e5])), seeds=[3, 4, 5], chunk=2)
    assert result.losses.shape == (3, 3, 3)
    np.testing.assert_allclose(result.scores[:2], result.final[:2].mean(-1), rtol=1e-6)
    np.testing.assert_allclose(result.spread[:2], result.final[:2].std(-1), rtol=1e-5)
    assert np.isnan(result.spread[2])
    for k, seed in enumerate((3, 4, 5)):
        alone = fit(loss_fn, PARAMS, gc.sgd(0.1), TRAIN, epochs=3, batch_size=4, seed=seed)
        np.testing.assert_allclose(result.losses[1, k], alone.history["loss"], rtol=1e-4)
    best = fit(loss_fn, PARAMS, gc.sgd(0.1), TRAIN, epochs=3, batch_size=4, seed=3 + int(np.argmin(result.final[1])))
    np.testing.assert_allclose(result.params["w"], best.params["w"], rtol=1e-4)
    assert result.table().splitlines()[0].split() == ["run", "learning_rate", "mean", "loss", "spread", "diverged"]


def test_random_restarts_from_init():
    init = lambda key: {"w": jax.random.normal(key, (3,))}  # noqa: E731
    restarts = functools.partial(sweep, loss_fn, None, gc.sgd(0.1), TRAIN, epochs=2, batch_size=8)
    result = restarts(init=init, seeds=range(3))
    assert result.losses.shape == (1, 3, 2)
    starts = jnp.stack([init(jax.random.key(k))["w"] for k in range(3)])
    np.testing.assert_allclose(result.start_loss, [loss_fn({"w": w}, TRAIN) for w in starts], rtol=1e-5)
    given = restarts(starts={"w": starts})
    np.testing.assert_allclose(given.losses, result.losses, rtol=1e-5)
    assert result.winner == gc.sgd(0.1)


def test_keys_reach_the_loss_and_aux_gets_columns():
    def noisy(params, batch, key):
        noise = jnp.zeros(()) if key is None else jax.random.normal(key, ())
        return loss_fn(params, batch) + 0 * noise, {"noise": noise}

    options = {"has_aux": True, "takes_key": True, "validation": HELD_OUT}
    result = sweep(noisy, PARAMS, gc.sgd(jnp.array([0.1, 0.2])), TRAIN, epochs=2, batch_size=4, seeds=[0, 1], **options)
    noise = result.history["noise"]
    np.testing.assert_allclose(noise[0], noise[1], rtol=1e-6)
    assert (noise[0, 0] != noise[0, 1]).all()
    assert (result.history["val_noise"] == 0).all()


def test_metrics_are_measured_on_the_validation_data():
    result = run(tx=gc.sgd(jnp.array([0.1, 0.2])), validation=HELD_OUT, metrics=lambda p, b: {"w0": p["w"][0]})
    np.testing.assert_allclose(result.history["val_w0"][result.best, 0, -1], result.params["w"][0], rtol=1e-6)


def test_a_grid_is_every_combination():
    txs = grid(gc.sgd(0.5, momentum=0.9), {"learning_rate": [0.1, 0.01], "trace.decay": [0.0, 0.5, 0.9]})
    numbers = gc.hyperparams(txs)
    np.testing.assert_allclose(numbers["scale_by_learning_rate.learning_rate"], np.repeat([0.1, 0.01], 3))
    np.testing.assert_allclose(numbers["trace.decay"], np.tile([0.0, 0.5, 0.9], 2))
    result = run(tx=txs)
    assert list(result.varied) == ["decay", "learning_rate"]
    assert result.transform(4) == gc.sgd(0.01, momentum=0.5)


def test_numbers_inside_schedules_are_swept():
    tx = gc.sgd(gc.schedules.cosine_decay_schedule(0.1, 10))
    result = run(tx=grid(tx, {"decay_steps": [2, 4], "init_value": [0.1, 0.2]}))
    assert result.transform(1) == gc.sgd(gc.schedules.cosine_decay_schedule(0.2, 2))
    alone = fit(loss_fn, PARAMS, result.transform(2), TRAIN, epochs=3, batch_size=4)
    np.testing.assert_allclose(result.losses[2, 0], alone.history["loss"], rtol=1e-4)


@pytest.mark.parametrize(
    ("values", "message"),
    [({}, "at least one"), ({"learning_rate": 0.1}, r"learning_rate needs a sequence of values, got shape \(\)"),
     ({"learning_rate": []}, "learning_rate needs"), ({"nothing": [1]}, "'nothing' is unknown")],
)  # fmt: skip
def test_a_grid_of_bad_values_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        grid(gc.sgd(0.1), values)


def test_tables_show_the_best_first_and_csv_all(tmp_path):
    result = run(tx=gc.sgd(jnp.array([0.001, 0.1, 1e6])), validation=HELD_OUT)
    lines = [line.split() for line in result.table().splitlines()]
    assert lines[0] == ["run", "learning_rate", "val_loss", "diverged"]
    assert [line[0] for line in lines[1:]] == ["1", "0", "2"]
    assert lines[1][1] == "0.1"
    assert lines[3][2:] == ["inf", "yes"]
    assert len(result.table(rows=2).splitlines()) == 3
    result.to_csv(tmp_path / "sweep.csv")
    with open(tmp_path / "sweep.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["learning_rate"]) for row in rows] == [0.001, 0.1, 1e6]
    last = np.array([row["last_val_loss"] for row in rows], np.float32)
    np.testing.assert_array_equal(last, result.history["val_loss"][:, 0, -1])


@pytest.mark.slow
def test_seeds_of_one_random_transform_can_be_swept():
    txs = gc.chain(gc.add_noise(0.1, 0.55, jnp.arange(3)), gc.sgd(0.1))
    result = run(tx=txs)
    assert len(set(result.final[:, 0].tolist())) == 3
    assert result.transform(2) == gc.chain(gc.add_noise(0.1, 0.55, 2), gc.sgd(0.1))


def test_keys_of_one_random_transform_can_be_swept(tmp_path):
    keys = jax.random.split(jax.random.key(0), 3)
    result = run(tx=gc.chain(gc.add_noise(0.1, 0.55, keys), gc.sgd(0.1)))
    alone = fit(loss_fn, PARAMS, gc.chain(gc.add_noise(0.1, 0.55, keys[1]), gc.sgd(0.1)), TRAIN, epochs=3, batch_size=4)
    np.testing.assert_allclose(result.losses[1, 0], alone.history["loss"], rtol=1e-4)
    again = fit(loss_fn, PARAMS, result.winner, TRAIN, epochs=3, batch_size=4)
    np.testing.assert_allclose(again.params["w"], result.params["w"], rtol=1e-4)
    shown = ["".join(f"{word:08x}" for word in jax.random.key_data(key).tolist()) for key in keys]
    assert result.varied["key"].tolist() == shown
    assert shown[result.best] in result.table(rows=1)
    result.to_csv(tmp_path / "keys.csv")
    with open(tmp_path / "keys.csv", newline="") as file:
        assert [row["key"] for row in csv.DictReader(file)] == shown


def test_a_grid_may_hold_keys():
    keys = jax.random.split(jax.random.key(1), 2)
    txs = grid(gc.chain(gc.add_noise(0.1, 0.55, 0), gc.sgd(0.1)), {"learning_rate": [0.1, 0.2], "key": keys})
    numbers = gc.hyperparams(txs)
    assert (numbers["add_noise.key"] == keys[jnp.array([0, 1, 0, 1])]).all()
    np.testing.assert_allclose(numbers["scale_by_learning_rate.learning_rate"], [0.1, 0.1, 0.2, 0.2])


def test_an_old_key_is_one_seed_and_several_are_several():
    old = jax.random.PRNGKey(4)
    expected = run(tx=gc.sgd(jnp.array([0.1, 0.2])), seeds=[4, 5]).losses
    for seeds in (old, np.asarray(old), jax.random.key(4)):
        one = run(tx=gc.sgd(jnp.array([0.1, 0.2])), seeds=seeds).losses
        np.testing.assert_allclose(one, expected[:, :1], rtol=1e-6)
    two = jnp.stack([old, jax.random.PRNGKey(5)])
    np.testing.assert_allclose(run(tx=gc.sgd(jnp.array([0.1, 0.2])), seeds=two).losses, expected, rtol=1e-6)


def test_counts_in_aux_are_averaged():
    def counting(params, batch):
        return loss_fn(params, batch), {"n": jnp.sum(batch["y"] > 0)}

    result = sweep(counting, PARAMS, gc.sgd(jnp.array([0.1, 0.2])), TRAIN, epochs=2, batch_size=4, has_aux=True)
    np.testing.assert_allclose(result.history["n"], np.sum(TRAIN["y"] > 0) / 2, rtol=1e-6)


def test_a_progress_bar_moves_with_the_chunks(capsys):
    run(tx=gc.sgd(jnp.linspace(0.01, 0.1, 6)), chunk=2, progress=True)
    assert "3/3" in capsys.readouterr().err
    run(tx=gc.sgd(jnp.linspace(0.01, 0.1, 150)), chunk=1, epochs=1, progress=True)
    assert "75/75" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tx": gc.sgd(0.1)}, r"no hyperparameter of chain\(.* is an array.*logspace"),
        (
            {"tx": gc.sgd(jnp.ones(3), momentum=jnp.zeros(2))},
            "trace.decay has 2, scale_by_learning_rate.learning_rate has 3",
        ),
        ({"seeds": []}, "seeds must be whole numbers"),
        ({"seeds": [0.5]}, "seeds must be whole numbers"),
        ({"seeds": np.zeros((2, 3), int)}, r"seeds must be a list, got shape \(2, 3\)"),
        ({"starts": {"w": jnp.zeros((2, 3))}}, "give one of params, starts and init, got params and starts"),
        ({"chunk": 0}, "chunk must be a whole number, at least 1, got 0"),
        ({"batch_size": 9}, "larger than the data"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        run(**{"tx": gc.sgd(jnp.array([0.1, 0.2]))} | options)


def test_starts_and_seeds_must_pair():
    with pytest.raises(ValueError, match="3 starts and 2 seeds"):
        sweep(loss_fn, None, gc.sgd(0.1), TRAIN, epochs=1, batch_size=4, starts={"w": jnp.zeros((3, 3))}, seeds=[0, 1])

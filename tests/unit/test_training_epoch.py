"""An epoch: which examples each step sees, weights, keys, equality with a plain loop, bad data."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from gradchain.training import Epoch, Metrics, evaluate, scan_epoch, train_step

KEY = jax.random.key(0)


def seen_by_step(n, **options):
    """Return which examples each step saw, the optimizer standing still."""

    def loss_fn(params, batch):
        return jnp.sum(params * 0), {"seen": jnp.zeros(n, int).at[batch].add(1)}

    tx, params = gc.sgd(0.1), jnp.zeros(())
    epoch = scan_epoch(loss_fn, params, tx, tx.init(params), np.arange(n), KEY, has_aux=True, **options)
    return np.asarray(epoch.metrics.aux["seen"]), np.asarray(epoch.sizes)


def test_drop_leaves_the_remainder_out():
    seen, sizes = seen_by_step(10, batch_size=4)
    assert sizes.tolist() == [4, 4]
    assert sorted(seen.sum(0)) == [0, 0] + 8 * [1]


def test_keep_takes_the_remainder_in_a_smaller_step():
    seen, sizes = seen_by_step(10, batch_size=4, remainder="keep")
    assert sizes.tolist() == [4, 4, 2] == seen.sum(1).tolist()
    assert (seen.sum(0) == 1).all()


def test_wrap_fills_the_last_batch_up_from_the_beginning():
    seen, sizes = seen_by_step(10, batch_size=4, remainder="wrap")
    assert sizes.tolist() == [4, 4, 4] == seen.sum(1).tolist()
    assert sorted(seen.sum(0)) == 8 * [1] + [2, 2]
    assert (seen[2][seen.sum(0) == 2] == 1).all()
    assert (seen[0][seen.sum(0) == 2] == 1).all()


@pytest.mark.parametrize("remainder", ["drop", "keep", "wrap"])
def test_a_size_that_divides_has_no_remainder(remainder):
    seen, sizes = seen_by_step(12, batch_size=4, remainder=remainder)
    assert sizes.tolist() == [4, 4, 4]
    assert (seen.sum(0) == 1).all()


def test_shuffling_depends_on_the_key_and_can_be_left():
    data, tx = np.arange(8.0, dtype=np.float32), gc.sgd(0.1)

    def order(key, **options):
        state = tx.init(jnp.zeros(()))
        function = lambda w, x: (w * 0, x[0])  # noqa: E731
        return np.asarray(
            scan_epoch(function, jnp.zeros(()), tx, state, data, key, batch_size=1, has_aux=True, **options).metrics.aux
        )

    assert (order(None, shuffle=False) == data).all()
    assert (order(KEY) != data).any()
    assert (order(KEY) == order(KEY)).all()
    assert (order(KEY) != order(jax.random.key(1))).any()
    assert sorted(order(KEY)) == data.tolist()


def quadratic(params, batch):
    return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)


def regression(n=12):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(n, 2)).astype(np.float32)
    return {"w": jnp.zeros(2)}, {"x": x, "y": x @ np.array([1.0, -1.0], np.float32)}


def test_an_epoch_equals_a_loop_over_its_batches():
    params, data = regression()
    tx = gc.adam(0.1)
    epoch = jax.jit(functools.partial(scan_epoch, quadratic, batch_size=5, shuffle=False, remainder="keep"))(
        params, tx, tx.init(params), data
    )
    state, losses = tx.init(params), []
    for part in (slice(0, 5), slice(5, 10), slice(10, 12)):
        batch = jax.tree.map(lambda x, part=part: x[part], data)
        params, state, metrics = train_step(quadratic, params, tx, state, batch)
        losses.append(metrics.loss)
    np.testing.assert_allclose(epoch.params["w"], params["w"], rtol=1e-5)
    np.testing.assert_allclose(epoch.metrics.loss, losses, rtol=1e-5)
    np.testing.assert_allclose(epoch.mean().loss, np.average(losses, weights=[5, 5, 2]), rtol=1e-6)


def test_the_whole_set_as_one_batch_is_batch_gradient_descent():
    params, data = regression()
    tx = gc.sgd(0.1)
    epoch = scan_epoch(quadratic, params, tx, tx.init(params), data, batch_size=12)
    expected, _, _ = train_step(quadratic, params, tx, tx.init(params), data)
    np.testing.assert_allclose(epoch.params["w"], expected["w"], rtol=1e-6)
    assert epoch.metrics.loss.shape == (1,)


def test_every_step_has_its_own_key():
    def loss_fn(params, batch, key):
        return params * 0, jax.random.uniform(key)

    tx, w = gc.sgd(0.1), jnp.zeros(())
    run = functools.partial(scan_epoch, loss_fn, w, tx, tx.init(w), np.zeros(7), KEY, batch_size=2, has_aux=True)
    drawn = run(remainder="keep", takes_key=True).metrics.aux
    assert len(set(drawn.tolist())) == 4


def test_it_maps_over_transforms_and_differentiates():
    params, data = regression()

    def final(tx):
        epoch = scan_epoch(quadratic, params, tx, tx.init(params), data, KEY, batch_size=4)
        return quadratic(epoch.params, data)

    rates = jnp.array([0.01, 0.1])
    txs = gc.sgd(rates)
    both = jax.vmap(final, in_axes=(gc.batch_axes(txs),))(txs)
    np.testing.assert_allclose(both, [final(gc.sgd(0.01)), final(gc.sgd(0.1))], rtol=1e-5)
    slope = jax.grad(lambda rate: final(gc.sgd(rate)))(0.05)
    difference = (final(gc.sgd(0.0501)) - final(gc.sgd(0.0499))) / 2e-4
    np.testing.assert_allclose(slope, difference, rtol=1e-2)


def test_python_numbers_as_parameters_keep_their_types_over_steps():
    tx = gc.sgd(0.1)
    epoch = scan_epoch(lambda w, x: jnp.mean((w - x) ** 2), 1.0, tx, tx.init(1.0), np.zeros(4), KEY, batch_size=1)
    assert not epoch.params.weak_type
    np.testing.assert_allclose(epoch.params, 0.8**4, rtol=1e-5)


@pytest.mark.parametrize(
    ("data", "batch_size", "message"),
    [
        ({"x": np.zeros((4, 2)), "y": np.zeros(3)}, 2, r"\['x'\] has 4, \['y'\] has 3"),
        ({"x": np.zeros(4), "y": 1.0}, 2, r"\['y'\] is a single number"),
        ({"x": np.zeros((0, 2))}, 1, "no examples"),
        ({}, 1, "no examples; the tree has no arrays"),
        (np.zeros(4), 5, "batch_size is 5, larger than the data, which has 4 examples"),
        (np.zeros(4), 0, "at least 1, got 0"),
        (np.zeros(4), 2.0, r"whole number, at least 1, got 2.0"),
        (np.zeros(4), True, "whole number"),
    ],
)
def test_bad_data_are_named(data, batch_size, message):
    tx = gc.sgd(0.1)
    with pytest.raises(ValueError, match=message):
        scan_epoch(quadratic, jnp.zeros(()), tx, tx.init(jnp.zeros(())), data, KEY, batch_size=batch_size)


def test_a_missing_key_and_an_unknown_remainder_are_errors():
    tx, w = gc.sgd(0.1), jnp.zeros(())
    with pytest.raises(ValueError, match="shuffle=False"):
        scan_epoch(lambda p, x: p, w, tx, tx.init(w), np.zeros(4), batch_size=2)
    with pytest.raises(ValueError, match="drop, keep, wrap, pad"):
        scan_epoch(lambda p, x: p, w, tx, tx.init(w), np.zeros(4), KEY, batch_size=2, remainder="fill")


def test_aux_that_depends_on_the_batch_size_cannot_be_kept():
    tx, w = gc.sgd(0.1), jnp.zeros(())
    run = functools.partial(scan_epoch, lambda p, x: (p * 0, {"all": x}), w, tx, tx.init(w), np.zeros(5), KEY)
    assert run(batch_size=2, has_aux=True).metrics.aux["all"].shape == (2, 2)
    with pytest.raises(ValueError, match=r"aux \['all'\] has shape \(1,\)"):
        run(batch_size=2, has_aux=True, remainder="keep")


def test_the_mean_is_taken_in_single_precision_at_least():
    aux = {"count": jnp.array([3, 0]), "flag": jnp.array([True, False]), "half": jnp.array([1, 2], jnp.bfloat16)}
    mean = Epoch(None, None, Metrics(jnp.zeros(2), aux), jnp.array([2, 1])).mean().aux
    assert {x.dtype for x in mean.values()} == {jnp.dtype("float32")}
    np.testing.assert_allclose([mean["count"], mean["flag"], mean["half"]], [2, 2 / 3, 4 / 3], rtol=1e-6)


def test_the_mean_is_not_left_to_the_default_precision_of_products():
    """On a GPU that would be three digits."""
    metrics = Metrics(jnp.zeros(2), jnp.zeros((2, 3)))
    program = jax.make_jaxpr(lambda: Epoch(None, None, metrics, jnp.array([2, 1])).mean())()
    assert str(program).count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == 2


def test_a_seed_or_an_old_key_is_the_key_of_that_seed():
    tx, w = gc.sgd(0.1), jnp.zeros(())

    def losses(key):
        run = functools.partial(scan_epoch, lambda p, x: jnp.mean(x) + p, w, tx, tx.init(w), np.arange(8.0), key)
        return run(batch_size=2).metrics.loss

    for key in (0, jax.random.PRNGKey(0)):
        np.testing.assert_array_equal(losses(key), losses(KEY))
    np.testing.assert_array_equal(jax.jit(losses)(jax.random.PRNGKey(0)), losses(KEY))


def test_data_that_are_not_arrays_are_named():
    tx, w = gc.sgd(0.1), jnp.zeros(())
    for leaf, kind in (("a", "'a'"), (np.array(["a", "b"]), "an array"), (len, "the function len")):
        with pytest.raises(TypeError, match=rf"data: \['name'\] is {kind}"):
            scan_epoch(quadratic, w, tx, tx.init(w), {"x": np.zeros(2), "name": leaf}, KEY, batch_size=1)


@pytest.mark.parametrize("batch_size", [None, 1, 5, 12, 100])
def test_evaluate_is_the_mean_over_examples_in_any_batches(batch_size):
    params, data = regression()
    loss_fn = lambda p, b: (quadratic(p, b), {"mean": jnp.mean(b["y"])})  # noqa: E731
    measured = evaluate(loss_fn, params, data, batch_size=batch_size, has_aux=True)
    np.testing.assert_allclose(measured.loss, np.mean(data["y"] ** 2), rtol=1e-5)
    np.testing.assert_allclose(measured.aux["mean"], np.mean(data["y"]), rtol=1e-4)


def test_evaluate_hands_on_the_key_or_none():
    told = []

    def loss_fn(params, batch, key):
        told.append(key is None)
        return params

    evaluate(loss_fn, jnp.zeros(()), np.zeros(3), takes_key=True)
    evaluate(loss_fn, jnp.zeros(()), np.zeros(3), takes_key=True, key=KEY)
    assert told == [True, False]

"""Coordinate checks and the transfer of learning rates: slopes, verdicts, parabolas; both on a small network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from gradchain import training
from gradchain.plots import plot_rate_transfer, plot_widths
from gradchain.training import CoordinateCheck, RateTransfer

IN = 8


def make(width, scaled=False):
    """Return a network with one hidden matrix."""

    def init(key):
        keys = jax.random.split(key, 3)
        shapes = {"w1": (IN, width), "w2": (width, width), "w3": (width, 1)}
        params = {
            name: jax.random.normal(k, shape) / shape[0] ** 0.5
            for k, (name, shape) in zip(keys, shapes.items(), strict=True)
        }
        return gc.mup_init(params, multipliers(width)) if scaled else params

    def apply(params, batch):
        h = jnp.tanh(batch["x"] @ params["w1"])
        g = jnp.tanh(h @ params["w2"])
        y = g @ params["w3"]
        return jnp.mean((y - batch["y"]) ** 2), {"h": h, "g": g, "y": y}

    return init, apply


def multipliers(width):
    """Return ratios to the base model."""
    shapes = [jax.eval_shape(make(n)[0], jax.random.key(0)) for n in (width, 32)]
    return gc.width_multipliers(*shapes, allow_same=width == 32)


def batch(size):
    x = np.random.default_rng(0).normal(size=(size, IN))
    return {"x": jnp.float32(x), "y": jnp.float32(np.sin(x[:, :1]))}


def checked(slopes, widths=(8, 16, 32), steps=2, seeds=3):
    """Return a check in which sizes are powers of the width, up to factors that differ between seeds."""
    x = np.array(widths, float)[:, None, None, None] ** np.array(list(slopes.values()))
    spread = np.array([0.5, 1.0, 2.0])[:seeds, None, None]
    sizes = x * spread * np.ones((steps, 1))
    return CoordinateCheck(widths, tuple(slopes), sizes[:, :, 0], sizes)


def test_slopes_are_exponents_and_decide():
    check = checked({"a": 0.0, "b": 0.19, "c": 0.21, "d": -0.39, "e": -0.41})
    np.testing.assert_allclose(list(check.slopes.values()), [0, 0.19, 0.21, -0.39, -0.41], atol=1e-12)
    assert list(check.verdicts().values()) == ["ok", "ok", "grows", "ok", "shrinks"]
    assert not check.ok()
    assert check.ok(tolerance=0.25)
    assert checked({"a": 0.1, "e": -0.9}).ok()
    lines = str(check).splitlines()
    assert lines[0].split() == ["width", "8", "width", "16", "width", "32", "slope", "at", "start", "verdict"]
    assert lines[3].split()[-3:] == ["+0.21", "+0.21", "grows"]


def test_what_never_moves_is_still_and_what_is_not_finite_fails():
    check = checked({"a": 0.0, "b": 0.0, "c": 0.0})
    check.changes[..., 1] = 0
    check.changes[1, 0, -1, 2] = np.nan
    assert list(check.verdicts().values()) == ["ok", "still", "not finite"]
    assert not check.ok()
    line = str(check).splitlines()[2].split()
    assert line[-3:] == ["zero", "zero", "still"]
    assert "b zero, c +nan" in repr(check)
    check.changes[1, 0, -1, 2] = 0.0  # of one width and seed alone
    assert check.verdicts()["c"] == "not finite"


def test_a_check_is_the_training_that_it_says():
    one, two = batch(16), jax.tree.map(lambda x: -2 * x, batch(16))
    check = training.coordinate_check(make, [4, 8], tx=gc.sgd(0.1), data=[one, two], steps=3, seeds=2)
    init, apply = make(8)
    params = init(jax.random.split(jax.random.key(0), 2)[1])
    activations = jax.jit(lambda params: apply(params, one)[1])
    gradient = jax.jit(jax.grad(lambda params, batch: apply(params, batch)[0]))
    first = activations(params)
    for i, name in enumerate(check.names):
        np.testing.assert_allclose(check.initial[1, 1, i], np.sqrt(np.mean(first[name] ** 2)), rtol=1e-5)
    for step, now in enumerate([one, two, one]):  # in turn
        params = jax.tree.map(lambda w, g: w - 0.1 * g, params, gradient(params, now))
        last = activations(params)
        for i, name in enumerate(check.names):
            moved = np.sqrt(np.mean((last[name] - first[name]) ** 2))
            np.testing.assert_allclose(check.changes[1, 1, step, i], moved, rtol=1e-4)


@pytest.mark.slow
def test_adam_passes_with_mup_and_fails_without():
    options = {"data": batch(16), "steps": 3, "seeds": 4}
    plain = training.coordinate_check(make, [32, 256], tx=gc.adam(0.01), **options)
    assert plain.verdicts() == {"g": "grows", "h": "ok", "y": "grows"}
    scaled = training.coordinate_check(
        lambda width: make(width, scaled=True),
        [32, 256],
        tx=lambda width: gc.mup(gc.adam(0.01), multipliers(width)),
        **options,
    )
    assert scaled.ok(), str(scaled)
    assert min(scaled.slopes.values()) > -0.4
    np.testing.assert_allclose(plain.changes[0], scaled.changes[0], rtol=1e-5)  # the base model


def transfer(optima, widths=(16, 32), seeds=(0.0, 0.0)):
    """Return losses that are parabolas over the logarithm of the rate, their lowest points moved from seed to seed."""
    rates = 2.0 ** np.arange(-6, 0)
    x = np.log2(rates)[None, :, None] - np.log2(np.array(optima, float))[:, None, None] - np.array(seeds)
    return RateTransfer(tuple(widths), rates, 1 + 0.1 * x**2)


def test_the_best_rate_is_where_the_parabola_is_lowest():
    found = transfer([0.05, 0.2], seeds=(-0.3, 0.3))
    np.testing.assert_allclose([best.rate for best in found.best], [0.05, 0.2], rtol=1e-10)
    np.testing.assert_allclose([best.error for best in found.best], 2**0.3, rtol=1e-10)
    np.testing.assert_allclose(found.shift, 4, rtol=1e-10)
    assert [best.at_edge for best in found.best] == [False, False]
    assert "best rates differ by a factor of 4.00" in str(found)
    assert "shift=4.00" in repr(found)


def test_best_rates_at_the_edge_and_beside_divergence():
    found = transfer([2.0**-9, 0.1])
    assert found.best[0][:2] == (16, 2.0**-6)
    assert found.best[0].at_edge
    assert "0.0156 (edge)" in found.table()
    assert str(found).endswith("but the best may lie beyond those that were tried at width 16")
    assert "nan" not in transfer([2.0**-9, 0.1], seeds=(0.0,)).table()
    found.losses[1, 4:] = np.inf  # 2^-2 and beyond, beside the best, 2^-3
    np.testing.assert_allclose(found.best[1].rate, 0.125, rtol=1e-12)
    assert not found.best[1].at_edge
    found.losses[1] = np.inf
    assert found.best[1].at_edge
    assert found.best[1].loss == np.inf
    assert found.table().splitlines()[2].split()[:2] == ["32", "none"]
    assert np.isnan(found.shift)
    assert str(found).endswith("every rate diverged at width 32")


@pytest.mark.slow
def test_a_transfer_is_a_sweep_at_each_width():
    rates, data = [0.01, 0.1, 1.0], batch(32)
    options = {"batch_size": 8, "epochs": 1, "validation": data}
    found = training.learning_rate_transfer(make, [4], rates, tx=lambda width, rate: gc.sgd(rate), data=data, **options)
    init, apply = make(4)
    swept = training.sweep(
        lambda params, batch: apply(params, batch)[0],
        None, gc.sgd(jnp.array(rates)), data, init=init, seeds=[0, 1], **options,
    )  # fmt: skip
    np.testing.assert_allclose(found.losses[0], swept.final, rtol=1e-6)


def test_pictures_show_each_line():
    ax = plot_widths(checked({"a": 0.0, "b": 0.5}))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a (+0.00)", "b (+0.50)"]
    assert len(ax.lines) == 2
    found = transfer([0.05, 0.2])
    ax = plot_rate_transfer(found)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["width 16", "width 32"]
    np.testing.assert_allclose([ax.lines[1].get_xdata()[0], ax.lines[3].get_xdata()[0]], [0.05, 0.2], rtol=1e-9)
    assert found.plot().lines
    assert checked({"a": 0.0}).plot().lines


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: training.coordinate_check(make, [4], tx=gc.sgd(0.1), data=batch(4)), "two or more different"),
        (lambda: training.coordinate_check(make, [4, 4], tx=gc.sgd(0.1), data=batch(4)), "two or more different"),
        (lambda: training.coordinate_check(make, [4, 8], tx=gc.sgd(0.1), data=batch(4), steps=0), "steps"),
        (lambda: training.update_check(gc.sgd(0.1), lambda n: (jnp.ones(n), [jnp.ones(n)]), [2, 4]), "no matrices"),
        (
            lambda: training.learning_rate_transfer(make, [4], [0.1, 0.2], tx=None, data=batch(4)),
            "three or more rising",
        ),
        (lambda: training.learning_rate_transfer(make, [4], [3, 2, 1], tx=None, data=batch(4)), "three or more rising"),
    ],
)
def test_errors(call, error):
    with pytest.raises(ValueError, match=error):
        call()


@pytest.mark.parametrize("run", [training.coordinate_check, training.learning_rate_transfer])
def test_models_of_another_form_are_told(run):
    rates = () if run is training.coordinate_check else ([0.1, 0.2, 0.4],)
    options = {"tx": gc.sgd(0.1) if not rates else lambda width, rate: gc.sgd(rate), "data": batch(4)}
    options |= {"batch_size": 4, "epochs": 1} if rates else {}
    init, apply = make(4)
    with pytest.raises(TypeError, match=r"make\(width\) must return \(init, apply\)"):
        run(lambda width: init, [4, 8], *rates, **options)
    with pytest.raises(TypeError, match=r"apply must return \(loss, a dict of activations\), got"):
        run(lambda width: (init, lambda *args: apply(*args)[0]), [4, 8], *rates, **options)
    if rates:
        with pytest.raises(TypeError, match=r"tx\(width, rates\) returns the transform"):
            run(make, [4, 8], *rates, **options | {"tx": gc.sgd(0.1)})


def test_models_that_name_other_activations():
    def named(width):
        init, apply = make(width)
        return init, lambda params, batch: (apply(params, batch)[0], {f"h{width}": batch["x"]})

    with pytest.raises(ValueError, match="names h4 at width 4, and h8 at width 8"):
        training.coordinate_check(named, [4, 8], tx=gc.sgd(0.1), data=batch(4))

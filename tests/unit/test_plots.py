"""Plots: what is drawn where, labels, no global state, and that they can be drawn at all."""

import io
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

import gradchain as gc
from gradchain import plots, schedules
from gradchain.training import History, grid, sweep, trace_path


def draw(ax):
    """Render to PNG and return the axes' legend labels."""
    buffer = io.BytesIO()
    ax.figure.savefig(buffer, format="png")
    assert buffer.getvalue().startswith(b"\x89PNG")
    return [text.get_text() for text in ax.get_legend().get_texts()] if ax.get_legend() else []


def swept(tx, **options):
    loss_fn = lambda w, batch: jnp.mean((w - batch) ** 2)  # noqa: E731
    return sweep(loss_fn, jnp.zeros(()), tx, np.linspace(0, 2, 8), epochs=3, batch_size=4, **options)


def test_losses_of_several_runs():
    history = History({"loss": np.array([2.0, np.inf, 0.5]), "val_loss": np.array([3.0, 2.0, 1.0])}, np.zeros(0))
    ax = plots.plot_losses({"adam": history, "sgd": [1.0, 0.5, 0.2, 0.1]}, columns=("loss", "val_loss"))
    assert draw(ax) == ["adam loss", "adam val_loss", "sgd"]
    first, second, third = ax.get_lines()
    np.testing.assert_array_equal(first.get_ydata(), [2.0, np.nan, 0.5])
    assert first.get_xdata().tolist() == [1, 2, 3]
    assert first.get_linewidth() > second.get_linewidth()
    assert (first.get_color(), first.get_linestyle()) != (third.get_color(), third.get_linestyle())
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_yscale()) == ("epoch", "loss", "log")


def test_values_along_a_path_are_drawn_from_step_0():
    path = trace_path(lambda w: w**2, jnp.ones(()), gc.sgd(0.25), steps=3)
    ax = plots.plot_losses({"sgd": path})
    (line,) = ax.get_lines()
    assert line.get_xdata().tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(line.get_ydata(), 0.25 ** np.arange(4))
    assert ax.get_xlabel() == "step"
    with pytest.raises(ValueError, match="draw them in two plots"):
        plots.plot_losses({"path": path, "epochs": [1.0, 0.5]})


def test_a_single_run_needs_no_legend_and_a_given_axes_is_used():
    ax = Figure().add_subplot()
    assert plots.plot_losses([3.0, 2.0], ax=ax, yscale="linear") is ax
    assert draw(ax) == []
    assert ax.get_yscale() == "linear"


@pytest.mark.parametrize("losses", [[0.5, 0.0], [1.0, -1.0], [-1.0, -2.0], [np.nan, -1.0]])
def test_losses_down_to_0_and_below_are_drawn(losses):
    ax = plots.plot_losses(losses)
    draw(ax)
    low, high = ax.get_ylim()
    assert all(low < loss < high for loss in losses if np.isfinite(loss))
    assert plots.plot_losses([np.nan, 1.0]).get_yscale() == "log"


@pytest.mark.slow
def test_minimisations_are_drawn_against_their_evaluations():
    fun = lambda w: jnp.sum(w**4 + w**2)  # noqa: E731
    found = gc.minimize(fun, jnp.ones(2), history=True, max_steps=20)
    ax = plots.plot_minimization({"lbfgs": found})
    assert draw(ax) == ["lbfgs value", "lbfgs gradient"]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    values, gradients = ax.get_lines()
    steps = int(found.steps)
    np.testing.assert_array_equal(gradients.get_xdata(), found.history["evals"][:steps])
    np.testing.assert_allclose(values.get_ydata()[0], found.history["value"][0] - found.value, rtol=1e-5)
    with pytest.raises(ValueError, match="history=True"):
        plots.plot_minimization(gc.minimize(fun, jnp.ones(2)))


def test_many_lines_differ_in_colour_and_form():
    ax = plots.plot_losses({str(i): [2.0, 1.0] for i in range(20)})
    looks = {(line.get_color(), str(line._unscaled_dash_pattern), line.get_marker()) for line in ax.get_lines()}
    forms = {(str(line._unscaled_dash_pattern), line.get_marker()) for line in ax.get_lines()}
    assert len(looks) == len(forms) == 20
    assert len(draw(ax)) == 20


def test_a_sweep_marks_winner_and_diverged_region():
    result = swept(gc.sgd(jnp.array([0.01, 0.1, 30.0, 100.0])))
    ax = plots.plot_sweep(result)
    assert draw(ax) == ["diverged", "best: learning rate 0.1"]
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_xscale()) == ("learning rate", "final loss", "log")
    line, crosses, star = ax.get_lines()
    assert np.isnan(line.get_ydata()).tolist() == [False, False, True, True]
    np.testing.assert_allclose(crosses.get_xdata(), [30, 100])
    np.testing.assert_allclose([star.get_xdata()[0], star.get_ydata()[0]], [0.1, result.scores[1]])
    shaded = sorted((p.get_x(), p.get_x() + p.get_width()) for p in ax.patches)
    np.testing.assert_allclose(shaded, [(3**0.5, 3000**0.5), (3000**0.5, 100.0)], rtol=1e-4)


def test_the_same_through_the_result_and_without_divergence():
    ax = swept(gc.sgd(jnp.array([0.1, 0.2]))).plot(xscale="log")
    assert draw(ax) == ["best: learning rate 0.2"]
    assert not ax.patches


def test_a_sweep_in_which_all_diverged_can_be_drawn():
    ax = swept(gc.sgd(jnp.array([1e10, 1e20]))).plot()
    assert draw(ax) == ["diverged"]


def test_a_grid_has_a_line_for_each_combination_and_a_band_for_replicas():
    txs = grid(gc.sgd(0.1, momentum=0.5), {"trace.decay": [0.0, 0.5], "learning_rate": [0.05, 0.1, 0.2]})
    result = swept(txs, seeds=[0, 1])
    ax = plots.plot_sweep(result)
    assert draw(ax)[:2] == ["decay 0", "decay 0.5"]
    assert ax.get_xlabel() == "learning rate"
    assert ax.get_ylabel() == "final loss (mean and range of 2)"
    np.testing.assert_allclose(ax.get_lines()[1].get_ydata(), result.scores[3:], rtol=1e-5)
    assert len(ax.collections) == 2
    assert plots.plot_sweep(result, x="decay").get_xlabel() == "decay"
    with pytest.raises(ValueError, match="x is 'b1', but the sweep varies decay, learning_rate"):
        plots.plot_sweep(result, x="b1")


def test_keys_label_lines_and_have_no_place_on_the_axis():
    keys = jax.random.split(jax.random.key(0), 2)
    tx = gc.chain(gc.add_noise(0.1, 0.5, 0), gc.sgd(0.1))
    result = swept(grid(tx, {"learning_rate": [0.05, 0.1, 0.2], "key": keys}))
    ax = plots.plot_sweep(result)
    assert ax.get_xlabel() == "learning rate"
    assert draw(ax)[:2] == [f"key {text}" for text in dict.fromkeys(result.varied["key"].tolist())]
    with pytest.raises(ValueError, match="x is 'key', but the sweep varies learning_rate"):
        plots.plot_sweep(result, x="key")


def test_a_sweep_of_seeds_alone_has_nothing_to_plot_against():
    with pytest.raises(ValueError, match="the sweep varies no numbers"):
        swept(gc.sgd(0.1), seeds=[0, 1]).plot()


def test_schedules():
    cosine = schedules.cosine_decay_schedule(0.1, 10)
    ax = plots.plot_schedule({"cosine": cosine, "line": lambda count: 0.01 * count}, 20, ylabel="learning rate")
    assert draw(ax) == ["cosine", "line"]
    np.testing.assert_allclose(ax.get_lines()[0].get_ydata(), cosine(jnp.arange(21)), rtol=1e-6)
    assert ax.get_ylabel() == "learning rate"
    assert draw(plots.plot_schedule(cosine, 5))[0].startswith("cosine_decay_schedule(0.1")
    assert len(draw(plots.plot_schedule([cosine, schedules.constant_schedule(0.1)], 5))) == 2


def test_paths_over_contours():
    function = lambda w: w[0] ** 2 + 4 * w[1] ** 2  # noqa: E731
    start = jnp.array([2.0, 1.0])
    paths = {
        "slow": trace_path(function, start, gc.sgd(0.01), 20),
        "fast": trace_path(function, start, gc.sgd(0.2), 20),
    }
    ax = plots.plot_path(function, paths)
    assert draw(ax) == ["slow", "fast", "start"]
    np.testing.assert_allclose(ax.get_lines()[0].get_xydata(), paths["slow"].points)
    low, high = ax.get_xlim()
    assert low < 0 < 2 < high
    ax = plots.plot_path(function, np.asarray(paths["fast"].points), xlim=(-1, 3), ylim=(-2, 2))
    assert draw(ax) == ["start"]
    assert (ax.get_xlim(), ax.get_ylim()) == ((-1, 3), (-2, 2))


def test_a_diverging_path_and_a_flat_function_can_be_drawn():
    path = trace_path(lambda w: jnp.sum(w**2), jnp.array([1.0, 1.0]), gc.sgd(1e30), 5)
    assert not np.isfinite(path.points).all()
    draw(plots.plot_path(lambda w: jnp.sum(w**2), path, xlim=(-2, 2), ylim=(-2, 2)))
    draw(plots.plot_path(lambda w: 0 * w[0], np.zeros((2, 2))))
    with pytest.raises(ValueError, match=r"path 'a' must have shape \(points, 2\), got \(3,\)"):
        plots.plot_path(lambda w: w[0], {"a": np.zeros(3)})


def test_a_missing_matplotlib_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        plots.plot_losses([1.0])

"""How training ends: Ctrl-C at any moment, a loss that isn't finite, a loss scale under which nothing is learnt."""

import functools
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from gradchain.training import EarlyStopping, budget, fit
from gradchain.training.fitting import ledger, loop, resuming, running, stopping
from gradchain.training.steps import sources
from gradchain.training.watching import progress

DATA = np.arange(8, dtype=np.float32)
STOPPING = EarlyStopping(patience=50)


def loss_fn(w, batch):
    return jnp.mean((w - batch) ** 2)


def run(w=0.0, epochs=4, tx=None, data=DATA, loss_fn=loss_fn, **options):
    tx = tx or gc.adam(0.1)
    options = {"batch_size": 4, "early_stopping": STOPPING} | options
    return fit(loss_fn, jnp.float32(w), tx, data, epochs=epochs, **options)


def interrupted(moment):
    """Run, with Ctrl-C at the given one of all lines that ``fit`` and what it calls go through in epochs 2 and 3.

    Return the result, and whether there were that many lines.
    """
    modules = (budget, ledger, loop, progress, resuming, running, sources, stopping)
    files = {module.__file__ for module in modules}
    seen = {"epoch": 0, "lines": 0}

    def line(frame, event, arg):
        if event == "line" and 0 < seen["epoch"] < 3:
            seen["lines"] += 1
            if seen["lines"] == moment:
                raise KeyboardInterrupt
        return line

    def call(frame, event, arg):
        return line if frame.f_code.co_filename in files else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        result = run(on_epoch=lambda epoch, *_: seen.update(epoch=epoch))
    finally:
        sys.settrace(before)
    return result, seen["lines"] >= moment


def test_a_checkpointed_run_goes_on_and_one_that_is_over_is_returned(tmp_path):
    whole, epochs = run(), []
    saved = functools.partial(run, checkpoint=tmp_path / "run", on_epoch=lambda epoch, *_: epochs.append(epoch))
    for until, done in ((2, [1, 2]), (4, [1, 2, 3, 4]), (4, [1, 2, 3, 4])):
        result = saved(epochs=until)
        assert epochs == done
    np.testing.assert_array_equal(result.params, whole.params)
    np.testing.assert_array_equal(result.history["loss"], whole.history["loss"])
    with pytest.raises(ValueError, match="has 4 epochs, but epochs is 3"):
        saved(epochs=3)


def test_ctrl_c_at_any_line_returns_an_epoch_as_a_whole_or_not_at_all():
    whole, dones, more, moment = run(), [], True, 0
    while more:
        moment += 1
        cut, more = interrupted(moment)
        dones.append(cut.epochs_done)
        assert cut.stopped == ("interrupted" if more else "epochs")
        assert cut.epochs_done == len(cut.history)
        np.testing.assert_array_equal(cut.history["loss"], whole.history["loss"][: cut.epochs_done])
        assert cut.history.step_loss.shape == (2 * cut.epochs_done,)
        assert int(gc.tree.get(cut.state, "scale_by_adam.count")) == 2 * cut.epochs_done
        assert cut.best_epoch == int(np.argmin(cut.history["loss"])) + 1
    assert moment > 40
    assert {*dones[:-1]} == {1, 2, 3}
    assert dones == sorted(dones)


@pytest.mark.parametrize("done", [1, 2, 3])
def test_what_an_interruption_returns_can_be_gone_on_from(done):
    def stop(epoch, *_):
        if epoch == done:
            raise KeyboardInterrupt

    whole, cut = run(), run(on_epoch=stop)
    rest = run(cut.params, epochs=4 - done, state=cut.state, epochs_done=cut.epochs_done)
    np.testing.assert_array_equal(rest.params, whole.params)


def test_a_run_that_is_lost_ends_at_once_and_keeps_the_best_parameters():
    lost = run(tx=gc.sgd(1e6), epochs=50, batch_size=8)
    assert lost.stopped == "diverged"
    assert len(lost.history) < 10
    assert np.isfinite(lost.history["loss"][:-1]).all()
    assert not np.isfinite(lost.history["loss"][-1])
    assert np.isfinite(lost.params)
    alone = fit(loss_fn, jnp.zeros(()), gc.sgd(1e6), DATA, epochs=50, batch_size=8)
    assert (alone.stopped, len(alone.history)) == ("diverged", len(lost.history))


def test_a_loss_that_isnt_finite_ends_the_run_at_once_with_the_parameters_of_the_last_finite_loss():
    seen = []

    def loss(w, batch):
        jax.debug.callback(lambda w: seen.append(np.asarray(w)), w, ordered=True)
        return loss_fn(w, batch)

    data = np.arange(24, dtype=np.float32)
    result = run(tx=gc.sgd(1e6), epochs=50, early_stopping=None, data=data, loss_fn=loss)
    assert (result.stopped, len(result.history), result.epochs_done) == ("diverged", 1, 0)
    good = np.isfinite(result.history.step_loss)
    assert not good.all()
    last = int(np.argmin(good)) - 1
    assert result.steps_done == last
    assert last > 0
    np.testing.assert_array_equal(result.params, seen[last])
    assert int(gc.tree.get(result.state, "scale_by_learning_rate.count")) == last


def test_a_run_that_is_told_to_go_on_goes_on():
    result = run(tx=gc.sgd(1e6), epochs=5, early_stopping=None, on_divergence="continue")
    assert (result.stopped, len(result.history)) == ("epochs", 5)
    assert not np.isfinite(result.params)


def test_a_loss_that_is_never_finite_ends_a_run_whose_parameters_are():
    guarded = gc.apply_if_finite(gc.sgd(0.1), 1000)
    result = run(tx=guarded, data=DATA * np.nan, epochs=50)
    assert (result.stopped, len(result.history), result.params) == ("diverged", 1, 0)


def test_a_batch_without_a_finite_loss_that_a_guard_leaves_out_is_a_warning():
    data = np.where(np.arange(8) == 3, np.nan, DATA)
    with pytest.warns(UserWarning, match="fit: epoch 1: the loss isn't finite in 1 of 2 steps") as heard:
        result = fit(loss_fn, jnp.zeros(()), gc.apply_if_finite(gc.sgd(0.1), 9), data, epochs=3, batch_size=4)
    assert (result.stopped, len(result.history), len(heard)) == ("epochs", 3, 1)
    assert heard[0].filename == __file__
    assert np.isfinite(result.params)
    assert result.params != 0


@jax.custom_vjp
def bad_slope(w):
    return w


bad_slope.defvjp(lambda w: (w, None), lambda _, g: (g * jnp.nan,))


def finite_loss_without_gradient(w, batch):
    return loss_fn(bad_slope(w), batch)


@pytest.mark.parametrize(
    ("interval", "epochs", "epoch"), [(None, 3, 1), (2000, 1, 1), (2000, 30, 9)], ids=["static", "short", "adapting"]
)
def test_a_loss_scale_that_leaves_out_every_step_is_a_warning(interval, epochs, epoch):
    """An adapting one is given the time to come down from 2**15 to 1, at two steps an epoch, or to the run's end."""
    tx = gc.loss_scale(gc.sgd(0.1), growth_interval=interval)
    with pytest.warns(UserWarning, match=f"fit: epoch {epoch}: loss_scale left out all 2 steps") as heard:
        result = fit(finite_loss_without_gradient, jnp.zeros(()), tx, DATA, epochs=epochs, batch_size=4)
    assert (len(heard), len(result.history), result.params) == (1, epochs, 0)


def test_a_loss_scale_that_comes_down_is_none():
    tx = gc.loss_scale(gc.adam(0.1), init_scale=2.0**127)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = fit(loss_fn, jnp.zeros(()), tx, DATA, epochs=8, batch_size=4)
    assert 2 < gc.tree.get(result.state, "skipped") < 16
    assert result.params > 0

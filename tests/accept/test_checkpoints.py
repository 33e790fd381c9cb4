"""Checkpoints through orbax: exact round trips, shardings, keeping; and what ``fit(..., checkpoint=...)`` promises."""

import errno
import functools
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from gradchain.training import Checkpoints, EarlyStopping, fit, load_checkpoint, save_checkpoint
from gradchain.training.saving.checksums import checksums
from tests.registry import ROWS

pytestmark = pytest.mark.accept
ROOT = Path(__file__).parents[2]

HOSTILE = {
    "": jnp.float32(2),
    "a/b": jnp.arange(3),
    "a": {"b": jnp.ones((2, 2), jnp.bfloat16), "..": jnp.zeros((0, 4))},
    "ü" * 300: np.array([2**40, -1]),
    "7": (jnp.array([1 + 2j]), None, [jnp.array([True, False])]),
    "key": jax.random.key(3),
    "keys": jax.random.split(jax.random.key(3, impl="rbg"), 2),
    "numbers": (3, 0.1, True, 2j, np.float16(0.5)),
    "weak": jnp.asarray(0.3),
    "small": (jnp.asarray([-1, 3], "int4"), jnp.ones(3, "float8_e4m3fn")),
}


def assert_same(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert type(x) is type(y)
        assert getattr(x, "dtype", None) == getattr(y, "dtype", None)
        assert getattr(x, "weak_type", None) == getattr(y, "weak_type", None)
        assert np.shape(x) == np.shape(y)
        assert bool(np.all(x == y))


def test_every_kind_of_leaf_comes_back(tmp_path):
    metadata = {"note": ["a", 1.5, float("inf"), None], "nested": {"n": 2}}
    assert save_checkpoint(tmp_path, HOSTILE, metadata=metadata) == 0
    tree, found, step = load_checkpoint(tmp_path, HOSTILE)
    assert_same(tree, HOSTILE)
    assert (found, step) == (metadata, 0)


def test_a_part_is_read_alone(tmp_path):
    save_checkpoint(tmp_path, HOSTILE)
    part = {name: HOSTILE[name] for name in ("a", "keys", "weak")}
    assert_same(load_checkpoint(tmp_path, part, partial=True).tree, part)
    with pytest.raises(ValueError, match=r"\['more'\] is missing from the checkpoint"):
        load_checkpoint(tmp_path, {**part, "more": 1}, partial=True)


def test_a_tree_without_arrays(tmp_path):
    save_checkpoint(tmp_path, {}, metadata={"n": 1})
    assert load_checkpoint(tmp_path, {}).metadata == {"n": 1}


def test_every_transforms_state_comes_back_from_its_shapes(tmp_path):
    """All of the registry in one checkpoint, with bits that no initial state has."""
    params = {"w": jnp.linspace(-1, 1, 12, dtype=jnp.bfloat16).reshape(4, 3), "b": jnp.zeros(3)}
    rng = np.random.default_rng(2)
    states = {row.name: row.build().init(params) for row in ROWS if row.any_tree}
    states = jax.tree.map(lambda x: jnp.asarray(rng.integers(0, 99, x.shape), x.dtype), states)
    save_checkpoint(tmp_path, states)
    like = jax.eval_shape(lambda: states)
    assert_same(load_checkpoint(tmp_path, like).tree, states)


def test_the_last_few_are_kept(tmp_path):
    with Checkpoints(tmp_path / "run", keep=2) as checkpoints:
        for step in (3, 5, 8, 9):
            checkpoints.save(step, {"x": jnp.full(3, float(step))}, {"step": step})
        checkpoints.wait()
        assert checkpoints.steps() == [8, 9]
        assert checkpoints.load({"x": jnp.zeros(3)}, step=8).tree["x"][0] == 8
    assert save_checkpoint(tmp_path / "run", {"x": jnp.zeros(3)}, keep=1) == 10
    assert sorted(p.name for p in (tmp_path / "run").iterdir() if not p.name.startswith(".")) == ["10"]


def test_what_is_saved_may_be_changed_at_once(tmp_path):
    """Donated arrays and NumPy arrays written to in place, while the checkpoint is still being written."""
    add = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    mine, hers = {"w": jnp.zeros((400, 300))}, np.zeros(50_000)
    with Checkpoints(tmp_path, keep=None) as checkpoints:
        for step in range(3):
            checkpoints.save(step, (mine, hers))
            mine, hers[:] = add(add(mine)), step + 1
    for step in range(3):
        (found, other), _, _ = load_checkpoint(tmp_path, (mine, hers), step=step)
        assert (found["w"] == 2 * step).all()
        assert (other == step).all()


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    save_checkpoint(tmp_path, {"x": jnp.zeros(3)})
    for name in ("1.orbax-checkpoint-tmp", ".deleted/0"):
        shutil.copytree(tmp_path / "0", tmp_path / name)
    assert load_checkpoint(tmp_path, {"x": jnp.ones(3)}).step == 0
    assert save_checkpoint(tmp_path, {"x": jnp.zeros(3)}) == 1
    assert {p.name for p in tmp_path.iterdir()} == {"0", "1"}


def test_eight_devices(tmp_path):
    """Arrays saved from one layout come back bit for bit on others; and a sharded run resumes."""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.accept.sharded_checkpoint", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "8 devices, all the same"


def test_two_processes_save_and_resume_one_run(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "tests.accept.checkpoint_process", address, "2"]
    processes = [
        subprocess.Popen([*command, str(i), str(tmp_path)], cwd=ROOT, text=True, stdout=subprocess.PIPE)
        for i in range(2)
    ]
    told = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert [text.splitlines()[-1] for text in told] == ["process 0: the same", "process 1: the same"]


def test_checksums_tell_every_bit_and_every_place_apart():
    x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    seen = {checksums([x])[0]}
    for place in range(x.size):
        for bit in range(32):
            words = x.copy().view(np.uint32).reshape(-1)
            words[place] ^= np.uint32(1) << np.uint32(bit)
            seen.add(checksums([words.view(np.float32).reshape(x.shape)])[0])
    assert len(seen) == 1 + 32 * x.size
    assert checksums([x[::-1]]) != checksums([x])


X = np.linspace(-1, 1, 24, dtype=np.float32).reshape(12, 2)


def loss_fn(params, batch):
    return jnp.mean((batch["x"] @ params["w"] - 1) ** 2)


train = functools.partial(fit, loss_fn, {"w": jnp.zeros(2)}, gc.adam(0.1), {"x": X}, batch_size=4, seed=1)


def assert_same_result(got, want):
    assert got.stopped == want.stopped
    parts = [
        (result._replace(history=None, stopped=None), dict(result.history.columns), result.history.step_loss)
        for result in (got, want)
    ]
    assert_same(*parts)


def test_the_same_call_returns_the_finished_result_and_a_larger_one_goes_on(tmp_path):
    seen = []
    run = functools.partial(train, on_epoch=lambda epoch, *_: seen.append(epoch), checkpoint=tmp_path)
    first = run(epochs=3)
    assert_same_result(first, train(epochs=3))
    assert_same_result(run(epochs=3), first)
    assert seen == [1, 2, 3]
    assert_same_result(run(epochs=5), train(epochs=5))
    assert seen == [1, 2, 3, 4, 5]


def test_every_and_keep(tmp_path):
    train(epochs=7, checkpoint=tmp_path, checkpoint_every=3, checkpoint_keep=2)
    assert {p.name for p in tmp_path.iterdir() if not p.name.startswith(".")} == {"6", "7"}
    for name in ("checkpoint_every", "checkpoint_keep"):
        with pytest.raises(ValueError, match=f"{name} must be a whole number, at least 1, got 0"):
            train(epochs=7, checkpoint=tmp_path, **{name: 0})


def gain(params, batch):
    return {"gain": -loss_fn(params, batch)}


@pytest.mark.parametrize("monitored", [{}, {"monitor": "val_gain", "mode": "max"}], ids=["lowest loss", "highest gain"])
@pytest.mark.parametrize("restore_best", [True, False])
def test_early_stopping_is_resumed_too(tmp_path, restore_best, monitored):
    """The loss is measured against a moving average, so that the best weights aren't the parameters."""
    tx = gc.average_params(gc.sgd(0.9, momentum=0.95), decay=0.5)
    run = functools.partial(
        fit, loss_fn, {"w": jnp.zeros(2)}, tx, {"x": X}, epochs=12, batch_size=4, validation={"x": X[:4]},
        metrics=gain, early_stopping=EarlyStopping(patience=2, restore_best=restore_best, **monitored),
    )  # fmt: skip
    whole = run()
    assert whole.stopped == "early"
    assert 0 < whole.best_epoch < len(whole.history)

    def stop(epoch, *_):
        if epoch == whole.best_epoch + 1:
            raise KeyboardInterrupt

    cut = run(on_epoch=stop, checkpoint=tmp_path)
    assert cut.stopped == "interrupted"
    assert len(cut.history) == whole.best_epoch + 1
    for _ in range(2):  # resumed, and finished
        assert_same_result(run(checkpoint=tmp_path), whole)


def test_a_run_that_its_callback_ended_is_finished(tmp_path):
    first = train(epochs=4, checkpoint=tmp_path, on_epoch=lambda epoch, *_: epoch == 2)
    assert first.stopped == "callback"
    assert_same_result(train(epochs=4, checkpoint=tmp_path), first)


def test_ctrl_c_leaves_the_last_epoch_whatever_every_says(tmp_path):
    def stop(epoch, *_):
        if epoch == 3:
            raise KeyboardInterrupt

    train(epochs=5, checkpoint=tmp_path, checkpoint_every=100, on_epoch=stop)
    assert load_steps(tmp_path) == [3]
    assert_same_result(train(epochs=5, checkpoint=tmp_path), train(epochs=5))


@pytest.mark.parametrize("moment", ["before", "after"])
def test_ctrl_c_while_a_checkpoint_is_begun_leaves_it_whole(tmp_path, monkeypatch, moment):
    save, calls = Checkpoints.save, []

    def interrupted(self, step, *arguments):
        calls.append(step)
        if moment == "after" or calls != [1, 2]:
            save(self, step, *arguments)
        if calls == [1, 2]:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", interrupted)
    cut = train(epochs=4, checkpoint=tmp_path)
    assert (cut.stopped, cut.epochs_done, load_steps(tmp_path)) == ("interrupted", 2, [1, 2])
    monkeypatch.undo()
    assert_same_result(train(epochs=4, checkpoint=tmp_path), train(epochs=4))


def test_another_way_to_be_best_is_another_run(tmp_path):
    run = functools.partial(train, epochs=2, checkpoint=tmp_path, validation={"x": X[:4]}, metrics=gain)
    run(early_stopping=EarlyStopping(monitor="val_gain", mode="max"))
    run(early_stopping=EarlyStopping(monitor="val_gain", mode="max"))
    with pytest.raises(ValueError, match=r"early_stopping: .*mode='max'.* then, .*mode='min'.* now"):
        run(early_stopping=EarlyStopping(monitor="val_gain", mode="min"))


def test_a_run_that_diverged_is_finished(tmp_path):
    params, tx = {"w": jnp.zeros(2)}, gc.sgd(1e30)
    run = functools.partial(fit, loss_fn, params, tx, {"x": X}, epochs=9, batch_size=len(X), checkpoint=tmp_path)
    first = run()
    assert (first.stopped, run().stopped) == ("diverged", "diverged")
    assert len(run().history) == len(first.history) < 9


def a_file(folder, monkeypatch):
    shutil.rmtree(folder)
    folder.write_text("")


def no_new_folders(folder, monkeypatch):
    monkeypatch.setattr(os, "mkdir", refuse)


def no_space(folder, monkeypatch):
    monkeypatch.setattr(os, "rename", refuse)
    monkeypatch.setattr(os, "replace", refuse)


def refuse(*arguments, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("change", [a_file, no_new_folders, no_space])
def test_a_folder_that_can_not_be_written_any_more_is_an_error_and_no_thread_waits_for_it(
    tmp_path, monkeypatch, change
):
    folder, before = tmp_path / "run", {*threading.enumerate()}

    def on_epoch(epoch, *_):
        time.sleep(0.2)  # so that what was begun is written
        if epoch == 2:
            change(folder, monkeypatch)

    with pytest.raises((OSError, ValueError)):
        train(epochs=5, checkpoint=folder, on_epoch=on_epoch)
    for _ in range(50):
        waiting = [t for t in {*threading.enumerate()} - before if not t.daemon and "signal" in repr(t).lower()]
        if not waiting:
            break
        time.sleep(0.1)
    assert not waiting


def test_a_folder_that_is_deleted_meanwhile_is_made_again(tmp_path):
    folder = tmp_path / "run"

    def on_epoch(epoch, *_):
        time.sleep(0.2)
        if epoch == 2:
            shutil.rmtree(folder)

    whole = train(epochs=4, checkpoint=folder, on_epoch=on_epoch)
    assert_same_result(train(epochs=4, checkpoint=folder), whole)


def test_threads_keep_runs_in_folders_of_their_own(tmp_path):
    want = train(epochs=4)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda i: train(epochs=4, checkpoint=tmp_path / str(i)), range(8)))
    for i, result in enumerate(results):
        assert_same_result(result, want)
        assert load_steps(tmp_path / str(i)) == [2, 3, 4]


def load_steps(folder):
    with Checkpoints(folder) as checkpoints:
        return checkpoints.steps()


def test_a_progress_bar_says_that_the_run_was_resumed(tmp_path, capsys):
    train(epochs=2, checkpoint=tmp_path, progress=True)
    assert "resumed" not in capsys.readouterr().err
    train(epochs=3, checkpoint=tmp_path, progress=True)
    assert "training, resumed after epoch 2: 100%" in capsys.readouterr().err


def test_states_given_and_epochs_before_count(tmp_path):
    first = train(epochs=2)
    more = functools.partial(
        fit, loss_fn, first.params, gc.adam(0.1), {"x": X}, batch_size=4, seed=1, state=first.state, epochs_done=2
    )
    more(epochs=1, checkpoint=tmp_path)
    assert_same_result(more(epochs=3, checkpoint=tmp_path), more(epochs=3))
    assert more(epochs=3, checkpoint=tmp_path).epochs_done == 5

"""Callbacks: what they are told and when, and the logs that they write; by a loop that only tells them."""

import csv
import json
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradchain as gc
from gradchain.training import Callback, CSVLogger, JSONLogger, ProgressBar, Run, TensorBoard
from gradchain.training.steps.measuring import measured, summed, used_hyperparams
from gradchain.training.steps.sources import Part
from gradchain.training.watching.callbacks import Callbacks, EpochFunction
from tests import trees

EPOCH = 10


class Heard(Callback):
    """Keeps what it is told."""

    def __init__(self, every=None, answers=()):
        self.every, self.told, self.answers = every, [], dict(answers)

    def hear(self, hook, what):
        self.told.append((hook, what))
        return self.answers.get((hook, getattr(what, "step", None)))

    def records(self, hook):
        return [what for name, what in self.told if name == hook]

    def on_start(self, run):
        return self.hear("start", run)

    def on_step(self, record):
        return self.hear("step", record)

    def on_evaluation(self, record):
        return self.hear("evaluation", record)

    def on_checkpoint(self, record):
        return self.hear("checkpoint", record)

    def on_end(self, record):
        return self.hear("end", record)

    def close(self):
        self.hear("close", None)


def loss_of(step):
    return 1 / step


def watched_at(step):
    return {
        "grad_norm": np.float32(0.1) * step,
        "update_norm": np.float32(0.001),
        "skipped": np.int32(step % 2),
        "clipped": np.int32(1),
        "hyperparams": {"scale_by_learning_rate.learning_rate": np.float32(0.1)},
        "reports": {"monitor.norm": np.float32(2)},
    }


def part_of(steps, examples):
    return Part(steps, examples, np.ones(steps), {"loss": 1.0}, {})


def loop(callbacks, steps, first=0, validates=True, saves=(), tx=None):
    """Run as fit does: steps between events in one go, a row of the history after each epoch."""
    with Callbacks(callbacks) as told:
        told.start(Run(tx=tx or gc.sgd(0.1), step=first, epoch=first // EPOCH, total_steps=steps))
        step = begun = first
        while step < steps and not told.stops:
            end = min(x for x in (told.next_after(step), EPOCH * (step // EPOCH + 1), steps) if x is not None)
            between = range(step + 1, end + 1)
            losses = [loss_of(i) for i in between]
            watched = summed([jax.tree.map(lambda *xs: np.stack(xs), *map(watched_at, between))])
            numbers = {"loss": float(np.float32(np.mean(losses))), "val_loss": 0.0}
            part = Part(len(between), 32 * len(between), np.array(losses), numbers, watched if told.watch else {})
            told.steps(end, end // EPOCH, part, None)
            step = end
            if step % EPOCH == 0:
                row = {"loss": float(np.mean([loss_of(i) for i in range(step - EPOCH + 1, step + 1)]))}
                row |= {"val_loss": 2 * row["loss"]} if validates else {}
                told.evaluated(step, step // EPOCH, row, {"w": step}, "state")
            if step in saves:
                told.saved(step, step // EPOCH, "folder", {"w": step}, "state")
        why = "callback" if told.stops else "steps"
        told.end(step, step // EPOCH, why, {"w": step}, "state")
    return step - begun


def test_hooks_are_called_in_order_and_with_what_there_is():
    heard = Heard(every=4)
    loop([heard], 12, saves=[10])
    assert [(name, getattr(what, "step", None)) for name, what in heard.told] == [
        *[("start", 0), ("step", 4), ("step", 8), ("evaluation", 10), ("checkpoint", 10), ("step", 12), ("end", 12)],
        ("close", None),
    ]
    (run,), (evaluation,), (saved,), (end,) = map(heard.records, ("start", "evaluation", "checkpoint", "end"))
    assert not run.resumed
    assert run.total_steps == 12
    assert (evaluation.params, evaluation.state, evaluation.epoch) == ({"w": 10}, "state", 1)
    assert evaluation.metrics == {"val_loss": 2 * evaluation.loss}
    assert (saved.checkpoint, saved.params) == ("folder", {"w": 10})
    assert (end.stopped, end.params, end.epoch) == ("steps", {"w": 12}, 1)
    assert all(record.params is None for record in heard.records("step"))


def test_a_record_has_the_mean_loss_and_the_counts_since_the_last_of_its_kind():
    heard, rarely = Heard(every=4), Heard(every=6)
    loop([heard, rarely], 12)
    first, _, third = heard.records("step")
    np.testing.assert_allclose(first.loss, np.mean([loss_of(i) for i in range(1, 5)]), rtol=1e-6)
    np.testing.assert_allclose(third.loss, np.mean([loss_of(i) for i in range(9, 13)]), rtol=1e-6)
    assert (first.clipped, first.skipped) == (4, 2)
    assert first.metrics == {}
    seldom = rarely.records("step")[1]
    np.testing.assert_allclose(seldom.loss, np.mean([loss_of(i) for i in range(7, 13)]), rtol=1e-6)
    assert (seldom.step, seldom.clipped, seldom.skipped) == (12, 6, 3)
    assert heard.records("evaluation")[0].clipped == 10
    assert third.grad_norm == 1.2  # the shortest number that is this one in float32
    assert third.hyperparams == {"scale_by_learning_rate.learning_rate": 0.1}
    assert third.reports == {"monitor.norm": 2.0}


def test_a_row_names_what_is_known_shortly_but_clearly():
    heard = Heard(every=4)
    loop([heard], 4)
    (record,) = heard.records("step")
    names = ["step", "epoch", "loss", "learning_rate", "grad_norm", "update_norm", "skipped", "clipped", "monitor.norm"]
    assert [*record.row()] == names
    assert record.row()["learning_rate"] == 0.1
    two = {"a.sgd.learning_rate": 0.1, "b.sgd.learning_rate": 0.2, "b.trace.decay": 0.9}
    told = gc.training.Record(event="step", step=1, epoch=0, hyperparams=two, reports={"loss": 3.0}, loss=2.0)
    assert [*told.row()] == ["step", "epoch", "loss", "a.sgd.learning_rate", "b.sgd.learning_rate", "decay", "loss_2"]


def test_the_speed_is_that_of_steps_that_were_not_compiled(monkeypatch):
    now = iter([0.0, 0.0, 100.0, 101.0, 103.0, 203.0, 303.0, 403.0, 404.0])
    clock = types.SimpleNamespace(perf_counter=lambda: next(now))
    monkeypatch.setattr("gradchain.training.watching.callbacks.time", clock)
    heard = Heard(every=4)
    with Callbacks([heard]) as told:
        told.start(Run(tx=None))
        for step, count in ((4, 4), (8, 4), (12, 4), (15, 3), (16, 1), (18, 2), (20, 2)):
            part = part_of(count, 8 * count)
            told.steps(step, 0, part, told.timed(types.SimpleNamespace(program=count, steps=count)))
    speeds = [record.examples_per_second for record in heard.records("step")]
    assert speeds == [None, 32.0, 16.0, None, 16.0]


def test_without_callbacks_nothing_is_measured_or_due():
    assert not Callbacks()
    assert Callbacks().watch is None
    assert Callbacks().next_after(3) is None
    assert Callbacks([EpochFunction(print), ProgressBar()]).watch is None
    assert Callbacks([Heard()]).watch is measured
    several = Callbacks([Heard(every=4), Heard(every=6), Heard()])
    assert [several.next_after(step) for step in (0, 3, 4, 6, 11, 12)] == [4, 4, 6, 8, 12, 16]


@pytest.mark.parametrize("moment", [("step", 4), ("evaluation", 10), ("checkpoint", 10), ("start", 0)])
def test_a_hook_that_returns_true_stops_training(moment):
    heard, other = Heard(every=4, answers={moment: np.True_}), Heard(every=4)
    assert loop([heard, other], 40, saves=[10]) == moment[1]
    assert heard.records("end")[0].stopped == "callback"
    assert other.records("end")[0].stopped == "callback"


def test_an_answer_must_be_true_or_false():
    with pytest.raises(TypeError, match=r"Heard.on_step must return True to stop training, .* got 3"):
        loop([Heard(every=4, answers={("step", 8): 3})], 40)
    assert loop([Heard(every=4, answers={("step", 8): False})], 12) == 12


def test_an_exception_ends_training_names_the_callback_and_closes_all():
    class Broken(Callback):
        every = 4

        def on_step(self, record):
            raise KeyError("mine")

    before, after = Heard(every=4), Heard(every=4)
    with pytest.raises(KeyError, match="mine") as caught:
        loop([before, Broken(), after], 12)
    assert caught.value.__notes__ == ["raised by the callback Broken.on_step"]
    assert [name for name, _ in before.told] == ["start", "step", "close"]
    assert [name for name, _ in after.told] == ["start", "close"]


class KerasLike(Callback):
    def on_epoch_end(self, epoch, logs):
        pass


class Unasked(Callback):
    def on_step(self, record):
        pass


def test_a_failure_to_close_keeps_no_other_from_closing_and_hides_no_error():
    class Unclosable(Callback):
        def close(self):
            raise OSError("disk full")

    heard = Heard()
    with pytest.raises(OSError, match="disk full"):
        loop([heard, Unclosable()], 4)
    assert heard.told[-1] == ("close", None)
    with pytest.raises(TypeError, match="must return True"):
        loop([Heard(every=4, answers={("step", 4): "x"}), Unclosable()], 4)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (Heard(), TypeError, r"callbacks must be a list, .* write callbacks=\[...\] around it"),
        ([print], TypeError, "a class that derives from gradchain.training.Callback, got <built-in function print>"),
        ([CSVLogger], TypeError, r"got <class .*>; write CSVLogger\(...\)"),
        ([Heard(every=0)], ValueError, "Heard: every must be a whole number, at least 1, got 0"),
        ([CSVLogger("x", every=2.5)], ValueError, "CSVLogger: every must be a whole number, at least 1, got 2.5"),
        ([KerasLike()], TypeError, r"KerasLike.on_epoch_end is never called: the hooks are on_start, .*on_evaluation"),
        (
            [Unasked()],
            ValueError,
            r"Unasked.on_step is never called.* write every = 100 in the class, or Unasked\(every=",
        ),
    ],
)
def test_what_is_no_callback_is_an_error(given, error, message):
    with pytest.raises(error, match=message):
        gc.training.fit(None, PARAMS, gc.sgd(0.1), jnp.ones(4), epochs=1, batch_size=2, callbacks=given)


def test_whoever_says_that_steps_are_not_to_be_told_of_is_not_told():
    told = Unasked()
    told.every, told.on_gpu = None, False
    assert Callbacks([told, CSVLogger("x")]).intervals == []


def test_on_epoch_takes_four_arguments():
    with pytest.raises(
        TypeError, match=r"on_epoch is called as on_epoch\(epoch, row, params, state\), but takes \(record"
    ):
        EpochFunction(lambda record: None)


def test_a_function_of_the_epoch_is_told_what_it_was_always_told():
    told = []
    loop([EpochFunction(lambda *args: told.append(args))], 20)
    (epoch, row, params, state) = told[1]
    assert (epoch, params, state) == (2, {"w": 20}, "state")
    assert [*row] == ["loss", "val_loss"]
    assert loop([EpochFunction(lambda epoch, *_: epoch == 2)], 40) == 20


# What the compiled step measures


PARAMS = {"w": jnp.array([3.0, 4.0]), "b": jnp.zeros(2)}
LARGE = {"w": jnp.array([30.0, 40.0]), "b": jnp.zeros(2)}
SMALL = {"w": jnp.array([0.3, 0.4]), "b": jnp.zeros(2)}
INFINITE = {"w": jnp.array([jnp.inf, 0.0]), "b": jnp.array([jnp.nan, 0.0])}


def measure(tx, grads, steps=1):
    state = tx.init(PARAMS)
    for _ in range(steps):
        before = state
        updates, state = tx.update(grads, before, PARAMS, value=jnp.ones(()))
    return measured(tx, grads, updates, before, state)


def test_norms_and_rates_are_those_of_the_step():
    schedule = gc.schedules.linear_schedule(1.0, 0.0, 4)
    found = measure(gc.sgd(schedule, momentum=0.9), SMALL, steps=2)
    np.testing.assert_allclose(found["grad_norm"], 0.5, rtol=1e-6)
    np.testing.assert_allclose(found["update_norm"], 0.75 * 1.9 * 0.5, rtol=1e-6)
    assert {name: float(x) for name, x in found["hyperparams"].items()} == {
        "scale_by_learning_rate.learning_rate": 0.75  # of the second step, which the state no longer has
    }
    assert "skipped" not in found
    assert "clipped" not in found


def test_hyperparameters_that_may_change_are_those_told():
    schedule = gc.schedules.linear_schedule(0.5, 0.9, 4)
    tx = gc.sgd(0.1, momentum=schedule)
    assert [*used_hyperparams(tx, tx.init(PARAMS))] == ["trace.decay", "scale_by_learning_rate.learning_rate"]
    plateau = gc.chain(gc.sgd(0.1), gc.reduce_on_plateau())
    found = measure(plateau, SMALL)
    assert "reduce_on_plateau.scale" in found["reports"]
    assert not [name for name in found["reports"] if name.endswith("learning_rate")]


@pytest.mark.parametrize(
    "make",
    [
        lambda clip: gc.chain(clip, gc.sgd(0.1)),
        lambda clip: gc.chain(gc.monitor({"norm": gc.global_norm}), gc.watch(clip), gc.sgd(0.1)),
        lambda clip: gc.apply_if_finite(gc.chain(clip, gc.adam(0.1)), 3),
        lambda clip: gc.named_chain(("clip", clip), ("sgd", gc.sgd(0.1))),
    ],
)
@pytest.mark.parametrize("clip", [gc.clip(1.0), gc.clip_by_global_norm(1.0), gc.clip_by_block_rms(1.0)])
def test_clipping_at_the_front_is_counted(make, clip):
    tx = make(clip)
    assert int(measure(tx, LARGE)["clipped"]) == 1
    assert int(measure(tx, SMALL)["clipped"]) == 0


def test_clipping_elsewhere_is_not_taken_for_that_of_the_gradient():
    assert "clipped" not in measure(gc.chain(gc.scale(10.0), gc.clip(1.0)), SMALL)
    assert "clipped" not in measure(gc.accumulate(gc.chain(gc.clip(1.0), gc.sgd(0.1)), 2), LARGE)
    assert "skipped" not in measure(gc.chain(gc.monitor({"skipped": gc.global_norm}), gc.sgd(0.1)), SMALL)
    assert int(measure(gc.chain(gc.clip_by_global_norm(1.0), gc.clip(5.0)), LARGE)["clipped"]) == 1
    twice = gc.chain(gc.clip_by_global_norm(1.0), gc.clip(0.7), gc.sgd(0.1))
    assert int(measure(twice, LARGE)["clipped"]) == 1
    assert int(measure(twice, {"w": jnp.array([0.75, 0.0]), "b": jnp.zeros(2)})["clipped"]) == 1


@pytest.mark.parametrize(
    "tx",
    [
        gc.apply_if_finite(gc.adam(0.1), 5),
        gc.skip_spikes(gc.adam(0.1)),
        gc.chain(gc.watch(gc.loss_scale(gc.adam(0.1)))),
        gc.accumulate(gc.adam(0.1), 2, should_skip_update_fn=gc.skip_not_finite),
        gc.apply_if_finite(gc.skip_spikes(gc.adam(0.1)), 5),
        gc.partition(dict.fromkeys("ab", gc.apply_if_finite(gc.sgd(0.1), 5)), {"w": "a", "b": "b"}),
    ],
)
def test_skipped_steps_are_counted_once(tx):
    assert int(measure(tx, INFINITE, steps=2)["skipped"]) == 1
    assert int(measure(tx, SMALL, steps=2)["skipped"]) == 0


def test_counts_are_added_up_and_the_rest_is_that_of_the_last_step():
    tx = gc.apply_if_finite(gc.chain(gc.clip(1.0), gc.sgd(0.1)), 5)
    grads = jax.tree.map(lambda *xs: jnp.stack(xs), LARGE, INFINITE, LARGE, SMALL)

    @jax.jit
    def run(state):
        def body(state, g):
            updates, new = tx.update(g, state, PARAMS)
            return new, measured(tx, g, updates, state, new)

        return jax.lax.scan(body, state, grads)[1]

    found = summed([run(tx.init(PARAMS))])
    assert (int(found["skipped"]), int(found["clipped"])) == (1, 3)
    np.testing.assert_allclose(found["grad_norm"], 0.5, rtol=1e-6)
    assert int(found["reports"]["apply_if_finite.not_finite"]) == 1


def test_a_transform_of_optax_has_norms_only():
    found = measure(gc.chain(optax.sgd(0.1)), SMALL)
    assert found["hyperparams"] == {}
    np.testing.assert_allclose(found["update_norm"], 0.05, rtol=1e-5)


def test_norms_of_half_precision_and_complex_gradients_are_real():
    for dtype in ("bfloat16", "complex64"):
        params = trees.standard(dtype)
        tx = gc.sgd(0.1)
        found = measured(tx, params, params, tx.init(params), tx.init(params))
        np.testing.assert_allclose(found["grad_norm"], gc.global_norm(params), rtol=1e-6)
        assert jnp.issubdtype(found["grad_norm"].dtype, jnp.floating)


# Logs


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def read_json(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


READERS = {CSVLogger: read_csv, JSONLogger: read_json}
each_logger = pytest.mark.parametrize("logger", READERS, ids=lambda logger: logger.__name__)


def places(path, logger):
    return [(row["event"], int(row["step"])) for row in READERS[logger](path)]


@each_logger
def test_a_log_has_a_line_for_each_record(logger, tmp_path):
    path = tmp_path / "new" / "run.log"
    loop([logger(path, every=4)], 12)
    assert places(path, logger) == [("step", 4), ("step", 8), ("evaluation", 10), ("step", 12)]
    rows = READERS[logger](path)
    assert float(rows[0]["learning_rate"]) == 0.1
    assert float(rows[2]["val_loss"]) == 2 * float(rows[2]["loss"])
    assert rows[1].get("val_loss", "") == ""  # a column that came later
    np.testing.assert_allclose(float(rows[3]["loss"]), np.mean([loss_of(i) for i in range(9, 13)]), rtol=1e-6)
    loop([logger(path)], 20)
    assert places(path, logger) == [("evaluation", 10), ("evaluation", 20)]  # a new run, a new log


@each_logger
def test_a_resumed_run_goes_on_with_its_log(logger, tmp_path):
    path, whole = tmp_path / "run.log", tmp_path / "whole.log"
    with pytest.raises(TypeError):
        loop([logger(path, every=5), Heard(every=5, answers={("step", 25): "dies here"})], 40)
    assert places(path, logger)[-1] == ("step", 25)
    with open(path, "a") as file:
        file.write("evaluation,2")  # a line that a kill has cut short
    loop([logger(path, every=5)], 40, first=20)
    loop([logger(whole, every=5)], 40)
    assert places(path, logger) == places(whole, logger)
    drop = ("examples_per_second",)
    rows, expected = (
        [{k: x for k, x in row.items() if k not in drop} for row in READERS[logger](p)] for p in (path, whole)
    )
    assert rows == expected


@each_logger
def test_every_line_has_left_the_process_when_training_goes_on(logger, tmp_path):
    path, seen = tmp_path / "run.log", []

    class Look(Callback):
        every = 4

        def on_step(self, record):
            seen.append(places(path, logger))
            assert path.read_text().endswith("\n")

    loop([logger(path, every=4), Look()], 8)
    assert seen == [[("step", 4)], [("step", 4), ("step", 8)]]
    assert [p.name for p in tmp_path.iterdir()] == ["run.log"]


@each_logger
def test_another_file_is_not_overwritten(logger, tmp_path):
    path = tmp_path / "thesis.txt"
    path.write_text("all my work\nof years\n")
    with pytest.raises(ValueError, match=r"Logger: .*thesis.txt exists and isn't such a log; give another path"):
        loop([logger(path)], 10)
    assert path.read_text() == "all my work\nof years\n"
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(ValueError, match="isn't such a log"):
        loop([logger(path)], 10)


@each_logger
def test_only_the_first_process_writes(logger, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    loop([logger(tmp_path / "run.log", every=4), ProgressBar()], 12)
    assert not [*tmp_path.iterdir()]


def test_a_number_that_is_not_finite_is_null_in_json_and_itself_in_csv(tmp_path):
    for logger in (CSVLogger, JSONLogger):
        with Callbacks([logger(tmp_path / logger.__name__)]) as told:
            told.start(Run(tx=gc.sgd(0.1)))
            told.evaluated(1, 1, {"loss": float("nan"), "val_loss": float("inf")}, None, None)
            told.start(Run(tx=gc.sgd(0.1), step=1))  # reads what it has written
    (row,) = read_json(tmp_path / "JSONLogger")
    assert (row["loss"], row["val_loss"]) == (None, None)
    (row,) = read_csv(tmp_path / "CSVLogger")
    assert (row["loss"], row["val_loss"]) == ("nan", "inf")


class Writer:
    """What tensorboardX has, keeping what it is given."""

    made: list = []

    def __init__(self, folder, purge_step, filename_suffix):
        self.folder, self.purge_step, self.suffix, self.calls = folder, purge_step, filename_suffix, []
        self.made.append(self)

    def __getattr__(self, name):
        return lambda *args: self.calls.append((name, *args))


def test_tensorboard_gets_every_number_at_its_step(monkeypatch, tmp_path):
    monkeypatch.setattr(Writer, "made", [])
    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=Writer))
    loop([TensorBoard(tmp_path, every=4)], 12)
    loop([TensorBoard(tmp_path, every=4)], 12, first=8)
    first, second = Writer.made
    assert (first.folder, first.purge_step, second.purge_step) == (str(tmp_path), 1, 9)
    assert first.suffix != second.suffix  # the file's name has only seconds besides
    scalars = {(tag, step): x for name, tag, x, step in (c for c in first.calls if c[0] == "add_scalar") if name}
    assert scalars["step/grad_norm", 8] == 0.8
    assert scalars["evaluation/val_loss", 10] == 2 * scalars["evaluation/loss", 10]
    assert {tag for tag, _ in scalars} >= {"step/learning_rate", "step/epoch", "evaluation/monitor.norm"}
    names = [call[0] for call in first.calls]
    assert names[-1] == "close"
    assert "flush" in names[names.index("add_scalar") :]
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    loop([TensorBoard(tmp_path, every=4)], 12)
    assert len(Writer.made) == 2


def test_tensorboard_names_the_package_that_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match="TensorBoard needs tensorboardX: pip install tensorboardX"):
        TensorBoard("folder")
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match="a progress bar needs tqdm: pip install tqdm"):
        ProgressBar()


def test_a_bar_says_that_it_compiles_and_then_how_far_it_is(capsys):
    loop([ProgressBar(every=4)], 12)
    shown = capsys.readouterr().err.split("\r")
    shown = [line for line in shown if line]
    assert shown[0].startswith("training: compiling:   0%")
    assert "0/12" in shown[0]
    assert "compiling" not in shown[1]
    assert "12/12" in shown[-1]
    assert "step/s" in shown[-1]
    assert "loss 0.09634" in shown[-1]
    loop([ProgressBar(every=4)], 12, first=8)
    shown = [line for line in capsys.readouterr().err.split("\r") if line]
    assert shown[0].startswith("training, resumed after step 8: compiling:  67%")


def test_a_bar_shows_the_time_left_without_that_of_compilation(capsys, monkeypatch):
    bar = ProgressBar(every=4)
    with Callbacks([bar]) as told:
        told.start(Run(tx=None, total_steps=100))
        bar._bar.start_t -= 1000  # compilation took so long
        told.steps(52, 0, part_of(4, 4), None)
        bar._bar.start_t -= 1
        monkeypatch.setattr("gradchain.training.watching.loggers.INTERVAL", 0)
        told.steps(72, 0, part_of(20, 20), None)
    last = capsys.readouterr().err.split("\r")[-1]
    assert "72/100 [00:01<00:01" in last


def test_a_bar_counts_epochs_where_nobody_knows_the_steps(capsys):
    bar = ProgressBar()
    with Callbacks([bar]) as told:
        told.start(Run(tx=None, total_epochs=3, monitor="val_loss"))
        told.evaluated(7, 1, {"loss": 1.0, "val_loss": 0.25}, None, None)
        told.end(7, 1, "callback", None, None)
    shown = capsys.readouterr().err
    assert "1/3" in shown
    assert "val_loss 0.25" in shown


def test_the_recipe_for_weights_and_biases_logs_records_and_numbers(monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "watch_training.md").read_text()
    recipe = page.split("## Weights & Biases")[1].split("```text\n")[1].split("```")[0]
    seen = []
    wandb = types.SimpleNamespace(
        init=lambda config, **options: seen.append((config, options)),
        log=lambda row, step: seen.append((step, row)),
        finish=lambda: seen.append("finish"),
    )
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    names = {"gc": gc, "jax": jax, "training": gc.training}
    exec(recipe, names)
    tx = gc.adam(gc.cosine_decay_schedule(0.1, jnp.array(20.0)), b1=0.8)
    loop([names["WandB"](every=5, project="digits")], 10, tx=tx)
    (config, options), *logged, last = seen
    assert config["scale_by_adam.b1"] == 0.8
    assert config["scale_by_learning_rate.learning_rate.decay_steps"] == 20
    assert options == {"resume": "allow", "project": "digits"}
    assert [step for step, _ in logged] == [5, 10, 10]
    assert logged[0][1]["step/loss"] == pytest.approx(np.mean([loss_of(i) for i in range(1, 6)]), rel=1e-6)
    assert "evaluation/val_loss" in logged[2][1]
    assert last == "finish"


# Through fit


def loss_fn(params, batch):
    return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)


def weighted_loss(params, batch, weights):
    return jnp.sum(weights * (batch["x"] @ params["w"] - batch["y"]) ** 2) / jnp.sum(weights)


X = np.random.default_rng(3).normal(size=(26, 2)).astype(np.float32)
DATA = {"x": X, "y": X @ np.array([1.0, -2.0], np.float32)}
START = {"w": jnp.zeros(2)}
RATE = gc.schedules.linear_schedule(0.1, 0.0, 100)


def train(callbacks=(), tx=None, data=DATA, loss=loss_fn, **options):
    tx = gc.chain(gc.clip_by_global_norm(1.0), gc.sgd(RATE)) if tx is None else tx
    options = {"epochs": 4, "batch_size": 4, "remainder": "keep", **options}
    return gc.training.fit(loss, START, tx, data, callbacks=callbacks, **options)


def test_fit_tells_what_a_loop_by_hand_sees():
    heard = Heard(every=3)
    result = train([heard], shuffle=False)
    tx, params, losses, seen = gc.chain(gc.clip_by_global_norm(1.0), gc.sgd(RATE)), START, [], {}
    state = tx.init(params)
    for step in range(28):
        batch = jax.tree.map(lambda x, i=step % 7: x[4 * i : 4 * i + 4], DATA)
        loss, grads = jax.value_and_grad(loss_fn)(params, batch)
        updates, state = tx.update(grads, state, params)
        params = gc.apply_updates(params, updates)
        losses.append((float(loss), len(batch["x"])))
        seen[step + 1] = gc.global_norm(grads), gc.global_norm(updates), 0.1 * (1 - step / 100)
    records = heard.records("step")
    assert [record.step for record in records] == [*range(3, 28, 3)]
    assert [record.epoch for record in records] == [0, 0, 1, 1, 2, 2, 3, 3, 3]
    for record in records:
        rate = record.hyperparams["scale_by_learning_rate.learning_rate"]
        np.testing.assert_allclose((record.grad_norm, record.update_norm, rate), seen[record.step], rtol=1e-4)
        since = losses[record.step - 3 : record.step]
        mean = sum(loss * n for loss, n in since) / sum(n for _, n in since)
        np.testing.assert_allclose(record.loss, mean, rtol=1e-4)
        assert record.clipped == sum(seen[i][0] > 1.0 for i in range(record.step - 2, record.step + 1))
    assert len({record.clipped for record in records}) > 1
    evaluations = heard.records("evaluation")
    assert [record.loss for record in evaluations] == result.history["loss"].tolist()
    assert [(record.step, record.epoch) for record in evaluations] == [(7, 1), (14, 2), (21, 3), (28, 4)]
    np.testing.assert_allclose(evaluations[-1].params["w"], params["w"], rtol=1e-5)
    (run,), (end,) = heard.records("start"), heard.records("end")
    assert (run.total_steps, run.steps_per_epoch, run.total_epochs, run.batch_size) == (28, 7, 4, 4)
    assert (end.stopped, end.step, end.epoch) == ("epochs", 28, 4)


@pytest.mark.parametrize("remainder", ["drop", "keep", "wrap", "pad"])
def test_watching_changes_nothing(remainder):
    options = {"remainder": remainder, "loss": weighted_loss if remainder == "pad" else loss_fn}
    plain = train(**options)
    watched = train([Heard(every=3), Heard(every=5)], **options)
    trees.assert_close(watched.params, plain.params, 1e-6)
    np.testing.assert_allclose(watched.history.step_loss, plain.history.step_loss, rtol=1e-4, atol=1e-6)
    assert watched.history.step_loss.shape == plain.history.step_loss.shape


def test_a_stream_is_told_of_in_the_same_way():
    batches = [jax.tree.map(lambda x, i=i: x[4 * i : 4 * i + 4], DATA) for i in range(7)]
    arrays, stream = Heard(every=3), Heard(every=3)
    train([arrays], shuffle=False)
    train([stream], data=batches, batch_size=None, steps_per_call=2)
    for one, other in zip(arrays.records("step"), stream.records("step"), strict=True):
        np.testing.assert_allclose([one.loss, one.grad_norm], [other.loss, other.grad_norm], rtol=1e-4)
        assert (one.step, one.epoch, one.clipped) == (other.step, other.epoch, other.clipped)


def test_a_callback_ends_fit():
    heard = Heard(every=3, answers={("step", 9): True})
    result = train([heard])
    assert result.stopped == heard.records("end")[0].stopped == "callback"
    assert 9 <= result.steps_done < 28
    rate_is_small = Heard(answers={("evaluation", 14): True})
    assert train([rate_is_small]).steps_done == 14


def jumps(count):
    """Return a learning rate that makes the loss of step 20 infinite."""
    return jnp.where(count == 18, jnp.inf, 0.1)


@pytest.mark.parametrize("case", [{"answers": {("step", 18): True}}, {"tx": gc.sgd(jumps)}, {}])
def test_nothing_depends_on_how_many_records_come_of_one_call(case, monkeypatch):
    class Timed(Callbacks):
        def timed(self, launched):
            parts.append(len(launched.parts))
            return super().timed(launched)

    def run(delay):
        parts.clear()
        monkeypatch.setattr("gradchain.training.watching.callbacks.DELAY", delay)
        heard = Heard(every=2, answers=case.get("answers", ()))
        result = train([heard], case.get("tx"), remainder="drop", batch_size=3, epochs=3)
        records = [(hook, vars(what) | {"examples_per_second": None}) for hook, what in heard.told if what is not None]
        return jax.device_get((result._replace(history=vars(result.history)), records)), max(parts)

    parts = []
    monkeypatch.setattr("gradchain.training.fitting.loop.Callbacks", Timed)
    (alone, most), (many, most_of_many) = run(0.0), run(1e9)
    assert (most, most_of_many) == (1, 4)
    assert jax.tree.structure(many) == jax.tree.structure(alone)
    np.testing.assert_equal(jax.tree.leaves(many), jax.tree.leaves(alone))
    assert (many[0].stopped, many[0].steps_done) == {"answers": ("callback", 18), "tx": ("diverged", 18)}.get(
        next(iter(case), ""), ("epochs", 24)
    )


def test_windows_of_all_lengths_are_few_programs(caplog):
    def own_loss(params, batch):
        return loss_fn(params, batch)

    jax.config.update("jax_log_compiles", True)
    try:
        with caplog.at_level("WARNING", logger="jax"):
            gc.training.fit(own_loss, START, gc.sgd(0.1), DATA, epochs=4, batch_size=2, callbacks=[Heard(5)])
    finally:
        jax.config.update("jax_log_compiles", False)
    windows = [m for m in caplog.messages if "Compiling jit(_window)" in m or "Compiling _window" in m]
    assert len(windows) == 1, caplog.messages


@each_logger
def test_a_killed_run_has_the_log_of_a_whole_one(logger, tmp_path):
    def run(name, *more, **options):
        path = tmp_path / f"{name}.log"
        saved = {"checkpoint": tmp_path / name, "checkpoint_every": gc.training.Steps(5)}
        return train([logger(path, every=5), *more], **saved, **options), READERS[logger](path)

    with pytest.raises(TypeError, match="must return True"):
        run("killed", Heard(every=5, answers={("step", 20): "dies"}))
    result, rows = run("killed")
    whole, expected = run("whole")
    np.testing.assert_array_equal(result.params["w"], whole.params["w"])
    for row in (*rows, *expected):
        row.pop("examples_per_second", None)
    assert rows == expected
    assert len(rows) == 5 + 4

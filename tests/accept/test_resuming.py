"""``fit(..., checkpoint=...)``: killed at any moment, it ends bit for bit where the uninterrupted run ends."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.accept
ROOT = Path(__file__).parents[2]


class Runner:
    """A process that forks a run for each order."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.accept.checkpointed_run"], cwd=ROOT, text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def run(self, folder, result, streamed, kill_after=None):
        """Run, or kill the run some seconds after an epoch; return its exit status and the epochs it told of."""
        order = {"folder": str(folder), "result": str(result), "streamed": streamed}
        print(json.dumps(order), file=self.process.stdin)
        epochs, self.times, pid = [], [], None
        while True:
            word, number = self.process.stdout.readline().split()
            if word == "ended":
                return int(number), epochs
            if word == "child":
                pid, number = int(number), 0
            else:
                epochs.append(int(number))
                self.times.append(time.perf_counter())
            if kill_after is not None and kill_after[0] == int(number):
                time.sleep(kill_after[1])
                with contextlib.suppress(ProcessLookupError):  # it was faster, and has ended
                    os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def runner():
    runner = Runner()
    with runner.process:
        yield runner
    assert runner.process.returncode == 0


def assert_same_bits(got, want):
    got, want = dict(np.load(got)), dict(np.load(want))
    assert got.keys() == want.keys()
    for name in want:
        assert got[name].dtype == want[name].dtype
        assert got[name].tobytes() == want[name].tobytes(), name


@pytest.mark.parametrize("streamed", [False, True])
def test_killed_at_any_moment_it_resumes_bit_for_bit(streamed, runner, tmp_path):
    """On arrays with a checkpoint after each epoch; and on a stream with one every 25 steps."""
    status, epochs = runner.run(tmp_path / "whole", tmp_path / "whole.npz", streamed)
    assert status == 0
    assert epochs == list(range(1, len(epochs) + 1))
    epoch_seconds = (runner.times[-1] - runner.times[0]) / (len(epochs) - 1)
    moments = random.Random(7)
    killed = 0
    for i in range(20):
        folder, result = tmp_path / f"run{i}", tmp_path / f"run{i}.npz"
        moment = (moments.randrange(len(epochs)), moments.uniform(0, epoch_seconds))
        first, before = runner.run(folder, result, streamed, kill_after=moment)
        killed += first == -signal.SIGKILL
        status, after = runner.run(folder, result, streamed)
        assert status == 0
        assert after == epochs[len(epochs) - len(after) :]
        assert not before or len(after) < len(epochs) or len(before) <= 2
        assert_same_bits(result, tmp_path / "whole.npz")
    assert killed >= 15

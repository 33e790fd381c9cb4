"""Several processes on this machine train as one does."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import hosts

ROOT = Path(__file__).parents[2]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(task, size, rank, port, path):
    flags = os.environ.get("XLA_FLAGS", "")
    environment = os.environ | {"XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={4 // size}"}
    command = [sys.executable, "-m", "tests.hosts", str(port), str(size), str(rank), str(path), task]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)


def reports_of(processes):
    """Return what each process printed, read as JSON, and its messages."""
    try:
        outputs = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * len(processes), outputs
    return [json.loads(out.splitlines()[-1]) for out, _ in outputs], [error for _, error in outputs]


def assert_as_alone(task, reports):
    """Assert that all processes report the same, and what one process finds."""
    assert all(report == reports[0] for report in reports)
    assert reports[0].pop("devices") == 4
    alone = hosts.figures(task, hosts.data())
    assert alone.keys() == reports[0].keys()
    for name, numbers in alone.items():
        np.testing.assert_allclose(reports[0][name], numbers, rtol=2e-5, atol=1e-6, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(("task", "size"), [("fit", 2), ("sweep", 4)])
def test_processes_train_as_one_and_only_the_first_speaks(task, size, tmp_path):
    port = free_port()
    reports, errors = reports_of([start(task, size, rank, port, tmp_path / f"{rank}.csv") for rank in range(size)])
    assert_as_alone(task, reports)
    assert [path.name for path in tmp_path.iterdir()] == ["0.csv"]
    assert ["part/s" in error or "step/s" in error for error in errors] == [True] + [False] * (size - 1)


@pytest.mark.slow
def test_all_go_on_from_the_checkpoint_after_one_was_killed(tmp_path, monkeypatch):
    monkeypatch.setenv("KILLED", "1")
    port = free_port()
    processes = [start("checkpoints", 2, rank, port, tmp_path / f"{rank}.csv") for rank in range(2)]
    assert processes[1].wait(timeout=240) == -signal.SIGKILL
    processes[0].kill()
    for process in processes:
        process.communicate()
    saved = {path.name for path in (tmp_path / "run").iterdir()}
    assert "1" in saved
    assert "5" not in saved
    monkeypatch.delenv("KILLED")
    port = free_port()
    reports, errors = reports_of([start("checkpoints", 2, rank, port, tmp_path / f"{rank}.csv") for rank in range(2)])
    assert_as_alone("checkpoints", reports)
    assert "resumed after epoch" in errors[0]


@pytest.mark.slow
def test_each_process_streams_its_share_and_goes_on_where_its_own_stream_was(tmp_path):
    port = free_port()
    reports, _ = reports_of([start("streams", 2, rank, port, tmp_path / f"{rank}.csv") for rank in range(2)])
    assert_as_alone("streams", reports)


@pytest.mark.slow
def test_streams_that_do_not_fit_together_are_errors_in_all_processes(tmp_path):
    port = free_port()
    reports, _ = reports_of([start("complaints", 2, rank, port, tmp_path / f"{rank}.csv") for rank in range(2)])
    for report in reports:
        for name in ("fewer", "smaller"):
            assert report[name].startswith(
                "ValueError: data: processes must hand in equally many batches of equal sizes"
            )
        assert len(report["same"]) == 1
        assert "the first batches of all 2 processes are the same" in report["same"][0]
    assert "process 0: 1 of 4 examples; process 1: 1 of 4 examples, the last" in reports[0]["fewer"]
    assert "process 0: 1 of 4 examples, the last; process 1: 1 of 2 examples, the last" in reports[1]["smaller"]
    assert reports[0]["failing"] == "RuntimeError: data: process 1 has no next batch; what it has raised says why"
    assert reports[1]["failing"] == "OSError: disk broke"

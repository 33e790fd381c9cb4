"""How many threads can compute at once."""

import math

import numpy as np
import pytest

from gradchain.training.search import chunks, cores
from gradchain.training.search.chunks import on_threads

BEGINS = {"w": np.zeros((1, 2))}


def written(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("group", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/pod/task\n", {"pod/cpu.max": "200000 100000\n", "pod/task/cpu.max": "max 100000\n"}, 2.0),
        ("0::/pod/task\n", {"pod/cpu.max": "200000 100000\n", "pod/task/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/pod\n", {"other/cpu.max": "50000 100000\n"}, math.inf),
        ("0::/\n", {"cpu.max": "max 100000\n"}, math.inf),
        (
            "4:memory:/docker/1\n3:cpu,cpuacct:/docker/1\n0::/\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "300000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
            3.0,
        ),
        (
            "1:cpu:/docker/1\n",
            {"cpu/docker/1/cpu.cfs_quota_us": "25000", "cpu/docker/1/cpu.cfs_period_us": "50000"},
            0.5,
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
        ("3:cpuset:/\n", {"cpuset/cpu.cfs_quota_us": "100\n", "cpuset/cpu.cfs_period_us": "100\n"}, math.inf),
    ],
    ids=["2", "2 around", "2 inside", "2 elsewhere", "2 none", "1", "1 inside", "1 none", "1 other controller"],
)
def test_a_quota_of_a_control_group_around_the_process_counts(group, files, expected, tmp_path):
    written(tmp_path, {"self": group, **{f"groups/{name}": text for name, text in files.items()}})
    assert cores.quota(tmp_path / "self", tmp_path / "groups") == expected


def test_without_control_groups_there_is_no_quota(tmp_path):
    assert cores.quota(tmp_path / "none", tmp_path) == math.inf


@pytest.mark.parametrize(("limit", "expected"), [(0.5, 1), (1.5, 2), (3.0, 3), (math.inf, 6)])
def test_a_part_of_a_core_is_worth_a_thread(limit, expected, monkeypatch):
    monkeypatch.setattr(cores, "quota", lambda: limit)
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda process: {*range(6)}, raising=False)
    assert cores.cores() == expected


@pytest.mark.parametrize(
    ("runs", "replicas", "share", "grid"),
    [
        (64, 1, (8, 1), (8, 1)),
        (9, 2, (2, 2), (5, 1)),
        (1, 100, (1, 13), (1, 8)),
        (2, 100, (1, 25), (2, 4)),
        (3, 100, (1, 13), (3, 8)),
        (3, 4, (1, 2), (3, 2)),
        (3, 1, (1, 1), (3, 1)),
        (1, 1, (1, 1), (1, 1)),
    ],
)
def test_fewer_runs_than_cores_share_their_replicas(runs, replicas, share, grid, monkeypatch):
    monkeypatch.setattr(chunks, "cores", lambda: 8)
    layout = on_threads(runs, replicas, None, BEGINS)
    assert (layout.share, layout.grid, layout.threads) == (share, grid, 8)
    covered = {
        (first_run + i, first_replica + k)
        for first_run, first_replica in layout.firsts
        for i in range(share[0])
        for k in range(share[1])
    }
    assert covered >= {(i, k) for i in range(runs) for k in range(replicas)}

"""Eight devices: arrays split by ``NamedSharding``, and ``shard_map``, against one device."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.accept.problem import TOLERANCE

pytestmark = pytest.mark.accept

ROOT = pathlib.Path(__file__).parents[2]


def run(module, *arguments):
    """Return what a module prints, in a process where the host shows eight devices."""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", f"tests.accept.{module}", *arguments]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def report(request):
    """Train in a process of its own."""
    return run("sharded_training", request.param) | {"tolerance": TOLERANCE[request.param]}


def test_sharded_training_equals_training_on_one_device(report):
    assert report["devices"] == 8
    assert report["params_split"]
    assert report["moved"] > 0.1
    assert report["sharded"] <= report["tolerance"]


def test_shard_map_over_the_batch_equals_training_on_one_device(report):
    assert report["data_parallel"] <= report["tolerance"]


def test_state_lies_where_its_parameters_lie(report):
    assert report["first_state_follows"]
    assert report["last_state_follows"]


def test_slots_in_fewer_bits_lie_where_their_parameters_lie_and_need_no_messages():
    reports = run("sharded_storage")
    assert reports.keys() == {"int8", "int4", "master"}
    for report in reports.values():
        assert report["split"]
        assert report["messages"] == 0
        assert report["error"] <= 1e-6

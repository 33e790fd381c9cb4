"""Run ``tests/devices`` in a process of its own, where the host shows eight devices."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("speed", ["not slow", "slow"])
def test_on_eight_devices(speed):
    flags = os.environ.get("XLA_FLAGS", "")
    environment = os.environ | {"XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count=8"}
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-m", speed, "tests/devices"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr

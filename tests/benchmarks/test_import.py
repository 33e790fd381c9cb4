"""What ``import gradchain`` costs beyond JAX's own import, each time in a new process."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.bench

CODE = """
import time, jax, jax.numpy
start = time.perf_counter()
import {name}
print(time.perf_counter() - start)
"""


def seconds_to_import(name: str) -> float:
    return float(subprocess.check_output([sys.executable, "-c", CODE.format(name=name)], text=True))


def test_import(compete):
    contestants = {name: lambda name=name: seconds_to_import(name) for name in ("gradchain", "optax")}
    result = compete("import, beyond jax", contestants, rounds=5)
    assert result.median("gradchain") > 0

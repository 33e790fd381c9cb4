"""Settings for every test: warnings are errors, ranks don't promote silently, seeds are fixed, slow tests wait."""

import itertools
import os
import random

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the threads of many small decompositions wait for each other

import hypothesis
import jax
import numpy as np

from tests import quick

jax.config.update("jax_numpy_rank_promotion", "raise")
hypothesis.settings.register_profile("gradchain", deadline=None, derandomize=True, max_examples=25, database=None)
hypothesis.settings.load_profile("gradchain")


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "error")
    # Several processes share the cache: one may read what another hasn't finished writing. JAX then compiles anew.
    config.addinivalue_line("filterwarnings", "ignore:Error (reading|writing) persistent compilation cache entry")
    config.addinivalue_line("markers", "slow: the full matrix of dtypes and trees; run with -m slow")
    if not config.option.markexpr:
        config.option.markexpr = "not slow"
    quick.switch(config.option.markexpr == "not slow", first_process=not hasattr(config, "workerinput"))


TESTS_BETWEEN_CLEARINGS = 500
"""After how many tests compiled programs are forgotten: they would grow to gigabytes in each process."""
_run = itertools.count(1)


def pytest_runtest_teardown():
    if next(_run) % TESTS_BETWEEN_CLEARINGS == 0:
        jax.clear_caches()


@pytest.fixture(autouse=True)
def _seeds():
    random.seed(0)
    np.random.seed(0)


@pytest.fixture
def x64():
    """Run the test with 64-bit types switched on."""
    with jax.enable_x64(True):
        yield

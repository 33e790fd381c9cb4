"""Settings for every test: warnings are errors, ranks don't promote silently, seeds are fixed, slow tests wait."""

import gc
import itertools
import os
import random
import shutil

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("GRADCHAIN_NATIVE", "0")  # what is built for users isn't there for tests that don't ask for it
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the threads of many small decompositions wait for each other

import hypothesis
import jax
import numpy as np

from tests import quick

collect_ignore = (
    [] if shutil.which(os.environ.get("CXX") or "c++") else ["unit/test_native.py", "unit/test_native_loops.py"]
)
"""The kernels are compiled for their tests; without a compiler nobody has them."""

jax.config.update("jax_numpy_rank_promotion", "raise")
hypothesis.settings.register_profile("gradchain", deadline=None, derandomize=True, max_examples=25, database=None)
hypothesis.settings.load_profile("gradchain")


COMPILED = {"not slow": quick.SIMPLE, "slow and not as_users": quick.QUICK}
"""How XLA compiles in some runs; in others as it does for users."""


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "error")
    # Several processes share the cache: one may read what another hasn't finished writing. JAX then compiles anew.
    config.addinivalue_line("filterwarnings", "ignore:Error (reading|writing) persistent compilation cache entry")
    if not config.option.markexpr:
        config.option.markexpr = "not slow"
    if config.option.markexpr in COMPILED and not hasattr(config, "workerinput"):
        quick.set_flags(COMPILED[config.option.markexpr])


def pytest_collection_finish():
    """Leave what the collection made out of the garbage collector's later passes."""
    gc.collect()
    gc.freeze()


GROWTH = 2_000_000_000
"""By how many bytes a process may grow before it forgets compiled programs. That takes seconds, and those still needed
are made once more."""
_floor = {"bytes": 0}
_run = itertools.count(1)


def resident(tests):
    """Return how many bytes of memory this process has; where the system doesn't say, as many as its tests may take."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 6_000_000 * tests


def pytest_runtest_teardown():
    tests = next(_run)
    if tests % 20 == 0 and resident(tests) > _floor["bytes"] + GROWTH:
        jax.clear_caches()
        _floor["bytes"] = resident(tests)


@pytest.fixture(autouse=True)
def _seeds():
    random.seed(0)
    np.random.seed(0)


@pytest.fixture
def x64():
    """Run the test with 64-bit types switched on."""
    with jax.enable_x64(True):
        yield

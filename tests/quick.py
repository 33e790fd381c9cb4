"""Less of XLA's work for programs that run a few times.

Most of the time of the suites is XLA's, and most of that goes into kernels that are used for three steps. So in
``make test`` and ``make test-slow`` XLA compiles by its simpler emitters, and in the latter without LLVM's
optimisations: the same operations in nearly the same fusions, in a third of the time. ``make accept`` compiles as users
do, and so do slow tests with the mark ``as_users``: pages, examples and the gallery, which users run, and runs that are
compared to where roundings decide.
"""

import functools
import os
import subprocess
import sys
from typing import Any

import jax

SIMPLE = {"xla_cpu_use_fusion_emitters": False}
QUICK = SIMPLE | {"xla_backend_optimization_level": 0}
FUSED = {"xla_cpu_use_fusion_emitters": True}


def set_flags(options: dict[str, Any]) -> None:
    """Set options of XLA for this process, if it hasn't computed anything, and those that it starts, such as workers.

    Another process tries the flags first, because one that this version of XLA doesn't know is fatal.
    """
    before = os.environ.get("XLA_FLAGS", "")
    flags = " ".join(f"--{name}={str(value).lower()}" for name, value in options.items())
    if flags in before:
        return
    environment = os.environ | {"XLA_FLAGS": f"{before} {flags}"}
    tried = subprocess.run([sys.executable, "-c", "import jax; jax.devices()"], env=environment, capture_output=True)
    if tried.returncode == 0:
        os.environ["XLA_FLAGS"] = environment["XLA_FLAGS"]


@functools.cache
def _known(*options: tuple[str, Any]) -> dict[str, Any]:
    """Return those of the options that this version of XLA knows."""
    known = {}
    for name, value in options:
        try:
            jax.jit(lambda x: x + 1, compiler_options={name: value}).lower(1.0).compile()
        except jax.errors.JaxRuntimeError:
            continue
        known[name] = value
    return known


def jit(function: Any, **options: Any) -> Any:
    """Return ``jax.jit(function, **options)``, compiled quickly wherever it is called."""
    return jax.jit(function, compiler_options=_known(*QUICK.items()), **options)


def fused(function: Any, **options: Any) -> Any:
    """Return ``jax.jit(function, **options)`` with the fusions that users have, for tests that count what they move."""
    return jax.jit(function, compiler_options=_known(*FUSED.items()), **options)

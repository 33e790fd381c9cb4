"""Building and loading the kernels."""

import ctypes
import functools
import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import jax

SOURCE = Path(__file__).with_name("adam.cc")
HANDLERS = ("adam_float32", "adam_bfloat16")
FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-shared"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),  # bits as XLA's, and vectorised roots
)
SWITCH = "GRADCHAIN_NATIVE"
"""The environment variable that turns the kernels off: 0."""


def location() -> Path:
    """Return where the library of this version of jaxlib lies, or would."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "gradchain" / _name()


@functools.cache
def _name() -> str:
    source = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    jaxlib = importlib.metadata.version("jaxlib")
    return f"adam-{source}-jaxlib-{jaxlib}-{platform.system()}-{platform.machine()}.so"


def build() -> Path:
    """Compile the kernels with ``$CXX`` or ``c++``, and return where the library lies.

    Processes that start afterwards use it. It takes some seconds, and is done again for another version of jaxlib.

    Raises:
      RuntimeError: if there is no compiler, or it fails.
    """
    name, target = os.environ.get("CXX") or "c++", location()
    compiler = shutil.which(name)
    if compiler is None:
        raise RuntimeError(f"gradchain.native: there is no C++ compiler {name}; install one, or set CXX to its name")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / target.name
        command = [compiler, *FLAGS, f"-I{jax.ffi.include_dir()}", str(SOURCE), "-o", str(made)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError(f"gradchain.native: {' '.join(command)} failed:\n{result.stderr}")
        made.replace(target)  # in one step, so that another process finds all of it or none
    return target


def available() -> bool:
    """Return whether programs that are traced now may call the kernels: they are built, not turned off, and there is
    one CPU device."""
    alone = jax.default_backend() == "cpu" and jax.device_count() == 1
    return alone and os.environ.get(SWITCH) != "0" and _load(location())


@functools.cache
def _load(library: Path) -> bool:
    """Make the kernels known to XLA, if the library is there and can be loaded."""
    try:
        loaded = ctypes.cdll.LoadLibrary(str(library))
        handlers = {name: getattr(loaded, name) for name in HANDLERS}
    except (OSError, AttributeError):
        return False
    for name, handler in handlers.items():
        jax.ffi.register_ffi_target(f"gradchain_{name}", jax.ffi.pycapsule(handler), platform="cpu")
    return True

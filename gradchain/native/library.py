"""Building and loading: the handler that XLA calls, and the loops that it runs."""

import ctypes
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import jax

FOLDER = Path(__file__).parent
HANDLER = FOLDER / "handler.cc"
FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-shared", "-w"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),  # bits as XLA's, and vectorised roots
)
TARGET = "gradchain_elementwise"
"""The handler's name for XLA."""
SWITCH = "GRADCHAIN_NATIVE"
"""The environment variable that turns the kernels off: 0."""


def location() -> Path:
    """Return where the handler for this version of jaxlib lies, or would."""
    return _folder() / _handler_name()


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gradchain"


@functools.cache
def _handler_name() -> str:  # which every step outside of jit asks for
    return _name("handler", HANDLER.read_text(), importlib.metadata.version("jaxlib"))


def _name(kind: str, *contents: str) -> str:
    """Return what a library is called that is made of these contents."""
    digest = hashlib.sha256("\0".join((*contents, *FLAGS)).encode()).hexdigest()[:16]
    return f"{kind}-{digest}-{platform.system()}-{platform.machine()}.so"


def compiler() -> list[str]:
    """Return the command of a C++ compiler: ``$CXX``, ``c++``, or the one of the package ziglang.

    Raises:
      RuntimeError: if there is none.
    """
    name = os.environ.get("CXX")
    if found := shutil.which(name or "c++"):
        return [found]
    if not name and importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "c++", "-mcpu=baseline"]  # loops choose for the processor themselves
    raise RuntimeError(
        f"gradchain.native: there is no C++ compiler {name or 'c++'}; install one, as pip install 'gradchain[native]' "
        "does, or set CXX to its name"
    )


def build() -> Path:
    """Compile the handler, and return where it lies: processes that start afterwards use kernels.

    It takes some seconds, and is done again for another version of jaxlib.

    Raises:
      RuntimeError: if there is no compiler, or it fails.
    """
    return _compiled(HANDLER.read_text(), location())


def _compiled(text: str, target: Path) -> Path:
    """Compile a library, and return ``target``, where it lies."""
    headers = [f"-I{FOLDER}", f"-I{jax.ffi.include_dir()}"]
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        source, made = Path(folder) / f"{target.stem}.cc", Path(folder) / target.name
        source.write_text(text)
        command = [*compiler(), *FLAGS, *headers, str(source), "-o", str(made)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError(f"gradchain.native: {' '.join(command)} failed:\n{result.stderr}")
        made.replace(target)  # in one step, so that another process finds all of it or none
    return target


def available() -> bool:
    """Return whether programs that are traced now may call kernels: these are built, not turned off, and there is one
    CPU device."""
    alone = jax.default_backend() == "cpu" and jax.device_count() == 1
    return alone and os.environ.get(SWITCH) != "0" and _handler(location()) is not None


@functools.cache
def _handler(path: Path) -> Any:
    """Make the handler known to XLA and return its library, or ``None`` where it isn't there or can't be loaded."""
    try:
        library = ctypes.cdll.LoadLibrary(str(path))
        jax.ffi.register_ffi_target(TARGET, jax.ffi.pycapsule(library.run_loop), platform="cpu")
    except (OSError, AttributeError):
        return None
    return library


def loaded(text: str) -> str | None:
    """Make a loop known to the handler, and return its name there. It is compiled unless that has been done before.

    If it can't be compiled, there is a warning, and ``None`` is returned.
    """
    handler = _handler(location())
    return handler and _loaded(handler, text)


@functools.cache
def _loaded(handler: Any, text: str) -> str | None:
    path = _folder() / _name("loop", text, (FOLDER / "loop.h").read_text())
    try:
        if not path.exists():
            _compiled(text, path)
        loop = ctypes.cdll.LoadLibrary(str(path)).loop
    except (OSError, RuntimeError) as error:
        warnings.warn(f"XLA computes a step for which there is no kernel: {error}", stacklevel=2)
        return None
    handler.add_loop(path.stem.encode(), loop)
    return path.stem

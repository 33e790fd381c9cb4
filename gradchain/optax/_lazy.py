"""Modules whose names are imported when they are first used: a stub beside each says which name is in which module."""

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any


def attach(module: str, file: str) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__all__``, ``__getattr__`` and ``__dir__`` of a module that imports what its stub imports.

    Args:
      module: the module's name.
      file: its file, which has a stub beside it.
    """
    stub = Path(file).with_suffix(".pyi").read_text()
    modules = {
        name: home for home, name in re.findall(r"^from (\S+) import (?:\(\s*)?(\w+) as \2(?:,\s*\))?$", stub, re.M)
    }
    names = sorted(modules)

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        home = modules[name]
        if home == module:
            return importlib.import_module(f"{module}.{name}")
        value = getattr(importlib.import_module(home), name)
        vars(importlib.import_module(module))[name] = value
        return value

    return names, get, lambda: names

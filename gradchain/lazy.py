"""Modules whose names are imported when they are first used: a stub beside each says which name is in which module."""

import importlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def attach(module: str, file: str) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__all__``, ``__getattr__`` and ``__dir__`` of a module that imports what its stub imports.

    Args:
      module: the module's name.
      file: its file, which has a stub beside it.
    """
    modules = _modules(Path(file).with_suffix(".pyi"))
    names = sorted(modules)

    def get(name: str) -> Any:
        if name not in modules:
            raise _no_attribute(module, name, names)
        home = modules[name]
        if home == module:
            value = importlib.import_module(f"{module}.{name}")
        else:
            value = getattr(importlib.import_module(home), name)
        vars(importlib.import_module(module))[name] = value
        return value

    return names, get, lambda: names


def _modules(stub: Path) -> dict[str, str]:
    """Return the module of each name, as the stub imports them (parsing it properly takes ten times longer)."""
    imported = re.findall(r"^from (\S+) import (?:\(\s*)?(\w+) as \2(?:,\s*\))?$", stub.read_text(), re.M)
    return {name: module for module, name in imported}


def _no_attribute(module: str, name: str, names: Iterable[str]) -> AttributeError:
    if name.startswith("__"):  # looked for by Python itself
        return AttributeError(f"module {module!r} has no attribute {name!r}")
    from gradchain.signatures import no_attribute

    return no_attribute(module, name, names)

"""gradchain: gradient transformations for JAX that are values.

``chain`` rules into an optimizer, ``init`` its state, ``update`` gradients with it and ``apply_updates`` to parameters.
A module loads when one of its names is first used; ``__init__.pyi`` says which name is in which module.
"""

import importlib
import re
from pathlib import Path
from typing import Any

__version__ = "0.1.0"


def _modules() -> dict[str, str]:
    """Return the module of each public name, as the stub imports them (parsing it properly takes ten times longer)."""
    stub = Path(__file__).with_suffix(".pyi").read_text()
    imports = re.findall(r"^from (\S+) import (?:\(([^)]*)\)|(.*))$", stub, re.M)
    return {name: module for module, *lists in imports for name in re.findall(r"\w+", "".join(lists))}


_MODULES = _modules()
__all__ = sorted(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'gradchain' has no attribute {name!r}{_close(name)}")
    module = _MODULES[name]
    if module == __name__:
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def _close(name: str) -> str:
    """Return a question for somebody who writes a name otherwise, as Optax, Keras and PyTorch do."""
    import difflib  # loads when a name is wrong

    usual = {"multi_transform": "partition", "MultiSteps": "accumulate", "clip_grad_norm_": "clip_by_global_norm"}
    close = [usual[name]] if name in usual else difflib.get_close_matches(name.lower(), _MODULES, 1, 0.75)
    return f"; did you mean {close[0]!r}?" if close and not name.startswith("__") else ""


def __dir__() -> list[str]:
    return __all__

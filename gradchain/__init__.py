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
    return {name: module for module, name in re.findall(r"^from (\S+) import (\w+) as \2$", stub, re.M)}


_MODULES = _modules()
__all__ = sorted(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise _no_attribute(name)
    module = _MODULES[name]
    if module == __name__:
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def _no_attribute(name: str) -> AttributeError:
    if name.startswith("__"):  # looked for by Python itself
        return AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gradchain.signatures import no_attribute

    return no_attribute(__name__, name, _MODULES)


def __dir__() -> list[str]:
    return __all__

"""Optax's names, signatures and states, made of gradchain: ``from gradchain import optax`` in the place of Optax.

A module loads when one of its names is first used; ``__init__.pyi`` says which name is in which module.
"""

import importlib
from typing import Any

from gradchain.lazy import attach
from gradchain.optax._deprecated import old_names

__version__ = "0.2.8"
MOVED = ("DifferentiallyPrivateAggregateState", "differentially_private_aggregate", "dpsgd")
"""What is in ``contrib``, and is taken from here with a warning."""
_names, _get, _ = attach(__name__, __file__)
__all__ = sorted((*_names, *MOVED))  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in MOVED:
        contrib = importlib.import_module(f"{__name__}.contrib")
        return old_names(__name__, {name: (f"optax.contrib.{name}", getattr(contrib, name))})(name)
    if name == "monte_carlo":
        return old_names(__name__, {name: ("", None)})(name)
    return _get(name)


def __dir__() -> list[str]:
    return __all__

"""gradchain: gradient transformations for JAX that are values.

``chain`` rules into an optimizer, ``init`` its state, ``update`` gradients with it and ``apply_updates`` to parameters.
A module loads when one of its names is first used; ``__init__.pyi`` says which name is in which module.
"""

from gradchain.lazy import attach

__version__ = "0.1.0"
__all__, __getattr__, __dir__ = attach(__name__, __file__)  # pyright: ignore[reportUnsupportedDunderAll]

"""Optax's names, signatures and states, made of gradchain: ``from gradchain import optax`` in the place of Optax.

A module loads when one of its names is first used; ``__init__.pyi`` says which name is in which module.
"""

from gradchain.optax._lazy import attach

__version__ = "0.2.8"
__all__, __getattr__, __dir__ = attach(__name__, __file__)  # pyright: ignore[reportUnsupportedDunderAll]

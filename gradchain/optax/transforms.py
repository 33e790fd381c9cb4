"""Optax's module of transforms: a part of the names of :mod:`gradchain.optax`."""

from gradchain.lazy import attach

__all__, __getattr__, __dir__ = attach(__name__, __file__)  # pyright: ignore[reportUnsupportedDunderAll]

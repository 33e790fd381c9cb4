"""``optax.contrib``: its optimizers and transforms, with Optax's arguments and states."""

from gradchain.lazy import attach

__all__, __getattr__, __dir__ = attach(__name__, __file__)  # pyright: ignore[reportUnsupportedDunderAll]

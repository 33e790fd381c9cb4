"""What a test problem is. Functions take one vector and compute in its dtype."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np


class Problem(NamedTuple):
    name: str
    fun: Callable[[Any], Any]
    """From a vector to a number, in the vector's dtype."""
    x0: np.ndarray
    minima: tuple[float, ...]
    """Values of the minima that count as solutions, by theory, certificate, or Newton's method in float64."""


class Suite(dict[str, Problem]):
    """Problems by name."""

    def add(self, name, fun, x0, minima=0.0):
        assert name not in self, name
        values = tuple(np.atleast_1d(np.asarray(minima, float)).tolist())
        self[name] = Problem(name, fun, np.asarray(x0, np.float64), values)

    def least_squares(self, name, residuals, x0, minima=0.0):
        """Add the sum of the squares of ``residuals(x)``."""
        self.add(name, lambda x: jnp.sum(residuals(x) ** 2), x0, minima)


def const(a, x):
    """Return an array in the dtype of ``x``."""
    return jnp.asarray(a, x.dtype)


def index(x):
    """Return 1, 2, ..., n in the dtype of ``x``."""
    return jnp.arange(1, x.shape[0] + 1).astype(x.dtype)

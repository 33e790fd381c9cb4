"""Functions of two numbers that show what optimizers do; the least value of each is 0."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from contourpy import contour_generator

WIDTH, HEIGHT = 4.0, 3.0
"""What pictures show: from -4 to 4, and from -3 to 3."""
SIZE = 800, 600
"""The pictures' size in their own units."""


class Landscape(NamedTuple):
    title: str
    formula: str
    function: Callable[[Any], Any]
    start: tuple[float, float]
    least: tuple[tuple[float, float], ...] = ((0.0, 0.0),)
    """Where the function is 0."""


def bowl(w):
    return 0.5 * (w[0] ** 2 + w[1] ** 2)


def valley(w):
    along, across = 0.8 * w[0] - 0.6 * w[1], 0.6 * w[0] + 0.8 * w[1]
    return 0.05 * along**2 + 1.25 * across**2


def saddle(w):
    return 0.5 * w[0] ** 2 - 0.5 * w[1] ** 2 + w[1] ** 4 / 16 + 1


def plateau(w):
    return 1 - jnp.exp(-0.5 * (w[0] ** 2 + w[1] ** 2))


def valleys(w):
    ripples = jnp.cos(2.5 * w[0]) + jnp.cos(2.5 * w[1])
    return 0.1 * (w[0] ** 2 + w[1] ** 2) + 1 - 0.5 * ripples


LANDSCAPES = {
    "bowl": Landscape("Bowl", "½x² + ½y²", bowl, (-3.0, 2.0)),
    "valley": Landscape(
        "Narrow valley",
        "0.05 (0.8x − 0.6y)² + 1.25 (0.6x + 0.8y)²",
        valley,
        (-3.4, 0.8),
    ),
    "saddle": Landscape(
        "Saddle",
        "½x² − ½y² + y⁴/16 + 1",
        saddle,
        (-3.0, 0.05),
        ((0.0, -2.0), (0.0, 2.0)),
    ),
    "plateau": Landscape("Plateau", "1 − exp(−½x² − ½y²)", plateau, (-2.4, 1.2)),
    "valleys": Landscape(
        "Many valleys",
        "0.1 (x² + y²) + 1 − ½ cos 2.5x − ½ cos 2.5y",
        valleys,
        (-3.2, 2.1),
    ),
}


def place(points):
    """Return points of the plane in the pictures' units, y downwards."""
    x, y = np.asarray(points, float).T
    x, y = (x / WIDTH + 1) / 2 * SIZE[0], (1 - y / HEIGHT) / 2 * SIZE[1]
    return [(f"{a:.0f}", f"{b:.0f}") for a, b in zip(x, y, strict=True)]


def line(points):
    """Return a line through points, as an SVG path."""
    return "M" + "L".join(f"{x} {y}" for x, y in place(points))


def contours(function, levels=10):
    """Return level lines as an SVG path, denser where the function is low."""
    x, y = np.linspace(-WIDTH, WIDTH, 49), np.linspace(-HEIGHT, HEIGHT, 37)
    z = np.asarray(function(np.stack(np.meshgrid(x, y))))
    lines = contour_generator(x, y, z)
    heights = z.max() * (np.arange(1, levels) / levels) ** 2
    return "".join(line(part) for height in heights for part in lines.lines(height))

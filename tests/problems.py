"""Functions of ten variables to minimise, in one program: those of Moré, Garbow and Hillstrom (1981) and a few more.

A problem of fewer variables leaves the last ones alone: their derivatives are 0.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SIZE = 10


def _squares(*residuals: Any) -> Any:
    return sum(jnp.sum(jnp.square(r)) for r in residuals)


def rosenbrock(x: Any) -> Any:
    return _squares(10 * (x[1] - x[0] ** 2), 1 - x[0])


def chained_rosenbrock(x: Any) -> Any:
    return _squares(10 * (x[1:] - x[:-1] ** 2), 1 - x[:-1])


def beale(x: Any) -> Any:
    return _squares(*(c - x[0] * (1 - x[1] ** k) for k, c in ((1, 1.5), (2, 2.25), (3, 2.625))))


def helical_valley(x: Any) -> Any:
    turn = jnp.arctan2(x[1], x[0]) / (2 * np.pi)
    turn = jnp.where((x[0] < 0) & (x[1] < 0), turn + 1, turn)
    return _squares(10 * (x[2] - 10 * turn), 10 * (jnp.hypot(x[0], x[1]) - 1), x[2])


def box(x: Any) -> Any:
    t = np.arange(1, 11) / 10
    return _squares(jnp.exp(-t * x[0]) - jnp.exp(-t * x[1]) - x[2] * (np.exp(-t) - np.exp(-10 * t)))


def powell_singular(x: Any) -> Any:
    return _squares(x[0] + 10 * x[1], 5**0.5 * (x[2] - x[3]), (x[1] - 2 * x[2]) ** 2, 10**0.5 * (x[0] - x[3]) ** 2)


def wood(x: Any) -> Any:
    pair = _squares(10 * (x[1] - x[0] ** 2), 1 - x[0], 90**0.5 * (x[3] - x[2] ** 2), 1 - x[2])
    return pair + _squares(10**0.5 * (x[1] + x[3] - 2), 10**-0.5 * (x[1] - x[3]))


def trigonometric(x: Any) -> Any:
    return _squares(SIZE - jnp.sum(jnp.cos(x)) + np.arange(1, SIZE + 1) * (1 - jnp.cos(x)) - jnp.sin(x))


def broyden(x: Any) -> Any:
    near = jnp.pad(x, 1)
    return _squares((3 - 2 * x) * x - near[:-2] - 2 * near[2:] + 1)


def penalty(x: Any) -> Any:
    return _squares(1e-5**0.5 * (x - 1), jnp.sum(x**2) - 0.25)


def steep_quadratic(x: Any) -> Any:
    return jnp.sum(np.logspace(-1, 3, SIZE) * jnp.square(x - 1)) / 2


def logistic(x: Any) -> Any:
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(40, SIZE)), np.sign(rng.normal(size=40))
    return jnp.mean(jax.nn.softplus(-labels * (features @ x))) + jnp.sum(jnp.square(x)) / 100


PROBLEMS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "rosenbrock": (rosenbrock, [-1.2, 1]),
    "chained_rosenbrock": (chained_rosenbrock, [-1.2, 1] * 5),
    "beale": (beale, [1, 1]),
    "helical_valley": (helical_valley, [-1, 0, 0]),
    "box": (box, [0, 10, 20]),
    "powell_singular": (powell_singular, [3, -1, 0, 1]),
    "wood": (wood, [-3, -1, -3, -1]),
    "trigonometric": (trigonometric, [1 / SIZE] * SIZE),
    "broyden": (broyden, [-1] * SIZE),
    "penalty": (penalty, range(1, SIZE + 1)),
    "steep_quadratic": (steep_quadratic, [0] * SIZE),
    "logistic": (logistic, [0] * SIZE),
}
"""Functions by name, each with the point to start from."""


def start(name: str, dtype: Any = float) -> Any:
    """Return the point to start a problem from, with zeros for the variables that it lacks."""
    point = [*PROBLEMS[name][1]]
    return jnp.asarray([*point, *[0] * (SIZE - len(point))], dtype)


def objective(number: Any, x: Any) -> Any:
    """Return the value of the problem with a number (which may be traced), counted in the order of ``PROBLEMS``."""
    return jax.lax.switch(number, [function for function, _ in PROBLEMS.values()], x)

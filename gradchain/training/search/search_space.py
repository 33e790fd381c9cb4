"""Search spaces: ranges to sample hyperparameters from, and to vary them in."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gradchain.arguments import check_whole
from gradchain.core.hyperparams import set_hyperparams
from gradchain.core.transform import Transform
from gradchain.signatures import public
from gradchain.training.keys import as_key


@public
@dataclass(frozen=True)
class Uniform:
    """A range sampled uniformly.

    Args:
      low: the lowest number.
      high: the highest.

    Raises:
      ValueError: unless ``low`` is below ``high``, and both are finite.

    Example:
      >>> sample(adam(1e-3), {"b1": Uniform(0.8, 0.99)}, 20)
    """

    low: float
    high: float

    def __post_init__(self):
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"{type(self).__name__} needs finite numbers low < high, got {self.low} and {self.high}")

    @property
    def ends(self) -> Array:
        """The lowest and the highest number."""
        return jnp.array([self.low, self.high])

    def draw(self, key: Array, size: int) -> Array:
        """Return ``size`` random numbers from the range."""
        return jax.random.uniform(key, (size,), minval=self.low, maxval=self.high)

    def perturb(self, values: Array, up: Array, factors: tuple[float, float]) -> Array:
        """Return the values times the second factor where ``up``, else times the first, kept within the range."""
        moved = values * jnp.where(up, factors[1], factors[0])
        return jnp.clip(moved, self.low, self.high)


@public
@dataclass(frozen=True)
class LogUniform(Uniform):
    """A range sampled uniformly on a logarithmic scale, as for learning rates.

    Args:
      low: the lowest number, above 0.
      high: the highest.

    Raises:
      ValueError: unless ``0 < low < high``, both finite.

    Example:
      >>> sample(adam(1e-3), {"learning_rate": LogUniform(1e-4, 1.0)}, 20)
    """

    def __post_init__(self):
        super().__post_init__()
        if self.low <= 0:
            raise ValueError(f"LogUniform needs numbers above 0, got low={self.low}")

    def draw(self, key: Array, size: int) -> Array:
        drawn = jnp.exp(jax.random.uniform(key, (size,), minval=math.log(self.low), maxval=math.log(self.high)))
        return jnp.clip(drawn, self.low, self.high)


@public
@dataclass(frozen=True)
class Choice:
    """A few values, sampled with equal probability; perturbing a value moves it to one of its neighbours.

    Args:
      values: the values in increasing order, at least two; all integers, or all floats.

    Raises:
      ValueError: if there are fewer, or they aren't in increasing order.

    Example:
      >>> sample(adam(1e-3), {"b2": Choice((0.9, 0.99, 0.999))}, 20)
    """

    values: Sequence[float]

    def __post_init__(self):
        object.__setattr__(self, "values", tuple(self.values))
        if len(self.values) < 2 or any(a >= b for a, b in zip(self.values, self.values[1:], strict=False)):
            raise ValueError(f"Choice needs at least two numbers in rising order, got {self.values}")

    @property
    def ends(self) -> Array:
        """The lowest and the highest number."""
        return jnp.array([self.values[0], self.values[-1]])

    def draw(self, key: Array, size: int) -> Array:
        """Return ``size`` random ones of the values."""
        return jnp.asarray(self.values)[jax.random.randint(key, (size,), 0, len(self.values))]

    def perturb(self, values: Array, up: Array, factors: tuple[float, float]) -> Array:
        """Return the next higher of the values where ``up``, else the next lower one; the factors don't matter."""
        known = jnp.asarray(self.values)
        place = jnp.argmin(jnp.abs(known[None] - values[:, None]), axis=1)
        return known[jnp.clip(place + jnp.where(up, 1, -1), 0, len(self.values) - 1)]


Space = Mapping[str, Uniform | Choice]


@public
def sample(tx: Transform, space: Space, runs: int, seed: int | Array = 0) -> Transform:
    """Return a batch of transforms with random hyperparameters.

    Args:
      tx: a transform; its other hyperparameters are shared.
      space: for each name (as :func:`~gradchain.set_hyperparams` takes it; parameters of schedules included) the range
        to sample from: :class:`Uniform`, :class:`LogUniform` or :class:`Choice`.
      runs: the length of the batch.
      seed: an integer seed or a PRNG key. The samples for one name don't depend on the other names.

    Returns:
      ``tx`` with arrays of length ``runs``.

    Raises:
      ValueError: for unknown names, ranges outside what a hyperparameter allows, or an empty ``space``.

    Example:
      >>> sample(adam(1e-3), {"learning_rate": LogUniform(1e-4, 1.0), "b1": Uniform(0.8, 0.99)}, runs=49)
    """
    check_whole("sample: runs", runs)
    check_space("sample", space)
    key = as_key(seed, "sample: seed")
    drawn = {name: span.draw(jax.random.fold_in(key, number_of(name)), runs) for name, span in space.items()}
    return set_hyperparams(tx, drawn)


def check_space(where: str, space: Any) -> None:
    """Raise an error unless ``space`` says for some names where to look."""
    if not space:
        raise ValueError(f"{where}: give the range of at least one hyperparameter")
    for name, span in space.items():
        if not isinstance(span, Uniform | Choice):
            raise TypeError(f"{where}: {name} needs Uniform, LogUniform or Choice, got {span!r}")


def number_of(name: str) -> int:
    """Return a number that stands for a name when keys are drawn."""
    return int.from_bytes(name.encode(), "big") % (2**31 - 1)

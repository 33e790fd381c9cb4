"""Smooth versions of functions that have no useful derivative: averages over random perturbations of the input."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike, DTypeLike

from gradchain import tree
from gradchain.numerics import compute_dtype
from gradchain.signatures import public
from gradchain.tree import Tree

__all__ = ["Gumbel", "Normal", "make_perturbed_fun"]


class Noise(Protocol):
    """A distribution of independent numbers with a density that is nowhere 0."""

    def sample(self, key: Any, sample_shape: tuple[int, ...] = (), dtype: Any = float) -> Array: ...

    def log_prob(self, inputs: Array) -> Array: ...


@public
@dataclasses.dataclass(frozen=True)
class Normal:
    r"""The standard normal distribution, with density proportional to :math:`e^{-z^2 / 2}`."""

    def sample(self, key: Any, sample_shape: tuple[int, ...] = (), dtype: DTypeLike = float) -> Array:
        """Return independent samples."""
        return jax.random.normal(key, sample_shape, dtype)

    def log_prob(self, inputs: Array) -> Array:
        """Return the logarithm of the density elementwise, up to a constant."""
        return -0.5 * jnp.square(inputs)


@public
@dataclasses.dataclass(frozen=True)
class Gumbel:
    r"""The standard Gumbel distribution, with density :math:`e^{-z - e^{-z}}`.

    The element with the largest :math:`x_i + \sigma z_i` is the :math:`i`-th with probability
    :math:`\mathrm{softmax}(x / \sigma)_i`.
    """

    def sample(self, key: Any, sample_shape: tuple[int, ...] = (), dtype: DTypeLike = float) -> Array:
        """Return independent samples."""
        return jax.random.gumbel(key, sample_shape, dtype)

    def log_prob(self, inputs: Array) -> Array:
        """Return the logarithm of the density elementwise."""
        return -inputs - jnp.exp(-inputs)


@public
def make_perturbed_fun(
    fun: Callable[[Tree], Tree],
    num_samples: int = 1000,
    sigma: ArrayLike = 0.1,
    noise: Noise = Gumbel(),
    use_baseline: bool = True,
) -> Callable[[Array, Tree], Tree]:
    r"""Return a differentiable Monte-Carlo estimate of a function averaged over perturbations of its input.

    .. math:: f_\sigma(x) = \mathbb{E}_z\, f(x + \sigma z), \qquad
        \nabla f_\sigma(x) = \mathbb{E}_z\, (f(x + \sigma z) - f(x))\, \frac{-\nabla \log p(z)}{\sigma}

    Derivatives of any order, with respect to the input and to :math:`\sigma`, are unbiased estimates of those of
    :math:`f_\sigma`. They come from values of :math:`f` alone: it may be piecewise constant (an argmax, a ranking, a
    shortest path). Optax leaves out that the density is divided by :math:`\sigma`: its derivative with respect to
    :math:`\sigma` is biased.

    Args:
      fun: :math:`f`, from a tree of floating-point arrays to a tree of arrays. It is vmapped over the samples.
      num_samples: how many perturbations to average over; errors fall with its root.
      sigma: :math:`\sigma > 0`, the size of the perturbations.
      noise: the distribution of :math:`z`: an object with ``sample(key, shape, dtype)`` and ``log_prob(z)``.
      use_baseline: subtract :math:`f(x)` in derivatives, which leaves their mean and reduces their variance. It costs
        one more call.

    Returns:
      A function of a PRNG key and an input. Integers and booleans become floating-point numbers.

    Example:
      >>> hard = lambda x: jax.nn.one_hot(jnp.argmax(x), x.size)
      >>> soft = make_perturbed_fun(hard, 10_000, sigma=1.0)
      >>> soft(key, x)  # softmax(x), but for the error of sampling

    References: Berthet et al., *Learning with Differentiable Perturbed Optimizers*, 2020, proposition 3.1; Foerster et
    al., *DiCE: The Infinitely Differentiable Monte Carlo Estimator*, 2018, for derivatives of any order.
    """

    def estimate(key: Array, x: Tree, baseline: Tree) -> Tree:
        """Return one sample's term: its value, and a factor of 1 that carries its derivatives."""
        z = tree.random_like(key, x, sampler=noise.sample)
        y = lax.stop_gradient(jax.tree.map(lambda x, z: x + sigma * z, x, z))
        one = _unit_with_score(_log_density(noise, x, z, sigma))
        terms = jax.tree.map(_inexact, fun(y))
        if baseline is None:
            return tree.scale(one, terms)
        return jax.tree.map(lambda term, base: one * (term - base) + base, terms, baseline)

    def perturbed(key: Array, x: Tree) -> Tree:
        baseline = jax.tree.map(_inexact, fun(lax.stop_gradient(x))) if use_baseline else None
        keys = jax.random.split(key, num_samples)
        terms = jax.vmap(estimate, in_axes=(0, None, None))(keys, x, baseline)
        return jax.tree.map(lambda term: jnp.mean(term, axis=0), terms)

    return perturbed


def _log_density(noise: Noise, x: Tree, z: Tree, sigma: ArrayLike) -> Array:
    """Return the log density of the fixed point ``x + sigma z``, as a function of ``x`` and ``sigma``."""

    def leaf(x: Array, z: Array) -> Array:
        # (point - x) / sigma, in the order of operations in which its value is z, whatever the size of x
        return (lax.stop_gradient(x) - x) / sigma + lax.stop_gradient(sigma) / sigma * z

    scaled = tree.sum(jax.tree.map(lambda x, z: noise.log_prob(leaf(x, z)), x, z))
    return scaled - tree.size(x) * jnp.log(sigma)


def _unit_with_score(log_density: Array) -> Array:
    """Return 1, whose derivatives are those of the density relative to its value: the "magic box"."""
    return jnp.exp(log_density - lax.stop_gradient(log_density))


def _inexact(x: ArrayLike) -> Array:
    x = jnp.asarray(x)
    return x.astype(compute_dtype(x.dtype))

"""Randomness in the updates."""

from collections.abc import Callable

import jax
from jax import Array, lax
from jax.typing import DTypeLike

from gradchain.core.hyper import Hyper, Key, NonNegative
from gradchain.core.rule import elementwise
from gradchain.core.spec import At, Slots
from gradchain.numerics import real_dtype, sqrt


def sample_parts(sampler: Callable[..., Array]) -> Callable[..., Array]:
    """Return ``sampler(key, shape, dtype)`` for complex dtypes too, each part a draw of its own."""

    def sample(key: Array, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        real = real_dtype(dtype)
        return sampler(key, shape, real) if real == dtype else lax.complex(*sampler(key, (2, *shape), real))

    return sample


@elementwise(random=True)
def add_noise(g: Array, slot: Slots, at: At, eta: NonNegative, gamma: Hyper, key: Key):
    r"""Add annealed Gaussian noise: :math:`u_k = g_k + \sigma_k \varepsilon`, :math:`\sigma_k^2 = \eta / k^\gamma`.

    :math:`\varepsilon` is standard normal, independent for each element and update (for complex gradients its total
    variance is 1); :math:`k` is 1 on the first update. The state's ``key`` changes with each update.

    Args:
      eta: :math:`\eta \ge 0`, the variance on the first update.
      gamma: :math:`\gamma`; the paper uses 0.55. With 0 the variance is constant.
      key: an integer seed or a PRNG key. An array of them makes a batch: a sweep over seeds. (``jax.grad`` with respect
        to a transform that holds one needs ``allow_int=True``.)

    Reference: Neelakantan et al., *Adding Gradient Noise Improves Learning for Very Deep Networks*, 2015, equation 1.
    """
    sigma = sqrt(eta / at.t**gamma)
    return g + sigma * jax.random.normal(at.key, g.shape, g.dtype)

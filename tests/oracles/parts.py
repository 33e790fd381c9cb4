"""Oracles of parts of recent optimizers: LaProp, AdamC, momentum on several time scales."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.oracles.core import Memory, Oracle, magnitude_squared, per_array, value, weight


def laprop(b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-15, eps_root: Any = 0.0) -> Oracle:
    """Ziyin et al. 2020, algorithm 1: the average of gradients, each over the root mean square of its time."""

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        beta1, beta2 = value(b1, k), value(b2, k)
        v = beta2 * memory["v"] + (1 - beta2) * magnitude_squared(g)
        size = np.sqrt(v / weight(b2, k) + value(eps_root, k)) + value(eps, k)
        m = beta1 * memory["m"] + (1 - beta1) * g / size
        return m / weight(b1, k), {"m": m, "v": v}

    return per_array(rule, lambda w: {"m": np.zeros_like(w), "v": np.zeros(w.shape)})


def corrected_decay(rate: Any, peak: float, strength: Any, decays: Any = lambda w: True) -> Oracle:
    """Defazio 2025, algorithm 1, last line: a decay of rate^2 / peak beside the step."""

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        eta = value(rate, k)
        return -eta * g - eta**2 / peak * value(strength, k) * (w if decays(w) else 0 * w), memory

    return per_array(rule)


def ema_mixture(decays: Sequence[float], weights: Any, share: Any = 1.0) -> Oracle:
    """A sum of averages of all gradients so far, each gradient weighted by its age."""

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        past = np.concatenate([memory["past"], g[None]])
        mixed = np.zeros_like(g)
        for decay, factor in zip(decays, value(weights, k), strict=True):
            kernel = decay ** np.arange(k)[::-1]
            mixed = mixed + factor * np.tensordot(kernel / kernel.sum(), past, 1)
        mu = value(share, k)
        return (1 - mu) * g + mu * mixed, {"past": past}

    return per_array(rule, lambda w: {"past": np.zeros((0, *w.shape), w.dtype)})


def mixed_to_age(age: Any) -> Any:
    """Weights (c, 2 c, 1 - 3 c) of averages of mean ages 1, 3 and 9 whose mean age is ``age``: 7 c + 9 (1 - 3 c)."""

    def weights(count: Any) -> tuple[Any, Any, Any]:
        c = (9 - age(count)) / 20
        return c, 2 * c, 1 - 3 * c

    return weights

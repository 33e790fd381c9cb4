"""Oracles of rules without an average of squares: scaling, momentum, decay, clipping."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.oracles.core import Arrays, Memory, Oracle, per_array, value, weight


def plain(function: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Oracle:
    """Make an oracle of ``function(gradient, weights)``, without memory."""
    return per_array(lambda g, memory, k, w: (function(g, w), memory))


def identity() -> Oracle:
    """u = g."""
    return plain(lambda g, w: g)


def set_to_zero() -> Oracle:
    """u = 0."""
    return plain(lambda g, w: np.zeros_like(g))


def scale(step_size: Any) -> Oracle:
    """u_k = s(k - 1) g_k."""
    return per_array(lambda g, memory, k, w: (value(step_size, k) * g, memory))


def learning_rate(rate: Any) -> Oracle:
    """u_k = -eta(k - 1) g_k."""
    return per_array(lambda g, memory, k, w: (-value(rate, k) * g, memory))


def sign() -> Oracle:
    """Bernstein et al. 2018, algorithm 1: u = sign(g); the point on the unit circle for complex g."""
    return plain(lambda g, w: np.where(g == 0, 0, g / np.where(g == 0, 1, np.abs(g))))


def centralize() -> Oracle:
    """Yong et al. 2020, equation 1: subtract from each output unit's gradient its mean over the inputs."""

    def rule(g: np.ndarray, w: np.ndarray) -> np.ndarray:
        return g - g.reshape(len(g), -1).mean(axis=1).reshape(-1, *[1] * (g.ndim - 1)) if g.ndim > 1 and g.size else g

    return plain(rule)


def trace(decay: Any, nesterov: bool = False) -> Oracle:
    """Sutskever et al. 2013, equations 1-4, with the learning rate taken out of the velocity and the sign turned."""

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        mu = value(decay, k)
        velocity = mu * memory["velocity"] + g
        return mu * velocity + g if nesterov else velocity, {"velocity": velocity}

    return per_array(rule, lambda w: {"velocity": np.zeros_like(w)})


def ema(decay: Any, debias: bool = True) -> Oracle:
    """Kingma and Ba 2015, section 3: the average m_k, divided by the sum of its weights."""

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        beta = value(decay, k)
        m = beta * memory["m"] + (1 - beta) * g
        return m / weight(decay, k) if debias else m, {"m": m}

    return per_array(rule, lambda w: {"m": np.zeros_like(w)})


def optimistic(alpha: Any = 1.0, beta: Any = 1.0) -> Oracle:
    """Mokhtari et al. 2020, equation 8: (alpha + beta) g_k - beta g_{k-1}, with g_0 = g_1."""

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        previous = memory["g"] if k > 1 else g
        return (value(alpha, k) + value(beta, k)) * g - value(beta, k) * previous, {"g": g}

    return per_array(rule, lambda w: {"g": np.zeros_like(w)})


def weight_decay(strength: Any, on: Callable[[np.ndarray], bool] = lambda w: True) -> Oracle:
    """Loshchilov and Hutter 2019, algorithm 2, line 12, before the rates: u = g + lambda w, where ``on(w)``."""
    return per_array(lambda g, memory, k, w: (g + value(strength, k) * w if on(w) else g, memory))


def l1_penalty(strength: Any, on: Callable[[np.ndarray], bool] = lambda w: True) -> Oracle:
    """A subgradient of lambda |w|_1: u = g + lambda w / |w|, where ``on(w)``."""

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        direction = np.where(w == 0, 0, w / np.where(w == 0, 1, np.abs(w)))
        return g + value(strength, k) * direction if on(w) else g, memory

    return per_array(rule)


def clip(bound: Any) -> Oracle:
    """Each number (each part of a complex one) moved to the nearest in [-bound, bound]."""

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        c = value(bound, k)
        if np.iscomplexobj(g):
            return np.minimum(np.maximum(g.real, -c), c) + 1j * np.minimum(np.maximum(g.imag, -c), c), memory
        return np.minimum(np.maximum(g, -c), c), memory

    return per_array(rule)


def clip_by_global_norm(bound: Any) -> Oracle:
    """Pascanu et al. 2013, algorithm 1: if |g| > c then g <- c g / |g|, the norm over all arrays together."""

    def update(gradients: Arrays, k: int, params: Arrays) -> tuple[Arrays, int]:
        c = value(bound, k + 1)
        norm = np.sqrt(sum(float(np.sum(np.abs(g) ** 2)) for g in gradients.values()))
        factor = c / norm if norm > c else 1.0
        return {name: factor * g for name, g in gradients.items()}, k + 1

    return Oracle(lambda params: 0, update)


def zero_nans() -> Oracle:
    """NaN becomes 0."""
    return plain(lambda g, w: np.where(np.isnan(g), 0, g))

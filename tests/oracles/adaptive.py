"""Oracles of rules that divide by the size of past gradients."""

from typing import Any

import numpy as np

from tests.oracles.core import Memory, Oracle, magnitude_squared, per_array, value, weight


def rss(initial: Any = 0.1, eps: Any = 1e-7) -> Oracle:
    """Duchi et al. 2011, figure 1, diagonal: s_k = s_{k-1} + |g_k|^2, u = g / sqrt(s_k + eps), and 0 while s_k is 0."""

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        s = memory["s"] + magnitude_squared(g)
        return np.where(s > 0, g / np.sqrt(np.where(s > 0, s, 1) + value(eps, k)), 0), {"s": s}

    return per_array(rule, lambda w: {"s": np.full(w.shape, value(initial, 1))})


def rms(
    decay: Any = 0.9, eps: Any = 1e-8, initial: Any = 0.0, inside: bool = True, debias: bool = False,
    centered: bool = False,
) -> Oracle:  # fmt: skip
    """Hinton 2012, lecture 6e, slide 29; centred as in Graves 2013, equations 38-40."""

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        beta, epsilon = value(decay, k), value(eps, k)
        nu = beta * memory["nu"] + (1 - beta) * magnitude_squared(g)
        mu = beta * memory["mu"] + (1 - beta) * g
        correction = weight(decay, k) if debias else 1.0
        size = nu / correction
        if centered:
            size = np.maximum(size - magnitude_squared(mu / correction), 0)
        root = np.sqrt(size + epsilon) if inside else np.sqrt(size) + epsilon
        return g / root, {"nu": nu, "mu": mu}

    return per_array(rule, lambda w: {"nu": np.full(w.shape, value(initial, 1)), "mu": np.zeros_like(w)})


def adam(b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-8, eps_root: Any = 0.0, nesterov: bool = False) -> Oracle:
    """Kingma and Ba 2015, algorithm 1; the Nesterov numerator of Dozat 2016, algorithm 2."""

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        beta1, beta2 = value(b1, k), value(b2, k)
        m = beta1 * memory["m"] + (1 - beta1) * g
        v = beta2 * memory["v"] + (1 - beta2) * magnitude_squared(g)
        v_hat = v / weight(b2, k)
        look_ahead = beta1 * m / weight(b1, k, ahead=1) + (1 - beta1) * g / weight(b1, k)
        m_hat = look_ahead if nesterov else m / weight(b1, k)
        return m_hat / (np.sqrt(v_hat + value(eps_root, k)) + value(eps, k)), {"m": m, "v": v}

    return per_array(rule, lambda w: {"m": np.zeros_like(w), "v": np.zeros(w.shape)})


def adadelta(rho: Any = 0.9, eps: Any = 1e-6) -> Oracle:
    """Zeiler 2012, algorithm 1, without the sign."""

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        squares = rho * memory["g"] + (1 - rho) * magnitude_squared(g)
        u = np.sqrt(memory["x"] + eps) / np.sqrt(squares + eps) * g
        return u, {"g": squares, "x": rho * memory["x"] + (1 - rho) * magnitude_squared(u)}

    return per_array(rule, lambda w: {"g": np.zeros(w.shape), "x": np.zeros(w.shape)})

"""Oracles of Adam's later relatives: mixed momentum, lagging denominators, dual averaging, curvature."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.oracles.core import Memory, Oracle, magnitude_squared, per_array, value


def _zeros(*names: str, real: str) -> Any:
    def start(w: np.ndarray) -> Memory:
        return {n: np.zeros(w.shape, float if n == real else w.dtype) for n in names}

    return start


def _by_parts(function: Callable[..., np.ndarray], *arrays: np.ndarray) -> np.ndarray:
    if not np.iscomplexobj(arrays[0]):
        return function(*arrays)
    return function(*(x.real for x in arrays)) + 1j * function(*(x.imag for x in arrays))


def ademamix(
    b1: Any = 0.9, b2: Any = 0.999, b3: Any = 0.9999, alpha: Any = 6.0, eps: Any = 1e-8, eps_root: Any = 0.0
) -> Oracle:
    """Pagliardini et al. 2024, algorithm 1, its beta_3 and alpha by schedules."""

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        slow = value(b3, k)
        m1 = b1 * memory["m1"] + (1 - b1) * g
        m2 = slow * memory["m2"] + (1 - slow) * g
        v = b2 * memory["v"] + (1 - b2) * magnitude_squared(g)
        mixed = m1 / (1 - b1**k) + value(alpha, k) * m2
        return mixed / (np.sqrt(v / (1 - b2**k) + eps_root) + eps), {"m1": m1, "m2": m2, "v": v}

    return per_array(rule, _zeros("m1", "m2", "v", real="v"))


def simplified_ademamix(
    b1: Any = 0.99, b2: Any = 0.95, alpha: Any = 0.0, eps: Any = 1e-8, eps_root: Any = 0.0
) -> Oracle:
    """Morwani et al. 2025: a theory-style momentum plus alpha times the gradient, over Adam's denominator."""

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        m = b1 * memory["m"] + g
        v = b2 * memory["v"] + (1 - b2) * magnitude_squared(g)
        return (m + alpha * g) / (np.sqrt(v / (1 - b2**k) + eps_root) + eps), {"m": m, "v": v}

    return per_array(rule, _zeros("m", "v", real="v"))


def adopt(b1: Any = 0.9, b2: Any = 0.9999, eps: Any = 1e-6, nesterov: bool = False, clip: Any = None) -> Oracle:
    """Taniguchi et al. 2024, clipped by ``clip(k - 1)`` if given; their v_0 is made of the first gradient."""

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        square = magnitude_squared(g)
        if k == 1:
            return np.zeros_like(g), {"m": memory["m"], "v": square}
        normed = g / np.maximum(np.sqrt(memory["v"]), eps)
        if clip is not None:
            normed = _by_parts(lambda x: np.clip(x, -clip(k - 1), clip(k - 1)), normed)
        m = b1 * memory["m"] + (1 - b1) * normed
        u = b1 * m + (1 - b1) * normed if nesterov else m
        return u, {"m": m, "v": b2 * memory["v"] + (1 - b2) * square}

    return per_array(rule, _zeros("m", "v", real="v"))


def fourth_root(k: Any) -> Any:
    """Return ADOPT's bound."""
    return k**0.25


def acprop(b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-16, eps_root: Any = 1e-16) -> Oracle:
    """Zhuang et al. 2021, the surprise measured from the average before; nothing to divide by at first."""

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        s_hat = memory["s"] / (1 - b2 ** (k - 1)) if k > 1 else np.ones(g.shape)
        s = b2 * memory["s"] + (1 - b2) * magnitude_squared(g - memory["m"]) + eps_root
        return g / (np.sqrt(s_hat) + eps), {"m": b1 * memory["m"] + (1 - b1) * g, "s": s}

    return per_array(rule, _zeros("m", "s", real="s"))


def madgrad(rate: Any = 0.01, momentum: Any = 0.9, eps: Any = 1e-6) -> Oracle:
    """Defazio and Jelassi 2021, algorithm 1, with eps added to the rate as in their code."""

    def start(w: np.ndarray) -> Memory:
        return {"s": np.zeros_like(w), "v": np.zeros(w.shape), "x0": w}

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        weight = (value(rate, k) + eps) * np.sqrt(k)
        s = memory["s"] + weight * g
        v = memory["v"] + weight * magnitude_squared(g)
        z = memory["x0"] - s / (np.cbrt(v) + eps)
        return momentum * w + (1 - momentum) * z - w, {"s": s, "v": v, "x0": memory["x0"]}

    return per_array(rule, start)


def sophia(
    curvature: Callable[[np.ndarray], np.ndarray],
    b1: Any = 0.965,
    b2: Any = 0.99,
    eps: Any = 1e-8,
    gamma: Any = 0.01,
    bound: Any = 1.0,
    every: int = 10,
) -> Oracle:
    """Liu et al. 2024, algorithm 3, the momentum debiased and estimates acting from the next update on."""

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        m = b1 * memory["m"] + (1 - b1) * g
        u = _by_parts(lambda m, h: np.clip(m / np.maximum(gamma * h, eps), -bound, bound), m / (1 - b1**k), memory["h"])
        h = b2 * memory["h"] + (1 - b2) * curvature(g) if (k - 1) % every == 0 else memory["h"]
        return u, {"m": m, "h": h}

    return per_array(rule, _zeros("m", "h", real=""))

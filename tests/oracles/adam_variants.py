"""Oracles of Adam's variants."""

from typing import Any

import numpy as np

from tests.oracles.core import Memory, Oracle, magnitude_squared, per_array


def _start(*names: str, real: tuple[str, ...] = ("v",), initial: float = 0.0) -> Any:
    def start(w: np.ndarray) -> Memory:
        return {n: np.full(w.shape, initial, float if n in real else w.dtype) for n in names}

    return start


def adamax(b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-8) -> Oracle:
    """Kingma and Ba 2015, algorithm 2, with eps added to |g|."""

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        m = b1 * memory["m"] + (1 - b1) * g
        u = np.maximum(b2 * memory["u"], np.abs(g) + eps)
        return m / (1 - b1**k) / u, {"m": m, "u": u}

    return per_array(rule, _start("m", "u", real=("u",)))


def amsgrad(
    b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-8, eps_root: Any = 0.0, debias_m: bool = True, debias_v: bool = True
) -> Oracle:
    """Reddi et al. 2018, algorithm 2, with Adam's corrections where asked for, that of v before the maximum."""

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        m = b1 * memory["m"] + (1 - b1) * g
        v = b2 * memory["v"] + (1 - b2) * magnitude_squared(g)
        top = np.maximum(memory["top"], v / (1 - b2**k) if debias_v else v)
        m_hat = m / (1 - b1**k) if debias_m else m
        return m_hat / (np.sqrt(top + eps_root) + eps), {"m": m, "v": v, "top": top}

    return per_array(rule, _start("m", "v", "top", real=("v", "top")))


def _momentum(m: np.ndarray, g: np.ndarray, b1: float, k: int, nesterov: bool) -> np.ndarray:
    """Dozat 2016, algorithm 2: the numerator."""
    if nesterov:
        return b1 * m / (1 - b1 ** (k + 1)) + (1 - b1) * g / (1 - b1**k)
    return m / (1 - b1**k)


def belief(b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-16, eps_root: Any = 1e-16, nesterov: bool = False) -> Oracle:
    """Zhuang et al. 2020, algorithm 2."""

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        m = b1 * memory["m"] + (1 - b1) * g
        s = b2 * memory["v"] + (1 - b2) * magnitude_squared(g - m) + eps_root
        return _momentum(m, g, b1, k, nesterov) / (np.sqrt(s / (1 - b2**k)) + eps), {"m": m, "v": s}

    return per_array(rule, _start("m", "v"))


def yogi(b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-3, eps_root: Any = 0.0, initial: float = 1e-6) -> Oracle:
    """Zaheer et al. 2018, algorithm 2, with Adam's corrections."""

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        square = magnitude_squared(g)
        m = b1 * memory["m"] + (1 - b1) * g
        v = memory["v"] + (1 - b2) * np.where(memory["v"] > square, -square, square)
        return m / (1 - b1**k) / (np.sqrt(v / (1 - b2**k) + eps_root) + eps), {"m": m, "v": v}

    return per_array(rule, _start("m", "v", initial=initial))


def radam(
    b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-8, eps_root: Any = 0.0, threshold: Any = 5.0, nesterov: bool = False
) -> Oracle:
    """Liu et al. 2020, algorithm 2, with a threshold of 5 in place of 4."""

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        m = b1 * memory["m"] + (1 - b1) * g
        v = b2 * memory["v"] + (1 - b2) * magnitude_squared(g)
        update = _momentum(m, g, b1, k, nesterov)
        limit = 2 / (1 - b2) - 1
        rho = limit - 2 * k * b2**k / (1 - b2**k)
        if rho >= threshold and rho > 4:
            r = np.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))
            update = r * update / (np.sqrt(v / (1 - b2**k) + eps_root) + eps)
        return update, {"m": m, "v": v}

    return per_array(rule, _start("m", "v"))


def adan(b1: Any = 0.98, b2: Any = 0.92, b3: Any = 0.99, eps: Any = 1e-8, eps_root: Any = 0.0) -> Oracle:
    """Xie et al. 2022, algorithm 1, its betas being 1 - b1, 1 - b2 and 1 - b3, with Adam's corrections."""

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        change = g - memory["g"] if k > 1 else np.zeros_like(g)
        m = b1 * memory["m"] + (1 - b1) * g
        d = b2 * memory["d"] + (1 - b2) * change
        n = b3 * memory["n"] + (1 - b3) * magnitude_squared(g + (1 - b2) * change)
        ahead = m / (1 - b1**k) + (1 - b2) * d / (1 - b2**k)
        return ahead / (np.sqrt(n / (1 - b3**k) + eps_root) + eps), {"m": m, "d": d, "n": n, "g": g}

    return per_array(rule, _start("m", "d", "n", "g", real=("n",)))

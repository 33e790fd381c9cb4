"""Oracles of rules that see one array as a whole, and of bounds on norms."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.oracles.core import Arrays, Memory, Oracle, per_array, value
from tests.oracles.simple import plain


def norm(x: np.ndarray) -> Any:
    """Return the Euclidean norm of all numbers together."""
    return np.linalg.norm(x.ravel())


def rms(x: np.ndarray) -> Any:
    """Return the root mean square; 0 of nothing."""
    return norm(x) / np.sqrt(max(x.size, 1))


def param_block_norm(least: float = 1e-3) -> Oracle:
    """u = max(|w|, least) g."""
    return plain(lambda g, w: g * max(norm(w), least))


def param_block_rms(least: float = 1e-3) -> Oracle:
    """Shazeer and Stern 2018, section 8: alpha = max(eps2, RMS(X)) rho."""
    return plain(lambda g, w: g * max(rms(w), least))


def trust_ratio(
    least: float = 0.0, share: float = 1.0, eps: float = 0.0, on: Callable[[np.ndarray], bool] = lambda w: True
) -> Oracle:
    """You et al. 2017, equation 6, where ``on(w)``; both norms at least ``least``, and no change where one is 0."""

    def rule(g: np.ndarray, w: np.ndarray) -> np.ndarray:
        size, step = max(norm(w), least), max(norm(g), least)
        return share * size / (step + eps) * g if size and step and on(w) else g

    return plain(rule)


def descend_and_shrink(rate: Any) -> Oracle:
    """Bernstein et al. 2020, algorithm 1, the last line: w <- (w - eta u) / sqrt(1 + eta^2)."""

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        eta = value(rate, k)
        return (w - eta * g) / np.sqrt(1 + eta**2) - w, memory

    return per_array(rule)


def novograd(
    b1: Any = 0.9,
    b2: Any = 0.25,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    decay: Any = 0.0,
    on: Callable[[np.ndarray], bool] = lambda w: True,
) -> Oracle:
    """Ginsburg et al. 2019, algorithm 1, with decay where ``on(w)``."""

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        square = np.asarray(norm(g) ** 2)
        v = square if k == 1 else b2 * memory["v"] + (1 - b2) * square
        denominator = np.sqrt(v + eps_root) + eps
        m = b1 * memory["m"] + g / denominator + (value(decay, k) * w if on(w) else 0)
        return m, {"v": v, "m": m}

    return per_array(rule, lambda w: {"v": np.zeros(()), "m": np.zeros_like(w)})


def normalize(size: float = 1.0, eps: float = 1e-6) -> Oracle:
    """Hazan et al. 2015, algorithm 1: the gradient's direction, all arrays together."""

    def update(gradients: Arrays, state: None, params: Arrays) -> tuple[Arrays, None]:
        total = np.sqrt(sum(norm(g) ** 2 for g in gradients.values()))
        return {n: size * g / (total + eps) for n, g in gradients.items()}, state

    return Oracle(lambda params: None, update)


def clip_by_block_rms(bound: float) -> Oracle:
    """Shazeer and Stern 2018, section 6: u / max(1, RMS(u) / d)."""
    return plain(lambda g, w: g / max(1.0, rms(g) / bound))


def adaptive_clip(share: float, eps: float = 1e-3, axis: Any = None) -> Oracle:
    """Brock et al. 2021, equation 3, for each unit: column of a matrix, last axis of a kernel, or a whole vector."""

    def rule(g: np.ndarray, w: np.ndarray) -> np.ndarray:
        over = axis
        if axis is None:
            over = {2: 0, 3: 0, 4: (0, 1, 2), 5: (0, 1, 2, 3)}.get(g.ndim)
            over = None if sum(n != 1 for n in g.shape) <= 1 else over
        weights = np.sqrt(np.sum(np.abs(w) ** 2, axis=over, keepdims=True))
        size = np.sqrt(np.sum(np.abs(g) ** 2, axis=over, keepdims=True))
        bound = share * np.maximum(weights, eps)
        return np.where(size > bound, g * bound / np.where(size > 0, size, 1), g)

    return plain(rule)


def nonnegative() -> Oracle:
    """The update to the nearest parameter that isn't negative."""

    def rule(g: np.ndarray, w: np.ndarray) -> np.ndarray:
        if np.iscomplexobj(g):
            return rule(g.real, w.real) + 1j * rule(g.imag, w.imag)
        return np.maximum(g, -w)

    return plain(rule)

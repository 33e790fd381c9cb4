"""Oracles of second moments kept by rows and columns."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.oracles.core import Memory, Oracle, magnitude_squared, per_array, value


def sm3(b1: Any = 0.9, b2: Any = 1.0, eps: Any = 1e-8) -> Oracle:
    """Anil et al. 2019, algorithm SM3-II, the cover being all slices along one axis; then momentum.

    The bounds are kept in the shape of the whole array, constant along all axes but one.
    """

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        covers = [memory[f"mu{i}"] for i in range(max(g.ndim, 1))]
        s = b2 * np.minimum.reduce(covers) + (1 if b2 == 1 else 1 - b2) * magnitude_squared(g)
        quotient = np.where(s > 0, g / np.sqrt(np.where(s > 0, s, 1) + eps), 0)
        m = b1 * memory["m"] + (1 - b1) * quotient
        new = {"m": m}
        for i in range(max(g.ndim, 1)):
            others = tuple(a for a in range(g.ndim) if a != i)
            new[f"mu{i}"] = np.broadcast_to(s.max(axis=others, keepdims=True, initial=0), s.shape) if g.ndim > 1 else s
        return m, new

    def start(w: np.ndarray) -> Memory:
        return {"m": np.zeros_like(w)} | {f"mu{i}": np.zeros(w.shape) for i in range(max(w.ndim, 1))}

    return per_array(rule, start)


def factored_rms(
    rate: Any = 0.8,
    offset: int = 0,
    least: float = 128,
    eps: Any = 1e-30,
    decay: Callable[[Any, Any], Any] | None = None,
) -> Oracle:
    """Shazeer and Stern 2018, algorithm 4, for arrays with two axes of at least ``least``; else its algorithm 1.

    The squares' average is kept whole and factored when it is used: its means are the averages of the means.
    """

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        t = max(k - offset, 1)
        beta = decay(t - 1, value(rate, k)) if decay else 1 - t ** -value(rate, k)
        v = beta * memory["v"] + (1 - beta) * (magnitude_squared(g) + eps)
        order = np.argsort(g.shape, kind="stable")
        if g.ndim < 2 or g.shape[order[-2]] < least:
            return g / np.sqrt(v), {"v": v}
        i, j = int(order[-2]), int(order[-1])
        row, col = v.mean(axis=j, keepdims=True), v.mean(axis=i, keepdims=True)
        return g / np.sqrt(row * col / row.mean(axis=i, keepdims=True)), {"v": v}

    return per_array(rule, lambda w: {"v": np.zeros(w.shape)})

"""Oracles of rules that use the sign of gradients."""

from typing import Any

import numpy as np

from tests.oracles.core import Memory, Oracle, per_array, value


def _unit(x: np.ndarray) -> np.ndarray:
    """Return x / |x|, and 0 at 0."""
    return np.where(x == 0, 0, x / np.where(x == 0, 1, np.abs(x)))


def lion(b1: Any = 0.9, b2: Any = 0.99, mode: str = "hard", steepness: float = 1.0) -> Oracle:
    """Chen et al. 2023, algorithm 2, without rate and decay; the sign made smooth or refined."""

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        c = b1 * memory["m"] + (1 - b1) * g
        size = {
            "hard": np.where(c == 0, 0, 1),
            "smooth": np.tanh(steepness * np.abs(c)),
            "refined": np.minimum(np.abs(c), 1),
        }[mode]
        return size * _unit(c), {"m": b2 * memory["m"] + (1 - b2) * g}

    return per_array(rule, lambda w: {"m": np.zeros_like(w)})


def rprop(initial: Any, minus: Any = 0.5, plus: Any = 1.2, low: Any = 1e-6, high: Any = 50.0) -> Oracle:
    """Igel and Hüsken 2000, iRprop-: number by number; complex ones as pairs."""

    def real(g: np.ndarray, step: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        grow, shrink = g * last > 0, g * last < 0
        step = np.where(grow, np.minimum(step * plus, high), np.where(shrink, np.maximum(step * minus, low), step))
        return np.where(shrink, 0, step * np.sign(g)), step

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        parts = [real(part(g), part(memory["step"]), part(memory["last"])) for part in (np.real, np.imag)]
        (update, step), (update_i, step_i) = parts
        if np.iscomplexobj(g):
            update, step = update + 1j * update_i, step + 1j * step_i
        return update, {"step": step, "last": update}

    def start(w: np.ndarray) -> Memory:
        first = value(initial, 1)
        return {"step": np.full_like(w, first * (1 + 1j) if np.iscomplexobj(w) else first), "last": np.zeros_like(w)}

    return per_array(rule, start)

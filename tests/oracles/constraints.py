"""Projected steps (Levitin and Polyak 1966), and what controls the norms of weights and of their steps."""

from typing import Any

import numpy as np

from tests.oracles.core import Arrays, Memory, Oracle, per_array, value
from tests.oracles.layerwise import norm
from tests.oracles.simple import plain


def project_on_ball(radius: float) -> Oracle:
    """The update to the nearest parameters in a Euclidean ball, all arrays taken together."""

    def update(gradients: Arrays, state: None, params: Arrays) -> tuple[Arrays, None]:
        moved = {name: params[name] + g for name, g in gradients.items()}
        length = np.sqrt(sum(np.sum(np.abs(x) ** 2) for x in moved.values()))
        shrink = min(1.0, radius / length) if length > 0 else 1.0
        return {name: shrink * x - params[name] for name, x in moved.items()}, None

    return Oracle(lambda params: None, update)


def keep_norm(size: Any = "initial") -> Oracle:
    """Wen et al. 2026: back to the sphere around 0 on which the weights started, on which they are, or of a radius."""

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        radius = memory["radius"] if size == "initial" else norm(w) if size == "present" else value(size, k)
        return radius * (w + g) / norm(w + g) - w if radius else g, memory

    return per_array(rule, lambda w: {"radius": norm(w)})


def pin_norm() -> Oracle:
    """The norm that the part of the update along the weights leads to, with the direction that the whole leads to."""

    def rule(g: np.ndarray, w: np.ndarray) -> np.ndarray:
        along = np.vdot(w, g).real / norm(w) if norm(w) else 0.0
        radius = norm(w) + along if norm(w) else 0.0
        return radius * (w + g) / norm(w + g) - w if radius > 0 and norm(w + g) else g

    return plain(rule)


def brake_norm(outward: float, inward: float) -> Oracle:
    """The part along the weights, of a step to be added, times a factor that depends on its direction."""

    def rule(g: np.ndarray, w: np.ndarray) -> np.ndarray:
        share = np.vdot(w, g).real / norm(w) ** 2 if norm(w) else 0.0
        return (g - share * w) + (outward if share > 0 else inward) * share * w

    return plain(rule)


def limit_update_ratio(low: float, high: float, least: float = 1e-3, outputs: bool = False) -> Oracle:
    """|u| / max(|w|, least) between ``low`` and ``high``, for each array or each column of a matrix."""

    def rule(g: np.ndarray, w: np.ndarray) -> np.ndarray:
        ratio = norm(g) / max(norm(w), least)
        return g * np.clip(ratio, low, high) / ratio if ratio else g

    def by_column(g: np.ndarray, w: np.ndarray) -> np.ndarray:
        return (
            np.stack([rule(*pair) for pair in zip(g.T, w.T, strict=True)], axis=1)
            if w.ndim == 2 and w.size
            else rule(g, w)
        )

    return plain(by_column if outputs else rule)


def cautious_decay(strength: float) -> Oracle:
    """Chen et al. 2025, algorithm 1: decay where it goes the update's way."""
    return plain(lambda g, w: g + strength * np.where((np.conj(g) * w).real >= 0, w, 0))


def decay_updated_weights(rate: Any, cautious: bool = False) -> Oracle:
    """The weights that a step leads to times 1 - rate, or those alone that it brings nearer to zero."""

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        held = (np.conj(g) * w).real > 0 if cautious else np.zeros(w.shape, bool)
        return np.where(held, w + g, (1 - value(rate, k)) * (w + g)) - w, memory

    return per_array(rule)

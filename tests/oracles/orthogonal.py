"""Oracles of what goes with Muon: second moments of orthogonal updates, norms' balls, slices."""

import math
from typing import Any

import numpy as np

from tests.oracles.core import Memory, Oracle, magnitude_squared, per_array, value
from tests.oracles.layerwise import norm
from tests.oracles.matrices import STANDARD, momentum, orthogonalized

POLAR_5 = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
"""Amsel et al. 2025, for five steps; matrices are divided by 1.02 times their norm."""


def polar(x: np.ndarray, eps: float = 1e-8) -> np.ndarray:
    """Return what five steps of Polar Express make of a matrix."""
    size = norm(x) + eps
    return orthogonalized(x / (1.02 * size), ((1, 0, 0), *POLAR_5), "none") if norm(x) else x


def with_norm(u: np.ndarray, size: Any) -> np.ndarray:
    """Return the matrix with another norm."""
    return u * size / norm(u) if norm(u) else u


def normuon(
    axis: str = "longer",
    beta: float = 0.95,
    b2: float = 0.95,
    eps: float = 1e-8,
    exact: bool = False,
    nesterov: bool = True,
    form: str = "debiased",
    rows: Any = None,
) -> Oracle:
    """Li et al. 2025 (outputs), Jordan's benchmark (longer), Si et al. 2025 (elements), Zhang et al. 2026 (all)."""

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        ahead, m = momentum(form, beta, nesterov, g, memory["m"], k)
        x = polar(ahead) if rows is None else orthogonalized(ahead, rows)
        if axis == "all":
            squares = norm(g) ** 2
        elif axis == "elements":
            squares = magnitude_squared(x)
        else:
            inputs, outputs = x.shape
            along = 0 if axis == "outputs" or outputs >= inputs else 1
            squares = magnitude_squared(x).mean(axis=along, keepdims=True) if x.size else 0.0
        v = b2 * memory["v"] + (1 - b2) * squares
        root = np.sqrt(v / (1 - b2**k if form == "debiased" else 1)) + eps
        if axis == "all":
            return x * norm(ahead) / root, {"m": m, "v": v}
        return with_norm(x / root, math.sqrt(min(x.shape)) if exact else norm(x)), {"m": m, "v": v}

    return per_array(rule, lambda w: {"m": np.zeros_like(w), "v": 0.0})


def in_metric(decay: float = 0.95, exponent: float = 0.25, bound: float = 2.0, rows: Any = STANDARD) -> Oracle:
    """IsoMuon's step with the statistics of EMP, 2026."""

    def metric(h: np.ndarray) -> np.ndarray:
        if not h.any():
            return np.full_like(h, 1 / bound)
        return np.clip((h / np.exp(np.log(h[h > 0]).mean())) ** exponent, 1 / bound, bound)

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        if not g.size:
            return g, memory
        squares = magnitude_squared(g)
        h = {side: decay * memory[side] + (1 - decay) * squares.mean(axis) for side, axis in (("in", 1), ("out", 0))}
        scale = (metric(h["in"])[:, None] * metric(h["out"])[None]) ** -0.5
        return with_norm(orthogonalized(g * scale, rows) * scale, math.sqrt(min(g.shape))), h

    return per_array(rule, lambda w: {"in": 0.0, "out": 0.0})


def lmo(kind: str, radius: float = 1.0, eps: float = 1e-8, rows: Any = STANDARD) -> Oracle:
    """Pethick et al. 2025, table 2."""

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        return value(radius, k) * furthest(kind, g, eps, rows), memory

    return per_array(rule)


def furthest(kind: str, g: np.ndarray, eps: float = 1e-8, rows: Any = STANDARD) -> np.ndarray:
    """Return the point of the unit ball that lies furthest along ``g``."""
    if kind == "rms":
        return g / (np.sqrt(magnitude_squared(g).mean() if g.size else 0.0) + eps)
    inputs, outputs = g.shape[-2:]
    if kind == "spectral":
        return np.sqrt(outputs / max(1, inputs)) * orthogonalized(g, rows, eps=eps)
    if kind == "conv":
        u = orthogonalized(g.reshape(-1, outputs), rows, eps=eps).reshape(g.shape)
        return np.sqrt(outputs / inputs) / math.prod(g.shape[:-2]) * u
    if kind == "sign":
        size = np.abs(g)
        return np.divide(g, size, out=np.zeros_like(g), where=size > 0) / max(1, inputs)
    if kind == "outputs":
        return g / (np.sqrt(magnitude_squared(g).sum(0, keepdims=True) * inputs) + eps)
    return g / (np.sqrt(magnitude_squared(g).sum(1, keepdims=True) / max(1, outputs)) + eps)


def dion2(
    fraction: float = 0.25, decay: float = 0.95, b2: float | None = None, eps: float = 1e-8, rows: Any = None
) -> Oracle:
    """Ahn et al. 2025, Dion2; with ``b2`` NorDion2 of the code that comes with it."""

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        m, v = memory["m"] + g, memory["v"].copy()
        inputs, outputs = g.shape
        if b2 is None and outputs > inputs:
            u, m = slices(m.T, None)
            return u.T, {"m": m.T, "v": v}
        u, m = slices(m, v)
        return u, {"m": m, "v": v}

    def slices(m: np.ndarray, v: Any) -> tuple[np.ndarray, np.ndarray]:
        m, u = m.copy(), np.zeros_like(m)
        number = min(m.shape[1], max(1, math.ceil(fraction * m.shape[1])))
        chosen = np.argsort(-np.abs(m).sum(0), kind="stable")[:number]
        x = polar(m[:, chosen], eps) if rows is None else orthogonalized(m[:, chosen], rows, eps=eps)
        m[:, chosen] *= decay
        if b2 is not None:
            v[chosen] = b2 * v[chosen] + (1 - b2) * (magnitude_squared(x).mean(0) if x.size else 0.0)
            x = with_norm(x / (np.sqrt(v[chosen]) + eps), norm(x))
        u[:, chosen] = x
        return u, m

    return per_array(rule, lambda w: {"m": np.zeros_like(w), "v": np.zeros(w.shape[-1])})

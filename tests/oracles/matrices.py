"""Oracles of rules that see matrices, by singular values."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.oracles.core import Arrays, Memory, Oracle, per_array, value
from tests.oracles.layerwise import norm

STANDARD = ((3.4445, -4.7750, 2.0315),) * 5
QUINTIC = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
"""Cesista et al. 2025."""


def orthogonalized(x: np.ndarray, rows: Sequence[Any] = STANDARD, how: str = "frobenius", eps: float = 1e-8) -> Any:
    """Return U p(S) V* for x / size = U S V*, p being a s + b s^3 + c s^5 for each row (a, b, c), one after another.

    Jordan et al. 2024. The iteration makes the same of matrix products.
    """
    if x.shape[0] > x.shape[1]:
        return orthogonalized(x.T, rows, how, eps).T
    if not norm(x):
        return x
    if how == "aol":  # Boissin et al. 2025: each row by the root of its sum in |X X*|
        x = x / np.sqrt(np.sum(np.abs(x @ x.conj().T), axis=1, keepdims=True))
    else:
        s = np.linalg.svd(x, compute_uv=False)
        size = {"frobenius": norm(x) + eps, "spectral": s.max() + eps, "schatten": np.sum(s**4) ** 0.25, "none": 1.0}
        x = x / size[how]
    u, s, vh = np.linalg.svd(x, full_matrices=False)
    for a, b, c in rows:
        s = a * s + b * s**3 + c * s**5
    return (u * s) @ vh


def momentum(form: str, beta: float, nesterov: bool, g: np.ndarray, m: np.ndarray, k: int) -> Any:
    """Return what is orthogonalised, and the momentum: debiased, an average as in PyTorch, or a sum as in Dion."""
    if form == "sum":
        m = beta * m + g
        return (g + beta * m if nesterov else m), m
    m = beta * m + (1 - beta) * g
    if form == "average":
        return (beta * m + (1 - beta) * g if nesterov else m), m
    if nesterov:
        return beta * m / (1 - beta ** (k + 1)) + (1 - beta) * g / (1 - beta**k), m
    return m / (1 - beta**k), m


def muon(
    beta: float = 0.95,
    rows: Any = STANDARD,
    how: str = "frobenius",
    nesterov: bool = True,
    adaptive: bool = False,
    form: str = "debiased",
) -> Oracle:
    """Jordan et al. 2024, with Adam's corrections if debiased; ``adaptive`` by Bernstein and Newhouse 2024, prop. 5."""

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        ahead, m = momentum(form, beta, nesterov, g, memory["m"], k)
        u = orthogonalized(ahead, rows, how)
        return u * np.vdot(ahead, u).real if adaptive else u, {"m": m}

    return per_array(rule, lambda w: {"m": np.zeros_like(w)})


def by_shape(rms: float | None = None, turned: bool = False, spectral: bool = False) -> Oracle:
    """Liu et al. 2025, section 2.2, and Bernstein 2025; ``turned`` where columns are the inputs."""

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        m, n = g.shape[::-1] if turned else g.shape
        least = 0 if spectral else 1
        return g * (np.sqrt(max(least, n / max(m, 1))) if rms is None else value(rms, k) * np.sqrt(max(m, n))), memory

    return per_array(rule)


def spectral_norm(steps: int = 1) -> Oracle:
    """Yang et al. 2023, condition 1: |u| = sqrt(out / in) in the spectral norm, which a power iteration estimates."""

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        x = g if g.ndim == 2 else g.reshape(1, -1)
        if not norm(x):
            return g, {"v": np.zeros_like(memory["v"])}
        longest = x[np.argmax(np.linalg.norm(x, axis=1))].conj()
        v = memory["v"] if norm(memory["v"]) else longest
        for _ in range(steps):
            v = x.conj().T @ (x @ v)
            v = v / norm(v) if norm(v) else longest / norm(longest)
        u = np.sqrt(x.shape[1] / x.shape[0]) * x / norm(x @ v)
        return u.reshape(g.shape), {"v": v}

    return per_array(rule, lambda w: {"v": np.zeros(w.shape[1] if w.ndim == 2 else w.size, w.dtype)})


def galore(rank: int, gap: int, scale: float, base: Oracle) -> Oracle:
    """Zhao et al. 2024, algorithm 2, for arrays with two axes; new vectors turned towards those that they replace."""

    def basis(g: np.ndarray, old: np.ndarray | None) -> np.ndarray:
        u = np.linalg.svd(g if g.shape[0] >= g.shape[1] else g.conj().T, full_matrices=False)[0][:, :rank]
        if old is None:
            return u
        overlap = np.sum(u.conj() * old, axis=0)
        return u * overlap / np.abs(overlap)

    def small(x: np.ndarray, p: np.ndarray) -> np.ndarray:
        return p.conj().T @ x if x.shape[0] >= x.shape[1] else x @ p

    def projected(arrays: Arrays, bases: Arrays) -> Arrays:
        return {n: small(x, bases[n]) if n in bases else x for n, x in arrays.items()}

    def update(gradients: Arrays, state: Any, params: Arrays) -> tuple[Arrays, Any]:
        k, bases, inner = state
        if k % gap == 0:
            bases = {n: basis(g, bases.get(n)) for n, g in gradients.items() if g.ndim == 2 and g.size}
        inner = base.init(projected(params, bases)) if inner is None else inner
        updates, inner = base.update(projected(gradients, bases), inner, projected(params, bases))
        for n, p in bases.items():
            tall = gradients[n].shape[0] >= gradients[n].shape[1]
            updates[n] = scale * (p @ updates[n] if tall else updates[n] @ p.conj().T)
        return updates, (k + 1, bases, inner)

    return Oracle(lambda params: (0, {}, None), update)

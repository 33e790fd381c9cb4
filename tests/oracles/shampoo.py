"""Oracles of Shampoo."""

import itertools
from typing import Any

import numpy as np

from tests.oracles.core import Memory, Oracle, per_array


def slices(size: int, most: int) -> list[slice]:
    """Return the blocks that an axis is cut into."""
    return [slice(i, min(i + most, size)) for i in range(0, max(size, 1), most)]


def unfolded(g: np.ndarray, axis: int) -> np.ndarray:
    """Return the array as a matrix whose rows go along one axis."""
    return np.moveaxis(g, axis, 0).reshape(g.shape[axis], g.size // max(g.shape[axis], 1))


def inverse_power(a: np.ndarray, exponent: float, ridge: float, shift: float) -> np.ndarray:
    """Return (A + (ridge * max x + shift) I)^-exponent for A of eigenvalues x; for a zero matrix I."""
    if not np.any(a):
        return np.eye(len(a))
    x, q = np.linalg.eigh(a)
    x = np.maximum(x, 0)
    added = ridge * x[-1] + shift
    kept = (x > len(x) * np.finfo(float).eps * x[-1]) | (added > 0)
    return (q * np.where(kept, np.where(kept, x + added, 1) ** -exponent, 0)) @ q.conj().T


def shampoo(
    b1: float = 0.9,
    b2: float = 0.95,
    beta: float = 0.95,
    eps: float = 1e-8,
    ridge: float = 1e-6,
    shift: float = 0.0,
    exponent: float | None = None,
    every: int = 10,
    start: int = 1,
    graft: bool = True,
    nesterov: bool = False,
    block: int = 1024,
    axes: Any = None,
) -> Oracle:
    """Gupta et al. 2018 with moving averages, Anil et al. 2020's blocks and grafting; ``axes`` are those with factors.

    Each block is an array of its own, so that the rule for it has none.
    """

    def one(g: np.ndarray, m: Memory, k: int, key: str) -> np.ndarray:
        chosen = range(g.ndim) if axes is None else axes
        p = exponent or 0.5 / max(len(chosen), 1)
        moment = m["m", key] = b1 * m.get(("m", key), 0) + (1 - b1) * g
        second = m["v", key] = b2 * m.get(("v", key), 0) + (1 - b2) * np.abs(g) ** 2
        for i in chosen:
            x = unfolded(g, i)
            m["L", key, i] = beta * m.get(("L", key, i), 0) + (1 - beta) * x @ x.conj().T
            if k >= start and (k - start) % every == 0:
                m["P", key, i] = inverse_power(m["L", key, i] / (1 - beta**k), p, ridge, shift)
        ahead = moment / (1 - b1**k)
        if nesterov:
            ahead = b1 * moment / (1 - b1 ** (k + 1)) + (1 - b1) * g / (1 - b1**k)
        u, adam = ahead, ahead / (np.sqrt(second / (1 - b2**k)) + eps)
        if k < start:
            return adam if graft else u
        for i in chosen:
            u = np.moveaxis(np.tensordot(m["P", key, i], u, (1, i)), 0, i)
        return u * (np.linalg.norm(adam) / (np.linalg.norm(u) or 1)) if graft else u

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        memory, u = dict(memory), np.zeros_like(g)
        for place in itertools.product(*[slices(n, block) for n in g.shape]):
            u[place] = one(g[place], memory, k, str(place))
        return u, memory

    return per_array(rule)

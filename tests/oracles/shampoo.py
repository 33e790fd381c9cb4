"""Oracles of Shampoo and PSGD-Kron."""

import itertools
from typing import Any

import numpy as np

from tests.oracles.core import Arrays, Memory, Oracle, per_array


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


def kron(
    noise: list[Arrays], b1: float = 0.9, rate: float = 0.1, diagonal: Any = lambda shape: [len(shape) < 2] * len(shape)
) -> Oracle:
    """Pooladzandi and Li 2024, with given random arrays; ``diagonal`` says which axes have diagonal factors."""

    def along(x: np.ndarray, matrix: np.ndarray, axis: int) -> np.ndarray:
        return np.moveaxis(np.tensordot(matrix, x, (1, axis)), 0, axis)

    def bound(a: np.ndarray) -> float:
        x = a @ a[:, np.argmax(np.linalg.norm(a, axis=0))]
        return float(np.linalg.norm(a @ x) / np.linalg.norm(x))

    def fitted(q: np.ndarray, a: np.ndarray, b: np.ndarray, axis: int, is_diagonal: bool) -> np.ndarray:
        first, second = (y @ y.conj().T for y in (unfolded(a, axis), unfolded(b, axis)))
        if is_diagonal:
            first, second = np.diag(np.diag(first)), np.diag(np.diag(second))
            return q - rate * (first - second) @ q / np.max(np.abs(first + second))
        return q - rate * np.triu(first - second) @ q / bound(first + second)

    def one(g: np.ndarray, memory: Memory, k: int, v: np.ndarray) -> tuple[np.ndarray, Memory]:
        factors = memory.get("Q") or [np.eye(n, dtype=g.dtype) for n in g.shape]
        m = b1 * memory.get("m", 0) + (1 - b1) * g
        a, b = m / (1 - b1**k), v
        for i, q in enumerate(factors):
            a, b = along(a, q, i), along(b, np.linalg.inv(q).conj().T, i)
        kinds = enumerate(zip(factors, diagonal(g.shape), strict=True))
        factors = [fitted(q, a, b, i, kind) for i, (q, kind) in kinds]
        u = m / (1 - b1**k)
        for i, q in enumerate(factors):
            u = along(u, q.conj().T @ q, i)
        return u * min(1, 1.1 / (np.sqrt(np.mean(np.abs(u) ** 2)) + 1e-6)), {"m": m, "Q": factors}

    def update(gradients: Arrays, state: Any, params: Arrays) -> tuple[Arrays, Any]:
        k, memory = state
        results = {n: one(g, memory.get(n, {}), k + 1, noise[k][n]) for n, g in gradients.items()}
        return {n: u for n, (u, _) in results.items()}, (k + 1, {n: new for n, (_, new) in results.items()})

    return Oracle(lambda params: (0, {}), update)

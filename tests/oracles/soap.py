"""Oracles of rules in the eigenbases of Shampoo's factors, for arrays of any order."""

from typing import Any

import numpy as np

from tests.oracles.core import Memory, Oracle, magnitude_squared, per_array, weight


def along(x: np.ndarray, matrices: dict[int, np.ndarray]) -> np.ndarray:
    """Return y[.. j ..] = sum_i m[j, i] x[.. i ..] for each axis that has a matrix."""
    for axis, m in matrices.items():
        x = np.moveaxis(np.tensordot(m, x, (1, axis)), 0, axis)
    return x


def into(x: np.ndarray, bases: dict[int, np.ndarray], without: int | None = None) -> np.ndarray:
    """Return an array in terms of its axes' bases."""
    return along(x, {i: q.conj().T for i, q in bases.items() if i != without})


def unfolded(x: np.ndarray, axis: int) -> np.ndarray:
    """Return the array as a matrix whose rows are one of its axes."""
    return np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)


def tracked(a: np.ndarray, q: np.ndarray, ridge: float) -> np.ndarray:
    """Golub and Van Loan, section 8.2.4, in the order of falling Rayleigh quotients; columns keep their places."""
    if not a.any():
        return q
    image = (a + ridge * np.trace(a).real * np.eye(len(a))) @ q
    order = np.argsort(-np.sum(q.conj() * image, axis=0).real, kind="stable")
    new = np.empty_like(image)
    new[:, order] = np.linalg.qr(image[:, order])[0]
    return new


def scaled_by(x: np.ndarray, values: list[np.ndarray], without: int | None = None) -> np.ndarray:
    """Divide an array by the roots of numbers along each axis but one."""
    for axis, d in enumerate(values):
        if axis != without:
            x = x / np.sqrt(d).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    return x


class Bases:
    """Factors, bases and eigenvalues of one array."""

    def __init__(self, w: np.ndarray, axes: bool, beta: float, every: int, ridge: float):
        sides = range(w.ndim) if axes or w.ndim == 2 else ()
        self.axes = [i for i in sides if w.shape[i] > 1]
        self.factors = {i: np.zeros((w.shape[i],) * 2, w.dtype) for i in self.axes}
        self.bases = {i: np.eye(w.shape[i], dtype=w.dtype) for i in self.axes}
        self.values: list[np.ndarray] = []
        self.beta, self.every, self.ridge = beta, every, ridge

    def begin(self, g: np.ndarray) -> None:
        """Let eigenvalues be the root mean square of the first gradient that isn't zero."""
        if g.any() and not self.values:
            self.values = [np.full(n, np.sqrt(np.mean(magnitude_squared(g)))) for n in g.shape]

    def after(self, g: np.ndarray, k: int, kl: bool = False) -> None:
        """Take one more gradient into the factors, and refresh the bases if that is due."""
        for i in self.axes:
            x = unfolded(g, i)
            if kl:
                white = scaled_by(into(g, self.bases, without=i), self.values, without=i) if self.values else 0 * g
                x = unfolded(white, i) / np.sqrt(g.size / g.shape[i])
            self.factors[i] = self.beta * self.factors[i] + (1 - self.beta) * x @ x.conj().T
        if kl and self.values:
            self.values = self.grown(g)
        if (k - 1) % self.every == 0:
            self.bases = {i: tracked(self.factors[i], q, self.ridge) for i, q in self.bases.items()}

    def grown(self, g: np.ndarray) -> list[np.ndarray]:
        """Lin et al. 2025: eigenvalues with one more gradient, each axis's whitened by all others."""
        p = into(g, self.bases)
        new = []
        for i, d in enumerate(self.values):
            others = tuple(j for j in range(g.ndim) if j != i)
            mean = np.mean(magnitude_squared(scaled_by(p, self.values, without=i)), axis=others)
            d = self.beta * d + (1 - self.beta) * mean
            new.append(np.maximum(d, self.ridge * d.mean()))
        return new


def soap(
    b1: float = 0.95,
    b2: float = 0.95,
    eps: float = 1e-8,
    beta: float = 0.95,
    every: int = 10,
    ridge: float = 1e-5,
    axes: bool = False,
    kl: bool = False,
) -> Oracle:
    """Vyas et al. 2024, from identities, each gradient in the bases that those before it made."""

    def start(w: np.ndarray) -> Any:
        zero = np.zeros_like(w)
        return {"m": zero, "v": zero.real, "bases": Bases(w, axes, beta, every, ridge)}

    def rule(g: np.ndarray, memory: Any, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        own = memory["bases"]
        own.begin(g)
        m = b1 * memory["m"] + (1 - b1) * g
        v = b2 * memory["v"] + (1 - b2) * magnitude_squared(into(g, own.bases))
        u = into(m, own.bases) / weight(b1, k) / (np.sqrt(v / weight(b2, k)) + eps)
        u = along(u, own.bases)
        own.after(g, k, kl)
        return u, {"m": m, "v": v, "bases": own}

    return per_array(rule, start)


def kl_shampoo(
    b1: float = 0.9,
    beta: float = 0.98,
    eps: float = 1e-8,
    every: int = 10,
    ridge: float = 1e-5,
    axes: bool = False,
) -> Oracle:
    """Lin et al. 2025, from identities, divided by eigenvalues that have the present gradient in them."""

    def start(w: np.ndarray) -> Any:
        return {"m": np.zeros_like(w), "bases": Bases(w, axes, beta, every, ridge)}

    def rule(g: np.ndarray, memory: Any, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        own = memory["bases"]
        own.begin(g)
        m = b1 * memory["m"] + (1 - b1) * g
        root = 1 / scaled_by(np.ones(g.shape), own.grown(g)) if own.values else 1
        u = along(into(m, own.bases) / weight(b1, k) / (root + eps), own.bases)
        own.after(g, k, kl=True)
        return u, {"m": m, "bases": own}

    return per_array(rule, start)


def splus(
    b1: float = 0.9,
    beta: float = 0.999,
    every: int = 10,
    ridge: float = 1e-5,
    axes: bool = False,
    floor: float = 1e-5,
    vector: float = 1e-3,
) -> Oracle:
    """Frans et al. 2025; what is below a share of the largest element counts as 0."""

    def start(w: np.ndarray) -> Any:
        return {"m": np.zeros_like(w), "bases": Bases(w, axes, beta, every, ridge)}

    def rule(g: np.ndarray, memory: Any, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        own = memory["bases"]
        m = b1 * memory["m"] + (1 - b1) * g
        p = into(m, own.bases)
        size = np.abs(p)
        whole = w.ndim and (axes or w.ndim == 2)
        keep = size > floor * size.max() if whole and size.size else size > 0
        signs = np.where(keep, p / np.where(size > 0, size, 1), 0)
        scale = w.ndim / max(sum(w.shape), 1) if whole else vector
        u = scale * along(signs, own.bases)
        own.after(g, k)
        return u, {"m": m, "bases": own}

    return per_array(rule, start)


def whiten_momentum(
    b1: float = 0.95, b2: float = 0.9, eps: float = 1e-8, beta: float = 0.9, every: int = 1, ridge: float = 1e-5
) -> Oracle:
    """Vyas 2026: momentum in the bases that the gradients before it made, over its own root mean square."""

    def start(w: np.ndarray) -> Any:
        zero = np.zeros_like(w)
        return {"m": zero, "v": zero.real, "bases": Bases(w, True, beta, every, ridge)}

    def rule(g: np.ndarray, memory: Any, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        own = memory["bases"]
        m = b1 * memory["m"] + (1 - b1) * g
        p = into(b1 * m + (1 - b1) * g, own.bases)
        v = b2 * memory["v"] + (1 - b2) * magnitude_squared(p)
        u = along(p / np.maximum(np.sqrt(v), eps), own.bases)
        own.after(g, k)
        return u, {"m": m, "v": v, "bases": own}

    return per_array(rule, start)

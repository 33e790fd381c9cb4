"""Newton's method in a trust region, from Nocedal and Wright's *Numerical Optimization*."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.oracles.core import Arrays, Oracle

Product = Callable[[Arrays, Arrays], Arrays]


def _inner(x: Arrays, y: Arrays) -> float:
    return sum(np.vdot(x[n], y[n]).real for n in x)


def _norm(x: Arrays) -> float:
    return np.sqrt(_inner(x, x))


def _plus(x: Arrays, t: float, y: Arrays) -> Arrays:
    return {n: x[n] + t * y[n] for n in x}


def truncated_cg(g: Arrays, product: Callable[[Arrays], Arrays], radius: float, tolerance: float, most: float) -> Any:
    """Algorithm 7.2: return the step, whether it lies on the boundary, and the radius (0 asks for Cauchy's step)."""
    z, r, d, k = {n: np.zeros_like(x) for n, x in g.items()}, g, {n: -x for n, x in g.items()}, 0
    while True:
        curvature = _inner(d, product(d))
        if not radius:
            return _plus(z, _inner(g, g) / abs(curvature), d), True, _norm(g) ** 3 / abs(curvature)
        ahead = _plus(z, _inner(r, r) / curvature, d) if curvature > 0 else None
        if ahead is None or _norm(ahead) >= radius:
            roots = np.roots([_inner(d, d), 2 * _inner(z, d), _inner(z, z) - radius**2])
            return _plus(z, max(roots.real), d), True, radius
        following = _plus(r, _inner(r, r) / curvature, product(d))
        k += 1
        if _norm(following) <= tolerance or k >= most:
            return ahead, False, radius
        d = _plus({n: -x for n, x in following.items()}, _inner(following, following) / _inner(r, r), d)
        z, r = ahead, following


def newton_cg(
    loss: Any, product: Product, largest: float = np.inf, radius: float = 0.0, most: float = np.inf
) -> Oracle:
    """Algorithm 4.1 with eta = 1e-3, a radius that shrinks to a quarter of the step, and the forcing term of chapter 7
    relative to the first gradient."""

    def init(params: Arrays) -> Any:
        return radius, 0.0

    def update(gradients: Arrays, state: Any, params: Arrays) -> tuple[Arrays, Any]:
        norm, zero = _norm(gradients), {n: np.zeros_like(g) for n, g in gradients.items()}
        if norm == 0:
            return zero, state
        first = state[1] or norm
        tolerance = min(0.5, np.sqrt(norm / first)) * norm
        step, bounded, now = truncated_cg(gradients, lambda v: product(params, v), state[0], tolerance, most)
        model = _inner(gradients, step) + 0.5 * _inner(step, product(params, step))
        ratio = (loss(params) - loss(_plus(params, 1, step))) / -model
        if ratio < 0.25:
            now = min(now, _norm(step)) / 4
        elif ratio > 0.75 and bounded:
            now = min(2 * now, largest)
        return step if ratio > 1e-3 else zero, (now, first)

    return Oracle(init, update)

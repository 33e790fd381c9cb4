"""Oracles that hold the whole inverse Hessian as a matrix: L-BFGS; and nonlinear conjugate gradients on one vector.

Complex arrays count as their real and imaginary parts.
"""

from typing import Any

import numpy as np

from tests.oracles.core import Arrays, Oracle


def _vector(arrays: Arrays) -> np.ndarray:
    parts = [part for x in arrays.values() for part in ([x.real, x.imag] if np.iscomplexobj(x) else [x])]
    return np.concatenate([np.ravel(part) for part in parts]) if parts else np.zeros(0)


def _arrays(vector: np.ndarray, like: Arrays) -> Arrays:
    result, start = {}, 0
    for name, x in like.items():
        size = x.size * (2 if np.iscomplexobj(x) else 1)
        own = vector[start : start + size]
        own = own[: x.size] + 1j * own[x.size :] if np.iscomplexobj(x) else own
        result[name], start = own.reshape(x.shape), start + size
    return result


def inverse_hessian(pairs: Any, scale: float) -> np.ndarray:
    """Nocedal and Wright 2006, equation 6.17, from ``scale`` times the identity through the pairs, the newest last."""
    size = len(pairs[0][0])
    h = scale * np.eye(size)
    for s, y in pairs:
        rho = 1 / (s @ y)
        side = np.eye(size) - rho * np.outer(s, y)
        h = side @ h @ side.T + rho * np.outer(s, s)
    return h


def lbfgs(memory: int = 10, scaled: bool = True, gradient: Any = None) -> Oracle:
    """Liu and Nocedal 1989, keeping pairs of clear curvature; the memory is emptied where the parameters are at rest.

    With ``gradient``, a function of the parameters, changes of the gradient are those of this function.
    """

    def init(params: Arrays) -> Any:
        return None, []

    def update(gradients: Arrays, state: Any, params: Arrays) -> tuple[Arrays, Any]:
        (last, pairs), w, g = state, _vector(params), _vector(gradients)
        if last is not None:
            before = _vector(gradient(_arrays(last[0], params))) if gradient else last[1]
            s, y = w - last[0], g - before
            noise = 2 * np.finfo(float).eps * np.linalg.norm(s) * (np.linalg.norm(g) + np.linalg.norm(before))
            pairs = [] if not np.any(s) else [*pairs, (s, y)][-memory:] if s @ y > noise else pairs
        if not pairs:
            u = g / max(1, np.linalg.norm(g)) if scaled else g
        else:
            s, y = pairs[-1]
            u = inverse_hessian(pairs, s @ y / (y @ y) if scaled else 1.0) @ g
        return _arrays(u, gradients), ((w, g), pairs)

    return Oracle(init, update)


def nonlinear_cg(method: str = "hager_zhang") -> Oracle:
    """Hager and Zhang 2005, with their surveys' other choices of beta."""

    def beta(g: np.ndarray, y: np.ndarray, d: np.ndarray, before: np.ndarray) -> float:
        if method == "polak_ribiere":
            return max(0.0, g @ y / (before @ before))
        if method == "dai_yuan":
            return g @ g / (d @ y)
        bound = -1 / (np.linalg.norm(d) * min(0.01, np.linalg.norm(before)))
        return max((y - 2 * d * (y @ y) / (d @ y)) @ g / (d @ y), bound)

    def update(gradients: Arrays, state: Any, params: Arrays) -> tuple[Arrays, Any]:
        g = _vector(gradients)
        d = -g
        if state is not None and state[1] @ (g - state[0]) > 0:
            conjugate = -g + beta(g, g - state[0], state[1], state[0]) * state[1]
            d = conjugate if conjugate @ g < 0 else d
        return _arrays(-d, gradients), (g, d)

    return Oracle(lambda params: None, update)

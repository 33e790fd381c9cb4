"""Curvature matrices whose entries are known."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.oracles.core import Arrays, Oracle, value


def gauss_newton(loss: Callable[[Arrays], Any], damping: Any, adaptive: bool = True) -> Oracle:
    """Nielsen's damping of the Gauss-Newton matrix of sum |w + w^3 / 10|^2, which is 2 |1 + 3 w^2 / 10|^2."""

    def init(params: Arrays) -> Any:
        return {"k": 0, "factor": 1.0, "growth": 2.0, "scale": 0.0, "predicted": 0.0, "loss": 0.0}

    def inner(x: Arrays, y: Arrays) -> Any:
        return sum(np.sum((np.conj(x[n]) * y[n]).real) for n in x)

    def update(gradients: Arrays, s: Any, params: Arrays) -> tuple[Arrays, Any]:
        k, factor, growth, f = s["k"] + 1, s["factor"], s["growth"], loss(params)
        if adaptive and s["predicted"] > 0:
            gain = (s["loss"] - f) / s["predicted"]
            good = gain > 1e-4
            factor *= max(1 / 3, 1 - (2 * min(gain, 1.5) - 1) ** 3) if good else growth
            factor, growth = np.clip(factor, 1e-12, 1e12), 2.0 if good else min(2 * growth, 1e12)
        curvature = {n: 2 * np.abs(1 + 0.3 * w**2) ** 2 for n, w in params.items()}
        scale = max(
            s["scale"],
            inner(gradients, {n: curvature[n] * g for n, g in gradients.items()}) / (inner(gradients, gradients) or 1.0),
        )
        weight = value(damping, k) * factor * scale
        u = {n: g / (curvature[n] + weight) for n, g in gradients.items()}
        predicted = inner(gradients, u) - inner(u, {n: curvature[n] * x for n, x in u.items()}) / 2
        return u, {"k": k, "factor": factor, "growth": growth, "scale": scale, "predicted": predicted, "loss": f}

    return Oracle(init, update)

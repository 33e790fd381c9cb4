"""Oracles of rules that estimate their step size."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.oracles.core import Arrays, Memory, Oracle, magnitude_squared, per_array, value

Loss = Callable[[Arrays], float]
Where = Callable[[np.ndarray], bool]


def everywhere(w: np.ndarray) -> bool:
    """Select every array."""
    return True


def inner(x: Arrays, y: Arrays) -> float:
    """Return <x, y>, summed over all arrays; real for complex numbers, taken as vectors in the plane."""
    return sum((float(np.sum(x[n].real * y[n].real + x[n].imag * y[n].imag)) for n in x), start=0.0)


def mapped(function: Callable[..., np.ndarray], *trees: Arrays) -> Arrays:
    """Apply a function array by array."""
    return {n: function(*(tree[n] for tree in trees)) for n in trees[0]}


def _square(x: Arrays) -> float:
    return inner(x, x)


def _one_norm(x: Arrays) -> float:
    return sum((float(np.sum(np.abs(a))) for a in x.values()), start=0.0)


def _ratio(x: float, y: float) -> float:
    return x / y if y else 0.0


def polyak(loss: Loss, f_min: float = 0.0, most: float = 1.0, eps: float = 0.0, positive: bool = False) -> Oracle:
    """Loizou et al. 2021, SPS_max with c = 1; Garrigos et al. 2023, SPS+, where only a positive gap counts."""

    def update(gradients: Arrays, state: Any, params: Arrays) -> tuple[Arrays, Any]:
        gap = loss(params) - f_min
        gap = max(gap, 0.0) if positive else gap
        step = min(_ratio(gap, _square(gradients) + eps), most)
        return mapped(lambda g: step * g, gradients), state

    return Oracle(lambda params: (), update)


def _minimum(
    h: float,
    d: Arrays,
    w: Arrays,
    scaled: Arrays,
    rho: float,
    rate: float,
    decay: float,
    on: Where,
    memory: Any,
) -> Arrays:
    """Return the minimum of the model, with decay where ``on(w)``, and estimate the lower bound.

    Schaipp et al. 2024, algorithms 1 and 2. For each array c is what divides its new value.
    """
    c = {n: 1 + rate * decay * on(x) for n, x in w.items()}
    slope = inner(d, {n: x / c[n] for n, x in w.items()})
    square = inner(d, {n: x / c[n] for n, x in scaled.items()})
    bound = memory["bound"]
    if memory["adapt"] and h + slope < rho * bound:
        bound = max((h + slope) / (2 * rho), memory["least"])
    tau = min(rate / rho, _ratio(max(h - rho * bound + slope, 0.0), square))
    if memory["adapt"]:
        memory["bound"] = max((h + inner(d, w) - tau * inner(d, scaled) / 2) / rho, memory["least"])
    return {n: (x - tau * scaled[n]) / c[n] for n, x in w.items()}


def momo(
    loss: Loss,
    rate: Any = 1.0,
    beta: float = 0.9,
    least: float = 0.0,
    decay: float = 0.0,
    adapt: bool = False,
    on: Where = everywhere,
) -> Oracle:
    """Schaipp et al. 2024, algorithm 1; the decayed point is (w - tau d) / (1 + rate decay). Turned uphill."""

    def init(params: Arrays) -> Any:
        return {"k": 0, "bound": least, "least": least, "adapt": adapt}

    def update(gradients: Arrays, state: Any, params: Arrays) -> tuple[Arrays, Any]:
        new = {**state, "k": state["k"] + 1}
        eta = value(rate, new["k"])
        if new["k"] == 1:
            new |= {"d": gradients, "f": loss(params), "gamma": inner(gradients, params)}
        else:
            new["d"] = mapped(lambda d, g: beta * d + (1 - beta) * g, state["d"], gradients)
            new["f"] = beta * state["f"] + (1 - beta) * loss(params)
            new["gamma"] = beta * state["gamma"] + (1 - beta) * inner(gradients, params)
        d = new["d"]
        point = _minimum(new["f"] - new["gamma"], d, params, d, 1, eta, decay, on, new)
        return mapped(np.subtract, params, point), new

    return Oracle(init, update)


def momo_adam(
    loss: Loss,
    rate: Any = 1e-2,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    least: float = 0.0,
    decay: float = 0.0,
    adapt: bool = False,
    on: Where = everywhere,
) -> Oracle:
    """Schaipp et al. 2024, algorithm 2. Turned uphill."""

    def init(params: Arrays) -> Any:
        zeros = mapped(np.zeros_like, params)
        averages = {"d": zeros, "v": mapped(np.real, zeros), "f": 0.0, "gamma": 0.0}
        return {"k": 0, "bound": least, "least": least, "adapt": adapt, **averages}

    def update(gradients: Arrays, state: Any, params: Arrays) -> tuple[Arrays, Any]:
        k = state["k"] + 1
        eta, rho = value(rate, k), 1 - b1**k
        d = mapped(lambda d, g: b1 * d + (1 - b1) * g, state["d"], gradients)
        v = mapped(lambda v, g: b2 * v + (1 - b2) * magnitude_squared(g), state["v"], gradients)
        f = b1 * state["f"] + (1 - b1) * loss(params)
        gamma = b1 * state["gamma"] + (1 - b1) * inner(gradients, params)
        new = {**state, "k": k, "d": d, "v": v, "f": f, "gamma": gamma}
        scaled = mapped(lambda d, v: d / (eps + np.sqrt(v / (1 - b2**k))), d, v)
        point = _minimum(f - gamma, d, params, scaled, rho, eta, decay, on, new)
        return mapped(np.subtract, params, point), new

    return Oracle(init, update)


def layerwise_dog(first: float = 1e-6, eps: float = 1e-8, factor: float = 1.0) -> Oracle:
    """Ivgi et al. 2023, L-DoG: DoG for each array by itself."""

    def start(w: np.ndarray) -> Memory:
        return {"w": w, "r": first * (1 + np.linalg.norm(w)), "total": np.zeros(())}

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        r = max(memory["r"], np.linalg.norm(w - memory["w"]))
        total = memory["total"] + np.sum(magnitude_squared(g))
        return factor * r / np.sqrt(total + eps) * g, {"w": memory["w"], "r": r, "total": total}

    return per_array(rule, start)


def dog(first: float = 1e-6, eps: float = 1e-8, kind: str = "heuristic") -> Oracle:
    """Ivgi et al. 2023, DoG, with three ways to set the first step."""

    def init(params: Arrays) -> Any:
        start = {"heuristic": first * (1 + np.sqrt(_square(params))), "distance": first, "learning_rate": 0.0}
        return 0, params, start[kind], 0.0

    def update(gradients: Arrays, state: Any, params: Arrays) -> tuple[Arrays, Any]:
        k, start, r, total = state
        r = max(r, np.sqrt(_square(mapped(np.subtract, params, start))))
        total += _square(gradients)
        rate = first if kind == "learning_rate" and k == 0 else r / np.sqrt(total + eps)
        return mapped(lambda g: rate * g, gradients), (k + 1, start, r, total)

    return Oracle(init, update)


def dowg(first: float | None = None, eps: float = 1e-4) -> Oracle:
    """Khaled et al. 2023, algorithm 1, with eps added to the root."""

    def init(params: Arrays) -> Any:
        return params, eps if first is None else first, 0.0

    def update(gradients: Arrays, state: Any, params: Arrays) -> tuple[Arrays, Any]:
        start, square, v = state
        square = max(square, _square(mapped(np.subtract, params, start)))
        v += square * _square(gradients)
        return mapped(lambda g: square / (np.sqrt(v) + eps) * g, gradients), (start, square, v)

    return Oracle(init, update)


def dadapt_adam(
    rate: Any = 1.0,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    first: float = 1e-6,
    decay: float = 0.0,
    on: Where = everywhere,
) -> Oracle:
    """Defazio and Mishchenko 2023, algorithm 5, with Adam's corrections in the rate and the roots before the update."""
    b3 = np.sqrt(b2)

    def init(params: Arrays) -> Any:
        zeros = mapped(np.zeros_like, params)
        return {"k": 0, "m": zeros, "v": mapped(np.real, zeros), "s": zeros, "d": first, "r": 0.0}

    def update(gradients: Arrays, state: Any, params: Arrays) -> tuple[Arrays, Any]:
        k = state["k"] + 1
        step = value(rate, k) * state["d"] * np.sqrt(1 - b2**k) / (1 - b1**k)
        scaled = mapped(lambda s, v: s / (np.sqrt(v) + eps), state["s"], state["v"])
        r = b3 * state["r"] + (1 - b3) * step * inner(gradients, scaled)
        m = mapped(lambda m, g: b1 * m + (1 - b1) * step * g, state["m"], gradients)
        v = mapped(lambda v, g: b2 * v + (1 - b2) * magnitude_squared(g), state["v"], gradients)
        s = mapped(lambda s, g: b3 * s + (1 - b3) * step * g, state["s"], gradients)
        d = max(state["d"], _ratio(r, (1 - b3) * _one_norm(s)))
        updates = mapped(lambda m, v, w: m / (np.sqrt(v) + eps) + step * decay * on(w) * w, m, v, params)
        return updates, {"k": k, "m": m, "v": v, "s": s, "d": d, "r": r}

    return Oracle(init, update)


def prodigy(
    rate: Any = 1.0,
    b1: float = 0.9,
    b2: float = 0.999,
    b3: float | None = None,
    eps: float = 1e-8,
    first: float = 1e-6,
    factor: float = 1.0,
    decay: float = 0.0,
    safe: bool = False,
    on: Where = everywhere,
) -> Oracle:
    """Mishchenko and Defazio 2024, algorithm 4, with Adam's corrections in the rate and the new estimate at eps."""
    b3 = np.sqrt(b2) if b3 is None else b3

    def init(params: Arrays) -> Any:
        zeros = mapped(np.zeros_like, params)
        return {"k": 0, "start": params, "m": zeros, "v": mapped(np.real, zeros), "s": zeros, "d": first, "r": 0.0}

    def update(gradients: Arrays, state: Any, params: Arrays) -> tuple[Arrays, Any]:
        k, d = state["k"] + 1, state["d"]
        step = value(rate, k) * d * np.sqrt(1 - b2**k) / (1 - b1**k)
        weight = d / first * (d if safe else step)
        m = mapped(lambda m, g: b1 * m + (1 - b1) * d * g, state["m"], gradients)
        v = mapped(lambda v, g: b2 * v + (1 - b2) * magnitude_squared(d * g), state["v"], gradients)
        s = mapped(lambda s, g: b3 * s + weight * g, state["s"], gradients)
        r = b3 * state["r"] + d / first * step * inner(gradients, mapped(np.subtract, state["start"], params))
        d = max(d, _ratio(factor * r, _one_norm(s)))
        updates = mapped(lambda m, v, w: step * (m / (np.sqrt(v) + d * eps) + decay * on(w) * w), m, v, params)
        return updates, {"k": k, "start": state["start"], "m": m, "v": v, "s": s, "d": d, "r": r}

    return Oracle(init, update)


def cocob(alpha: float = 100.0, eps: float = 1e-8) -> Oracle:
    """Orabona and Tommasi 2017, algorithm 2; a complex number is a vector in the plane."""

    def start(w: np.ndarray) -> Memory:
        zeros = np.zeros(w.shape)
        return {"w": w, "largest": zeros + eps, "total": zeros, "reward": zeros, "theta": np.zeros_like(w)}

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        largest = np.maximum(memory["largest"], np.abs(g))
        total = memory["total"] + np.abs(g)
        won = (np.conj(-g) * (w - memory["w"])).real
        reward = np.maximum(memory["reward"] + won, 0)
        theta = memory["theta"] - g
        bet = theta / (largest * np.maximum(total + largest, alpha * largest)) * (largest + reward)
        new = {"w": memory["w"], "largest": largest, "total": total, "reward": reward, "theta": theta}
        return memory["w"] + bet - w, new

    return per_array(rule, start)

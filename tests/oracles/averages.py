"""Oracles of transforms around a transform: slow weights, schedule-free, SAM, Mechanic, masks."""

from typing import Any

import numpy as np

from tests.oracles.core import Arrays, Memory, Oracle, per_array
from tests.oracles.layerwise import norm


def _zip(function: Any, *trees: Arrays) -> Arrays:
    return {name: function(*(tree[name] for tree in trees)) for name in trees[0]}


def outer_steps(inner: Oracle, outer: Oracle, period: int, reset: bool = False) -> Oracle:
    """Zhang et al. 2019, algorithm 1, with any step for the slow weights."""

    def init(params: Arrays) -> Any:
        return 0, params, inner.init(params), outer.init(params)

    def update(gradients: Arrays, state: Any, params: Arrays) -> tuple[Arrays, Any]:
        k, slow, fast_state, slow_state = state
        updates, fast_state = inner.update(gradients, fast_state, params)
        if (k + 1) % period:
            return updates, (k + 1, slow, fast_state, slow_state)
        step, slow_state = outer.update(_zip(lambda w, u, s: w + u - s, params, updates, slow), slow_state, slow)
        slow = _zip(np.add, slow, step)
        fast_state = inner.init(slow) if reset else fast_state
        return _zip(np.subtract, slow, params), (k + 1, slow, fast_state, slow_state)

    return Oracle(init, update)


def interpolated(base: Oracle, beta: float, share: Any) -> Oracle:
    """Defazio et al. 2024, equations 3-5, with ``share(k)`` the share of the new z in the average on the k-th update.

    The average is recomputed from the parameters, so that parameters at rest give what the library gives.
    """

    def init(params: Arrays) -> Any:
        return 1, params, base.init(params)

    def update(gradients: Arrays, state: Any, params: Arrays) -> tuple[Arrays, Any]:
        k, z, base_state = state
        updates, base_state = base.update(gradients, base_state, params)
        x = _zip(lambda y, z: (y - (1 - beta) * z) / beta, params, z)
        z = _zip(np.add, z, updates)
        x = _zip(lambda x, z: (1 - share(k)) * x + share(k) * z, x, z)
        y = _zip(lambda x, z: beta * x + (1 - beta) * z, x, z)
        return _zip(np.subtract, y, params), (k + 1, z, base_state)

    return Oracle(init, update)


def schedule_free(base: Oracle, rate: Any, beta: float, power: float, r: float = 0.0) -> Oracle:
    """Defazio et al. 2024, algorithm 1: weights are powers of the largest rate so far and of the step's number."""

    def share(k: int) -> Any:
        weights = np.maximum.accumulate([rate(i) for i in range(k)]) ** power * np.arange(1.0, k + 1) ** r
        return weights[-1] / weights.sum() if weights[-1] else 0.0

    return interpolated(base, beta, share)


def schedule_free_plus(
    base: Oracle, loss: Any, rate: Any, beta: float, decay: float, norm_decay: float, start: int, power: float, on: Any
) -> Oracle:
    """The rate is the loss at z, to first order, over sqrt(pi / 2) times the average of the gradients' 1-norms."""

    def init(params: Arrays) -> Any:
        return 1, params, base.init(params), [], []

    def update(gradients: Arrays, state: Any, y: Arrays) -> tuple[Arrays, Any]:
        k, z, base_state, norms, rates = state
        u, base_state = base.update(gradients, base_state, y)
        x = _zip(lambda y, z: (y - (1 - beta) * z) / beta, y, z)
        norms = [*norms, np.sqrt(np.pi / 2) * sum(np.abs(g).sum() for g in gradients.values())]
        norm = np.average(norms, weights=norm_decay ** np.arange(k)[::-1] if norm_decay else np.arange(1, k + 1) == k)
        gap = max(loss(y) + _inner(gradients, _zip(np.subtract, z, y)), 0)
        gamma = rate(k - 1) * gap / norm if norm else 0.0
        rates = [*rates, gamma]
        weights = np.maximum.accumulate(rates)[start:] ** power
        share = 1.0 if k <= start else weights[-1] / weights.sum() if weights[-1] else 0.0
        z = {n: z[n] + gamma * u[n] - (gamma**2 * decay * y[n] if on(n) else 0) for n in z}
        x = _zip(lambda x, z: (1 - share) * x + share * z, x, z)
        return _zip(lambda x, z, y: beta * x + (1 - beta) * z - y, x, z, y), (k + 1, z, base_state, norms, rates)

    return Oracle(init, update)


def ema_nesterov(base: Oracle, beta: Any, decay: float, from_weights: bool = False) -> Oracle:
    """The average d of the steps of x leads to y, where the gradient is taken; ``beta(k)`` after k updates."""

    def init(params: Arrays) -> Any:
        return 0, _zip(np.zeros_like, params), base.init(params)

    def update(gradients: Arrays, state: Any, y: Arrays) -> tuple[Arrays, Any]:
        k, d, base_state = state
        u, base_state = base.update(gradients, base_state, y)
        x = _zip(lambda y, d: y - beta(k) * d, y, d)
        new_x = _zip(np.add, x if from_weights else y, u)
        d = _zip(lambda d, new, old: decay * d + (1 - decay) * (new - old), d, new_x, x)
        return _zip(lambda x, d, y: x + beta(k + 1) * d - y, new_x, d, y), (k + 1, d, base_state)

    return Oracle(init, update)


def sam(optimizer: Oracle, adversary: Oracle, period: int, reset: bool) -> Oracle:
    """Foret et al. 2021, algorithm 1, one gradient an update."""

    def init(params: Arrays) -> Any:
        return 0, params, optimizer.init(params), adversary.init(params)

    def update(gradients: Arrays, state: Any, params: Arrays) -> tuple[Arrays, Any]:
        k, home, opt_state, adv_state = state
        home = params if k % period == 0 else home
        if (k + 1) % period:
            climb, adv_state = adversary.update(gradients, adv_state, params)
            return _zip(np.negative, climb), (k + 1, home, opt_state, adv_state)
        updates, opt_state = optimizer.update(gradients, opt_state, home)
        adv_state = adversary.init(home) if reset else adv_state
        return _zip(lambda h, w, u: h - w + u, home, params, updates), (k + 1, home, opt_state, adv_state)

    return Oracle(init, update)


def sam_opaque(optimizer: Oracle, adversary: Oracle, period: int, gradient: Any) -> Oracle:
    """Foret et al. 2021, algorithm 1, the whole climb in one update; ``gradient(params)`` is the loss's."""

    def update(gradients: Arrays, state: Any, params: Arrays) -> tuple[Arrays, Any]:
        here, memory = params, adversary.init(params)
        for _ in range(period - 1):
            climb, memory = adversary.update(gradients, memory, here)
            here = _zip(np.subtract, here, climb)
            gradients = gradient(here)
        return optimizer.update(gradients, state, params)

    return Oracle(optimizer.init, update)


def _inner(x: Arrays, y: Arrays) -> Any:
    return sum((np.sum((np.conj(x[name]) * y[name]).real) for name in x), start=0.0)


def mechanize(base: Oracle, decay: float = 1e-2, eps: float = 1e-8, s_init: float = 1e-6, n: int = 6) -> Oracle:
    """Cutkosky et al. 2023, algorithm 1, with the sum of updates recomputed from the parameters, and the clipping."""
    beta = 1 - 0.1 ** np.arange(1, n + 1)

    def init(params: Arrays) -> Any:
        zeros = np.zeros(n)
        return 0, None, zeros, zeros, zeros, np.full(n, s_init), base.init(params)

    def update(gradients: Arrays, state: Any, params: Arrays) -> tuple[Arrays, Any]:
        k, x0, r, m, v, s, base_state = state
        x0 = params if k == 0 else x0
        updates, base_state = base.update(gradients, base_state, params)
        size = np.sqrt(_inner(gradients, gradients)) / (np.sqrt(_inner(params, params)) + eps)
        decayed = _zip(lambda g, w: g + decay * s.sum() * size * w, gradients, params)
        delta = _zip(lambda start, w: (start - w) / (s.sum() + eps), x0, params)
        h = _inner(decayed, delta)
        clipped = np.clip(h, -m, m)
        m = np.maximum(beta * m, abs(h) + eps)
        v = beta**2 * v + h**2
        r = beta * r + clipped * s
        s = (s_init / n * m + np.maximum(0, r)) / (np.sqrt(v) + eps)
        move = _zip(lambda start, w, d, u: (start - w) - s.sum() * (d - u), x0, params, delta, updates)
        return move, (k + 1, x0, r, m, v, s, base_state)

    return Oracle(init, update)


def cautious(inner: Oracle, xi: float = 1.0, sign: float = -1.0) -> Oracle:
    """Liang et al. 2024, algorithms 1 and 2; ``sign`` is that of u g where the two agree."""

    def mask(u: np.ndarray, g: np.ndarray) -> np.ndarray:
        agrees = sign * (np.conj(g) * u).real > 0
        return u * agrees * (u.size / (agrees.sum() + xi)) if u.size else u

    def update(gradients: Arrays, state: Any, params: Arrays) -> tuple[Arrays, Any]:
        updates, state = inner.update(gradients, state, params)
        return _zip(mask, updates, gradients), state

    return Oracle(inner.init, update)


def mars(b1: float = 0.95, gamma: float = 0.025, bound: float = 1.0) -> Oracle:
    """Yuan et al. 2024, algorithm 2, lines 4 and 5."""

    def rule(g: np.ndarray, memory: Memory, k: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        last = memory.get("g", g)
        c = g + gamma * b1 / (1 - b1) * (g - last)
        return (c * bound / norm(c) if norm(c) > bound else c), {"g": g}

    return per_array(rule)

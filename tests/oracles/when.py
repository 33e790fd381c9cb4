"""Oracles of transforms that act on some steps only. (None of them comes from a paper, but for the variance.)"""

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.oracles.core import Arrays, Memory, Oracle, magnitude_squared, per_array, value


def apply_every(k: int) -> Oracle:
    """Sum the gradients; every k-th step returns the sum and empties it."""

    def rule(g: np.ndarray, memory: Memory, step: int, w: np.ndarray) -> tuple[np.ndarray, Memory]:
        total = memory["total"] + g
        return (total, {"total": 0 * total}) if step % k == 0 else (0 * total, {"total": total})

    return per_array(rule, lambda w: {"total": np.zeros_like(w)})


def accumulate(inner: Oracle, every: Any, mean: bool = True) -> Oracle:
    """Hand the mean (or sum) of ``every`` gradients on, rounded up; ``every`` may depend on the rounds so far."""

    def init(params: Arrays) -> Any:
        return 0, [], inner.init(params)

    def update(gradients: Arrays, state: Any, params: Arrays) -> tuple[Arrays, Any]:
        rounds, collected, inner_state = state
        collected = [*collected, gradients]
        if len(collected) < value(every, rounds + 1):
            return zeros(gradients), (rounds, collected, inner_state)
        size = len(collected) if mean else 1
        total = {n: np.sum([g[n] for g in collected], axis=0) / size for n in gradients}
        updates, inner_state = inner.update(total, inner_state, params)
        return updates, (rounds + 1, [], inner_state)

    return Oracle(init, update)


def when(inner: Oracle, condition: Callable[[int], bool], masks: bool) -> Oracle:
    """Apply ``inner`` where the condition on the number of updates so far holds; else return zeros or the gradients."""

    def init(params: Arrays) -> Any:
        return 0, inner.init(params)

    def update(gradients: Arrays, state: Any, params: Arrays) -> tuple[Arrays, Any]:
        updates, inner_state = zeros(gradients) if masks else gradients, state[1]
        if condition(state[0]):
            updates, inner_state = inner.update(gradients, inner_state, params)
        return updates, (state[0] + 1, inner_state)

    return Oracle(init, update)


def reduce_on_plateau(
    loss: Callable[[Arrays], float], factor: float, patience: int, cooldown: int, least: float, rtol: float = 1e-4
) -> Oracle:
    """Scale by s, which is multiplied by ``factor`` after ``patience`` losses in a row that are no improvement."""

    def update(gradients: Arrays, state: Any, params: Arrays) -> tuple[Arrays, Any]:
        s, best, waited, rests = state
        now = loss(params)
        waited = 0 if now < (1 - rtol) * best else waited + 1
        best = min(best, now) if waited == 0 else best
        if rests:
            waited, rests = 0, rests - 1
        elif waited >= patience:
            s, waited, rests = max(factor * s, least), 0, cooldown
        return {n: s * g for n, g in gradients.items()}, (s, best, waited, rests)

    return Oracle(lambda params: (1.0, np.inf, 0, 0), update)


def skip_spikes(inner: Oracle, k: float, decay: float, warmup: int, most: int) -> Oracle:
    """Leave out norms above mean + k sigma: the plain moments of the first values, then Finch 2009, section 9."""

    def init(params: Arrays) -> Any:
        return [], 0, inner.init(params)

    def update(gradients: Arrays, state: Any, params: Arrays) -> tuple[Arrays, Any]:
        seen, in_a_row, inner_state = state
        x = np.sqrt(sum(np.sum(magnitude_squared(g)) for g in gradients.values()))
        mean, variance = moments(seen, decay)
        if len(seen) >= warmup and x > mean + k * np.sqrt(variance):
            if in_a_row < most:
                return zeros(gradients), (seen, in_a_row + 1, inner_state)
            seen = []
        updates, inner_state = inner.update(gradients, inner_state, params)
        return updates, ([*seen, x], 0, inner_state)

    return Oracle(init, update)


def moments(values: list[Any], decay: float) -> tuple[Any, Any]:
    """Return mean and variance, with each value weighted as the running update weights it."""
    if not values:
        return 0.0, 0.0
    shares = [max(1 - decay, 1 / n) for n in range(1, len(values) + 1)]
    weights = np.array([a * np.prod([1 - b for b in shares[i + 1 :]]) for i, a in enumerate(shares)])
    mean = np.sum(weights * values)
    return mean, np.sum(weights * (np.array(values) - mean) ** 2)


def zeros(gradients: Arrays) -> Arrays:
    """Return zero updates."""
    return {name: np.zeros_like(g) for name, g in gradients.items()}

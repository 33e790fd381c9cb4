"""Oracles of transforms of some arrays only, and of transforms side by side."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.oracles.core import Arrays, Oracle


def routed(inner: Oracle, applies: Callable[[str, np.ndarray], bool]) -> Oracle:
    """Apply an oracle to the arrays for which ``applies(name, w)`` holds; the others' updates stay as they are."""

    def mine(arrays: Arrays, params: Arrays) -> Arrays:
        return {n: x for n, x in arrays.items() if applies(n, params[n])}

    def init(params: Arrays) -> Any:
        return inner.init(mine(params, params))

    def update(gradients: Arrays, state: Any, params: Arrays) -> tuple[Arrays, Any]:
        updates, state = inner.update(mine(gradients, params), state, mine(params, params))
        return {**gradients, **updates}, state

    return Oracle(init, update)


def grafted(magnitude: Oracle, direction: Oracle, together: bool = False) -> Oracle:
    """Agarwal et al. 2020, section 3: the norm of one update and the direction of another, by array or together."""

    def norms(updates: Arrays) -> dict[str, float]:
        squares = {n: float(np.sum(np.abs(u) ** 2)) for n, u in updates.items()}
        total = sum(squares.values())
        return {n: (total if together else square) ** 0.5 for n, square in squares.items()}

    def update(gradients: Arrays, state: Any, params: Arrays) -> tuple[Arrays, Any]:
        m, first = magnitude.update(gradients, state[0], params)
        d, second = direction.update(gradients, state[1], params)
        sizes, lengths = norms(m), norms(d)
        return {n: u * sizes[n] / lengths[n] if lengths[n] else u for n, u in d.items()}, (first, second)

    return Oracle(lambda params: (magnitude.init(params), direction.init(params)), update)

"""What an oracle is: a rule in plain NumPy, in double precision, on a dict of arrays; and how oracles chain."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]
Memory = dict[str, np.ndarray]


class Oracle(NamedTuple):
    """``init(params) -> state`` and ``update(gradients, state, params) -> (updates, state)``."""

    init: Callable[[Arrays], Any]
    update: Callable[[Arrays, Any, Arrays], tuple[Arrays, Any]]


def value(number: Any, k: int) -> Any:
    """Return a hyperparameter on the ``k``-th update (1 is the first), where schedules see ``k - 1``."""
    return number(k - 1) if callable(number) else number


def weight(decay: Any, k: int, ahead: int = 0) -> Any:
    """Return the sum of the weights of an average after ``k`` updates, 1 - prod(b_i), or some more with the same decay.

    It is what each of its values counts with, summed up: (1 - b_i) times all later decays.
    """
    decays = [value(decay, min(i, k)) for i in range(1, k + ahead + 1)]
    return sum((1 - b) * np.prod(decays[i:]) for i, b in enumerate(decays, start=1))


def per_array(
    rule: Callable[[np.ndarray, Memory, int, np.ndarray], tuple[np.ndarray, Memory]],
    start: Callable[[np.ndarray], Memory] = lambda w: {},
) -> Oracle:
    """Make an oracle of ``rule(g, memory, k, w) -> (u, memory)`` on one array, with ``k = 1`` on the first update."""

    def init(params: Arrays) -> Any:
        return 0, {name: start(w) for name, w in params.items()}

    def update(gradients: Arrays, state: Any, params: Arrays) -> tuple[Arrays, Any]:
        k = state[0] + 1
        results = {name: rule(g, state[1][name], k, params[name]) for name, g in gradients.items()}
        return {n: u for n, (u, _) in results.items()}, (k, {n: memory for n, (_, memory) in results.items()})

    return Oracle(init, update)


def chain(*oracles: Oracle) -> Oracle:
    """Apply oracles one after another."""

    def init(params: Arrays) -> Any:
        return [oracle.init(params) for oracle in oracles]

    def update(updates: Arrays, states: Any, params: Arrays) -> tuple[Arrays, Any]:
        new = []
        for oracle, state in zip(oracles, states, strict=True):
            updates, state = oracle.update(updates, state, params)
            new.append(state)
        return updates, new

    return Oracle(init, update)


def per_layer(inner: Oracle, axes: dict[str, int | None]) -> Oracle:
    """Apply ``inner`` to layers as arrays of their own: those along an array's axis, or the array itself for None."""

    def apart(arrays: Arrays) -> Arrays:
        parts = {n: [x] if axes[n] is None else np.moveaxis(x, axes[n], 0) for n, x in arrays.items()}
        return {f"{name}/{i}": layer for name, layers in parts.items() for i, layer in enumerate(layers)}

    def together(layers: Arrays, like: Arrays) -> Arrays:
        parts = {n: [layers[key] for key in layers if key.startswith(f"{n}/")] for n in like}
        return {n: xs[0] if axes[n] is None else np.stack(xs, axes[n]) for n, xs in parts.items()}

    def update(gradients: Arrays, state: Any, params: Arrays) -> tuple[Arrays, Any]:
        updates, state = inner.update(apart(gradients), state, apart(params))
        return together(updates, gradients), state

    return Oracle(lambda params: inner.init(apart(params)), update)


def by_complex_parts(inner: Oracle) -> Oracle:
    """Apply ``inner`` to the real and the imaginary part of complex arrays, as arrays of their own."""

    def apart(arrays: Arrays) -> Arrays:
        parts = {n: {"re": x.real, "im": x.imag} if np.iscomplexobj(x) else {"": x} for n, x in arrays.items()}
        return {f"{n}/{part}": x for n, xs in parts.items() for part, x in xs.items()}

    def update(gradients: Arrays, state: Any, params: Arrays) -> tuple[Arrays, Any]:
        u, state = inner.update(apart(gradients), state, apart(params))
        return {n: u[f"{n}/"] if f"{n}/" in u else u[f"{n}/re"] + 1j * u[f"{n}/im"] for n in gradients}, state

    return Oracle(lambda params: inner.init(apart(params)), update)


def magnitude_squared(x: np.ndarray) -> np.ndarray:
    """Return |x|^2, real."""
    return (x * np.conj(x)).real

"""What optimizers cost: state, and floating-point operations, counted in the traced step."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import gradchain as gc


def state_bytes(tx: gc.Transform, params: Any) -> float:
    """Return the bytes of state for each parameter."""
    state = jax.eval_shape(tx.init, params)
    sizes = [x.size * x.dtype.itemsize for x in jax.tree.leaves(state)]
    return sum(sizes) / sum(x.size for x in jax.tree.leaves(params))


def flops(
    tx: gc.Transform, loss: Callable[..., Any], params: Any, batch: Any, interval: int
) -> float:
    """Return the operations of a training step.

    Args:
      interval: a branch that costs more is taken once in so many steps.
    """

    def step(params: Any, state: Any, batch: Any) -> Any:
        value, grads = jax.value_and_grad(loss)(params, batch)
        return tx.update(grads, state, params, value=value)

    state = jax.eval_shape(tx.init, params)
    return count(jax.make_jaxpr(step)(params, state, batch).jaxpr, interval)


def count(jaxpr: Any, interval: int) -> float:
    """Return the operations of a traced function."""
    return sum(operations(equation, interval) for equation in jaxpr.eqns)


def operations(equation: Any, interval: int) -> float:
    """Return the operations of one primitive: one for each number that it returns, if not more."""
    name, inner = equation.primitive.name, equation.params
    shapes = [x.aval.shape for x in equation.invars]
    sizes = [math.prod(x.aval.shape) for x in equation.outvars]
    if name == "cond":
        costs = [count(branch.jaxpr, interval) for branch in inner["branches"]]
        return min(costs) + (max(costs) - min(costs)) / interval
    if name == "scan":
        return inner["length"] * count(inner["jaxpr"].jaxpr, interval)
    if name == "while":
        return count(inner["body_jaxpr"].jaxpr, interval)
    if name == "dot_general":
        (contracted, _), _ = inner["dimension_numbers"]
        return 2.0 * sizes[0] * math.prod(shapes[0][i] for i in contracted)
    if name in DECOMPOSITIONS:
        *batch, m, n = shapes[0]
        return math.prod(batch) * DECOMPOSITIONS[name](m, n, sizes[0])
    below = [
        x
        for x in jax.tree.leaves(list(inner.values()), is_leaf=is_jaxpr)
        if is_jaxpr(x)
    ]
    if below:
        return sum(count(getattr(x, "jaxpr", x), interval) for x in below)
    return float(np.sum(sizes)) if name not in FREE else 0.0


DECOMPOSITIONS = {
    "geqrf": lambda m, n, _: 2 * n * n * (m - n / 3),
    "householder_product": lambda m, n, _: 4 / 3 * n**3,
    "qr": lambda m, n, _: 2 * n * n * (m - n / 3) + 4 / 3 * n**3,
    "eigh": lambda m, n, _: 9 * n**3,
    "triangular_solve": lambda m, n, size: size * max(m, n),
    "cholesky": lambda m, n, _: n**3 / 3,
}
"""Textbook counts for a matrix of m rows and n columns."""
FREE = {
    "broadcast_in_dim",
    "reshape",
    "transpose",
    "slice",
    "squeeze",
    "concatenate",
    "copy",
    "split",
    "iota",
}
"""Primitives that only move numbers."""


def is_jaxpr(x: Any) -> bool:
    """Tell whether this is a traced function."""
    return hasattr(getattr(x, "jaxpr", x), "eqns")

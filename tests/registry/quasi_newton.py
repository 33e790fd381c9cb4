"""Directions from the gradients of several steps, and whole optimizers made of them."""

from typing import Any

import optax

import gradchain as gc
from tests import oracles
from tests.registry.row import Row, loss


def value_fn(params: Any) -> dict[str, Any]:
    """Return the extra argument of a rule that asks for the loss as a function, |w|^2 / 2."""
    return {"value_fn": loss}


def same(params: Any) -> Any:
    """Return the gradient of ``loss``."""
    return params


QUASI_NEWTON = [
    Row("negate", gc.negate, lambda: oracles.scale(-1.0), lambda: optax.scale(-1.0)),
    Row("scale_by_lbfgs", gc.scale_by_lbfgs, oracles.lbfgs, needs_params=True),
    Row(
        "scale_by_lbfgs_same_batch",
        lambda: gc.scale_by_lbfgs(2, False, True),
        lambda: oracles.lbfgs(2, False, gradient=same),
        needs_params=True,
        extra=value_fn,
    ),
    Row("scale_by_nonlinear_cg", gc.scale_by_nonlinear_cg, oracles.nonlinear_cg, steep=True),
]
FULL_BATCH = [
    Row(
        "lbfgs",
        lambda: gc.lbfgs(0.1, linesearch=None),
        lambda: oracles.chain(oracles.lbfgs(), oracles.learning_rate(0.1)),
        needs_params=True,
    ),
]

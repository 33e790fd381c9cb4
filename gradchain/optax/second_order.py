"""Curvature of a loss of parameters, inputs and targets, as Optax has it: its results are flat vectors.

Optax gives these functions up, and so they warn. What to use instead is :func:`gradchain.hvp`, whose vectors are trees.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from gradchain.optax._deprecated import deprecated
from gradchain.signatures import public

__all__ = ["fisher_diag", "hessian_diag", "hvp"]

Loss = Callable[[Any, Any, Any], Any]


@public
@deprecated(removed="0.2.9")
def hvp(loss: Loss, v: Array, params: Any, inputs: Array, targets: Array) -> Any:
    """Return the Hessian times a flat vector, as a tree like the parameters."""
    return _product(loss, v, params, inputs, targets)


@public
@deprecated(removed="0.2.9")
def hessian_diag(loss: Loss, params: Any, inputs: Array, targets: Array) -> Array:
    """Return the diagonal of the Hessian as a flat vector, by as many products as there are parameters."""
    size = ravel_pytree(params)[0].size

    def entry(v: Array) -> Array:
        return jnp.vdot(v, ravel_pytree(_product(loss, v, params, inputs, targets))[0])

    return jax.vmap(entry)(jnp.eye(size))


@public
@deprecated(removed="0.2.9")
def fisher_diag(negative_log_likelihood: Loss, params: Any, inputs: Array, targets: Array) -> Array:
    """Return the squares of the gradient's elements as a flat vector."""
    return jnp.square(ravel_pytree(jax.grad(negative_log_likelihood)(params, inputs, targets))[0])


def _product(loss: Loss, v: Array, params: Any, inputs: Array, targets: Array) -> Any:
    gradient = jax.grad(lambda w: loss(w, inputs, targets))
    return jax.jvp(gradient, (params,), (ravel_pytree(params)[1](v),))[1]

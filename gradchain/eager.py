"""What costs little outside of compiled programs, where an update takes place operation by operation."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax import Array
from jax.core import Tracer
from jax.typing import DTypeLike

R = TypeVar("R")


def is_traced(values: Any) -> bool:
    """Return whether any leaf is being traced."""
    return any(isinstance(x, Tracer) for x in jax.tree.leaves(values))


def fused(function: Callable[..., R], static_argnums: tuple[int, ...] = ()) -> Callable[..., R]:
    """Make a few operations on arrays and numbers one operation, where nobody traces them.

    If arrays are small, starting an operation takes longer than computing it. Python numbers are arguments of the
    program, so that new ones don't compile. Under a trace it is the function itself.
    """
    program = jax.jit(function, static_argnums=static_argnums)

    @functools.wraps(function)
    def call(*args: Any) -> R:
        return function(*args) if any(isinstance(x, Tracer) for x in args) else program(*args)

    return call


class custom_jvp(jax.custom_jvp[R]):
    """JAX's ``custom_jvp``, but that a call on arrays that nobody traces is a plain call.

    There is nothing to differentiate then, and JAX's bookkeeping would take as long as ten small operations.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> R:
        """Return the function's value."""
        return super().__call__(*args, **kwargs) if is_traced((args, kwargs)) else self.fun(*args, **kwargs)


def as_dtype(x: Array, dtype: DTypeLike) -> Array:
    """Return ``x.astype(dtype)``, without that call where it does nothing, since it takes as long as a sum."""
    return x if x.dtype == dtype and not x.weak_type else x.astype(dtype)

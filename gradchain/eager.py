"""What costs little outside of compiled programs, where an update takes place operation by operation."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
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


def is_of_dtype(x: Any, dtype: Any) -> bool:
    """Return whether ``x`` is an array of just this dtype, not a weak one, so that a cast to it would do nothing."""
    return isinstance(x, Array) and x.dtype == dtype and not getattr(x, "weak_type", False)


def as_dtype(x: Array, dtype: DTypeLike) -> Array:
    """Return ``x.astype(dtype)``, without that call where it does nothing, since it takes as long as a sum."""
    return x if is_of_dtype(x, dtype) else x.astype(dtype)


def zeros_like(x: Array, dtype: DTypeLike) -> Array:
    """Return ``jnp.zeros_like(x, dtype=dtype)``, outside of compiled programs in a tenth of its time."""
    return full_like(x, 0, dtype)


def full_like(x: Array, value: Any, dtype: DTypeLike) -> Array:
    """Return ``jnp.full_like(x, value, dtype)``, outside of compiled programs in a tenth of its time."""
    if is_traced((x, value)) or x.committed:
        return jnp.full_like(x, value, dtype=dtype)
    return _full(x.shape, dtype, value)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _full(shape: tuple[int, ...], dtype: DTypeLike, value: Any) -> Array:
    return jnp.full(shape, value, dtype)


@functools.partial(fused, static_argnums=(1,))
def copy(x: Array, dtype: DTypeLike | None = None) -> Array:
    """Return ``jnp.array(x, dtype, copy=True)``, outside of compiled programs in a fifth of its time."""
    return jnp.array(x, dtype, copy=True)


def once(make: Callable[..., R], key: Callable[[Any], Any] = jax.typeof) -> Callable[..., R]:
    """Return a function of an array and hashable options, which under a trace is called once for arrays of one ``key``.

    Thousands of arrays have few different shapes, and results of a compiled program don't share memory. Outside of one,
    each call makes an array of its own.
    """
    made: dict[Any, R] = {}

    def call(x: Any, *options: Any) -> R:
        if not isinstance(x, Tracer):
            return make(x, *options)
        known = (key(x), *options)
        if known not in made:
            made[known] = make(x, *options)
        return made[known]

    return call

"""What costs little outside of compiled programs, where an update takes place operation by operation."""

from typing import Any, TypeVar

import jax
from jax import Array
from jax.core import Tracer
from jax.typing import DTypeLike

R = TypeVar("R")


def is_traced(values: Any) -> bool:
    """Return whether any leaf is being traced."""
    return any(isinstance(x, Tracer) for x in jax.tree.leaves(values))


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

"""What callers hand in: how messages call it, and checks of it."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gradchain.eager import is_traced
from gradchain.tree import Tree, show_path


def is_numeric(x: Any) -> bool:
    """Tell whether ``x`` is a number or an array that JAX takes."""
    if isinstance(x, np.ndarray | np.generic):
        return x.dtype.kind not in "OSUMm"
    return isinstance(x, Array | int | float | complex)


def described(x: Any) -> str:
    """Return what a value is: ``one number of float32``, ``an array of shape (3,) of int32``, ``None``, ``a dict``."""
    if x is None or isinstance(x, bool | int | float | complex | str):
        return repr(x)
    if isinstance(x, Array | np.ndarray | np.generic):
        return f"an array of shape {x.shape} of {x.dtype}" if x.ndim else f"one number of {x.dtype}"
    if callable(x) and not hasattr(x, "apply"):
        return f"the function {getattr(x, '__name__', type(x).__name__)}"
    name = type(x).__name__
    article = "an" if name[0] in "AEIOUaeiou" else "a"
    return f"{article} {name}" + (f" of {len(x)}" if isinstance(x, tuple | list) else "")


def shown(x: Any) -> str:
    """Return a value as it is written; what is being traced has none, and is described."""
    return described(x) if is_traced(x) else repr(x)


def how_to_train(tree: Tree) -> str:
    """Return what to do with parameters that aren't arrays of floating-point or complex numbers."""
    leaves = jax.tree.leaves(tree)
    if all(hasattr(tree, name) for name in ("init", "apply")):
        return "params are what model.init(key, x) returns; call model.apply(params, x) in loss_fn"
    if any(c.__module__.startswith("flax.nnx") for c in type(tree).__mro__):
        return (
            "train the weights alone: graphdef, params, rest = nnx.split(model, nnx.Param, ...), and use "
            "nnx.merge(graphdef, params, rest) in loss_fn"
        )
    if all(is_numeric(x) for x in leaves):
        return "write -4.0 for -4, or convert it with x.astype(float); leave out of params what isn't to be trained"
    return (
        "train the arrays alone: split the model by params, rest = eqx.partition(model, eqx.is_inexact_array), and "
        "use eqx.combine(params, rest) in loss_fn"
    )


def as_arrays(tree: Tree, what: str = "params") -> Tree:
    """Return the tree as JAX arrays of their own, strong dtypes, as a scan's carry needs them.

    Raises:
      TypeError: naming the path of what isn't a floating-point or complex array.
    """

    def leaf(path: Any, x: Any) -> Array:
        if not is_numeric(x) or not jnp.issubdtype(jnp.result_type(x), jnp.inexact):
            raise TypeError(
                f"{what} {show_path(path)} is {described(x)}, expected a floating-point or complex array; "
                f"{how_to_train(tree)}"
            )
        return jnp.asarray(x, jnp.result_type(x))

    return jax.tree_util.tree_map_with_path(leaf, tree)


def parameter_names(function: Any) -> list[str]:
    """Return the names of a function's parameters; none of what doesn't tell."""
    try:
        return [*inspect.signature(function).parameters]
    except (TypeError, ValueError):
        return []


def check_call(where: str, function: Callable[..., Any], given: Sequence[str], named: Iterable[str], hint: str) -> None:
    """Raise TypeError if a caller's function can't be called with as many arguments as it is given.

    Args:
      where: what the caller knows it as.
      function: the function.
      given: what the positional arguments are.
      named: the names of the others.
      hint: what to write instead.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*given, **dict.fromkeys(named))
    except TypeError as error:
        listed = ", ".join([*given, *(f"{name}=..." for name in named)])
        raise TypeError(f"{where} is called as {where}({listed}), but takes {signature}: {error}; {hint}") from None


def check_whole(name: str, value: Any, least: int = 1) -> None:
    """Raise ValueError unless ``value`` is a whole number, not below ``least``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} must be a whole number, at least {least}, got {shown(value)}")

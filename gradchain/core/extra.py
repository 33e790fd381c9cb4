"""The extra arguments of ``update``: numbers such as the loss, and functions of the parameters."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from gradchain.tree import Tree


def demand(where: str, extra: dict[str, Any], name: str) -> Any:
    """Return an extra argument of ``update``.

    Raises:
      ValueError: if it is missing.
    """
    if extra.get(name) is None:
        raise ValueError(f"{where} needs {name!r}: call update(updates, state, params, {name}=...)")
    return extra[name]


def demand_number(where: str, extra: dict[str, Any], name: str) -> Any:
    """Return an extra argument of ``update`` that stands for one real number, such as the loss.

    Raises:
      ValueError: if it is missing, or an array with axes.
      TypeError: if it isn't real.
    """
    return one_number(f"{where}: {name}", demand(where, extra, name))


FUNCTIONS = ("value_fn", "grad_fn")


def demand_function(where: str, extra: dict[str, Any], name: str) -> Callable[..., Any]:
    """Return an extra argument of ``update`` that is a function of the parameters.

    Raises:
      ValueError: if it is missing.
      TypeError: if it can't be called.
    """
    function = demand(where, extra, name)
    if not callable(function):
        raise TypeError(f"{where}: {name} must be a function of the parameters, got {function!r}")
    return function


def one_number(where: str, value: Any) -> Any:
    """Return ``value``, after checking that it is one real number: Python's, or an array without axes."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError):
        raise TypeError(f"{where} must be one real number, got {value!r}") from None
    if not (jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)):
        raise TypeError(f"{where} must be one real number, got {array.dtype}")
    if array.ndim:
        raise ValueError(f"{where} must be one number, got shape {array.shape}; reduce it first, a loss to its mean")
    return value


def with_value_fn(extra: dict[str, Any]) -> dict[str, Any]:
    """Return the extra arguments of ``update`` with Optax's ``obj_fn`` under the name that rules ask for."""
    return {"value_fn": extra["obj_fn"], **extra} if "obj_fn" in extra else extra


def functions_of(extra: dict[str, Any], whole: Callable[[Tree], Tree], own: Callable[[Tree], Tree]) -> dict[str, Any]:
    """Return extra arguments for a transform that sees the parameters in another form, or a share of them.

    The loss and its gradient as functions of the parameters become functions of what it sees.

    Args:
      extra: extra arguments of ``update``.
      whole: from what it sees to the parameters.
      own: from a tree like the parameters to what it would see of it.
    """

    def value_of(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda mine, *args: function(whole(mine), *args)

    def grad_of(function: Callable[..., Tree]) -> Callable[..., Tree]:
        return lambda mine, *args: own(function(whole(mine), *args))

    ways = {"value_fn": value_of, "obj_fn": value_of, "grad_fn": grad_of}
    return extra | {name: way(extra[name]) for name, way in ways.items() if callable(extra.get(name))}

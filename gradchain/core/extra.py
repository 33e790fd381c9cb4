"""The extra arguments of ``update``: scalars such as the loss, and functions of the parameters."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradchain.numerics import abs_sq
from gradchain.tree import Tree


def demand(where: str, extra: dict[str, Any], name: str) -> Any:
    """Return an extra argument of ``update``.

    Raises:
      ValueError: if it is missing.
    """
    if extra.get(name) is None:
        raise ValueError(f"{where} needs {name!r}: call update(updates, state, params, {name}=...)")
    return extra[name]


def demand_all(where: str, extra: dict[str, Any], names: tuple[str, ...]) -> None:
    """Raise ``ValueError`` unless ``update`` was given all of these extra arguments, naming those that are missing."""
    if missing := [name for name in names if extra.get(name) is None]:
        arguments = ", ".join(f"{name}=..." for name in names)
        raise ValueError(
            f"{where} needs {' and '.join(map(repr, missing))}: call update(updates, state, params, {arguments})"
        )


def demand_number(where: str, extra: dict[str, Any], name: str) -> Any:
    """Return an extra argument of ``update`` that stands for one real number, such as the loss.

    Raises:
      ValueError: if it is missing, or an array with axes.
      TypeError: if it isn't real.
    """
    return one_number(f"{where}: {name}", demand(where, extra, name))


FUNCTIONS = ("value_fn", "grad_fn", "model_fn", "outer")


def demand_function(where: str, extra: dict[str, Any], name: str) -> Callable[..., Any]:
    """Return an extra argument of ``update`` that is a function of the parameters.

    Raises:
      ValueError: if it is missing.
      TypeError: if it can't be called.
    """
    function = demand(where, extra, name)
    if not callable(function):
        of = "the outputs" if name == "outer" else "the parameters"
        raise TypeError(f"{where}: {name} must be a function of {of}, got {function!r}")
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


def with_named_arguments(
    function: Callable[..., Any], extra: dict[str, Any], besides: tuple[str, ...]
) -> Callable[..., Any]:
    """Return a function of the parameters with those extra arguments of ``update`` that its signature names.

    Args:
      function: takes the parameters, and perhaps other arguments by name.
      extra: extra arguments of ``update``.
      besides: names that aren't handed on.
    """
    try:
        names = list(inspect.signature(function).parameters)[1:]
    except (TypeError, ValueError):  # a callable whose signature Python doesn't know
        return function
    given = {name: extra[name] for name in names if name in extra and name not in besides}
    return functools.partial(function, **given) if given else function


def with_value_fn(extra: dict[str, Any]) -> dict[str, Any]:
    """Return the extra arguments of ``update`` under the names that rules ask for.

    Optax's ``obj_fn`` is a ``value_fn``, whose result is checked to be one real number when it is called. A
    ``residual_fn`` is a ``model_fn`` whose outputs count by half their squares.
    """
    if extra.get("residual_fn") is not None:
        extra = extra | {"model_fn": extra["residual_fn"], "outer": half_squares}
    function = extra.get("value_fn", extra.get("obj_fn"))
    return extra | {"value_fn": _with_one_value(function)} if callable(function) else extra


def half_squares(residuals: Tree) -> Any:
    r"""Return :math:`\frac12 \|r\|^2`."""
    return sum((jnp.sum(abs_sq(r)) for r in jax.tree.leaves(residuals)), start=0.0) / 2


def _with_one_value(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function, updated=())
    def value_fn(*args: Any, **kwargs: Any) -> Any:
        value = function(*args, **kwargs)
        if isinstance(value, tuple | list):
            raise TypeError(
                f"value_fn must return the loss alone, got a {type(value).__name__}; if your loss returns aux, too, "
                "hand over the first part: value_fn=lambda params: loss_fn(params)[0]"
            )
        return one_number("the result of value_fn", value)

    return value_fn


def functions_of(extra: dict[str, Any], whole: Callable[[Tree], Tree], own: Callable[[Tree], Tree]) -> dict[str, Any]:
    """Return extra arguments for a transform that sees the parameters in another form, or a share of them.

    The loss and its gradient as functions of the parameters become functions of what it sees, and so does ``grad``, the
    gradient itself.

    Args:
      extra: extra arguments of ``update``.
      whole: from what it sees to the parameters.
      own: from a tree like the parameters to what it would see of it.
    """

    def value_of(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function, updated=())
        def value_fn(mine: Tree, *args: Any, **kwargs: Any) -> Any:
            return function(whole(mine), *args, **kwargs)

        return value_fn

    def grad_of(function: Callable[..., Tree]) -> Callable[..., Tree]:
        return lambda mine, *args: own(function(whole(mine), *args))

    ways = {"value_fn": value_of, "obj_fn": value_of, "model_fn": value_of, "grad_fn": grad_of}
    functions = {name: way(extra[name]) for name, way in ways.items() if callable(extra.get(name))}
    return extra | functions | ({"grad": own(extra["grad"])} if extra.get("grad") is not None else {})

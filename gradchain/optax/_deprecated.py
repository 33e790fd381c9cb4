"""Names that Optax has given up: they still work, and warn as they do there."""

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def deprecated(replacement: str = "", removed: str = "") -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function warn whenever it is called, with what to use instead or the version that removes it."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        message = f"The function {function.__name__} is deprecated."
        message += f" Please use {replacement} instead." if replacement else ""
        message += f" Optax {removed} no longer has it." if removed else ""

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            warnings.warn(message, DeprecationWarning, stacklevel=2)
            return function(*args, **kwargs)

        return call

    return decorate


def old_names(module: str, names: Mapping[str, tuple[str, Any]]) -> Callable[[str], Any]:
    """Return a module's ``__getattr__`` for old names: each is a pair of what to use instead and what it stands for.

    A name that stands for ``None`` is gone for good.
    """

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        instead, value = names[name]
        message = f"{module.removeprefix('gradchain.')}.{name} is deprecated{instead and f': use {instead}'}."
        if value is None:
            raise AttributeError(message)
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return value

    return get

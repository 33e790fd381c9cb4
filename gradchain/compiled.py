"""Compiled programs that are found again, and that live no longer than the functions they were made from.

``jax.jit`` with a function as a static argument would keep that function, and all data it closes over, for ever.
"""

import inspect
import operator
import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

_address = operator.methodcaller("unsafe_buffer_pointer")
"""Return where an array lies in memory."""


class Compiled:
    """Compile ``function(recipe, *arguments)`` once for each recipe; keep that while the recipe's functions live.

    A recipe is a tuple (of tuples) of functions and hashable options. Functions are the same if they are the same
    object, or methods of the same object.

    Args:
      function: a pure function, not of the recipe's contents but of the arguments after it.
      donated: the numbers of the arguments, counted without the recipe, whose memory the results may take. Arrays in
        them that share memory with another one are copied first.
    """

    def __init__(self, function: Callable[..., Any], donated: tuple[int, ...] = ()):
        self.function, self._donated = function, donated
        self._programs: dict[Any, Any] = {}

    def __call__(self, recipe: Any, *arguments: Any) -> Any:
        if self._donated:
            arguments = _apart(arguments, self._donated)
        return self._program(recipe)(*arguments)

    def executable(self, recipe: Any, *arguments: Any) -> Any:
        """Return what runs on such arguments: compiled here, in this thread's configuration, for any thread."""
        return self._program(recipe).lower(*arguments).compile()

    def _program(self, recipe: Any) -> Any:
        parts, structure = jax.tree.flatten(recipe, is_leaf=lambda x: not isinstance(x, tuple))
        key = (structure, *map(_identity, parts))
        if key not in self._programs:
            self._programs[key] = self._compile(parts, structure)
            for part in filter(callable, parts):
                self._forget_with(part, key)
        return self._programs[key]

    def _compile(self, parts: list[Any], structure: Any) -> Callable[..., Any]:
        held = [_hold(part) for part in parts]

        def program(*arguments: Any) -> Any:
            return self.function(structure.unflatten([part() for part in held]), *arguments)

        program.__name__ = self.function.__name__
        return jax.jit(program, donate_argnums=self._donated)

    def _forget_with(self, function: Any, key: Any) -> None:
        for anchor in _anchors(function):
            if _can_be_weak(anchor):
                weakref.finalize(anchor, self._programs.pop, key, None).atexit = False


def _apart(arguments: tuple[Any, ...], donated: tuple[int, ...]) -> tuple[Any, ...]:
    """Return the arguments, with copies in the place of donated arrays whose memory another one has, too.

    Memory can be given away only once, and nothing else may read it then: XLA refuses it, or dies of it.
    """
    kept = {*_places([x for i, x in enumerate(arguments) if i not in donated])} - {None}
    places = _places([arguments[i] for i in donated])
    if len({*places}) == len(places) and kept.isdisjoint(places):
        return arguments

    def own(x: Any) -> Any:
        place = _place(x)
        shared = place in kept
        kept.update({place} - {None})
        return jnp.copy(x) if shared else x

    return tuple(jax.tree.map(own, x) if i in donated else x for i, x in enumerate(arguments))


def _places(tree: Any) -> list[Any]:
    """Return the :func:`_place` of each leaf; in C for what is common: arrays, each on one device."""
    leaves = jax.tree.leaves(tree)
    try:
        return [*map(_address, leaves)]
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return [_place(x) for x in leaves]


def _place(x: Any) -> Any:
    """Return what tells whether two arrays share memory: their address; ``None`` for what isn't an array in memory."""
    if not isinstance(x, jax.Array) or not x.size:
        return None
    try:
        return _address(x)
    except (AttributeError, TypeError, ValueError, RuntimeError):  # several devices, or a tracer, or given away
        return id(x) if isinstance(x, Tracer) or x.is_deleted() else _address(x.addressable_data(0))


def _anchors(function: Any) -> tuple[Any, ...]:
    """Return the objects that a function is: a bound method is made anew each time it is looked up."""
    return (function.__self__, function.__func__) if inspect.ismethod(function) else (function,)


def _identity(part: Any) -> Any:
    return tuple(map(id, _anchors(part))) if callable(part) else part


def _can_be_weak(x: Any) -> bool:
    return type(x).__weakrefoffset__ != 0


def _hold(part: Any) -> Callable[[], Any]:
    """Return a function that returns ``part`` again, and doesn't keep it alive if that can be helped."""
    if not callable(part) or not all(map(_can_be_weak, _anchors(part))):
        return lambda: part
    return weakref.WeakMethod(part) if inspect.ismethod(part) else weakref.ref(part)

"""What is wrong with a class whose annotations are to be the fields of a value."""

import dataclasses
import inspect
import typing
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar


def annotations(cls: type) -> dict[str, Any]:
    """Return the annotations of a class and its bases, evaluated."""
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except NameError as error:
        raise TypeError(f"{cls.__name__}: the annotations of its fields can't be read: {error}") from None


def check_body(cls: type, hints: Mapping[str, Any]) -> None:
    """Raise ``TypeError`` for a class whose fields aren't declared as they must be."""
    where, own = cls.__name__, inspect.get_annotations(cls)
    taken = {name for base in cls.__mro__[1:] for name in (*vars(base), *inspect.get_annotations(base))}
    taken -= {name for base in cls.__mro__[1:] for name in vars(base).get("kinds", {})}
    if table := {"kinds", "required", "optional"} & {*vars(cls)}:
        raise TypeError(
            f"{where}: {table.pop()} follows from the annotations: write each field once, as rate: Decay = 0.9"
        )
    for name in own:
        if hints[name] is dataclasses.KW_ONLY or typing.get_origin(hints[name]) is ClassVar or hints[name] is ClassVar:
            continue
        if name in taken:
            raise TypeError(f"{where}: a parameter can't be called {name!r}, which {_owner(cls, name)} uses itself")
        if _is_method(cls, vars(cls).get(name)):
            raise TypeError(f"{where}: {name!r} is both a field and a method; call one of them something else")
        is_declared = typing.get_origin(hints[name]) is Annotated
        for hint in () if is_declared else (hints[name], *typing.get_args(hints[name])):
            if isinstance(hint, type) and hasattr(hint, "with_fields"):
                alias = "Child (several: Children)" if hasattr(hint, "step") else "Hyper"
                raise TypeError(f"{where}: {name} is annotated {hint.__name__}; write {name}: {alias}")
    for name, value in vars(cls).items():
        plain = not (callable(value) or hasattr(value, "__get__"))
        if plain and not name.startswith("_") and name not in own and name not in taken:
            raise TypeError(
                f"{where}: {name} = {value!r} declares no field; say what it may be, {name}: Hyper = {value!r} for "
                "instance, or annotate it ClassVar"
            )


def _owner(cls: type, name: str) -> str:
    return next(b.__name__ for b in cls.__mro__[1:] if name in vars(b) or name in inspect.get_annotations(b))


def _is_method(cls: type, value: Any) -> bool:
    own = getattr(value, "__qualname__", "").startswith(f"{cls.__qualname__}.")
    return isinstance(value, property | classmethod | staticmethod) or (inspect.isfunction(value) and own)

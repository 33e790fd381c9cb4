"""Values: immutable pytrees whose leaves are their numbers.

Transforms and schedules are both values. Their fields are declared once: as the annotations of a class (``register``),
or as the parameters of a function, of which ``define`` makes such a class. Either becomes a frozen dataclass that is
registered with JAX, and ``constructor`` makes the function that users call. The *constructor* normalises and checks;
rebuilding from leaves (``jit``, ``vmap``, ``tree.map``) does neither.
"""

import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, Self

import jax
import numpy as np

from gradchain.core.declaration import annotations, check_body
from gradchain.signatures import Label, brief, check_keywords, did_you_mean, readable


class Kind:
    """How one field is stored: as static data (this class) or, in subclasses, as a pytree child or another form."""

    data: ClassVar[bool] = False
    child: ClassVar[bool] = False
    """Whether it holds transforms: a combinator's parts."""
    several: ClassVar[bool] = False
    """Whether it may hold more than one."""
    label: str = ""
    """What signatures show as the field's type."""
    absent: Any = None
    """What a ``data`` field stores if it is given as ``None``; one that isn't optional then may be."""

    def __repr__(self) -> str:
        return self.label or type(self).__name__

    def normalize(self, where: str, value: Any) -> Any:
        """Return the stored form of ``value``; ``where`` names transform and field for error messages."""
        if isinstance(value, Value) and not callable(value):
            raise TypeError(f"{where} can't be a transform, got {brief(value)}")
        if isinstance(value, Value | jax.Array | np.ndarray | np.generic):
            raise TypeError(
                f"{where} is static and can't be {value!r}; annotate a parameter that is a number with Hyper"
            )
        try:
            hash(value)
        except TypeError:
            raise TypeError(f"{where} must be hashable, got {type(value).__name__}") from None
        return value

    def check(self, where: str, shape: tuple[int, ...], value: Any) -> None:
        """Raise ``ValueError`` where a rule's field can't go with an array of this shape; asked at ``init``."""


class Choice(Kind):
    """One of the given words; static."""

    def __init__(self, *words: str):
        self.words = words
        self.label = " | ".join(map(repr, words))

    def normalize(self, where: str, value: Any) -> Any:
        if value not in self.words:
            raise ValueError(f"{where} must be one of {', '.join(map(repr, self.words))}, got {value!r}")
        return value


class Flag(Kind):
    """True or False; static."""

    label = "bool"

    def normalize(self, where: str, value: Any) -> Any:
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{where} must be True or False, got {brief(value)}")
        return bool(value)


class Integer(Kind):
    """A whole number; static.

    Args:
      least: the smallest that is allowed.
    """

    label = "int"

    def __init__(self, least: int = 0):
        self.least = least

    def normalize(self, where: str, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f"{where} must be a whole number, got {brief(value)}")
        if value < self.least:
            raise ValueError(f"{where} must be at least {self.least}, got {value}")
        return int(value)


STATIC = Kind()
FLAG = Flag()


@typing.dataclass_transform(eq_default=False, frozen_default=True)
class Value:
    """An immutable value: compared, hashed, printed, copied and pickled by its fields, and a pytree of its numbers.

    Arrays compare by identity. ``repr`` is the expression that builds the value, as long as its numbers are Python
    numbers and it holds no bare callable.
    """

    given: ClassVar[tuple[str, ...]] = ()
    """What a function that defines one is given first, by position; its other parameters are the fields."""
    name: ClassVar[str]
    """The constructor's name, as ``repr`` prints it and ``hyperparams`` lists it; by default the class's."""
    kinds: ClassVar[Mapping[str, Kind]]
    """The fields in order, each with its kind, as their annotations say."""
    required: ClassVar[frozenset[str]]
    """Fields without a default, which ``repr`` shows without their names."""
    optional: ClassVar[frozenset[str]]
    """Fields that may be absent (``None``)."""
    signature: ClassVar[inspect.Signature]
    """The constructor's."""
    Value: ClassVar[type[Self]]
    """The class itself, where a decorator has put its constructor in its place."""

    if not typing.TYPE_CHECKING:  # for whom a field is an argument of it

        def __init__(self, *args: Any, **kwargs: Any):
            where = type(self).__name__
            raise TypeError(f"{where} isn't declared: write @gradchain.combinator above class {where}")

    def fields(self) -> Iterator[tuple[str, Kind, Any]]:
        """Yield (name, kind, stored value) for each field."""
        for name, kind in self.kinds.items():
            yield name, kind, getattr(self, name)

    @classmethod
    def new(cls, *args: Any, **kwargs: Any) -> Self:
        """Return a value with these fields, normalised and checked: what its constructor does."""
        check_keywords(cls.name, kwargs, cls.signature)
        try:
            bound = cls.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{cls.name}: {error}; its signature is {cls.name}{cls.signature}") from None
        bound.apply_defaults()
        return cls(**cls.normalized(bound.arguments)).checked()

    def with_fields(self, **changes: Any) -> Self:
        """Return a copy with the given fields changed, normalised and checked as by the constructor."""
        return dataclasses.replace(typing.cast(Any, self), **self.normalized(changes)).checked()

    def checked(self) -> Self:
        """Return the value itself, after checks across fields: overridden where some must fit together."""
        return self

    @classmethod
    def normalized(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return fields' values in their stored form.

        Raises:
          ValueError: for an unknown field or a value out of range.
          TypeError: for a value of the wrong kind, or ``None`` where that has no meaning.
        """
        stored: dict[str, Any] = {}
        for name, value in values.items():
            if name not in cls.kinds:
                hint = did_you_mean(name, cls.kinds) or f"; it has {', '.join(cls.kinds) or 'none'}"
                raise ValueError(f"{cls.name} has no field {name!r}{hint}")
            kind = cls.kinds[name]
            is_absent = value is None and (kind.data or name in cls.optional)
            if is_absent and kind.absent is None and name not in cls.optional:
                raise TypeError(f"{cls.name}: {name} can't be None{', expected a transform' if kind.child else ''}")
            stored[name] = kind.absent if is_absent else kind.normalize(f"{cls.name}: {name}", value)
        return stored

    def _identity(self) -> tuple[Any, ...]:
        return (type(self), *(comparable(value) for _, _, value in self.fields()))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Value):
            return NotImplemented
        return self is other or self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def __repr__(self) -> str:
        shown = [show(v) if name in self.required else f"{name}={show(v)}" for name, _, v in self.fields()]
        return f"{self.name}({', '.join(shown)})"


def show(value: Any) -> str:
    """Return a repr that can be evaluated for infinite numbers too."""
    return f"float('{value}')" if isinstance(value, float) and not math.isfinite(value) else repr(value)


def comparable(value: Any) -> Any:
    """Return a hashable stand-in for a stored value: itself, or for arrays and unhashable objects their identity."""
    if isinstance(value, tuple):
        return tuple(comparable(v) for v in typing.cast(tuple[Any, ...], value))
    if isinstance(value, dict):
        return frozenset((k, comparable(v)) for k, v in typing.cast(dict[Any, Any], value).items())
    if isinstance(value, jax.Array | np.ndarray) or getattr(value, "__hash__", None) is None:
        return ("identity", id(value))
    return value


C = typing.TypeVar("C", bound=type[Value])


def register(cls: C) -> C:
    """Make ``cls`` a frozen dataclass and a pytree, with the fields that its body annotates. (A class decorator.)

    A field's annotation is an alias such as ``Decay``, ``Child`` or ``bool``; with ``| None`` it may be absent. Its
    default stands behind it, and ``_: KW_ONLY`` before fields that are given by name only.

    Raises:
      TypeError: for a body that can't be meant, such as a field that is called like a method.
    """
    hints = annotations(cls)
    check_body(cls, hints)
    docstring = cls.__doc__
    made: Any = dataclasses.dataclass(frozen=True, eq=False, repr=False)(cls)
    made.__doc__ = docstring  # without one, a dataclass gets its signature
    fields = dataclasses.fields(made)
    kinds = {field.name: kind_of(hints[field.name]) for field in fields}
    made.kinds = types.MappingProxyType(kinds)
    made.required = frozenset(field.name for field in fields if field.default is dataclasses.MISSING)
    made.optional = frozenset(name for name in kinds if type(None) in typing.get_args(hints[name]))
    if "name" not in vars(cls):
        made.name = cls.__name__
    made.signature = _signature(fields, hints)
    data = [name for name, kind in kinds.items() if kind.data]
    meta = [name for name, kind in kinds.items() if not kind.data]
    jax.tree_util.register_dataclass(made, data_fields=data, meta_fields=meta)
    return made


def _signature(fields: Iterable["dataclasses.Field[Any]"], hints: Mapping[str, Any]) -> inspect.Signature:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = [
        inspect.Parameter(
            field.name,
            kinds[bool(field.kw_only)],
            default=inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields
    ]
    return readable(inspect.Signature(sorted(parameters, key=lambda p: p.kind)))


def constructor(cls: type[Value], returns: type[Value]) -> Callable[..., Any]:
    """Return the function that makes values of ``cls``, with its signature and its docstring.

    The class hangs on it as ``.Value``, so that instances pickle.
    """

    def construct(*args: Any, **kwargs: Any) -> Any:
        return cls.new(*args, **kwargs)

    made: Any = construct
    made.__name__, made.__qualname__ = cls.name, cls.__qualname__
    made.__module__, made.__doc__ = cls.__module__, cls.__doc__
    made.__signature__ = cls.signature.replace(return_annotation=Label(returns))
    hints = annotations(cls)
    made.__annotations__ = {name: hints[name] for name in cls.signature.parameters} | {"return": returns}
    made.Value, typing.cast(Any, cls).__qualname__ = cls, f"{made.__qualname__}.Value"
    return made


def define(function: Callable[..., Any], base: type[Value], namespace: dict[str, Any]) -> Callable[..., Any]:
    """Build a value class and its constructor from ``function``'s signature, less what ``base.given`` names.

    Args:
      function: its parameters' annotations give the fields' kinds, its defaults theirs.
      base: the class to derive from.
      namespace: class attributes.

    Returns:
      A function with the remaining signature and ``function``'s name and docstring, which returns a new value.

    Raises:
      TypeError: for a function that can't define a value.
    """
    name = _plain_name(function, base)
    hints = typing.get_type_hints(function, include_extras=True)
    parameters = _fields_of(name, inspect.signature(function), hints, base)
    body = {
        "name": name,
        "__module__": function.__module__,
        "__qualname__": function.__qualname__,
        "__doc__": function.__doc__,
        "__annotations__": {p.name: hints.get(p.name, Any) for p in parameters},
    }
    return constructor(register(type(name, (base,), namespace | body | {p.name: _field(p) for p in parameters})), base)


def _field(parameter: inspect.Parameter) -> Any:
    default = dataclasses.MISSING if parameter.default is parameter.empty else parameter.default
    return dataclasses.field(default=typing.cast(Any, default), kw_only=parameter.kind is parameter.KEYWORD_ONLY)


def _plain_name(function: Any, base: type[Value]) -> str:
    """Return the name of a function that can define a value: one with a name that returns when it is called."""
    name, what = getattr(function, "__name__", ""), base.__name__.lower()
    if not callable(function) or isinstance(function, type) or not name.isidentifier():
        raise TypeError(f"a {what} is written as a function with a name (def), got {function!r}")
    if any(test(function) for test in (inspect.iscoroutinefunction, inspect.isgeneratorfunction)):
        raise TypeError(f"{name}: a {what} is an ordinary function, without async and yield")
    return name


def _fields_of(
    name: str, signature: inspect.Signature, hints: Mapping[str, Any], base: type[Value]
) -> list[inspect.Parameter]:
    """Return the parameters that are fields, after checking that the first ones can be what ``base.given`` names."""
    parameters, size = list(signature.parameters.values()), len(base.given)
    first, rest = parameters[:size], parameters[size:]
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    fits = all(p.kind in positional and p.default is p.empty and not is_number(hints.get(p.name)) for p in first)
    if len(first) < size or not fits:
        raise misses_given(name, signature, base)
    for p in rest:
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD, p.POSITIONAL_ONLY):
            raise TypeError(f"{name}: parameter {str(p).partition(':')[0]} must be one that can be given by name")
    return rest


def misses_given(name: str, signature: inspect.Signature, base: type[Value]) -> TypeError:
    """Return the error for a function that doesn't take what it is given."""
    given = ", ".join(base.given)
    return TypeError(
        f"{name}: a {base.__name__.lower()} is called with ({given}) and then its own parameters by name; write "
        f"def {name}({given}, ...), got {name}({', '.join(map(str, signature.parameters))})"
    )


def is_number(annotation: Any) -> bool:
    """Whether an annotation declares what a field may be, as ``Hyper`` does."""
    return kind_of(annotation) is not STATIC


def kind_of(annotation: Any) -> Kind:
    """Return the ``Kind`` in an annotation such as ``Annotated[X, kind] | None``; static where there is none.

    ``bool`` alone is one, too: a number in its place would pass for True.
    """
    if annotation is bool:
        return FLAG
    if typing.get_origin(annotation) is typing.Annotated:
        return next((m for m in annotation.__metadata__ if isinstance(m, Kind)), STATIC)
    for part in typing.get_args(annotation):
        kind = kind_of(part)
        if kind not in (STATIC, FLAG):
            return kind
    return STATIC

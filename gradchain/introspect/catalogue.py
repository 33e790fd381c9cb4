"""The table of what a config may name: gradchain's public constructors and functions, and what a user adds."""

import functools
import importlib
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from gradchain.codecs import Codec
from gradchain.combinators.factors import FACTORS
from gradchain.combinators.labels import Labels, RouteKind
from gradchain.combinators.layers import AXES
from gradchain.combinators.steering import inject_hyperparams
from gradchain.combinators.storage import store
from gradchain.core.hyper import DType, Key
from gradchain.core.transform import Transform
from gradchain.core.value import STATIC, Kind, Value, kind_of
from gradchain.signatures import brief

NO_CONSTRUCTORS = {"by_leaf", "from_optax", "set_hyperparams"}
"""What makes transforms or labels of something that no config can hold."""
FUNCTIONS = {"global_norm", "graft", "graft_global", "skip_large_updates", "skip_not_finite"}
"""What of gradchain's own functions an argument may be, besides those in ``tree`` and ``projections``."""
KINDS: dict[str, dict[str, Kind]] = {
    "freeze": {"mask": RouteKind()},
    "selective_transform": {"freeze_mask": RouteKind()},
    "per_layer": {"axes": AXES},
    "scale_by_path": {"factors": FACTORS},
}
"""Kinds of arguments that constructors annotate as ``Any`` and normalise themselves."""
VARIADIC = {"chain": "stages", "named_chain": "stages", "parallel": "branches"}
"""What configs call the positional arguments of constructors that take any number of them."""
MAPPINGS = {
    "partition": ("transforms",),
    "monitor": ("measures",),
    "inject_hyperparams": ("arguments", "static"),
    "store": ("slots",),
    "scale_hyperparams": ("factors",),
}
"""Arguments that are dicts by names of the user's."""


class Constructor(NamedTuple):
    """A function that a config may call."""

    name: str
    function: Callable[..., Any]
    parameters: Mapping[str, inspect.Parameter]
    annotations: Mapping[str, Any]
    kinds: Mapping[str, Kind]

    @property
    def variadic(self) -> str | None:
        """What configs call its positional arguments, if it takes any number of them."""
        return VARIADIC.get(self.name)

    @property
    def fields(self) -> list[str]:
        """What configs call its arguments."""
        names = [name for name, p in self.parameters.items() if p.kind != p.VAR_POSITIONAL]
        return [self.variadic, *names] if self.variadic else names

    @property
    def required(self) -> list[str]:
        """Those that can't be left out."""
        return [name for name in self.fields if name in (self.variadic, *self._without_default())]

    def _without_default(self) -> list[str]:
        return [name for name, p in self.parameters.items() if p.default is p.empty]


@functools.cache
def constructors() -> dict[str, Constructor]:
    """Return what makes transforms, schedules, labels and masks, by name."""
    found = [x for name, x in _public().items() if inspect.isfunction(x) and name not in NO_CONSTRUCTORS]
    made = [function for function in found if _makes(function)]
    table = {function.__name__: _constructor(function.__name__, function) for function in made}
    return table | {name: _constructor(name, function) for name, function in _ADAPTED.items()}


def _stored(
    tx: Any, default: Any = None, min_size: int = 4096, key: Key = 0, slots: Mapping[str, Any] | None = None
) -> Transform:
    """Return what ``store`` makes of slots that are named in a dict."""
    return store(tx, default, min_size=min_size, key=key, **(slots or {}))


def _injected(
    factory: Any,
    arguments: Mapping[str, Any],
    static: Mapping[str, Any] | None = None,
    hyperparam_dtype: DType | None = None,
) -> Transform:
    """Return what ``inject_hyperparams`` makes of a ``Constructor``, which configs call by its name."""
    fixed = dict(static or {})
    positional = fixed.pop(factory.variadic, ()) if factory.variadic else ()
    return inject_hyperparams(factory.function, tuple(fixed), hyperparam_dtype)(*positional, **arguments, **fixed)


_ADAPTED: dict[str, Callable[..., Any]] = {"inject_hyperparams": _injected, "store": _stored}
"""What a config can't call as it is, in a form that it can."""


def with_own(where: str, own: Mapping[str, Any] | None) -> dict[str, Constructor]:
    """Return the table of constructors with a user's own, checked, behind gradchain's."""
    if own is None:
        return constructors()
    if not isinstance(own, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"{where}: constructors must be a dict from names to constructors, got {brief(own)}")
    return constructors() | {name: _own(f"{where}: constructors", name, function) for name, function in own.items()}


def _own(where: str, name: Any, function: Any) -> Constructor:
    """Return a user's constructor as an entry of the table."""
    if not isinstance(name, str) or not name:
        raise TypeError(f"{where}: a name must be a string, got {name!r}")
    if name in constructors():
        raise ValueError(f"{where}: {name!r} is a name of gradchain's own; choose another")
    known = next((one.name for one in constructors().values() if one.function is function), None)
    if known:
        raise ValueError(f"{where}: {name!r} is gradchain's own {known!r}, which needs no entry")
    if not (inspect.isfunction(function) or (isinstance(function, type) and issubclass(function, Value))):
        hint = f"; write {function.name}, not {function!r}" if isinstance(function, Value) else ""
        raise TypeError(
            f"{where}: {name!r} must be a rule or a function that makes transforms, got {brief(function)}{hint}"
        )
    try:
        constructor = _constructor(name, function)
    except NameError as error:
        raise TypeError(f"{where}: the annotations of {name!r} can't be read: {error}") from None
    many = [p.name for p in constructor.parameters.values() if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if many:
        raise TypeError(f"{where}: {name!r} takes any number of arguments ({many[0]}), which a config can't name")
    return constructor


@functools.cache
def functions() -> dict[str, Callable[..., Any]]:
    """Return the functions that a config may name, for transforms to call: merges, measures, projections, ..."""
    names = {name: x for name, x in _public().items() if name in FUNCTIONS}
    table = {f"{module}.{name}": x for module in ("tree", "projections") for name, x in _public(module).items()}
    return {name: x for name, x in (names | table).items() if inspect.isfunction(x)}


@functools.cache
def function_names() -> dict[int, str]:
    """Return the names of those functions by their identity, the shortest of several."""
    return {id(x): name for name, x in sorted(functions().items(), key=lambda item: -len(item[0]))}


def _public(module: str = "") -> dict[str, Any]:
    """Return the public names of gradchain, with its schedules, or of a submodule."""
    found = importlib.import_module(f"gradchain.{module}" if module else "gradchain")
    return {name: getattr(found, name) for name in found.__all__} | ({} if module else _public("schedules"))


def _makes(function: Any) -> bool:
    """Whether a public function makes a value or labels."""
    made = getattr(function, "__annotations__", {}).get("return")
    return hasattr(function, "Value") or (isinstance(made, type) and issubclass(made, Value | Labels | Codec))


def made_by(function: Any) -> type[Value] | None:
    """Return the class of what a constructor makes, if it makes values of one class from its own arguments."""
    made = getattr(function, "Value", function)
    return made if isinstance(made, type) and issubclass(made, Value) else None


def _constructor(name: str, function: Any) -> Constructor:
    hints = typing.get_type_hints(function, include_extras=True)
    if made := made_by(function):
        kinds = dict(made.kinds)
    else:
        kinds = {p: kind for p, hint in hints.items() if (kind := kind_of(hint)) is not STATIC} | KINDS.get(name, {})
    parameters = inspect.signature(function).parameters
    annotations = {p: x for p, x in hints.items() if p not in kinds or kinds[p] is STATIC}
    return Constructor(name, function, parameters, annotations, kinds)

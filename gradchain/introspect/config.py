"""Transforms and schedules as data for JSON, and back."""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import jax
import numpy as np

from gradchain.codecs import Codec
from gradchain.combinators.chain import NamedChain
from gradchain.combinators.factors import Factors
from gradchain.combinators.hidden_matrices import HiddenMatrices
from gradchain.combinators.labels import ByPath, MatricesAndRest
from gradchain.combinators.layers import AxesByPath
from gradchain.combinators.steering import InjectHyperparams
from gradchain.combinators.storage import Store
from gradchain.combinators.watching import Measure, MeasureWithEma, Monitor
from gradchain.core.foreign import Foreign
from gradchain.core.hyper import CombinedSchedule, FrozenTree, FunctionSchedule, Schedule
from gradchain.core.transform import Transform
from gradchain.core.value import STATIC, Value
from gradchain.introspect.catalogue import Constructor, constructors, function_names, made_by, with_own
from gradchain.introspect.parse import ConfigError, Reader, as_tree, check_size
from gradchain.matrices.views import MuonDimensionNumbers
from gradchain.schedules.piecewise import Breakpoints
from gradchain.signatures import public
from gradchain.tree.alignment import is_key

VERSION = 1


@public
def to_config(tx: Transform | Schedule, constructors: Mapping[str, Callable[..., Any]] | None = None) -> dict[str, Any]:
    """Return a transform or schedule as a JSON-serialisable dict, from which :func:`from_config` rebuilds it.

    A constructor's call is a dict of its ``name`` and all of its arguments, so that a later change of a default has no
    effect. A chain lists its ``stages``. Masks and labels are described by patterns (:func:`by_path`,
    :func:`matrices_and_rest`, :func:`hidden_matrices`) or as trees of dicts, lists and tuples.

    Args:
      tx: any composition of gradchain's public transforms and schedules. Functions in it must be gradchain's too
        (``merge=graft``), or ``functools.partial`` of one.
      constructors: your own rules, schedules and transforms by the names to use in configs:
        ``{"my_rule": my_rule}``. :func:`from_config` needs the same.

    Raises:
      ValueError: if ``tx`` contains something that can't be described: a lambda or another function, another library's
        transform, a rule of your own that isn't in ``constructors``. The message lists all of them with their paths.
        Also if a name in ``constructors`` is one of gradchain's own.
      TypeError: if ``tx`` isn't a transform or schedule, or a constructor isn't a function or class.

    Example:
      >>> import json
      >>> json.dumps(to_config(sgd(0.1)))
      '{"version": 1, "name": "chain", "stages": [{"name": "identity"}, {"name": "scale_by_learning_rate", ...}]}'
    """
    if not isinstance(tx, Transform | Schedule):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"to_config: expected a gradchain transform or schedule, got {tx!r}")
    writer = _Writer(with_own("to_config", constructors))
    node = writer.node("", tx)
    if writer.problems:
        raise ValueError("\n  ".join(["to_config: a config can't hold", *writer.problems]))
    return {"version": VERSION} | node


@public
def from_config(config: Mapping[str, Any], constructors: Mapping[str, Callable[..., Any]] | None = None) -> Any:
    """Return the transform or schedule that a dict describes, made by :func:`to_config` or written by hand.

    Only gradchain's own public constructors, from a fixed table of names, and those that you pass are called; nothing
    is imported or evaluated. Arguments that are left out have their defaults, and whole optimizers can be named too:
    ``{"name": "adamw", "learning_rate": {"name": "cosine_decay_schedule", "init_value": 0.001, "decay_steps": 1000}}``.

    Args:
      config: the dict.
      constructors: your own constructors by their names in the config: rules (and schedules) made by gradchain's
        decorators, or any functions that return a transform or schedule and whose arguments a config can represent. An
        argument whose annotation says what it may be (``Decay``, ``bool``) is checked.

    Returns:
      A transform or schedule: ``from_config(to_config(tx)) == tx``. (Arrays and partial functions compare by identity.)

    Raises:
      ValueError: for an unknown name or field, a missing one, a value that is out of range or of the wrong type, and
        for a config that would need much memory or time (deep nesting, long strings), or has dtypes that aren't
        numeric. The message starts with the field's path, such as ``stages[0].b2``. Also if a name in ``constructors``
        is one of gradchain's own, so that a config means the same everywhere.
      TypeError: if a constructor isn't a function or class.

    Example:
      >>> import json
      >>> tx = from_config(json.loads('{"name": "adamw", "learning_rate": 0.001, "weight_decay": 0.01}'))
      >>> tx == adamw(1e-3, weight_decay=0.01)
      True
    """
    if not isinstance(config, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"from_config: a config is a dict, got {type(config).__name__}")
    table = with_own("from_config", constructors)
    check_size(config)
    fields = dict(config)
    version = fields.pop("version", VERSION)
    if type(version) is not int or version != VERSION:
        raise ValueError(
            f"from_config: version must be {VERSION}, got {version!r}; this version of gradchain reads no other"
        )
    try:
        result = Reader(table).parse(fields)
    except RecursionError:
        raise ValueError("from_config: the config is nested too deeply") from None
    if not isinstance(result, Transform | Schedule):
        raise ValueError(f"from_config: a config describes a transform or schedule, got {result!r}")
    return result


class _Writer:
    """Turns values into plain data, and notes what can't be."""

    def __init__(self, table: Mapping[str, Constructor]) -> None:
        self.table = table
        own = [one for name, one in table.items() if name not in constructors()]
        self.own = {made: one for one in own if (made := made_by(one.function))}
        self.problems: list[str] = []

    def refuse(self, path: str, x: Any, why: str) -> None:
        """Note that ``x`` can't be described."""
        self.problems.append(f"{path or 'this'}: {x!r}, {why}")

    def node(self, path: str, x: Any) -> Any:
        """Return plain data for any value in a transform."""
        if x is None or isinstance(x, bool | int | str):
            return x
        writers = (
            (float, self.number),
            (np.generic | np.ndarray | jax.Array, self.array),
            (FunctionSchedule, self.bare_function),
            (CombinedSchedule, self.combined),
            (Breakpoints, self.breakpoints),
            (Factors, self.factors),
            (Value, self.call),
            (FrozenTree, self.tree),
            (ByPath | MatricesAndRest | HiddenMatrices, self.labels),
            (MuonDimensionNumbers, lambda path, x: _branch(x)),
            (Codec, self.codec),
            (AxesByPath, self.axes),
            (Mapping, self.mapping),
            ((tuple, list), self.sequence),
            (functools.partial, self.partial),
        )
        write = next((write for types, write in writers if isinstance(x, cast(Any, types))), self.function)
        return write(path, x)

    def number(self, path: str, x: float) -> Any:
        return x if math.isfinite(x) else {"number": str(x)}

    def array(self, path: str, x: Any) -> Any:
        if is_key(x):
            return {"key": np.asarray(jax.random.key_data(x)).tolist(), "impl": str(jax.random.key_impl(x))}
        return {"array": self.sequence(path, np.asarray(x).tolist()), "dtype": x.dtype.name}

    def bare_function(self, path: str, x: Any) -> Any:
        return self.refuse(path, x, "a bare callable as a schedule; use one of gradchain.schedules")

    def combined(self, path: str, x: Any) -> Any:
        sides = {side: self.node(f"{path}.{side}", getattr(x, side)) for side in ("left", "right")}
        return {"operator": x.symbol} | sides

    def breakpoints(self, path: str, x: Any) -> Any:
        return self.sequence(path, list(zip(x.boundaries, x.scales, strict=True)))

    def factors(self, path: str, x: Factors) -> Any:
        numbers = {label: self.node(f"{path}.{label}", number) for label, number in x.numbers.items()}
        return {"labels": self.node(f"{path}.labels", x.labels), "numbers": numbers}

    def call(self, path: str, x: Value) -> Any:
        """Return the call of a constructor, the arguments of which are found in a value's fields."""
        constructor = self.own.get(type(x)) or self._public(x)
        if constructor is None:
            return self.refuse(path, x, _reason(x))
        dot = f"{path}." if path else ""
        given = self._injected(x) if isinstance(x, InjectHyperparams) else _arguments(constructor, x)
        return {"name": constructor.name} | {key: self.node(f"{dot}{key}", value) for key, value in given.items()}

    def _public(self, x: Value) -> Constructor | None:
        """Return gradchain's constructor of a value, ``None`` if it was made by another one of the same name."""
        if isinstance(x, InjectHyperparams):
            return self.table["inject_hyperparams"] if self._factory(x) else None
        found = constructors().get(x.name)
        if found is None or isinstance(x, Store):
            return found
        made = getattr(found.function, "Value", None)
        same = type(x) is made if made else type(x).__module__ == found.function.__module__
        return found if same else None

    def _factory(self, x: InjectHyperparams) -> Constructor | None:
        return next((one for one in self.table.values() if one.function is x.factory), None)

    def _injected(self, x: InjectHyperparams) -> dict[str, Any]:
        """Return the arguments of ``inject_hyperparams`` in a config, its factory's in the form of their fields."""
        factory = cast(Constructor, self._factory(x))
        static: dict[str, Any] = {}
        for name, value in x.static.values.items():
            parameter = factory.parameters.get(name)
            is_variadic = parameter is not None and parameter.kind is inspect.Parameter.VAR_POSITIONAL
            kind = factory.kinds.get(name, STATIC)
            plain = kind is STATIC or value is None or is_variadic
            static[factory.variadic or name if is_variadic else name] = value if plain else kind.normalize(name, value)
        return {"factory": factory.name, "arguments": x.arguments, "static": static, "hyperparam_dtype": x.dtype}

    def tree(self, path: str, x: FrozenTree) -> Any:
        branch = _branch(x.thaw())
        try:
            same = as_tree(path, branch) == x.thaw()
        except ConfigError:
            same = False
        return {"tree": branch} if same else self.refuse(path, x, "a tree of other than dicts, lists and tuples")

    def labels(self, path: str, x: Any) -> Any:
        names = {ByPath: "by_path", MatricesAndRest: "matrices_and_rest", HiddenMatrices: "hidden_matrices"}
        return {"name": names[type(x)]} | {
            field.name: self.node(path, getattr(x, field.name)) for field in dataclasses.fields(x)
        }

    def codec(self, path: str, x: Codec) -> Any:
        return {"name": "codec"} | dataclasses.asdict(x)

    def axes(self, path: str, x: AxesByPath) -> Any:
        return self.sequence(path, x.patterns)

    def mapping(self, path: str, x: Mapping[str, Any]) -> Any:
        return {key: self.node(f"{path}.{key}", value) for key, value in x.items()}

    def sequence(self, path: str, x: Iterable[Any]) -> Any:
        return [self.node(f"{path}[{i}]", value) for i, value in enumerate(x)]

    def partial(self, path: str, x: Any) -> Any:
        function = self.function(path, x.func)
        given = {"arguments": self.sequence(path, x.args), "keywords": self.mapping(path, x.keywords)}
        return function and function | {key: value for key, value in given.items() if value}

    def function(self, path: str, x: Any) -> Any:
        name = function_names().get(id(x))
        return {"function": name} if name else self.refuse(path, x, _reason(x))


def _branch(x: Any) -> Any:
    """Return plain data for a tree of bools, labels, axes or dimension numbers; what isn't plain stays."""
    if type(x) is dict:
        return {key: _branch(value) for key, value in cast(Any, x).items()}
    if type(x) in (list, tuple):
        branches = [_branch(value) for value in x]
        return branches if isinstance(x, list) else {"tuple": branches}
    if not isinstance(x, MuonDimensionNumbers):
        return x
    used = x if x[2:] != MuonDimensionNumbers()[2:] else x[:2]
    return {"dimensions": [list(n) if isinstance(n, tuple) else n for n in used]}


def _reason(x: Any) -> str:
    if isinstance(x, Foreign):
        return "another library's transform"
    if isinstance(x, Value):
        return (
            "which is none of gradchain's public transforms and schedules, or holds a function of your own; "
            "give a rule of your own a name: constructors={'my_rule': my_rule}"
        )
    if callable(x):
        return "which is none of gradchain's public functions"
    return f"a {type(x).__name__}"


def _arguments(constructor: Constructor, x: Any) -> dict[str, Any]:
    """Return the arguments with which a constructor makes a value again."""
    if isinstance(x, NamedChain):
        return {"stages": list(zip(x.names, x.stages, strict=True))}
    if isinstance(x, Monitor):
        functions = [m.function if isinstance(m, Measure) else m for m in x.measures]
        return {"measures": dict(zip(x.names, functions, strict=True))}
    if isinstance(x, MeasureWithEma):
        return {"measure": x.measure} | {name: value for name, _, value in x.average.fields()}
    if isinstance(x, Store):
        return {"tx": x.inner, "default": x.default, "min_size": x.min_size, "key": x.key, "slots": dict(x.slots)}
    stored = {name: value for name, _, value in x.fields()}
    return {name: stored[name] for name in constructor.fields if name in stored}

"""Reading configs: plain data to values, by calls of the catalogue's constructors, with errors that name the field."""

import functools
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from gradchain.core.hyper import CombinedSchedule, Number, Schedule
from gradchain.core.transform import Transform
from gradchain.core.value import STATIC
from gradchain.introspect.catalogue import MAPPINGS, Constructor, constructors, functions
from gradchain.matrices.views import MuonDimensionNumbers
from gradchain.signatures import did_you_mean

FORMS: dict[str, tuple[set[str], set[str]]] = {
    "function": ({"function"}, {"arguments", "keywords"}),
    "operator": ({"operator", "left", "right"}, set()),
    "number": ({"number"}, set()),
    "array": ({"array", "dtype"}, set()),
    "key": ({"key", "impl"}, set()),
    "tree": ({"tree"}, set()),
    "labels": ({"labels", "numbers"}, set()),
    "dimensions": ({"dimensions"}, set()),
}
"""What a dict that isn't the call of a constructor may be: by its first key, its required and its optional keys."""


DEEPEST = 250
"""How many lists and dicts may lie in one another."""
LONGEST = 10_000
"""The most characters of a string."""
WIDEST = 4096
"""The most bits of a whole number."""
MOST = 1_000_000
"""The most values in all."""
SHOWN = 200
"""How many characters of a value or path an error shows."""
NUMBERS = (
    *("bool", "bfloat16", "float16", "float32", "float64", "int8", "int16", "int32", "int64"),
    *("uint8", "uint16", "uint32", "uint64"),
)
"""The dtypes of arrays."""
KEYS = {"threefry2x32": 2, "rbg": 4, "unsafe_rbg": 4}
"""How many words the keys of JAX's algorithms have."""


class ConfigError(ValueError):
    """A config that is wrong; the message begins with the field's path."""

    def __init__(self, path: str, problem: object):
        super().__init__(f"from_config: {_cut(path) or 'the config'}{problem}")


def _cut(text: str) -> str:
    """Return the beginning and the end of a long text."""
    half = SHOWN // 2
    return text if len(text) <= SHOWN else f"{text[:half]}…{text[-half:]}"


def _shown(x: Any) -> str:
    return _cut(repr(x))


def check_size(config: Any) -> None:
    """Raise ``ConfigError`` for what no config needs: it would cost time or memory before it is found to be wrong."""
    stack: list[tuple[Any, str, int]] = [(config, "", 0)]
    count = 0
    while stack:
        node, path, depth = stack.pop()
        count += 1
        if depth > DEEPEST or count + len(stack) > MOST:
            problem = "nested too deeply" if depth > DEEPEST else "more than can be read"
            raise ConfigError(path, f" is {problem}: at most {DEEPEST} deep, {MOST:,} values in all")
        if isinstance(node, str) and len(node) > LONGEST:
            raise ConfigError(path, f" is a string of {len(node):,} characters, {LONGEST:,} at most: {_shown(node)}")
        if isinstance(node, int) and node.bit_length() > WIDEST:
            raise ConfigError(path, f" is a whole number of {node.bit_length():,} bits, which no number here has")
        if isinstance(node, Mapping):
            for key, x in cast(Mapping[Any, Any], node).items():
                stack += [(key, path, depth), (x, _join(path, key), depth + 1)]
        elif isinstance(node, list | tuple):
            count += len(cast(Any, node))
            others = [(i, x) for i, x in enumerate(cast(Any, node)) if not isinstance(x, float)]
            stack += [(x, f"{path}[{i}]", depth + 1) for i, x in others]


class Reader:
    """Turns plain data into values, by calls of the constructors in a table."""

    def __init__(self, table: Mapping[str, Constructor]):
        self.table = table

    def parse(self, node: Any, path: str = "") -> Any:
        """Return the value that plain data of checked size describes; ``path`` is where in the config it is."""
        if node is None or isinstance(node, bool | int | float | str):
            return node
        if isinstance(node, list | tuple):
            return [self.parse(item, f"{path}[{i}]") for i, item in enumerate(cast(Any, node))]
        if not isinstance(node, Mapping):
            raise ConfigError(path, f" is {type(node).__name__}, which isn't plain data")
        fields: dict[Any, Any] = dict(node)
        if "name" in fields:
            return self._call(fields, path)
        form = next((form for form in FORMS if form in fields), None)
        if form is None:
            raise ConfigError(
                path, f" is a dict without a name; it has {_cut(', '.join(map(repr, fields))) or 'nothing'}"
            )
        required, optional = FORMS[form]
        _check_fields(path, form, fields, required, required | optional)
        return getattr(self, f"_{form}")(fields, path)

    def _call(self, fields: dict[str, Any], path: str) -> Any:
        """Return what a constructor makes of its fields."""
        name = fields.pop("name")
        constructor = self.table.get(name) if isinstance(name, str) else None
        if constructor is None:
            raise ConfigError(_join(path, "name"), f": {self._unknown(name)}")
        _check_fields(path, name, fields, constructor.required, constructor.fields)
        inner = self._factory(fields, path) if name == "inject_hyperparams" else None
        values = {key: self._field(constructor, key, x, _join(path, key), inner) for key, x in fields.items()}
        values |= {"factory": inner} if inner else {}
        positional: list[Any] = values.pop(constructor.variadic) if constructor.variadic else []
        try:
            return constructor.function(*positional, **values)
        except (TypeError, ValueError, OverflowError) as error:
            raise ConfigError(path, f": {_told(error)}") from None

    def _unknown(self, name: Any) -> str:
        """Return what to say of a name that isn't in the table."""
        known = "gradchain has no public constructor"
        if set(self.table) > constructors().keys():
            known = "neither gradchain nor constructors= has"
        return f"{known} {_shown(name)}{did_you_mean(str(name).lower(), self.table)}"

    def _factory(self, fields: Mapping[str, Any], path: str) -> Constructor:
        """Return the constructor that ``inject_hyperparams`` is to call."""
        factory = fields["factory"]
        if not isinstance(factory, str) or factory not in self.table:
            problem = f" must be the name of a constructor, got {_shown(factory)}"
            raise ConfigError(_join(path, "factory"), problem)
        return self.table[factory]

    def _field(self, constructor: Constructor, key: str, node: Any, path: str, inner: Constructor | None = None) -> Any:
        """Return the value of one argument, checked as far as its declaration says what it may be.

        A dict of arguments for another constructor, ``inner``, is read as that one's fields.
        """
        if key in MAPPINGS.get(constructor.name, ()):
            if not isinstance(node, Mapping):
                raise ConfigError(path, f" must be a dict by names, got {_shown(node)}")
            read = functools.partial(self._field, inner) if inner else lambda _, x, path: self.parse(x, path)
            return {name: read(name, x, _join(path, name)) for name, x in cast(Any, node).items()}
        value = self.parse(node, path)
        if key == constructor.variadic:
            return _sequence(constructor.name, value, path)
        kind = constructor.kinds.get(key, STATIC)
        if isinstance(kind, Number) and callable(value) and not isinstance(value, Schedule):
            raise ConfigError(path, f" must be a number or a schedule, got {_shown(value)}")
        if kind is STATIC or value is None:
            _check_annotation(constructor.annotations.get(key, Any), value, path)
            return _hashable(value)
        return _checked(lambda: kind.normalize("", value), path)

    def _function(self, fields: dict[str, Any], path: str) -> Any:
        name = fields["function"]
        function = functions().get(name) if isinstance(name, str) else None
        if function is None:
            raise ConfigError(_join(path, "function"), f": gradchain has no public function {_shown(name)}")
        arguments, keywords = fields.get("arguments", []), fields.get("keywords", {})
        if not isinstance(arguments, list) or not isinstance(keywords, Mapping):
            raise ConfigError(path, ": arguments must be a list, and keywords a dict")
        if not arguments and not keywords:
            return function
        given = {key: self.parse(x, _join(path, key)) for key, x in cast(Any, keywords).items()}
        return functools.partial(function, *self.parse(arguments, _join(path, "arguments")), **given)

    def _operator(self, fields: dict[str, Any], path: str) -> Any:
        left, right = (self.parse(fields[side], _join(path, side)) for side in ("left", "right"))
        if fields["operator"] not in ("+", "-", "*", "/"):
            raise ConfigError(_join(path, "operator"), f" must be one of + - * /, got {_shown(fields['operator'])}")
        for side, value in (("left", left), ("right", right)):
            if callable(value) and not isinstance(value, Schedule):
                raise ConfigError(_join(path, side), f" must be a number or a schedule, got {_shown(value)}")
        return _checked(lambda: CombinedSchedule.of(fields["operator"], left, right), path)

    def _number(self, fields: dict[str, Any], path: str) -> float:
        if fields["number"] not in ("inf", "-inf"):
            raise ConfigError(_join(path, "number"), f" must be 'inf' or '-inf', got {_shown(fields['number'])}")
        return float(fields["number"])

    def _array(self, fields: dict[str, Any], path: str) -> Any:
        dtype = fields["dtype"]
        if not isinstance(dtype, str) or dtype not in NUMBERS:
            raise ConfigError(path, f" is an array of dtype {_shown(dtype)}, which must be one of {', '.join(NUMBERS)}")
        numbers = self._numbers(fields["array"], path)
        return _checked(lambda: jnp.asarray(np.asarray(numbers, jnp.dtype(dtype))), path)

    def _numbers(self, node: Any, path: str) -> Any:
        """Return a number, or lists of them; ``path`` is that of all of them."""
        if isinstance(node, list):
            return [self._numbers(x, path) for x in cast(Any, node)]
        value = self.parse(node, path)
        if not isinstance(value, int | float):
            raise ConfigError(path, f" must hold numbers, got {_shown(value)}")
        return value

    def _key(self, fields: dict[str, Any], path: str) -> Any:
        impl, words = fields["impl"], self._numbers(fields["key"], path)
        if not isinstance(impl, str) or impl not in KEYS:
            raise ConfigError(path, f" is a key of algorithm {_shown(impl)}, which must be one of {', '.join(KEYS)}")
        data = _checked(lambda: np.asarray(words), path)
        if data.dtype.kind not in "iu" or data.shape[-1:] != (KEYS[impl],) or np.any((data < 0) | (data >= 2**32)):
            raise ConfigError(path, f" must be keys of {KEYS[impl]} whole numbers of 32 bits, got {_shown(words)}")
        return jax.random.wrap_key_data(jnp.asarray(data.astype(np.uint32)), impl=impl)

    def _labels(self, fields: dict[str, Any], path: str) -> Any:
        """Return labels and the number of each, as factors of hyperparameters are given."""
        if not isinstance(fields["numbers"], Mapping):
            raise ConfigError(_join(path, "numbers"), f" must be a dict by label, got {_shown(fields['numbers'])}")
        numbers: Any = fields["numbers"]
        read = {label: self.parse(x, _join(_join(path, "numbers"), label)) for label, x in numbers.items()}
        return self.parse(fields["labels"], _join(path, "labels")), read

    def _tree(self, fields: dict[str, Any], path: str) -> Any:
        return as_tree(_join(path, "tree"), fields["tree"])

    def _dimensions(self, fields: dict[str, Any], path: str) -> Any:
        return as_tree(path, fields)


def _check_fields(
    path: str, what: str, fields: Mapping[Any, Any], required: Iterable[str], known: Iterable[str]
) -> None:
    """Raise ``ConfigError`` for fields that are missing or unknown."""
    known = sorted(known)
    for name in fields:
        if name not in known:
            hint = did_you_mean(str(name), known) or f"; it has {', '.join(known) or 'none'}"
            raise ConfigError(_join(path, name), f": {what} has no such field{hint}")
    for name in required:
        if name not in fields:
            raise ConfigError(_join(path, name), f" is missing, which {what} needs")


def _join(path: str, name: Any) -> str:
    return f"{path}.{_cut(str(name))}" if path else _cut(str(name))


def _hashable(value: Any) -> Any:
    """Return lists as tuples."""
    return tuple(map(_hashable, cast(Any, value))) if isinstance(value, list) else value


def _sequence(name: str, value: Any, path: str) -> list[Any]:
    if not isinstance(value, list):
        raise ConfigError(path, f" must be a list, got {_shown(value)}")
    items = cast(list[Any], value)
    for i, item in enumerate(items):
        pair = isinstance(item, list) and len(cast(Any, item)) == 2
        if name == "named_chain" and not pair:
            raise ConfigError(f"{path}[{i}]", f" must be a pair of a name and a transform, got {_shown(item)}")
        tx: Any = item[1] if name == "named_chain" else item
        if not isinstance(tx, Transform):
            raise ConfigError(f"{path}[{i}]", f" must be a transform, got {_shown(tx)}")
    return [tuple(item) for item in items] if name == "named_chain" else items


def _checked(normalize: Callable[[], Any], path: str) -> Any:
    try:
        return normalize()
    except (TypeError, ValueError, OverflowError) as error:
        told = _told(error)
        raise ConfigError(path, told if told.startswith("[") else f" {told}") from None


def _told(error: Exception) -> str:
    """Return an error's message, the beginning of one that quotes too much."""
    text = str(error).strip()
    return text if len(text) <= 10 * SHOWN else f"{text[: 10 * SHOWN]}…"


def _check_annotation(annotation: Any, value: Any, path: str) -> None:
    """Raise ``ConfigError`` if a plain value isn't of the annotated type."""
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    options = typing.get_args(annotation) if union else (annotation,)
    plain = tuple(option for option in options if option in (bool, int, str, type(None)))
    if len(plain) < len(options):
        return  # what the constructor checks itself
    if not isinstance(value, plain) or (isinstance(value, bool) and bool not in plain):
        expected = " or ".join("null" if option is type(None) else option.__name__ for option in plain)
        raise ConfigError(path, f" must be {expected}, got {_shown(value)}")


def as_tree(path: str, node: Any) -> Any:
    """Return a tree of dicts, lists and tuples, of bools, labels, axes or dimension numbers."""
    if node is None or isinstance(node, bool | int | str):
        return node
    if isinstance(node, list):
        return [as_tree(f"{path}[{i}]", x) for i, x in enumerate(cast(Any, node))]
    if not isinstance(node, dict) or not all(isinstance(key, str) for key in cast(Any, node)):
        known = "dicts with strings for keys, lists and plain values"
        raise ConfigError(path, f" must be a tree of {known}, got {_shown(node)}")
    branches: dict[str, Any] = node
    if list(branches) == ["dimensions"]:
        return _checked(lambda: MuonDimensionNumbers(*map(_axes, branches["dimensions"])), path)
    if list(branches) == ["tuple"] and isinstance(branches["tuple"], list):
        return tuple(as_tree(path, branches["tuple"]))
    return {key: as_tree(_join(path, key), x) for key, x in branches.items()}


def _axes(axes: Any) -> Any:
    if isinstance(axes, list) and all(type(axis) is int for axis in cast(Any, axes)):
        return tuple(cast(list[int], axes))
    if type(axes) is not int:
        raise TypeError(f"has dimensions that aren't whole numbers: {axes!r}")
    return axes

"""Hyperparameters: numbers, arrays or schedules, declared by annotation, checked when concrete.

A rule or schedule annotates each parameter with what it may be: ``Hyper`` (any number), ``Decay`` (in [0, 1)),
``NonNegative``, ``Count`` (an integer) and so on are numbers and may be traced; ``DType``, ``Mask`` and plain types
are static; ``Key`` is a seed or PRNG key.
"""

import operator
import typing
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any, Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from gradchain.core.value import Kind, Value, register, show
from gradchain.numerics import compute_dtype
from gradchain.signatures import brief, is_public
from gradchain.tree import Placeholder, flatten_optional, show_path
from gradchain.tree.alignment import is_key, spread

ABSTRACT: Any = (Tracer, jax.ShapeDtypeStruct)
"""What stands for an array without a value; it passes unchecked."""


def is_constructor(function: Any) -> bool:
    """Return whether a callable is what makes transforms or schedules, and none of the latter itself."""
    return isinstance(function, type) or hasattr(function, "Value") or is_public(function)


class Number(Kind):
    """A number in a range, an array of such numbers (a batch of values), or a schedule of them."""

    data = True

    def __init__(self, label: str, interval: str = "(-inf, inf]", whole: bool = False):
        self.label = label
        self.interval = interval
        self.whole = whole
        self.low, self.high = (float(end) for end in interval[1:-1].split(","))
        self.above = operator.gt if interval[0] == "(" else operator.ge
        self.below = operator.lt if interval[-1] == ")" else operator.le

    def normalize(self, where: str, value: Any) -> Any:
        if isinstance(value, (Schedule, *ABSTRACT)):
            return value
        if isinstance(value, int | float | np.generic | np.ndarray | Array) and not isinstance(value, bool):
            return self._checked(where, value)
        if callable(value) and not is_constructor(value):
            leaf = jax.tree_util.treedef_is_leaf(jax.tree.structure(value))
            return FunctionSchedule(value) if leaf else PytreeSchedule(value)
        hint = f"; call it: {value.__name__}(...)" if callable(value) else ""
        hint = "; chain(...) puts transforms together" if isinstance(value, Value) else hint
        hint = "; parameters go to tx.init(params)" if isinstance(value, dict) else hint
        raise TypeError(f"{where} must be a number, an array or a schedule, got {brief(value)}{hint}")

    def _checked(self, where: str, value: Any) -> Any:
        array = np.asarray(value)
        if not (jnp.issubdtype(array.dtype, np.floating) or jnp.issubdtype(array.dtype, np.integer)):
            raise TypeError(f"{where} must be real, got {value!r}")
        if self.whole and np.any(array != np.round(array)):
            raise ValueError(f"{where} must be a whole number, got {value!r}")
        if not np.all(self.above(array, self.low) & self.below(array, self.high)):
            raise ValueError(f"{where} must be in {self.interval}, got {value!r}")
        if array.ndim == 0:
            return int(array) if self.whole else float(array)
        array = jnp.asarray(value)
        whole = jnp.issubdtype(array.dtype, jnp.integer)
        return array.astype(int if self.whole else float if whole else compute_dtype(array.dtype))


class Numbers(Kind):
    """A tuple of numbers, each checked like ``each``; made from any sequence or from an array's rows."""

    data = True

    def __init__(self, each: Number):
        self.each = each
        self.label = f"Sequence[{each.label}]"

    def normalize(self, where: str, value: Any) -> Any:
        if not isinstance(value, Iterable) or isinstance(value, str):
            raise TypeError(f"{where} must be a sequence of numbers, got {value!r}")
        items: list[Any] = list(value)  # pyright: ignore[reportUnknownArgumentType]
        return tuple(self.each.normalize(f"{where}[{i}]", item) for i, item in enumerate(items))


@jax.tree_util.register_static
class Word(str):
    """A word in the place of a number: a pytree without leaves."""


class NumberOrWord(Number):
    """A number, or one of a few words that say how it is found."""

    def __init__(self, label: str, interval: str, *words: str):
        super().__init__(label, interval)
        self.words = words

    def normalize(self, where: str, value: Any) -> Any:
        if isinstance(value, str):
            if value not in self.words:
                allowed = ", ".join(map(repr, self.words))
                raise TypeError(f"{where} must be a number or one of {allowed}, got {value!r}")
            return Word(value)
        return super().normalize(where, value)


class KeyKind(Kind):
    """A seed (whole number) or a PRNG key; arrays of either are batches."""

    label = "Key"
    data = True

    def normalize(self, where: str, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool) and not -(2**31) <= value < 2**31:
            raise ValueError(f"{where} must fit into 32 bits, got {value}; for more, use jax.random.key")
        if isinstance(value, ABSTRACT) or (isinstance(value, int) and not isinstance(value, bool)):
            return value
        if isinstance(value, np.generic | np.ndarray | Array):
            if is_key(value):
                return value
            if value.dtype == np.uint32 and np.shape(value)[-1:] == (2,):
                return jax.random.wrap_key_data(jnp.asarray(value))
            if jnp.issubdtype(value.dtype, np.integer):
                return int(value) if value.ndim == 0 else jnp.asarray(value)
        raise TypeError(f"{where} must be a whole number or a PRNG key, got {value!r}")


class DTypeKind(Kind):
    """A dtype, stored by its name, or None."""

    label = "DType"

    def normalize(self, where: str, value: Any) -> Any:
        try:
            if isinstance(value, jax.Array | np.ndarray | Value):
                raise TypeError("an array isn't a dtype")
            dtype = None if value is None else jnp.dtype(value)
        except (TypeError, ValueError):
            raise TypeError(f"{where} must be a dtype, got {value!r}") from None
        if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(f"{where} must be a floating-point dtype, got {dtype}")
        return dtype and dtype.name


class MaskKind(Kind):
    """A tree of Python bools over (a prefix of) the parameters, or a function from parameters to one, frozen."""

    label = "Mask"

    def normalize(self, where: str, value: Any) -> Any:
        if value is None or isinstance(value, FrozenTree):
            return value
        leaves, treedef = flatten_optional(value)
        if jax.tree_util.treedef_is_leaf(treedef) and callable(value):
            return value
        for leaf in leaves:
            if not isinstance(leaf, bool | np.bool_ | None):
                raise TypeError(f"{where} must be a tree of bools or a function that returns one, found {leaf!r}")
        return FrozenTree(tuple(leaf if leaf is None else bool(leaf) for leaf in leaves), treedef)


class PerLeafKind(Kind):
    """A static value for each parameter array, ``None`` for one that has none. A treewise rule gets a tree of them.

    Given as one value for all, as a tree over (a prefix of) the parameters, frozen, or as a function from parameters to
    such a tree.

    Args:
      label: what error messages call it.
      of: the values' type.
      convert: makes a value hashable.
      fits: called as ``fits(where, shape, value)`` for each array that a rule applies to, at ``init``; it raises
        ``ValueError`` for a value that doesn't fit the shape.
    """

    def __init__(
        self,
        label: str,
        of: type,
        convert: Callable[[Any], Any] = lambda x: x,
        fits: Callable[[str, tuple[int, ...], Any], Any] = lambda where, shape, value: None,
    ):
        self.label = label
        self.of = of
        self.convert = convert
        self.fits = fits

    def check(self, where: str, shape: tuple[int, ...], value: Any) -> None:
        self.fits(where, shape, value)

    def normalize(self, where: str, value: Any) -> Any:
        if value is None or isinstance(value, FrozenTree):
            return value
        leaves, treedef = jax.tree.flatten(value, is_leaf=lambda x: x is None or isinstance(x, self.of))
        if jax.tree_util.treedef_is_leaf(treedef) and not isinstance(value, self.of) and callable(value):
            return value
        for leaf in leaves:
            if not (leaf is None or isinstance(leaf, self.of)) or isinstance(leaf, bool):
                raise TypeError(
                    f"{where} must be {self.label}, a tree of them or a function that returns one, got {leaf!r}"
                )
        return FrozenTree(tuple(leaf if leaf is None else self.convert(leaf) for leaf in leaves), treedef)

    def resolve(self, where: str, value: Any, tree: Any) -> list[Any]:
        """Return the value for each leaf of ``tree``, ``None`` counting as one."""
        if isinstance(tree, Placeholder):
            return []
        frozen = self.normalize(f"{where}'s result", value(tree)) if callable(value) else value
        if frozen is None:
            return [None] * len(flatten_optional(tree)[0])
        return frozen.broadcast(where, tree)


class TermMaskKind(PerLeafKind):
    """A mask for one term of a rule: the rule applies to all arrays, and is told True or False for each of them."""

    def __init__(self):
        super().__init__("a bool", bool)

    def normalize(self, where: str, value: Any) -> Any:
        return MaskKind().normalize(where, value)

    def resolve(self, where: str, value: Any, tree: Any) -> list[Any]:
        """Return whether the term is there, for each leaf of ``tree``, ``None`` counting as one."""
        if isinstance(tree, Placeholder):
            return []
        return [True] * len(flatten_optional(tree)[0]) if value is None else resolve_mask(where, value, tree)


class FrozenTree(typing.NamedTuple):
    """A tree of hashable leaves, itself hashable."""

    leaves: tuple[Any, ...]
    treedef: Any

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # immutable; and some trees' structures don't equal their copies

    def thaw(self) -> Any:
        """Return the tree."""
        return self.treedef.unflatten(self.leaves)

    def broadcast(self, where: str, tree: Any, name: str = "params") -> list[Any]:
        """Return a leaf for each leaf of ``tree``, of which this is a prefix by path; ``None`` counts as a leaf."""
        try:
            return spread(self.treedef, self.leaves, tree, where.rpartition(": ")[2], name)
        except ValueError as error:
            raise ValueError(f"{where} must be a prefix of the parameters: {error}") from None

    def broadcast_to_all(self, where: str, tree: Any, name: str = "params") -> list[Any]:
        """Return ``broadcast``, after checking that only what is ``None`` has ``None``."""
        found = self.broadcast(where, tree, name)
        pairs = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: x is None)[0]
        for own, (path, leaf) in zip(found, pairs, strict=True):
            if own is None and leaf is not None:
                raise ValueError(f"{where} has nothing for {show_path(path)}")
        return found

    def __repr__(self) -> str:
        return repr(self.thaw())


def resolve_mask(where: str, mask: Any, params: Any) -> list[bool]:
    """Return a mask (frozen tree or function) as one bool for each leaf of ``params``, ``None`` counting as one."""
    frozen = MaskKind().normalize(f"{where}'s result", mask(params)) if callable(mask) else mask
    if not isinstance(frozen, FrozenTree):
        raise TypeError(f"{where} must return a tree of bools, got {frozen!r}")
    return [bool(on) for on in frozen.broadcast_to_all(where, params)]


if TYPE_CHECKING:

    class RealNumber(Any, Protocol):
        """What has a sign: Python's, NumPy's and JAX's numbers, arrays of them, and schedules."""

        def __neg__(self) -> Any: ...

    class ScheduleFunction(Any, Protocol):
        """A function of the count of updates."""

        def __call__(self, count: Any, /) -> Any: ...

    Real = RealNumber | ScheduleFunction
    """What a hyperparameter may be given as. A type checker refuses the rest, a string say; inside a rule, where it is
    one number, it may be used in any way, since both classes derive from ``Any``."""
else:
    Real = Any

Hyper = Annotated[Real, Number("Hyper")]
"""Any real number, or a schedule."""
NonNegative = Annotated[Real, Number("NonNegative", "[0, inf]")]
"""At least 0."""
Positive = Annotated[Real, Number("Positive", "(0, inf]")]
"""Above 0."""
Decay = Annotated[Real, Number("Decay", "[0, 1)")]
"""The weight of the past in an average: in [0, 1)."""
Fraction = Annotated[Real, Number("Fraction", "[0, 1]")]
"""In [0, 1]."""
Count = Annotated[Real, Number("Count", "[1, inf]", whole=True)]
"""A whole number, at least 1."""
Whole = Annotated[Real, Number("Whole", "[0, inf]", whole=True)]
"""A whole number, at least 0."""
Key = Annotated[Any, KeyKind()]
"""A seed or PRNG key."""
DType = Annotated[Any, DTypeKind()]
"""A dtype, by name or object."""
Mask = Annotated[Any, MaskKind()]
"""A tree of bools, or a function from parameters to one."""

TermMask = Annotated[Any, TermMaskKind()]
"""A :data:`Mask` for one term of a rule, such as its weight decay."""


class Schedule(Value):
    """A hyperparameter that depends on the number of updates so far: a callable pytree of its own parameters.

    ``schedule(count)`` gives the value after ``count`` updates (0 on the first), in float32 or wider. Schedules can be
    added, subtracted, multiplied and divided, with each other and with numbers.
    """

    given = ("count",)

    def __call__(self, count: Any) -> Array:
        raise TypeError(f"{type(self).__name__} must define __call__")

    def __add__(self, other: Any) -> "Schedule":
        return CombinedSchedule.of("+", self, other)

    def __radd__(self, other: Any) -> "Schedule":
        return CombinedSchedule.of("+", other, self)

    def __sub__(self, other: Any) -> "Schedule":
        return CombinedSchedule.of("-", self, other)

    def __rsub__(self, other: Any) -> "Schedule":
        return CombinedSchedule.of("-", other, self)

    def __mul__(self, other: Any) -> "Schedule":
        return CombinedSchedule.of("*", self, other)

    def __rmul__(self, other: Any) -> "Schedule":
        return CombinedSchedule.of("*", other, self)

    def __truediv__(self, other: Any) -> "Schedule":
        return CombinedSchedule.of("/", self, other)

    def __rtruediv__(self, other: Any) -> "Schedule":
        return CombinedSchedule.of("/", other, self)

    def __neg__(self) -> "Schedule":
        return CombinedSchedule.of("*", -1.0, self)


OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}


@register
class CombinedSchedule(Schedule):
    """The sum, difference, product or quotient of two schedules, or of a schedule and a number."""

    symbol: str
    left: Hyper
    right: Hyper

    @classmethod
    def of(cls, symbol: str, left: Any, right: Any) -> Schedule:
        kind = cls.kinds["left"]
        return cls(symbol, kind.normalize(f"schedule {symbol}", left), kind.normalize(f"schedule {symbol}", right))

    def __call__(self, count: Any) -> Array:
        return OPERATORS[self.symbol](value_at(self.left, count), value_at(self.right, count))

    def __repr__(self) -> str:
        return f"({show(self.left)} {self.symbol} {show(self.right)})"


@register
class FunctionSchedule(Schedule):
    """A bare callable held as static data: it can't be rebuilt from its repr, and pickles only if the callable does."""

    function: Callable[[Any], Any]

    def __call__(self, count: Any) -> Array:
        return jnp.asarray(self.function(count))

    def __repr__(self) -> str:
        return repr(self.function)


class Pytree(Kind):
    """Any pytree, whose leaves are the value's."""

    data = True


@register
class PytreeSchedule(FunctionSchedule):
    """A callable that is itself a pytree (an Equinox module, say): its leaves are the schedule's numbers."""

    function: Annotated[Any, Pytree()]


def value_at(hyper: Any, count: Any) -> Any:
    """Return a hyperparameter's value at ``count``: the schedule evaluated, or the number itself."""
    return hyper(count) if isinstance(hyper, Schedule) else hyper


def at_scalar(where: str, hyper: Any, count: Any) -> Any:
    """Return ``value_at``, which must be one number: a batch of values has to be mapped over first."""
    value = value_at(hyper, count)
    if np.ndim(value):
        raise ValueError(
            f"{where} holds a batch of shape {np.shape(value)} where one number is needed; training.sweep trains with "
            "each of them, or map over the transform: jax.vmap(run, in_axes=(batch_axes(tx),))(tx)"
        )
    return value


def of_kind_at(where: str, kind: Kind, value: Any, count: Any) -> Any:
    """Return a field's value at ``count``: numbers by ``at_scalar``, also those of a tuple; others as they are."""
    if isinstance(kind, Numbers) and value is not None:
        return tuple(at_scalar(f"{where}[{i}]", item, count) for i, item in enumerate(value))
    return at_scalar(where, value, count) if isinstance(kind, Number) else value


def prng_key(where: str, value: Any) -> Array:
    """Return the PRNG key in a field annotated ``Key``; a seed becomes a key of the default kind."""
    value = at_scalar(where, value, None)
    return value if isinstance(value, Array) and is_key(value) else jax.random.key(value)


def first_key(where: str, value: Any) -> Array:
    """Return the key in a field annotated ``Key`` as a state keeps it: raw, in memory of its own."""
    return jnp.array(jax.random.key_data(prng_key(where, value)), copy=True)


def next_key(where: str, value: Any, raw: Array) -> tuple[Array, Array]:
    """Return (the raw key to keep, a key to draw with) from the raw one in a state and the field it began with."""
    kept, drawn = jax.random.split(jax.random.wrap_key_data(raw, impl=jax.random.key_impl(prng_key(where, value))))
    return jax.random.key_data(kept), drawn

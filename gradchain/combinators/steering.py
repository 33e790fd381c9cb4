"""Hyperparameters in the state, for code that keeps the transform fixed."""

import functools
import inspect
import itertools
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, NamedTuple, ParamSpec, Self, cast

import jax
import jax.numpy as jnp
import numpy as np

from gradchain.core.combinator import combinator
from gradchain.core.foreign import Child, as_transform
from gradchain.core.hyper import DType, FrozenTree, Number, Schedule, value_at
from gradchain.core.hyperparams import hyperparams, set_hyperparams
from gradchain.core.transform import Part, Transform, check_state
from gradchain.core.value import STATIC, Kind, comparable, kind_of, register, show
from gradchain.numerics import safe_increment
from gradchain.signatures import brief, check_keywords, public, readable
from gradchain.tree import Tree

P = ParamSpec("P")
ANY_NUMBER = Number("Hyper")


class HyperparamsInStateState(NamedTuple):
    """State of :func:`hyperparams_in_state`."""

    hyperparams: dict[str, Any]
    inner_state: Any


@combinator
class hyperparams_in_state(Transform):
    """Keep the hyperparameters of ``tx`` in its state, for code that keeps ``tx`` fixed (Flax's ``TrainState``).

    The state is ``(hyperparams, inner_state)``. ``hyperparams`` is a dict from the names that :func:`hyperparams` lists
    (parameters of schedules included) to values, which may be assigned to between updates:
    ``state.hyperparams["scale_by_learning_rate.learning_rate"] = 0.5`` neither retraces nor recompiles.

    Args:
      tx: any transform. Its hyperparameters are the initial values in the state; after that only those in the state
        matter.

    Raises:
      ValueError: if an inner transform already keeps its hyperparameters in the state; and at the next update, if a key
        of ``hyperparams`` was added or removed.
    """

    tx: Child

    def checked(self) -> Self:
        if steered := _steered(self.tx):
            raise ValueError(f"hyperparams_in_state: {steered} inside keeps its hyperparameters in the state already")
        return self

    def init(self, params: Tree) -> HyperparamsInStateState:
        numbers = {k: v for k, v in hyperparams(self.tx).items() if not isinstance(v, Schedule)}
        return HyperparamsInStateState({k: jnp.array(v, copy=True) for k, v in numbers.items()}, self.tx.init(params))

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        updates, inner = self.current(state).step(updates, state.inner_state, params, extra)
        return updates, HyperparamsInStateState(state.hyperparams, inner)

    def current(self, state: HyperparamsInStateState) -> Transform:
        """Return the inner transform with the state's numbers."""
        check_state(self.name, state, HyperparamsInStateState._fields)
        known = {k for k, v in hyperparams(self.tx).items() if not isinstance(v, Schedule)}
        if state.hyperparams.keys() != known:
            wrong = sorted(state.hyperparams.keys() ^ known)
            raise ValueError(f"state.hyperparams has wrong or missing keys {wrong}; it must hold {sorted(known)}")
        return set_hyperparams(self.tx, state.hyperparams)

    def parts(self, state: Any = None, params: Tree | None = None) -> list[Part]:
        if state is None:
            return [Part("", self.tx, None, params)]
        return [Part("", self.current(state), state.inner_state, params)]


def _steered(tx: Transform) -> str | None:
    """Return the name of a transform in ``tx`` that keeps numbers in its state, or None."""
    if isinstance(tx, hyperparams_in_state.Value | InjectHyperparams):
        return tx.name
    return next((name for part in tx.parts() if (name := _steered(part.transform))), None)


class NumbersByName(Kind):
    """A dict of numbers, arrays and schedules, which were checked as the factory declares them."""

    data = True

    def normalize(self, where: str, value: Any) -> Any:
        return value


class InjectHyperparamsState(NamedTuple):
    """State of :func:`inject_hyperparams`."""

    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]
    hyperparams: dict[str, Any]
    inner_state: Any


class StaticArguments:
    """Arguments by name as one hashable object: trees are compared by what they hold, arrays by identity."""

    def __init__(self, values: dict[str, Any]):
        self.values = values

    def _identity(self) -> tuple[Any, ...]:
        return tuple((k, _frozen(v)) for k, v in sorted(self.values.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StaticArguments) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def __repr__(self) -> str:
        return f"dict({', '.join(f'{k}={v!r}' for k, v in self.values.items())})"


@register
class InjectHyperparams(Transform):
    """See :func:`inject_hyperparams`."""

    name = "inject_hyperparams"
    factory: Callable[..., Any]
    static: StaticArguments
    arguments: Annotated[dict[str, Any], NumbersByName()]
    dtype: DType | None

    def __repr__(self) -> str:
        factory = _name(self.factory)
        declared = _declarations(self.factory)
        fixed = tuple(k for k, v in self.static.values.items() if _is_number(declared, k, v))
        options = {"static_args": fixed, "hyperparam_dtype": self.dtype}
        given = "".join(f", {k}={v!r}" for k, v in options.items() if v)
        args, kwargs = _call(self.factory, self.arguments | self.static.values)
        shown = [*map(show, args), *(f"{k}={show(v)}" for k, v in kwargs.items())]
        return f"inject_hyperparams({factory}{given})({', '.join(shown)})"

    def init(self, params: Tree) -> InjectHyperparamsState:
        count = jnp.zeros((), jnp.int32)
        values = {k: self._stored(value_at(v, count)) for k, v in self.arguments.items()}
        return InjectHyperparamsState(count, values, self.build(values).init(params))

    def _stored(self, value: Any) -> Any:
        """Return a number as the state keeps it; whole numbers stay whole.

        gradchain's rules cast numbers themselves, so those for them have a dtype of their own, as those that schedules
        and ``jnp.float32`` make. Other libraries' rules get weak types, by which half-precision arrays stay so.
        """
        own = jnp.result_type(value)
        kept = own if _declarations(self.factory) else None
        return jnp.array(value, kept if jnp.issubdtype(own, jnp.integer) else self.dtype or kept, copy=True)

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        check_state(self.name, state, InjectHyperparamsState._fields)
        if state.hyperparams.keys() != self.arguments.keys():
            raise ValueError(f"state.hyperparams must hold {sorted(self.arguments)}, got {sorted(state.hyperparams)}")
        values = self.settings(state)
        updates, inner = self.build(values).step(updates, state.inner_state, params, extra)
        return updates, InjectHyperparamsState(safe_increment(state.count), values, inner)

    def build(self, values: dict[str, Any]) -> Transform:
        """Return the transform that the factory makes of these numbers."""
        args, kwargs = _call(self.factory, values | self.static.values)
        return as_transform(self.factory(*args, **kwargs))

    @property
    def per_example(self) -> bool:
        return self.build(self.arguments).per_example

    @property
    def skips(self) -> bool:
        return self.build(self.arguments).skips

    @property
    def collects(self) -> bool:
        return self.build(self.arguments).collects

    def emitted(self, before: Any, after: Any) -> Any:
        return self.build(after.hyperparams).emitted(before.inner_state, after.inner_state)

    def eval_params(self, state: Any, params: Tree) -> Tree:
        return self.build(state.hyperparams).eval_params(state.inner_state, params)

    def constrained(self, weights: Tree, state: Any, params: Tree, relying: str = "") -> Tree:
        return self.build(state.hyperparams).constrained(weights, state.inner_state, params, relying)

    def with_fields(self, **changes: Any) -> Self:
        numbers = {k: v for k, v in changes.items() if k in self.arguments}
        rest = {k: v for k, v in changes.items() if k not in numbers}
        numbers = _checked_numbers(self.factory, numbers)
        return super().with_fields(**rest, **({"arguments": self.arguments | numbers} if numbers else {}))

    def settings(self, state: Any = None) -> dict[str, Any]:
        if state is None:
            return dict(self.arguments)
        stored = state.hyperparams
        return {
            k: v(state.count).astype(stored[k].dtype) if isinstance(v, Schedule) else stored[k]
            for k, v in self.arguments.items()
        }


def _frozen(value: Any) -> Any:
    """Return a hashable stand-in for an argument; a tree has the same one whether frozen by a transform or not."""
    if isinstance(value, FrozenTree):
        return _frozen(value.thaw())
    if isinstance(value, dict):
        return "dict", frozenset((k, _frozen(v)) for k, v in cast(dict[Any, Any], value).items())
    if isinstance(value, tuple | list):
        return type(value), tuple(map(_frozen, cast(Iterable[Any], value)))
    return comparable(value)


@public
def inject_hyperparams(
    inner_factory: Callable[P, Any], static_args: str | Iterable[str] = (), hyperparam_dtype: DType | None = None
) -> Callable[P, Transform]:
    """Wrap an optimizer's constructor so that its numeric arguments are kept in the state, as in Optax.

    gradchain's own transforms don't need this for their hyperparameters to be changed; :func:`hyperparams_in_state`
    works on any composition. It is for code written for Optax: ``inject_hyperparams(adam)(1e-3)`` has a
    state with ``count``, ``hyperparams`` (by the constructor's argument names) and ``inner_state``.

    Args:
      inner_factory: a function that returns a transform; its defaults become hyperparameters too.
      static_args: names of arguments that are passed on unchanged. Arguments that gradchain's own constructors declare
        as non-numeric (masks, keys, dtypes, flags) always are; for other factories, so are bools, ``None``, strings and
        everything else that isn't a number, an array or a callable.
      hyperparam_dtype: dtype of the values in the state; by default each keeps its own, and rules cast it to the dtype
        that they compute in. Integers, such as ``every`` of :func:`accumulate`, stay integers.

    Returns:
      A function with the factory's signature. Callable arguments are schedules: they are evaluated at each update, and
      the state has their current values. Other values may be assigned in ``state.hyperparams``; they are read only from
      there, so that changing the transform (``tx.replace``) affects only the next ``init``. Arrays with a dtype, such
      as ``jnp.float32(0.1)`` or a schedule's value, are taken without another trace, as in Optax. (A Python number is
      another type to ``jax.jit``, and costs one; in :func:`hyperparams_in_state` it is the other way round.)
    """
    if not callable(inner_factory):
        raise TypeError(
            "inject_hyperparams takes a function that makes a transform, such as adam and not adam(0.1), got "
            f"{brief(inner_factory)}; for a transform there is hyperparams_in_state(tx)"
        )
    declared, kinds = _declarations(inner_factory), _declared_kinds(inner_factory)
    static = {static_args} if isinstance(static_args, str) else set(static_args)
    signature, name = inspect.signature(inner_factory), _name(inner_factory)
    if unknown := static - signature.parameters.keys():
        raise ValueError(f"inject_hyperparams: {name} has no arguments {sorted(unknown)}")

    def constructor(*args: P.args, **kwargs: P.kwargs) -> Transform:
        check_keywords(f"inject_hyperparams({name})", kwargs, signature)
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"inject_hyperparams({name}): {error}") from None
        bound.apply_defaults()
        given: dict[str, Any] = {}
        for argument, value in bound.arguments.items():
            is_variadic = signature.parameters[argument].kind is inspect.Parameter.VAR_KEYWORD
            given |= value if is_variadic else {argument: value}
        arguments = {k: v for k, v in given.items() if k not in static and _is_number(declared, k, v)}
        rest = {k: _checked_static(kinds, k, v) for k, v in given.items() if k not in arguments}
        numbers = _checked_numbers(inner_factory, arguments)
        return InjectHyperparams.new(inner_factory, StaticArguments(rest), numbers, hyperparam_dtype)

    made: Any = constructor
    made.__name__ = made.__qualname__ = f"inject_hyperparams({name})"
    made.__doc__, made.__signature__ = inner_factory.__doc__, readable(signature)
    return made


def _name(factory: Any) -> str:
    """Return what a factory is called; one that is an object is called after its class."""
    if isinstance(factory, functools.partial):
        inner: Any = factory.func  # pyright: ignore[reportUnknownMemberType]
        return f"partial({_name(inner)})"
    return getattr(factory, "__name__", type(factory).__name__)


def _call(factory: Callable[..., Any], given: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return a call's positional arguments, those that must be, and its keyword arguments, from all by name."""
    parameters = inspect.signature(factory).parameters.values()
    many = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
    args: list[Any] = []
    for p in parameters:
        if p.name in given and (p.kind is p.POSITIONAL_ONLY or (p.kind is p.POSITIONAL_OR_KEYWORD and many)):
            args.append(given[p.name])
    taken = {p.name for p in itertools.islice(parameters, len(args))} | {many}
    return [*args, *given.get(many or "", ())], {k: v for k, v in given.items() if k not in taken}


def _declarations(factory: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a gradchain constructor; nothing for other factories."""
    if not getattr(factory, "__module__", "").startswith("gradchain"):
        return {}
    return typing.get_type_hints(factory, include_extras=True)


def _declared_kinds(factory: Callable[..., Any]) -> dict[str, Kind]:
    """Return the kinds that a gradchain constructor's annotations declare; nothing for other factories."""
    hints = _declarations(factory)
    several = (
        {k for k, p in inspect.signature(factory).parameters.items() if p.kind is p.VAR_POSITIONAL} if hints else ()
    )
    return {name: STATIC if name in several else kind_of(hint) for name, hint in hints.items()}


def _is_number(declared: dict[str, Any], name: str, value: Any) -> bool:
    if declared:
        hint = declared.get(name)
        absent = value is None and type(None) in typing.get_args(hint)
        return isinstance(kind_of(hint), Number) and not (absent or isinstance(value, tuple))
    return callable(value) or (
        isinstance(value, int | float | np.ndarray | np.generic | jax.Array) and not isinstance(value, bool)
    )


def _checked_numbers(factory: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return numbers as the factory declares them, those of other libraries' factories as real ones."""
    kinds = _declared_kinds(factory)
    return {k: kinds.get(k, ANY_NUMBER).normalize(f"inject_hyperparams: {k}", v) for k, v in values.items()}


def _checked_static(kinds: Mapping[str, Kind], name: str, value: Any) -> Any:
    """Return another argument as a gradchain constructor declares it: a mask, key or dtype as transforms keep it."""
    kind = kinds.get(name, STATIC)
    as_it_is = kind is STATIC or value is None or (isinstance(kind, Number) and isinstance(value, tuple))
    return value if as_it_is else kind.normalize(f"inject_hyperparams: {name}", value)

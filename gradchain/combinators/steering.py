"""Hyperparameters in the state, for code that holds the transform fixed."""

import inspect
import typing
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, ParamSpec, Self

import jax
import jax.numpy as jnp
import numpy as np

from gradchain.core.foreign import as_transform
from gradchain.core.hyper import DType, DTypeKind, Number, Schedule, value_at
from gradchain.core.hyperparams import hyperparams, set_hyperparams
from gradchain.core.transform import Part, Transform, check_state
from gradchain.core.value import Child, Kind, comparable, kind_of, register, show
from gradchain.numerics import safe_increment
from gradchain.tree import Tree

P = ParamSpec("P")


class HyperparamsInStateState(NamedTuple):
    """State of :func:`hyperparams_in_state`."""

    hyperparams: dict[str, Any]
    inner_state: Any


@register
class HyperparamsInState(Transform):
    """See :func:`hyperparams_in_state`."""

    name = "hyperparams_in_state"
    kinds = {"inner": Child()}
    required = frozenset({"inner"})
    inner: Any

    def init(self, params: Tree) -> HyperparamsInStateState:
        numbers = {k: v for k, v in hyperparams(self.inner).items() if not isinstance(v, Schedule)}
        return HyperparamsInStateState(
            {k: jnp.array(v, copy=True) for k, v in numbers.items()}, self.inner.init(params)
        )

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        updates, inner = self.current(state).step(updates, state.inner_state, params, extra)
        return updates, HyperparamsInStateState(state.hyperparams, inner)

    def current(self, state: HyperparamsInStateState) -> Transform:
        """Return the inner transform with the state's numbers."""
        check_state(self.name, state, HyperparamsInStateState._fields)
        known = {k for k, v in hyperparams(self.inner).items() if not isinstance(v, Schedule)}
        if state.hyperparams.keys() != known:
            wrong = sorted(state.hyperparams.keys() ^ known)
            raise ValueError(f"state.hyperparams has wrong or missing keys {wrong}; it must hold {sorted(known)}")
        return set_hyperparams(self.inner, state.hyperparams)

    def parts(self, state: Any = None, params: Tree | None = None) -> list[Part]:
        if state is None:
            return [Part("", self.inner, None, params)]
        return [Part("", self.current(state), state.inner_state, params)]


def hyperparams_in_state(tx: Transform) -> Transform:
    """Keep the hyperparameters of ``tx`` in its state, for code that holds ``tx`` fixed (Flax's ``TrainState``).

    The state is ``(hyperparams, inner_state)``. ``hyperparams`` is a dict by the names that
    :func:`hyperparams` lists (the numbers inside schedules included), and may be assigned to between updates:
    ``state.hyperparams["scale_by_learning_rate.learning_rate"] = 0.5`` neither retraces nor recompiles.

    Args:
      tx: any transform. Its own numbers are the first values in the state; after that only the state's count.

    Raises:
      ValueError: if a transform inside keeps its numbers in the state already; and at the next update, if a key of
        ``hyperparams`` was added or lost.
    """
    inner = as_transform(tx)
    if steered := _steered(inner):
        raise ValueError(f"hyperparams_in_state: {steered} inside keeps its numbers in the state already")
    return HyperparamsInState(inner)


def _steered(tx: Transform) -> str | None:
    """Return the name of a transform in ``tx`` that keeps numbers in its state, or None."""
    if isinstance(tx, HyperparamsInState | InjectHyperparams):
        return tx.name
    return next((name for part in tx.parts() if (name := _steered(part.transform))), None)


class NumbersByName(Kind):
    """A dict of numbers, arrays and schedules."""

    data = True

    def normalize(self, where: str, value: Any) -> Any:
        return {name: Number("Hyper").normalize(f"{where}.{name}", number) for name, number in value.items()}


class InjectHyperparamsState(NamedTuple):
    """State of :func:`inject_hyperparams`."""

    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]
    hyperparams: dict[str, Any]
    inner_state: Any


@register
class InjectHyperparams(Transform):
    """See :func:`inject_hyperparams`."""

    name = "inject_hyperparams"
    kinds = {"factory": Kind(), "static": Kind(), "arguments": NumbersByName(), "dtype": DTypeKind()}
    optional = frozenset({"dtype"})
    factory: Callable[..., Any]
    static: "StaticArguments"
    arguments: dict[str, Any]
    dtype: Any

    def __repr__(self) -> str:
        factory = getattr(self.factory, "__name__", repr(self.factory))
        dtype = f", hyperparam_dtype={self.dtype!r}" if self.dtype else ""
        arguments = ", ".join(f"{k}={show(v)}" for k, v in (self.arguments | self.static.values).items())
        return f"inject_hyperparams({factory}{dtype})({arguments})"

    def init(self, params: Tree) -> InjectHyperparamsState:
        count = jnp.zeros((), jnp.int32)
        values = {k: jnp.array(value_at(v, count), self.dtype, copy=True) for k, v in self.arguments.items()}
        return InjectHyperparamsState(count, values, self.build(values).init(params))

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        check_state(self.name, state, InjectHyperparamsState._fields)
        if state.hyperparams.keys() != self.arguments.keys():
            raise ValueError(f"state.hyperparams must hold {sorted(self.arguments)}, got {sorted(state.hyperparams)}")
        values = self.settings(state)
        updates, inner = self.build(values).step(updates, state.inner_state, params, extra)
        return updates, InjectHyperparamsState(safe_increment(state.count), values, inner)

    def build(self, values: dict[str, Any]) -> Transform:
        """Return the transform that the factory makes of these numbers."""
        return as_transform(self.factory(**self.static.values, **values))

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
        return super().with_fields(**rest, **({"arguments": self.arguments | numbers} if numbers else {}))

    def settings(self, state: Any = None) -> dict[str, Any]:
        if state is None:
            return dict(self.arguments)
        stored = state.hyperparams
        return {
            k: v(state.count).astype(stored[k].dtype) if isinstance(v, Schedule) else stored[k]
            for k, v in self.arguments.items()
        }


class StaticArguments:
    """Keyword arguments as one hashable object; unhashable ones compare by identity."""

    def __init__(self, values: dict[str, Any]):
        self.values = values

    def _identity(self) -> tuple[Any, ...]:
        return tuple((k, comparable(v)) for k, v in sorted(self.values.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StaticArguments) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def __repr__(self) -> str:
        return f"dict({', '.join(f'{k}={v!r}' for k, v in self.values.items())})"


def inject_hyperparams(
    inner_factory: Callable[P, Any], static_args: str | Iterable[str] = (), hyperparam_dtype: DType | None = None
) -> Callable[P, Transform]:
    """Wrap an optimizer's constructor so that its numeric arguments live in the state, as Optax does it.

    gradchain's own transforms don't need this to be steered; :func:`hyperparams_in_state` works on any composition.
    It serves people and code that come from Optax: ``inject_hyperparams(adam)(1e-3)`` has a state with ``count``,
    ``hyperparams`` (by the constructor's argument names) and ``inner_state``.

    Args:
      inner_factory: a function that returns a transform; its defaults become hyperparameters too.
      static_args: names of arguments that are handed on as they are. What gradchain's own constructors declare to be
        no number (masks, keys, dtypes, flags) always is; of other factories, bools, ``None``, strings and all else that
        isn't a number, an array or a callable.
      hyperparam_dtype: dtype of the numbers in the state; by default that of each, and rules cast it to the dtype
        that they compute in.

    Returns:
      A function with the factory's signature. Callable arguments are schedules: evaluated at each update, their
      present values in the state. Numbers may be assigned to in ``state.hyperparams``; they come from there alone, so
      that changing the transform (``tx.replace``) matters only for the next ``init``.
    """
    kinds = _declared_kinds(inner_factory)
    static = {static_args} if isinstance(static_args, str) else set(static_args)
    signature = inspect.signature(inner_factory)
    if unknown := static - signature.parameters.keys():
        raise ValueError(f"inject_hyperparams: {sorted(unknown)} are no arguments of {inner_factory}")

    def constructor(*args: P.args, **kwargs: P.kwargs) -> Transform:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"inject_hyperparams({inner_factory.__name__}): {error}") from None
        bound.apply_defaults()
        given: dict[str, Any] = {}
        for name, value in bound.arguments.items():
            is_variadic = signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
            given |= value if is_variadic else {name: value}
        arguments = {k: v for k, v in given.items() if k not in static and _is_number(kinds, k, v)}
        rest = {k: v for k, v in given.items() if k not in arguments}
        return InjectHyperparams(
            **InjectHyperparams.normalized(
                {
                    "factory": inner_factory,
                    "static": StaticArguments(rest),
                    "arguments": arguments,
                    "dtype": hyperparam_dtype,
                }
            )
        )

    return constructor


def _declared_kinds(factory: Callable[..., Any]) -> dict[str, Kind]:
    """Return the kinds that a gradchain constructor's annotations declare; nothing for other factories."""
    if not getattr(factory, "__module__", "").startswith("gradchain"):
        return {}
    return {name: kind_of(hint) for name, hint in typing.get_type_hints(factory, include_extras=True).items()}


def _is_number(kinds: dict[str, Kind], name: str, value: Any) -> bool:
    if kinds:
        return isinstance(kinds.get(name), Number) and value is not None
    return callable(value) or (
        isinstance(value, int | float | np.ndarray | np.generic | jax.Array) and not isinstance(value, bool)
    )

"""``inject_hyperparams`` of Optax: a constructor's numbers in the state, where they may be assigned."""

import functools
import inspect
import warnings
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Self, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gradchain.combinators.steering import NumbersByName, StaticArguments
from gradchain.core.foreign import as_transform
from gradchain.core.transform import Part, Transform
from gradchain.core.value import register
from gradchain.numerics import safe_increment
from gradchain.optax import tree as optax_tree
from gradchain.optax._around import Around
from gradchain.optax._base import StatefulSchedule
from gradchain.optax._states import InjectHyperparamsState, InjectStatefulHyperparamsState
from gradchain.optax.schedules import WrappedSchedule
from gradchain.tree import Placeholder, Tree

__all__ = [
    "InjectHyperparamsState",
    "InjectStatefulHyperparamsState",
    "inject_hyperparams",
    "inject_stateful_hyperparams",
]


@register
class Injected(Around):
    """See :func:`inject_hyperparams`."""

    name = "inject_hyperparams"
    factory: Callable[..., Any]
    static: StaticArguments
    schedules: StaticArguments
    arguments: Annotated[dict[str, Any], NumbersByName()]
    hyperparam_dtype: Any

    def init(self, params: Tree) -> InjectStatefulHyperparamsState:
        dtype = self._dtype(params)
        numbers = {name: jnp.asarray(_converted(x, dtype)) for name, x in self.arguments.items()}
        states = {name: f.init() for name, f in self.schedules.values.items()}
        numbers |= {name: _converted(f(states[name]), dtype) for name, f in self.schedules.values.items()}
        inner = self.build(numbers).init(params)
        return InjectStatefulHyperparamsState(jnp.zeros((), jnp.int32), numbers, states, inner)

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        dtype = self._dtype(updates if params is None else params)
        numbers = {name: _converted(x, dtype) for name, x in state.hyperparams.items()} | self._scheduled(
            state, dtype, extra
        )
        states = {name: f.update(state.hyperparams_states[name], **extra) for name, f in self.schedules.values.items()}
        updates, inner = self.build(numbers).step(updates, state.inner_state, params, extra)
        return updates, InjectStatefulHyperparamsState(safe_increment(state.count), numbers, states, inner)

    def _scheduled(self, state: Any, dtype: Any, extra: dict[str, Any]) -> dict[str, Any]:
        return {
            name: _converted(f(state.hyperparams_states[name], **extra), dtype)
            for name, f in self.schedules.values.items()
        }

    def _dtype(self, params: Tree) -> Any:
        """Return the dtype that floating-point numbers get."""
        if self.hyperparam_dtype is not None or isinstance(params, Placeholder):
            return self.hyperparam_dtype
        return optax_tree.dtype(params, "highest")

    def build(self, numbers: dict[str, Any]) -> Transform:
        """Return the transform that the factory makes of these numbers, but for those that have to stay."""
        fixed = self.static.values
        for name in fixed.keys() & numbers.keys():
            if not isinstance(numbers[name], Tracer) and numbers[name] != fixed[name]:
                raise ValueError(
                    f"inject_hyperparams: {name} can't change from {fixed[name]} to {numbers[name]}: programs are "
                    "compiled for it; make the optimizer anew"
                )
        return as_transform(self.factory(**numbers | fixed))

    def settings(self, state: Any = None) -> dict[str, Any]:
        if state is None:
            return {**self.arguments}
        return {**state.hyperparams}

    def with_fields(self, **changes: Any) -> Self:
        numbers = {name: x for name, x in changes.items() if name in self.arguments}
        rest = {name: x for name, x in changes.items() if name not in numbers}
        if numbers:
            fixed = {name: x for name, x in numbers.items() if name in self.static.values}
            rest |= {"arguments": self.arguments | numbers, "static": StaticArguments(self.static.values | fixed)}
        return super().with_fields(**rest)

    def parts(self, state: Any = None, params: Tree | None = None) -> list[Part]:
        return []

    @property
    def skips(self) -> bool:
        return self._first.skips

    @property
    def collects(self) -> bool:
        return self._first.collects

    @property
    def per_example(self) -> bool:
        return self._first.per_example

    @property
    def _first(self) -> Transform:
        """The transform before the first update."""
        return self.build(self.arguments | {name: f(f.init()) for name, f in self.schedules.values.items()})

    def emitted(self, before: Any, after: Any) -> Any:
        return self.build(after.hyperparams).emitted(before.inner_state, after.inner_state)

    def eval_params(self, state: Any, params: Tree) -> Tree:
        return self.build(state.hyperparams).eval_params(state.inner_state, params)

    def constrained(self, weights: Tree, state: Any, params: Tree, relying: str = "") -> Tree:
        return self.build(state.hyperparams).constrained(weights, state.inner_state, params, relying)


def _converted(x: Any, dtype: Any) -> Any:
    """Return a floating-point number in a dtype; arrays with a dtype of their own, and whole numbers, stay."""
    if isinstance(x, jax.Array) and not x.weak_type:
        return x
    is_floating = jnp.issubdtype(x.dtype if hasattr(x, "dtype") else type(x), jnp.floating)
    return jnp.asarray(x, dtype) if is_floating else x


def inject_hyperparams(
    inner_factory: Callable[..., Any], static_args: str | Iterable[str] = (), hyperparam_dtype: Any = None
) -> Callable[..., Any]:
    """Optax's form of :func:`gradchain.inject_hyperparams`: schedules have states of their own beside the numbers."""
    fixed = {static_args} if isinstance(static_args, str) else set(static_args)
    signature = inspect.signature(inner_factory)
    if unknown := fixed - signature.parameters.keys():
        raise ValueError(
            f"inject_hyperparams: `static_args` must specify a subset of the factory's parameters, "
            f"{sorted(signature.parameters)}; there is no {sorted(unknown)}"
        )

    @functools.wraps(inner_factory)
    def constructor(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        static, schedules, numbers = dict[str, Any](), dict[str, Any](), dict[str, Any]()
        for name, value in bound.arguments.items():
            if name in fixed or isinstance(value, bool):
                static[name] = value
            elif isinstance(value, StatefulSchedule):
                schedules[name] = value
            elif callable(value):
                schedules[name] = WrappedSchedule(cast(Any, value))
            elif isinstance(value, int | float | jax.Array | np.ndarray):
                numbers[name] = value
            else:
                static[name] = value
        static |= _fixed(inner_factory, static, numbers | {name: f(f.init()) for name, f in schedules.items()})
        kinds = (StaticArguments(static), StaticArguments(schedules), numbers)
        return Injected(inner_factory, *kinds, hyperparam_dtype)

    return constructor


def _fixed(factory: Callable[..., Any], static: dict[str, Any], numbers: dict[str, Any]) -> dict[str, int]:
    """Return the whole numbers that a factory can't take as arrays, such as how many iterations a program has."""

    def takes(arrays: Iterable[str]) -> bool:
        try:
            factory(**static | numbers | {name: jnp.asarray(numbers[name]) for name in arrays})
        except TypeError:
            return False
        return True

    whole = {name: x for name, x in numbers.items() if isinstance(x, int)}
    return {} if takes(whole) else {name: x for name, x in whole.items() if not takes([name])}


def inject_stateful_hyperparams(
    inner_factory: Callable[..., Any], static_args: str | Iterable[str] = (), hyperparam_dtype: Any = None
) -> Callable[..., Any]:
    """The earlier name of :func:`inject_hyperparams`; it warns."""
    warnings.warn(
        "inject_stateful_hyperparams is deprecated, use inject_hyperparams instead", DeprecationWarning, stacklevel=2
    )
    return inject_hyperparams(inner_factory, static_args, hyperparam_dtype)

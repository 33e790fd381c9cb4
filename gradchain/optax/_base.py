"""What every program for Optax begins with: transforms made of two functions, and the types in its annotations."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gradchain.core.foreign import Foreign
from gradchain.core.transform import Transform
from gradchain.core.value import register
from gradchain.optax._states import EmptyState
from gradchain.signatures import public
from gradchain.tree import Tree

PyTree = Any
Shape = tuple[int, ...]
PRNGKey = jax.Array
ArrayTree = Any
OptState = Any
Params = Any
Updates = Any
ScheduleState = Any
Schedule = Callable[[ArrayLike], ArrayLike]
ScalarOrSchedule = float | jax.Array | Schedule
MaskOrFn = Any

NO_PARAMS_MSG = "This transform needs the current parameters: call update(updates, state, params)."


@runtime_checkable
class StatefulSchedule(Protocol):
    """A schedule with a state of its own."""

    def init(self) -> ScheduleState:
        """Return the first state."""

    def update(self, state: ScheduleState, **extra_args: Any) -> ScheduleState:
        """Return the next state."""

    def __call__(self, state: ScheduleState, **extra_args: Any) -> ArrayLike:  # pyright: ignore[reportReturnType]
        """Return the value at a state."""


class TransformInitFn(Protocol):
    """The type of ``init``."""

    def __call__(self, params: Params) -> OptState:
        """Return the first state."""


class TransformUpdateFn(Protocol):
    """The type of ``update``."""

    def __call__(self, updates: Updates, state: OptState, params: Params | None = None) -> tuple[Updates, OptState]:  # pyright: ignore[reportReturnType]
        """Return (updates, state)."""


class TransformUpdateExtraArgsFn(Protocol):
    """The type of an ``update`` that takes further arguments by name."""

    def __call__(
        self, updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, OptState]:  # pyright: ignore[reportReturnType]
        """Return (updates, state)."""


class Functions(NamedTuple):
    """The two functions that a transform is made of."""

    init: Any
    update: Any


@register
class Pair(Foreign):
    """A transform made of two functions, which are called as they are: see :class:`GradientTransformation`."""

    name = "GradientTransformation"
    takes_extra: bool = False
    label: str = ""
    """The name of the function that made it, if it takes no arguments."""

    @property
    def init(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.foreign.init

    @property
    def update(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.foreign.update

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        return self.foreign.update(updates, state, params, **(extra if self.takes_extra else {}))

    def _replace(self, **changes: Any) -> "Pair":
        return Pair(self.foreign._replace(**changes), self.takes_extra)

    def _asdict(self) -> dict[str, Any]:
        return self.foreign._asdict()

    def __getitem__(self, index: int) -> Any:
        return self.foreign[index]

    def __len__(self) -> int:
        return 2

    def __repr__(self) -> str:
        if self.label:
            return f"{self.label}()"
        kind = GradientTransformationExtraArgs if self.takes_extra else GradientTransformation
        return f"{kind.__name__}(init={self.foreign.init}, update={self.foreign.update})"


@register
class Freezing(Pair):
    """A pair of functions that leaves the parameters where they are."""

    constrains = "freezes"


class TransformType(type):
    """Makes a gradchain transform of two functions, and takes every gradchain transform for an instance."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if vars(cls).get("made_of_functions"):
            return Pair(Functions(*args, **kwargs), issubclass(cls, GradientTransformationExtraArgs))
        return super().__call__(*args, **kwargs)

    def __instancecheck__(cls, instance: Any) -> bool:
        if not vars(cls).get("made_of_functions"):
            return super().__instancecheck__(instance)
        if isinstance(instance, Pair):
            return instance.takes_extra or cls is GradientTransformation
        return isinstance(instance, Transform) or super().__instancecheck__(instance)


class GradientTransformation(metaclass=TransformType):
    """A transform made of two functions: ``GradientTransformation(init, update)``.

    The call returns a gradchain transform, which has both as attributes and unpacks into them. ``isinstance`` accepts
    all of gradchain's transforms.
    """

    made_of_functions = True
    _fields = ("init", "update")

    def __init__(self, init: TransformInitFn, update: TransformUpdateFn):
        self.init = init
        self.update: Any = update

    def __iter__(self) -> Any:
        return iter((self.init, self.update))


class GradientTransformationExtraArgs(GradientTransformation):
    """A :class:`GradientTransformation` whose ``update`` takes further arguments by name."""

    made_of_functions = True


@public
def init_empty_state(params: Params) -> EmptyState:
    """Return the state of a transform that keeps nothing."""
    return EmptyState()


@public
def with_extra_args_support(tx: Any) -> Any:
    """Return a transform whose ``update`` takes, and may ignore, further arguments by name."""
    if isinstance(tx, GradientTransformationExtraArgs):
        return tx

    def update(updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any) -> Any:
        return tx.update(updates, state, params)

    return GradientTransformationExtraArgs(tx.init, update)


@public
def identity() -> Any:
    """Leave updates as they are (:func:`gradchain.identity`)."""
    return Pair(Functions(init_empty_state, _unchanged), label="identity")


def _unchanged(updates: Updates, state: OptState, params: Params | None = None) -> tuple[Updates, OptState]:
    return updates, state


@public
def stateless(f: Callable[[Updates, Params | None], Updates]) -> Any:
    """Return a transform without state, made of a function of updates and parameters (:func:`gradchain.stateless`)."""

    def update(updates: Updates, state: OptState, params: Params | None = None) -> tuple[Updates, EmptyState]:
        return f(updates, params), EmptyState()

    return cast(Any, GradientTransformation)(init_empty_state, update)


@public
def stateless_with_tree_map(f: Callable[[Any, Any], Any]) -> Any:
    """Return a transform without state, made of a function of one array and its parameter, which may be None."""

    def update(updates: Updates, state: OptState, params: Params | None = None) -> tuple[Updates, EmptyState]:
        if params is None:
            return jax.tree.map(lambda u: f(u, None), updates), EmptyState()
        return jax.tree.map(f, updates, params), EmptyState()

    return cast(Any, GradientTransformation)(init_empty_state, update)


@public
def set_to_zero() -> Any:
    """Return zeros for updates (:func:`gradchain.set_to_zero`)."""
    return Freezing(Functions(init_empty_state, _zeros), label="set_to_zero")


def _zeros(updates: Updates, state: OptState, params: Params | None = None) -> tuple[Updates, OptState]:
    return jax.tree.map(jnp.zeros_like, updates), state

"""Transforms from elsewhere: any object with ``init`` and ``update``, optax's among them."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Protocol, cast

import jax
import jax.numpy as jnp

from gradchain import tree
from gradchain.core.hyper import Schedule, is_constructor
from gradchain.core.transform import Transform, both
from gradchain.core.value import Kind, register
from gradchain.signatures import brief
from gradchain.tree import Tree


@register
class Foreign(Transform):
    """Another library's transform, held as static data. Compares by its functions; its repr can't be evaluated."""

    name = "from_optax"
    foreign: Any

    def init(self, params: Tree) -> Any:
        return self.foreign.init(params)

    @property
    def skips(self) -> bool:
        return True

    def emitted(self, before: Any, after: Any) -> Any:
        rounds = zip(_rounds(before), _rounds(after), strict=True)
        return both(*(old != new for old, new in rounds))

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        if params is not None:
            updates = tree.cast_like(updates, params)
        updates, new_state = self._update(updates, state, params, _accepted(self.foreign.update, extra))
        return updates, jax.tree.map(_as_stored, new_state, state)

    def _update(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        """Call the other library; once more, if it asks for an extra argument by another name or refuses ours."""
        try:
            return self.foreign.update(updates, state, params, **extra)
        except (TypeError, ValueError) as error:
            asked = _as_asked(extra, str(error))
            if asked.keys() == extra.keys():
                raise
        return self.foreign.update(updates, state, params, **asked)


def _as_asked(extra: dict[str, Any], message: str) -> dict[str, Any]:
    """Return extra arguments as Optax's Sophia wants them, or its line searches, which refuse what nobody takes."""
    if "obj_fn must be provided" in message and "value_fn" in extra:
        return {"obj_fn": extra["value_fn"], **extra}
    if "Unexpected keyword arguments" in message and "examples" in extra:
        return {name: x for name, x in extra.items() if name not in OF_LOOPS}
    return extra


OF_LOOPS = ("examples", "weight")
"""What our training loops say of a batch."""


def _rounds(state: Any) -> list[Any]:
    """Return how many updates each of Optax's ``MultiSteps`` in a state has emitted."""

    def emits(x: Any) -> bool:
        return {"mini_step", "gradient_step"} <= {*getattr(x, "_fields", ())}

    return [x.gradient_step for x in jax.tree.leaves(state, is_leaf=emits) if emits(x)]


def _as_stored(new: Any, old: Any) -> Any:
    """Cast back an array that drifted from its stored dtype, as optax's do for half-precision parameters."""
    if isinstance(new, jax.Array) and jnp.issubdtype(new.dtype, jnp.inexact):
        return new.astype(jnp.result_type(old))
    return new


def _accepted(update: Callable[..., Any], extra: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(update).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return extra
    return {name: value for name, value in extra.items() if name in parameters}


def as_transform(tx: Any) -> Transform:
    """Return ``tx`` if it is a gradchain transform, else wrap any object with ``init`` and ``update``.

    A wrapped transform receives updates in the parameters' dtype, and those extra arguments that its ``update``
    accepts.

    Raises:
      TypeError: if ``tx`` has no ``init`` and ``update``.
    """
    if isinstance(tx, Transform):
        return tx
    if callable(getattr(tx, "init", None)) and callable(getattr(tx, "update", None)) and not isinstance(tx, type):
        return Foreign(tx)
    raise TypeError(f"expected a transform (an object with init and update), got {brief(tx)}{_cure(tx)}")


class ChildKind(Kind):
    """A transform inside a combinator.

    Args:
      absent: what ``None`` stands for, if it may be given.
    """

    data = True
    child = True
    label = "Transform"

    def __init__(self, absent: Transform | None = None):
        self.absent = absent

    def normalize(self, where: str, value: Any) -> Any:
        return as_transform(value)


class ChildrenKind(ChildKind):
    """Transforms inside a combinator, as a tuple."""

    several = True
    label = "Sequence[Transform]"

    def normalize(self, where: str, value: Any) -> Any:
        if not isinstance(value, list | tuple) or hasattr(value, "_fields"):
            raise TypeError(f"{where} must be a list or tuple of transforms, got {brief(value)}")
        return tuple(map(as_transform, cast(Any, value)))


class NamedChildrenKind(ChildKind):
    """Transforms inside a combinator, as a dict in the pytree's order."""

    several = True
    label = "Mapping[str, Transform]"

    def normalize(self, where: str, value: Any) -> Any:
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in cast(Any, value)):
            raise TypeError(f"{where} must be a dict with strings for keys, got {value!r}")
        table = cast(Mapping[str, Any], value)
        return {name: as_transform(table[name]) for name in sorted(table)}


if TYPE_CHECKING:

    class OtherTransform(Any, Protocol):
        """Another library's transform. Inside a combinator it is wrapped, so it may be used as any transform there."""

        @property
        def init(self) -> Callable[[Any], Any]: ...

        @property
        def update(self) -> Callable[..., Any]: ...

    AnyTransform = Transform | OtherTransform
else:
    AnyTransform = Any

Child = Annotated[AnyTransform, ChildKind()]
"""A transform inside another: gradchain's, or any object with ``init`` and ``update``."""
Children = Annotated[Sequence[AnyTransform], ChildrenKind()]
"""Transforms inside another, in a list or tuple; kept as a tuple."""
NamedChildren = Annotated[Mapping[str, AnyTransform], NamedChildrenKind()]
"""Transforms inside another, in a dict by name; kept in the order of the names."""


def is_unapplied(x: Any) -> bool:
    """Return whether ``x`` is a function or a transform, and no tree of arrays (as gradients of a transform are)."""
    if isinstance(x, type) or inspect.isroutine(x):
        return True
    is_pair = callable(getattr(x, "init", None)) and callable(getattr(x, "update", None))
    leaves = jax.tree.leaves(x)
    return is_pair and not (leaves and all(isinstance(leaf, jax.Array) for leaf in leaves))


def _cure(x: Any) -> str:
    """Return what to write instead of something that isn't a transform."""
    if isinstance(x, Schedule):
        return "; a schedule is a number's value: scale_by_learning_rate(schedule)"
    if is_constructor(x):
        return f"; call it to get one: {x.__name__}(...)"
    if callable(x):
        return "; call it to get one, or stateless(f) makes one of a function of (updates, params)"
    if isinstance(x, list | tuple) and all(isinstance(item, Transform) for item in cast(Any, x)):
        return "; chain(first, second, ...) makes one of several"
    if isinstance(x, int | float) and not isinstance(x, bool):
        return "; scale(factor) and scale_by_learning_rate(rate) are transforms"
    return ""

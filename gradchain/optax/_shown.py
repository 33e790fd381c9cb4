"""Rules of gradchain that keep their states in Optax's classes, and chains of them."""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from gradchain.core.extra import with_value_fn
from gradchain.core.foreign import Child, Foreign
from gradchain.core.hyper import DTypeKind, Number
from gradchain.core.rule import Rule
from gradchain.core.transform import Part, Transform, scalar_dtype
from gradchain.core.value import register
from gradchain.introspect import optax_names
from gradchain.introspect.optax_names import Stage
from gradchain.numerics import one_minus_power
from gradchain.optax._states import EmptyState, LookaheadParams, MaskedState, ZeroNansState
from gradchain.rounding import is_half
from gradchain.tree import Tree
from gradchain.tree.alignment import without_float0

NAMES = optax_names.SLOTS | {"add_noise": {"key": "rng_key"}}
"""What Optax calls fields of a rule's state, where the names differ."""
ONLY_THERE = optax_names.ONLY_THERE | {"rng_key": lambda ours: jax.random.wrap_key_data(ours["key"])}
"""Fields that only Optax's states have, made of ours."""
ONLY_HERE: dict[str, Callable[[Stage], Any]] = {
    "count": lambda theirs: jnp.where(theirs["is_initial_step"], 0, 1) if "is_initial_step" in theirs else 0,
    "key": lambda theirs: jax.random.key_data(theirs["rng_key"]),
}
"""Fields that only our states have, made of Optax's; a count that isn't kept there isn't read, either."""
CONVERTED = ("key",)
"""Fields that both have, in different forms."""


class AnyDType(DTypeKind):
    """Any dtype, as JAX's configuration allows it: complex ones, too."""

    def normalize(self, where: str, value: Any) -> Any:
        return None if value is None else jax.dtypes.canonicalize_dtype(value).name


class AnyNumber(Number):
    """A number without a range: what Optax takes."""

    def _checked(self, where: str, value: Any) -> Any:
        array = np.asarray(value)
        return array.item() if array.ndim == 0 else jnp.asarray(value)


ANY_NUMBER, ANY_DTYPE = AnyNumber("Hyper"), AnyDType()


def loose(constructor: Any, /, **values: Any) -> Transform:
    """Return what a class or its constructor makes, but with numbers out of the ranges that it checks."""
    cls: Any = constructor if isinstance(constructor, type) else constructor.Value
    stored = dict[str, Any]()
    for name, value in values.items():
        kind = cls.kinds[name]
        loosened = ANY_NUMBER if isinstance(kind, Number) else ANY_DTYPE if isinstance(kind, DTypeKind) else kind
        stored[name] = value if value is None else loosened.normalize(f"{cls.name}: {name}", value)
    return cls(**stored)


class OptaxLike(Transform):
    """What is called as Optax's transforms are: its ``update`` leaves updates in the dtypes that Optax's have."""

    def matched(self, params: Tree | None, updates: Tree) -> Tree | None:
        return params if isinstance(params, LookaheadParams) else super().matched(params, updates)

    def update(self, updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        updates = without_float0(updates)
        params = self.matched(params, updates)
        new, state = self.step(updates, state, params, with_value_fn(extra))
        return _narrowed(new, updates, params if mixes(self) else None), state


def mixes(tx: Transform) -> bool:
    """Whether updates may get the parameters' dtype: from slots, or because a rule reads parameters."""
    if isinstance(tx, Shown):
        return bool(tx.rule.spec.slots and tx.cls is not ZeroNansState) or bool(tx.rule.spec.param)
    return any(mixes(part.transform) for part in tx.parts()) if tx.parts() else not isinstance(tx, Foreign)


def _narrowed(new: Tree, updates: Tree, params: Tree | None) -> Tree:
    """Cast what was computed in float32 for half-precision arrays back to their dtype."""
    if jax.tree.structure(new) != jax.tree.structure(updates):
        return new

    def leaf(x: Any, *given: Any) -> Any:
        dtype = jnp.result_type(*given)
        return x.astype(dtype) if jnp.result_type(x) != dtype and is_half(dtype) else x

    return jax.tree.map(leaf, new, updates, *([] if params is None else [params]))


def as_floats(tree: Tree) -> Tree:
    """Return a tree with whole numbers as floating-point ones, and zeros for arrays without values."""

    def leaf(x: Any) -> Any:
        if isinstance(x, jax.ShapeDtypeStruct):
            x = jnp.zeros(x.shape, x.dtype)
        is_whole = jnp.issubdtype(x.dtype, jnp.integer) if hasattr(x, "dtype") else isinstance(x, int)
        return jnp.asarray(x, float) if is_whole else x

    return jax.tree.map(leaf, tree)


KEEP_WHOLE = ("scale_by_sign", "zero_nans", "keep_params_nonnegative")
"""Rules of Optax that return whole numbers for whole numbers."""
SPREAD = {"scale": ("step_size",), "scale_by_learning_rate": ("learning_rate",)}
"""Rules of which Optax takes arrays for a number, and the number's name."""


def _whole_again(new: Tree, updates: Tree) -> Tree:
    """Return what was computed in floating point for whole numbers in their dtypes."""

    def leaf(x: Any, given: Any) -> Any:
        dtype = jnp.result_type(given)
        return x.astype(dtype) if jnp.issubdtype(dtype, jnp.integer) else x

    return jax.tree.map(leaf, new, updates)


@register
class Shown(OptaxLike):
    """A rule whose state is kept in one of Optax's classes.

    ``init`` and ``step`` show the rule's state; before a step it is hidden again, and what Optax doesn't keep (sums of
    weights, counts that nothing reads) is made of what it keeps.
    """

    name = "shown"
    tx: Child
    cls: type
    masked: bool = False

    def init(self, params: Tree) -> Any:
        if cast(Any, self.cls)._fields:
            return self.show(self.rule.init(as_floats(params)))
        return MaskedState(self.cls()) if self.masked else self.cls()

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        if self.spread:
            return self._scaled(updates), state
        new, state = self.rule.step(as_floats(updates), self.hide(state), as_floats(params), extra)
        return _whole_again(new, updates) if self.rule.name in KEEP_WHOLE else new, self.show(state)

    @property
    def spread(self) -> bool:
        """Whether the factor is an array, which Optax broadcasts with each array of updates."""
        factors = [getattr(self.rule, name, 0) for name in SPREAD.get(self.rule.name, ())]
        return any(jnp.ndim(x) for x in factors if not callable(x))

    def _scaled(self, updates: Tree) -> Tree:
        (name,) = SPREAD[self.rule.name]
        factor = getattr(self.rule, name) * (-1 if getattr(self.rule, "flip_sign", False) else 1)
        return jax.tree.map(lambda g: factor * g, updates)

    @property
    def rule(self) -> Rule:
        return cast(Rule, self.tx)

    def show(self, state: Any) -> Any:
        """Return the rule's state in Optax's class."""
        ours, fields = state._asdict(), cast(Any, self.cls)._fields
        here = {there: name for name, there in NAMES.get(self.rule.name, {}).items()}
        if self.rule.name == "apply_every":
            ours = ours | {"count": ours["count"] % self.rule.number("k", None)}
        shown = self.cls(
            **{name: ONLY_THERE[name](ours) if name in ONLY_THERE else ours[here.get(name, name)] for name in fields}
        )
        return MaskedState(shown) if self.masked else shown

    def hide(self, state: Any, made: bool = True) -> Any:
        """Return the rule's state, made of the one in Optax's class; ``None`` for what it lacks unless it is made."""
        inner = state.inner_state if self.masked else state
        if not isinstance(inner, self.cls):
            raise ValueError(
                f"{self.rule.name}: the state is from another transform: expected {self.cls.__name__}, got "
                f"{type(inner).__name__}"
            )
        theirs, names = inner._asdict(), NAMES.get(self.rule.name, {})
        hidden = dict[str, Any]()
        for name in self.rule.State._fields:
            there = names.get(name, name)
            if there in theirs and name not in CONVERTED:
                hidden[name] = theirs[there]
            elif made:
                hidden[name] = self._sums(theirs) if name == "weight_sums" else jnp.asarray(ONLY_HERE[name](theirs))
            else:
                hidden[name] = None
        return self.rule.State(**hidden)

    def _sums(self, theirs: Stage) -> dict[str, Any]:
        """Return the sums of weights of constant decays after as many updates as the state counts."""
        dtype = scalar_dtype({name: x for name, x in theirs.items() if name not in ("count", "t")})
        count = jnp.asarray(theirs["count"] if "count" in theirs else theirs.get("t", 0))
        t = jnp.maximum(count, 1).astype(dtype)
        decays = {name: self.rule.number(name, count, dtype) for name in self.rule.spec.debiased}
        return {name: jnp.where(count > 0, one_minus_power(decay, t), 0) for name, decay in decays.items()}

    def parts(self, state: Any = None, params: Tree | None = None) -> list[Part]:
        made = state is not None and _has_values(state)
        return [Part("", self.rule, None if state is None else self.hide(state, made), params)]

    def __repr__(self) -> str:
        return repr(self.tx)


def _has_values(state: Any) -> bool:
    """Whether a state holds arrays, and nothing that stands for some."""
    leaves = jax.tree.leaves(state)
    return bool(leaves) and all(isinstance(x, jax.Array | np.ndarray | np.generic | int | float) for x in leaves)


def shown(constructor: Any, cls: type = EmptyState, /, masked: bool = False, **values: Any) -> Any:
    """Return a rule, with numbers of any range, whose state is kept in ``cls``."""
    return Shown(loose(constructor, **values), cls, masked)

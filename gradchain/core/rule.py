"""Rules: functions on one array, lifted to transforms of trees by one of three decorators."""

import inspect
from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Concatenate, Literal, ParamSpec, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gradchain.core.hyper import KeyKind, MaskKind, Number, Numbers, PerLeafKind, first_key, of_kind_at, resolve_mask
from gradchain.core.lift import Own, Stage, exact, inexact_leaves, over_layers, step_leaves, step_tree
from gradchain.core.spec import At, Slot, Spec
from gradchain.core.transform import Transform, lacks_params, scalar_dtype
from gradchain.core.value import Kind, define, misses_given
from gradchain.eager import as_dtype, copy, once, zeros_like
from gradchain.numerics import compute_dtype, real_dtype
from gradchain.signatures import brief, public
from gradchain.tree import Placeholder, Tree, flatten_optional, show_path
from gradchain.tree.alignment import is_array_like

P = ParamSpec("P")
FIELDS = ("count", "key", "weight_sums")
"""What the state of a rule may begin with, before its scalars and slots."""


class Rule(Transform):
    """A transform made of one rule. Its state is a NamedTuple: what it declares of ``FIELDS``, scalars and slots."""

    given = ("g", "slot", "at")
    spec: ClassVar[Spec]
    State: ClassVar[Any]
    has_count: ClassVar[bool]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if inspect.isfunction(vars(cls).get("step")):
            raise TypeError(
                f"{cls.__name__} overrides step, which a chain doesn't call: it runs the functions of several rules in "
                "one call for each array; derive from Transform, and decorate the class with combinator"
            )

    def init(self, params: Tree) -> Any:
        return self.init_leaves(params, self.declarations(params))

    def init_leaves(self, params: Tree, own: list[Own]) -> Any:
        """Return the first state, given what is declared for each leaf alone."""
        active = [False] if params is None else self.active(params, len(own))
        if not self.spec.slots:  # nothing is made of leaves, such as the functions of an Equinox model
            active = [on and is_array_like(x) for on, x in zip(active, flatten_optional(params)[0], strict=True)]
        leaves, treedef = inexact_leaves(f"{self.name}.init", params, "parameter", active)
        self._check_shapes(params, own, active)
        count = jnp.zeros((), jnp.int32)
        hyper, hypers = Hypers(self, Own(), count), {id(mine): Hypers(self, mine, count) for mine in own}
        state: dict[str, Any] = {}
        if self.has_count:
            state["count"] = jnp.zeros((), jnp.int32)
        if self.spec.random:
            state["key"] = first_key(*self.key_field())
        dtype = scalar_dtype([p for p, on in zip(leaves, active, strict=True) if on])
        if self.spec.debiased:
            state["weight_sums"] = {name: jnp.array(0, dtype, copy=True) for name in self.spec.debiased}
        for name, initial in self.spec.scalars.items():
            state[name] = jnp.array(initial(hyper) if callable(initial) else initial, dtype, copy=True)
        start = once(self._start, key=id)
        for name, slot in self.spec.slots.items():
            values = [
                start(p, slot, hypers[id(mine)], mine.axes) if on else None
                for p, on, mine in zip(leaves, active, own, strict=True)
            ]
            state[name] = treedef.unflatten(values)
        return self.State(**state)

    def _check_shapes(self, params: Tree, own: list[Own], active: list[bool]) -> None:
        """Raise ``ValueError`` where a field doesn't go with an array that the rule applies to."""
        shaped = [(name, kind, value) for name, kind, value in self.fields() if type(kind).check is not Kind.check]
        if not shaped:
            return
        pairs = jax.tree_util.tree_flatten_with_path(params, is_leaf=lambda x: x is None)[0]
        for (path, x), mine in ((pair, own) for pair, own, on in zip(pairs, own, active, strict=True) if on):
            shape = list(jnp.shape(x))
            for axis in mine.axes:
                del shape[axis]
            for name, kind, value in shaped:
                kind.check(f"{self.name}: {show_path(path)}", tuple(shape), dict(mine.fields).get(name, value))

    def _start(self, param: Array, slot: Slot, hyper: "Hypers", axes: tuple[int, ...]) -> Any:
        """Return the first value of a slot; ``axes`` are the parameter's layer axes."""
        dtype = compute_dtype(param.dtype)
        dtype = real_dtype(dtype) if slot.real else dtype
        dtype = (slot.dtype and getattr(self, slot.dtype)) or dtype
        if jnp.iscomplexobj(param) and not slot.real and not jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(f"{self.name}: {slot.dtype}={dtype!r} can't hold the slot of a {param.dtype} parameter")
        initial = slot.init
        if initial is None:
            zeros = [zeros_like(param, dtype) for _ in (getattr(self, slot.each) if slot.each else [None])]
            return tuple(zeros) if slot.each else zeros[0]

        def leaf(x: Any) -> Array:
            inexact = jnp.issubdtype(jnp.result_type(x), jnp.inexact)
            return copy(x, dtype if inexact else None)

        def init(layer: Array) -> Any:
            return jax.tree.map(leaf, initial(layer, hyper))

        return over_layers(init, axes)(as_dtype(param, compute_dtype(param.dtype)))

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        if not self.by_leaf:
            return step_tree(self, updates, state, params, extra)
        updates, (state,) = step_leaves([self], updates, [state], params, extra)
        return updates, state

    def stage(self, count: Array | None) -> tuple[Stage, dict[str, Any]]:
        """Return the hashable part of this rule (Python numbers are constants) and its traced numbers at ``count``."""
        static: list[tuple[str, Any]] = []
        traced: dict[str, Any] = {}
        for name, kind, value in self.fields():
            if isinstance(kind, PerLeafKind):
                continue  # each leaf's own
            if isinstance(kind, KeyKind | MaskKind):
                value = None  # the rule sees their effect: at.key, and only the leaves that the mask selects
            value = of_kind_at(f"{self.name}: {name}", kind, value, count)
            items = value if isinstance(kind, Numbers) and value else (value,)
            if any(isinstance(x, jax.Array | np.ndarray | np.generic) for x in items):
                traced[name] = jax.tree.map(jnp.asarray, value)
            else:
                static.append((name, value))
        return Stage(self.spec, tuple(static), tuple(exact(value) for _, value in static)), traced

    def active(self, params: Tree | None, size: int) -> list[bool]:
        """Return, for each leaf (``None`` counts as one), whether the rule applies to it."""
        mask = next((v for _, kind, v in self.fields() if isinstance(kind, MaskKind)), None)
        leaves = [True] * size if params is None else [x is not None for x in flatten_optional(params)[0]]
        if mask is None or isinstance(params, Placeholder):
            return leaves
        if params is None:
            raise lacks_params(self.name, "; its mask selects among them")
        return [
            on and there for on, there in zip(resolve_mask(f"{self.name}: the mask", mask, params), leaves, strict=True)
        ]

    @property
    def unlayered(self) -> "Rule":
        """The rule itself, without the layer axes that :func:`gradchain.per_layer` gives it."""
        return self

    def declarations(self, tree: Tree) -> list[Own]:
        """Return what is declared for each leaf alone (``None`` counts as one): its values of per-leaf fields."""
        columns = [
            [(name, x) for x in kind.resolve(f"{self.name}: {name}", value, tree)]
            for name, kind, value in self.fields()
            if isinstance(kind, PerLeafKind)
        ]
        if not columns:
            return [Own()] * len(flatten_optional(tree)[0])
        known: dict[Any, Own] = {}
        return [known.setdefault(fields, Own(fields)) for fields in zip(*columns, strict=True)]

    @property
    def per_example(self) -> bool:
        return self.unlayered.spec.per_example

    @property
    def by_leaf(self) -> bool:
        """Whether the rule works leaf by leaf (it isn't treewise)."""
        return self.unlayered.spec.kind != "treewise"

    def key_field(self) -> tuple[str, Any]:
        """Return the name of this rule's key field, after the rule's own, and its value."""
        return next((f"{self.name}: {name}", v) for name, kind, v in self.fields() if isinstance(kind, KeyKind))


class Hypers:
    """A rule's fields at count 0 (those of one leaf), by attribute: what ``Slot.init`` sees."""

    def __init__(self, rule: Rule, own: Own, count: Array):
        self._rule = rule
        self._count = count
        self._own = dict(own.fields)
        self._factors = own.factors

    def __getattr__(self, name: str) -> Any:
        if name in self._own:
            return self._own[name]
        value = self._at_start(name, getattr(self._rule, name))
        for field, factor in self._factors:
            if field == name:
                value = value * self._at_start(name, factor)
        return value

    def _at_start(self, name: str, value: Any) -> Any:
        rule = self._rule
        return of_kind_at(f"{rule.name}: {name}", rule.kinds[name], value, self._count)


class Constructor(Protocol[P]):
    """A decorated rule: call it with hyperparameters to get a transform."""

    __name__: str
    State: type[Any]
    Value: type[Rule]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Rule: ...


def _constructor(spec: Spec) -> Any:
    constructor: Any = define(spec.function, Rule, {"spec": spec})
    cls = constructor.Value
    _check_declarations(spec, cls.kinds)
    cls.counted = frozenset(name for name, slot in spec.slots.items() if spec.debiased or slot.counted)
    cls.has_count = spec.counts or spec.random or any(isinstance(kind, Number | Numbers) for kind in cls.kinds.values())
    own = zip(FIELDS, (cls.has_count, spec.random, spec.debiased), strict=True)
    fields = [*(name for name, is_kept in own if is_kept), *spec.scalars, *spec.slots]
    title = "".join(word.capitalize() for word in spec.name.split("_")) + "State"
    state: Any = namedtuple(title, fields, module=cls.__module__)  # pyright: ignore[reportUntypedNamedTuple]
    state.__qualname__ = f"{spec.name}.State"
    state.__doc__ = f"State of :func:`{spec.name}`: {', '.join(fields) or 'nothing'}."
    cls.State = constructor.State = state
    return constructor


def _check_declarations(spec: Spec, kinds: Mapping[str, Kind]) -> None:
    """Raise ``TypeError`` for a rule that could not work."""
    types = {type(kind) for kind in kinds.values()}
    signature = inspect.signature(spec.function)
    third, annotation = list(signature.parameters.items())[2]
    if not (third == "at" or third.startswith("_") or annotation.annotation in (At, At.__name__)):
        raise misses_given(spec.name, signature, Rule)
    reserved = {*vars(At(None, None, None, None, {}, None, {})), "t", "weight_sum"}
    if taken := sorted(reserved & {*spec.extra}) or sorted({"values"} & {*spec.slots, *spec.scalars}):
        raise TypeError(f"{spec.name}: the name {taken[0]!r} is taken; call the extra argument or slot something else")
    if unknown := [name for name in spec.debiased if not isinstance(kinds.get(name), Number)]:
        raise TypeError(f"{spec.name}: debiased names {unknown[0]!r}, which isn't a parameter annotated Decay")
    if unknown := [slot.each for slot in spec.slots.values() if slot.each and slot.each not in kinds]:
        raise TypeError(f"{spec.name}: a slot has one array for each of {unknown[0]!r}, which isn't a parameter")
    if spec.random != (KeyKind in types):
        raise TypeError(f"{spec.name}: random=True goes with one parameter annotated Key")
    if spec.kind == "treewise" and MaskKind in types:
        raise TypeError(
            f"{spec.name}: a treewise rule sees the whole tree; it can't have a parameter annotated Mask. "
            "Annotate a mask for one of its terms, such as its weight decay, as TermMask"
        )


class Decorator(Protocol):
    """Declares what a rule needs, and lifts it."""

    def __call__(
        self,
        slots: Sequence[str] | Mapping[str, Slot] = (),
        *,
        scalars: Mapping[str, Any] | None = None,
        param: bool | Literal["optional"] = False,
        random: bool = False,
        extra: Sequence[str] = (),
        whole: Callable[[Any], Any] | None = None,
        per_example: bool = False,
        debiased: Sequence[str] = (),
        turn: bool = False,
        count: bool = False,
    ) -> Callable[[Callable[Concatenate[Any, Any, Any, P], Any]], Constructor[P]]: ...


def _decorator(kind: Literal["elementwise", "leafwise", "treewise"]) -> Decorator:
    def decorate(
        slots: Sequence[str] | Mapping[str, Slot] = (),
        *,
        scalars: Mapping[str, Any] | None = None,
        param: bool | Literal["optional"] = False,
        random: bool = False,
        extra: Sequence[str] = (),
        whole: Callable[[Any], Any] | None = None,
        per_example: bool = False,
        debiased: Sequence[str] = (),
        turn: bool = False,
        count: bool = False,
    ) -> Callable[[Callable[Concatenate[Any, Any, Any, P], Any]], Constructor[P]]:
        if callable(slots):
            raise TypeError(f"@{kind} is called, even where it declares nothing: write @{kind}()")
        if scalars and kind != "treewise":
            raise TypeError(f"@{kind}: scalars are one for each transform, so only @treewise rules have them")
        if per_example and kind != "treewise":
            raise TypeError(f"@{kind}: only @treewise rules can have per_example=True")
        if turn and kind == "treewise":
            raise TypeError("@treewise: the rule sees all arrays together; turn=True is for rules on one array")
        for what, names in (("slots", slots), ("extra", extra), ("debiased", debiased)):
            if isinstance(names, str):
                raise TypeError(f"@{kind}: {what} is a sequence of names; write ({names!r},)")
            if not (isinstance(names, Iterable) and all(isinstance(name, str) for name in names)):  # pyright: ignore
                raise TypeError(f"@{kind}: {what} is a sequence of names, got {brief(names)}")
        table = dict(slots) if isinstance(slots, Mapping) else {name: Slot() for name in slots}

        def lift(function: Callable[Concatenate[Any, Any, Any, P], Any]) -> Constructor[P]:
            name = getattr(function, "__name__", "")
            needs = scalars or {}, param, random, tuple(extra), whole, per_example, tuple(debiased), turn, count
            return _constructor(Spec(function, name, kind, table, *needs))

        return lift

    decorate.__name__ = decorate.__qualname__ = kind
    decorate.__doc__ = _DOCS[kind]
    return public(decorate)


_ARGS = """

    The rule's first three parameters are the gradient, its slots and its surroundings (``At``); the others are the
    transform's. It computes in at least float32 and returns ``(update, slot(...))``, or the update alone if it declares
    no slots.

    Args:
      slots: names of slots that start at zero, or a dict from name to ``Slot``.
      scalars: (treewise) state that the whole transform has once: name to first value, or to ``f(hyper) -> value``.
      param: whether the rule reads ``at.param``: True, False, or ``"optional"`` where it may be missing.
      random: whether it draws from ``at.key``; one of its parameters is then annotated ``Key``.
      extra: names of the extra arguments of ``update`` that it reads from ``at``. ``value``, and all that an
        elementwise rule reads, must be single real numbers; only a treewise rule can take a function.
      whole: a function of the whole tree of incoming updates; the rule reads its result as ``at.whole``. So a rule that
        needs one number from all arrays, such as their norm, can still be elementwise.
      per_example: (treewise) whether incoming updates have a leading batch axis, which the rule reduces. It then stands
        first in a chain.
      debiased: names of the rule's decays whose moving averages it corrects for their start at zero:
        ``average / at.weight_sum("b1")``. The sum of the weights is kept in the state, so that it stays right when the
        decay changes, and it is computed once for all arrays.
      turn: (elementwise, leafwise) whether the rule reads ``at.turn``, its array's number among all: for what arrays
        do in turn, see :func:`gradchain.matrices.due`.
      count: whether the rule reads ``at.t`` or ``at.count`` though none of its parameters is a number: rules with a
        number count their updates in any case.
    """
_DOCS = {
    "elementwise": "Lift a rule that treats every number by itself: any layout of the array gives the same." + _ARGS,
    "leafwise": "Lift a rule that needs one whole parameter array at a time: its shape, axes or norm." + _ARGS,
    "treewise": "Lift a rule that needs the whole tree of gradients at once; its slots are trees." + _ARGS,
}

elementwise = _decorator("elementwise")
leafwise = _decorator("leafwise")
treewise = _decorator("treewise")

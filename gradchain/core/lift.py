"""Lifting: running rules over the leaves of a tree, consecutive ones in a single cached call for each leaf."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import Array

from gradchain.core.extra import FUNCTIONS, demand, demand_function, demand_number
from gradchain.core.hyper import PerLeafKind, at_scalar, next_key
from gradchain.core.spec import At, Slot, Spec, Sums
from gradchain.core.transform import check_state, count_of, lacks_params
from gradchain.eager import as_dtype, is_of_dtype, is_traced
from gradchain.numerics import compute_dtype, real_dtype, safe_increment, sum_of_weights
from gradchain.tree import Tree, batch_size, flatten_optional, mismatch, show_path

if TYPE_CHECKING:
    from gradchain.core.rule import Rule


class Own(NamedTuple):
    """What is declared for one leaf alone; hashable where its factors are Python numbers."""

    fields: tuple[tuple[str, Any], ...] = ()
    """Its values of the rule's per-leaf fields."""
    axes: tuple[int, ...] = ()
    """Its layer axes, the outermost first, each counted without those before it."""
    factors: tuple[tuple[str, Any], ...] = ()
    """What the rule's numbers are multiplied by: the name of a field, and a number, array or schedule."""


class Stage(NamedTuple):
    """What the compiled call of a rule depends on besides its arrays; hashable."""

    spec: Spec
    static: tuple[tuple[str, Any], ...]
    exact: tuple[Any, ...]
    """What tells apart static fields that are equal, but not the same (see :func:`exact`)."""
    own: Own = Own()


def exact(value: Any) -> Any:
    """Return what tells ``value`` from equal ones, inside tuples as well: 1, 1.0 and True, or 0.0 and -0.0."""
    if isinstance(value, tuple):
        return type(value), *map(exact, cast(tuple[Any, ...], value))
    return (type(value), math.copysign(1.0, value)) if isinstance(value, float) else type(value)


class Shared(NamedTuple):
    """The arrays that one rule gets for every leaf."""

    traced: dict[str, Any]
    updates_so_far: Array | None
    whole: Any
    extra: dict[str, Any]
    sums: dict[str, Sums]


class Inputs(NamedTuple):
    """The arrays that one rule gets for one leaf, besides the update and the parameter."""

    slots: dict[str, Any]
    key: Array | None
    turn: tuple[Any, Any] | None
    factors: dict[str, Array]
    """Those of ``Own.factors`` that are arrays."""
    shared: Shared


def step_leaves(
    rules: list["Rule"], updates: Tree, states: list[Any], params: Tree | None, extra: dict[str, Any]
) -> tuple[Tree, list[Any]]:
    """Run elementwise and leafwise ``rules`` one after another on each leaf, as one inner call a leaf.

    Only the first of them may ask for ``whole``, which is made of ``updates``.

    Under a trace the inner call is a cached ``jax.jit``: leaves that agree in shape, dtype and declarations are
    traced and lowered once. What a rule declares as made of all leaves or of none (``whole``, ``debiased``) is computed
    before, once for all of them. Without a trace, the rules are called directly.
    """
    names = [rule.unlayered.name for rule in rules]
    name = names[0] if len(names) == 1 else f"chain ({', '.join(names)})"
    size = len(flatten_optional(updates)[0])
    active = [rule.unlayered.active(params, size) for rule in rules]
    used = [any(on) for on in zip(*active, strict=True)] if rules[0].unlayered.spec.whole is None else None
    leaves, treedef = inexact_leaves(name, updates, "update", used)
    plans = [_Plan(*own, leaves, treedef, params, extra) for own in zip(rules, states, active, strict=True)]
    param_leaves = _param_leaves([plan.rule for plan in plans], treedef, params, len(leaves))
    traced = is_traced((leaves, param_leaves, [plan.traced for plan in plans], states))
    call = _call_cached if traced else _call_rules
    results: list[Any] = list(leaves)
    for i, g in enumerate(leaves):
        on = [plan for plan in plans if plan.active[i]]
        if g is not None and on:
            param = param_leaves[i] if any(plan.rule.spec.param for plan in on) else None
            stages = tuple([plan.stages[i] for plan in on])
            results[i], slots = call(stages, g, param, tuple([plan.inputs(i) for plan in on]))
            for plan, new in zip(on, slots, strict=True):
                plan.results[i] = new
    return treedef.unflatten(results), [plan.state() for plan in plans]


def step_tree(rule: "Rule", updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
    """Run a treewise rule once on the whole tree."""
    leaves, treedef = inexact_leaves(rule.name, updates, "update")
    if rule.spec.per_example:
        batch_size(updates, rule.name)
    param = treedef.unflatten(_param_leaves([rule], treedef, params, len(leaves)))
    plan = _Plan(rule, state, [True] * len(leaves), leaves, treedef, params, extra)
    stage, spec = plan.stage, rule.spec
    dtype = real_dtype(compute_dtype(jnp.float32, *(x.dtype for x in leaves if x is not None)))
    stored = {k: getattr(state, k) for k in (*spec.scalars, *spec.slots)}
    at = At(plan.count, None if params is None else _widen(param), plan.whole, plan.key, plan.extra, dtype, plan.sums)
    fields = dict(stage.static) | jax.tree.map(lambda v: as_dtype(v, dtype), plan.traced) | plan.trees(leaves)
    out, new = spec.call(_widen(treedef.unflatten(leaves)), _widen(stored), at, fields)
    if jax.tree.structure(out) != jax.tree.structure(updates):
        raise TypeError(f"{spec.name}: the rule changed the structure of the updates")
    for new_leaf, old_leaf in zip(jax.tree.leaves(out), jax.tree.leaves(updates), strict=True):
        if jnp.shape(new_leaf) != jnp.shape(old_leaf)[spec.per_example :]:
            raise TypeError(
                f"{spec.name}: the rule turned an update of shape {jnp.shape(old_leaf)} into {jnp.shape(new_leaf)}"
            )
    return out, plan.state(_restore(spec.name, new, stored))


def inexact_leaves(where: str, tree: Tree, what: str, used: Sequence[bool] | None = None) -> tuple[list[Any], Any]:
    """Flatten a tree, ``None`` counting as a leaf, into arrays that must be real or complex floating point.

    Leaves that aren't ``used``, by default all are, stay as they are.
    """
    leaves, treedef = flatten_optional(tree)
    for i, x in enumerate(leaves):
        if (
            x is None
            or (used is not None and not used[i])
            or (isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.inexact))
        ):
            continue
        dtype = getattr(x, "dtype", None) if not isinstance(x, float | complex) else jnp.result_type(x)
        if dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
            path = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda y: y is None)[0][i][0]
            got = type(x).__name__ if dtype is None else dtype
            raise TypeError(
                f"{where}: {what} {show_path(path)} is {got}, expected a floating-point or complex array; "
                "mask it out or filter the tree"
            )
        if isinstance(x, jax.ShapeDtypeStruct):
            raise TypeError(
                f"{where}: {what}s are shapes, expected arrays; for the shapes of the result, use jax.eval_shape"
            )
        leaves[i] = jnp.asarray(x)
    return leaves, treedef


class _Plan:
    """One rule's share of a step: its inputs leaf by leaf, and its next state."""

    def __init__(
        self,
        rule: "Rule",
        state: Any,
        active: list[bool],
        leaves: list[Any],
        treedef: Any,
        params: Tree | None,
        extra: dict[str, Any],
    ):
        self.own = rule.declarations(treedef.unflatten(leaves) if params is None else params)
        rule = rule.unlayered
        spec = rule.spec
        _check(rule, state, extra)
        self.rule, self.treedef, self.previous = rule, treedef, state
        self.count: Array | None = count_of(state)
        self.stage, self.traced = rule.stage(self.count)
        self.own, self.factors = self._with_factors(self.own)
        with_own = {id(own): self.stage._replace(own=own) for own in self.own}
        self.stages = [with_own[id(own)] for own in self.own]
        self.extra = {name: extra[name] for name in spec.extra}
        self.whole = spec.whole(treedef.unflatten(leaves)) if spec.whole else None
        self.sums = self._sums()
        self.active = active
        self.next_key: Any = None
        self.key: Any = None
        if spec.random:
            self.next_key, self.key = next_key(*rule.key_field(), state.key)
        if spec.kind != "treewise":
            self.keys = jax.random.split(self.key, max(len(leaves), 1)) if spec.random else [None] * len(leaves)
            until = list(itertools.accumulate(on and x is not None for on, x in zip(active, leaves, strict=True)))
            self.turns = [(number - 1, until[-1]) for number in until]
            self.slots = {name: self._slot_leaves(name, leaves) for name in spec.slots}
            self.shared = Shared(self.traced, self.count, self.whole, self.extra, self.sums)
            self.results: list[Any] = [{name: self.slots[name][i] for name in spec.slots} for i in range(len(leaves))]

    def _with_factors(self, declared: list[Own]) -> tuple[list[Own], list[dict[str, Array]]]:
        """Return what is declared for each leaf with factors that are Python numbers alone, and the other factors."""
        if not any(own.factors for own in declared):
            return declared, [{}] * len(declared)
        now: dict[int, Any] = {}
        for name, factor in (pair for own in declared for pair in own.factors):
            if id(factor) not in now:  # leaves share it, and a schedule is evaluated once
                now[id(factor)] = at_scalar(f"{self.rule.name}: the factor of {name}", factor, self.count)
        found = [[(name, now[id(factor)]) for name, factor in own.factors] for own in declared]
        static = [tuple((name, x) for name, x in pairs if isinstance(x, int | float)) for pairs in found]
        traced = [{name: jnp.asarray(x) for name, x in pairs if not isinstance(x, int | float)} for pairs in found]
        return [own._replace(factors=pairs) for own, pairs in zip(declared, static, strict=True)], traced

    def _sums(self) -> dict[str, Sums]:
        """Return the sums of weights of the averages that the rule corrects for their start at zero."""
        if not self.rule.spec.debiased:
            return {}
        constants = {name: value for name, value in self.stage.static if name in self.rule.spec.debiased}
        changing = {name: self.traced[name] for name in self.rule.spec.debiased if name in self.traced}
        return _advanced(tuple(constants.items()), changing, self.previous.weight_sums, self.count)

    def _slot_leaves(self, name: str, leaves: list[Any]) -> list[Any]:
        spec = self.rule.spec
        declared, stored = spec.slots[name], getattr(self.previous, name)
        try:
            slots = self.treedef.flatten_up_to(stored)
        except (ValueError, TypeError):
            if declared.each:
                stored = jax.tree.map(lambda _: 0.0, stored, is_leaf=lambda x: type(x) is tuple)
            raise self._differ(leaves, name, stored) from None
        if spec.kind == "elementwise" or declared.init is None:
            where = f"{spec.name}: the state's {name}"
            for i, (g, slot) in enumerate(zip(leaves, slots, strict=True)):
                if g is not None and self.active[i] and not _is_like(slot, g):
                    if not (declared.each or hasattr(slot, "shape")):
                        raise self._differ(leaves, name, stored)
                    self._check_slot(where, declared, i, g, slot)
        return slots

    def _differ(self, leaves: list[Any], name: str, stored: Any) -> ValueError:
        problem = mismatch(self.treedef.unflatten(leaves), stored, "updates", f"the state's {name}")
        return ValueError(f"{self.rule.spec.name}: {problem}")

    def _check_slot(self, where: str, declared: Slot, i: int, g: Array, slot: Any) -> None:
        """Raise unless what the ``i``-th leaf's slot holds is like its update ``g``."""
        arrays = [slot]
        if declared.each:
            arrays, size = jax.tree.leaves(slot), len(getattr(self.rule, declared.each))
            if len(arrays) != size:
                wanted = f"expected {size}, one for each of {declared.each}"
                raise ValueError(f"{where} at {self._path(i)} holds {len(arrays)} arrays, {wanted}")
        for x in arrays:
            if not hasattr(x, "shape"):
                raise ValueError(f"{where} at {self._path(i)} must be an array of shape {g.shape}, got {x!r}")
            if x.shape != g.shape:
                raise ValueError(f"{where} at {self._path(i)} has shape {x.shape}, but the update has {g.shape}")
            if jnp.iscomplexobj(g) and not (jnp.iscomplexobj(x) or declared.real):
                raise TypeError(f"{where} at {self._path(i)} is {x.dtype}, too narrow for a {g.dtype} update")

    def _path(self, i: int) -> str:
        paths = jax.tree_util.tree_flatten_with_path(self.treedef.unflatten(range(self.treedef.num_leaves)))[0]
        return show_path(paths[i][0])

    def trees(self, leaves: list[Any]) -> dict[str, Tree]:
        """Return the per-leaf fields of a treewise rule as trees like the updates."""
        names = [name for name, kind, _ in self.rule.fields() if isinstance(kind, PerLeafKind)]
        columns = {name: [dict(own.fields)[name] for own in self.own] for name in names}
        present = [x is not None for x in leaves]
        return {
            name: self.treedef.unflatten([x if there else None for x, there in zip(column, present, strict=True)])
            for name, column in columns.items()
        }

    def inputs(self, i: int) -> Inputs:
        slots = {name: leaves[i] for name, leaves in self.slots.items()}
        turn = self.turns[i] if self.rule.spec.turn else None
        return Inputs(slots, self.keys[i], turn, self.factors[i], self.shared)

    def state(self, stored: dict[str, Any] | None = None) -> Any:
        """Return the rule's next state, from the leaves' results or from ``stored`` trees."""
        changes = dict(stored or {})
        if stored is None:
            for name in self.rule.spec.slots:
                changes[name] = self.treedef.unflatten([result[name] for result in self.results])
        if self.count is not None:
            changes["count"] = safe_increment(self.count)
        if self.sums:
            changes["weight_sums"] = {name: sums.now for name, sums in self.sums.items()}
        if self.next_key is not None:
            changes["key"] = self.next_key
        return self.previous._replace(**changes)


@functools.partial(jax.jit, static_argnums=0)
def _advanced(
    constants: tuple[tuple[str, float], ...], changing: dict[str, Array], sums: dict[str, Array], count: Array
) -> dict[str, Sums]:
    """Return the sums of weights before and after an update and the next one, given those kept and the decays."""

    def advanced(decay: Any, before: Array) -> Sums:
        t = count.astype(before.dtype) + 1
        now = sum_of_weights(before, decay, t)
        return Sums(before, now, sum_of_weights(now, decay, t + 1))

    decays = dict(constants) | {name: decay.astype(sums[name].dtype) for name, decay in changing.items()}
    return {name: advanced(decay, sums[name]) for name, decay in decays.items()}


def _check(rule: "Rule", state: Any, extra: dict[str, Any]) -> None:
    check_state(rule.name, state, rule.State._fields)
    for name in rule.spec.extra:
        if callable(demand(rule.name, extra, name)) and rule.by_leaf:
            raise TypeError(f"{rule.name}: extra argument {name!r} is a function, which only a @treewise rule can take")
        if name in FUNCTIONS:
            demand_function(rule.name, extra, name)
        if name == "value" or rule.spec.kind == "elementwise":
            demand_number(rule.name, extra, name)


def _param_leaves(rules: list["Rule"], treedef: Any, params: Tree | None, size: int) -> list[Any]:
    needs = [rule for rule in rules if rule.spec.param]
    if not needs or params is None:
        strict = [rule for rule in needs if rule.spec.param is True]
        if strict:
            raise lacks_params(strict[0].name)
        return [None] * size
    return [p if p is None or isinstance(p, Array) else jnp.asarray(p) for p in treedef.flatten_up_to(params)]


def _call_rules(
    stages: tuple[Stage, ...], g: Array, param: Array | None, inputs: tuple[Inputs, ...]
) -> tuple[Array, list[dict[str, Any]]]:
    """Run ``stages`` on one leaf."""
    dtype = real_dtype(compute_dtype(g.dtype))
    g, param = _wide(g), None if param is None else _wide(param)
    results: list[dict[str, Any]] = []
    for stage, x in zip(stages, inputs, strict=True):
        g, new = _call(stage, stage.own.axes, g, param if stage.spec.param else None, x, dtype)
        results.append(new)
    return g, results


PROGRAMS: dict[Spec, Callable[[tuple[Stage, ...], Callable[..., Any]], Callable[..., Any]]] = {}
"""What makes the compiled call of stages that end with a rule, of these stages and of the call that would be made."""


@functools.lru_cache(maxsize=1024)
def _cached(stages: tuple[Stage, ...]) -> Any:
    def program(*arguments: Any) -> Any:
        return _call_rules(stages, *arguments)

    if make := PROGRAMS.get(stages[-1].spec):
        program = make(stages, program)
    program.__name__ = "_then_".join(stage.spec.name for stage in stages)  # what profiles and HLO show
    return jax.jit(program)


def _call_cached(
    stages: tuple[Stage, ...], g: Array, param: Array | None, inputs: tuple[Inputs, ...]
) -> tuple[Array, list[dict[str, Any]]]:
    return _cached(stages)(g, param, inputs)


def _call(
    stage: Stage, axes: tuple[int, ...], g: Array, param: Array | None, x: Inputs, dtype: Any
) -> tuple[Array, dict[str, Any]]:
    """Run one rule on one array, or on each of the layers that lie along ``axes`` of it."""
    if axes:
        return _call_layers(stage, axes, g, param, x, dtype)
    shared = x.shared
    at = At(shared.updates_so_far, param, shared.whole, x.key, shared.extra, dtype, shared.sums, x.turn)
    fields = dict((*stage.static, *stage.own.fields))
    if shared.traced:
        fields |= jax.tree.map(lambda v: as_dtype(v, dtype), shared.traced)
    for name, factor in (*stage.own.factors, *((k, as_dtype(v, dtype)) for k, v in x.factors.items())):
        fields[name] = fields[name] * factor
    slots = {name: _wide(x) if isinstance(x, Array) else _widen(x) for name, x in x.slots.items()}
    out, new = stage.spec.call(g, slots, at, fields)
    if jnp.shape(out) != g.shape:
        raise TypeError(f"{stage.spec.name}: the rule turned an update of shape {g.shape} into {jnp.shape(out)}")
    return out, _restore(stage.spec.name, new, x.slots)


def _call_layers(
    stage: Stage, axes: tuple[int, ...], g: Array, param: Array | None, x: Inputs, dtype: Any
) -> tuple[Array, dict[str, Any]]:
    axis, *inner = axes
    where = {name: axis if slot.init is None else 0 for name, slot in stage.spec.slots.items()}
    keys = None if x.key is None else jax.random.split(x.key, g.shape[axis])

    def layer(g: Array, param: Array | None, slots: dict[str, Any], key: Array | None) -> Any:
        return _call(stage, tuple(inner), g, param, x._replace(slots=slots, key=key), dtype)

    return jax.vmap(layer, in_axes=(axis, axis, where, 0), out_axes=(axis, where))(g, param, x.slots, keys)


def over_layers(init: Callable[[Array], Any], axes: tuple[int, ...]) -> Callable[[Array], Any]:
    """Return ``init``, mapped over ``axes`` of its argument, its results stacked along leading axes."""
    for axis in reversed(axes):
        init = jax.vmap(init, in_axes=axis)
    return init


def _widen(tree: Tree) -> Tree:
    """Cast half-precision leaves to float32."""
    return jax.tree.map(_wide, tree)


def _wide(x: Array) -> Array:
    narrow = x.dtype.itemsize < 4 and jnp.issubdtype(x.dtype, jnp.inexact)
    return x.astype(compute_dtype(x.dtype)) if narrow else x


def _is_like(x: Any, y: Array) -> bool:
    """Return whether ``x`` is an array of the shape and dtype of ``y``."""
    return is_of_dtype(x, y.dtype) and x.shape == y.shape


def _restore(where: str, new: dict[str, Any], stored: dict[str, Any]) -> dict[str, Any]:
    """Cast ``new`` to the dtypes it is stored in, after checking that shapes haven't changed."""

    def leaf(x: Any, old: Array) -> Array:
        if _is_like(x, old):
            return x
        if jnp.shape(x) != old.shape:
            raise TypeError(f"{where}: the rule turned a slot of shape {old.shape} into {jnp.shape(x)}")
        return jnp.asarray(x).astype(old.dtype)

    def part(x: Any, old: Any) -> Any:
        if isinstance(old, Array) and isinstance(x, Array):
            return leaf(x, old)
        if jax.tree.structure(x) != jax.tree.structure(old):
            raise TypeError(f"{where}: the rule changed the structure of its slots")
        return jax.tree.map(leaf, x, old)

    return {name: part(x, stored[name]) for name, x in new.items()}

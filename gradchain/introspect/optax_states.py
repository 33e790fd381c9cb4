"""Conversion between Optax's states and gradchain's: a run continues on the same trajectory."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gradchain.combinators.accumulation import accumulate
from gradchain.combinators.averaging import outer_steps
from gradchain.combinators.conditional import Conditional
from gradchain.combinators.guards import apply_if_finite, skip_spikes
from gradchain.combinators.labels import path_name
from gradchain.combinators.sharpness import AlternatingSAM
from gradchain.core.foreign import Child, Foreign, as_transform
from gradchain.core.transform import Part, Transform
from gradchain.introspect.entries import Missing, Unexpected, load
from gradchain.introspect.optax_names import ALIASES, ONLY_THERE, SLOTS, Stage
from gradchain.introspect.paths import Place, abstract_state, places, state_parts
from gradchain.introspect.weight_sums import SLOT
from gradchain.signatures import public
from gradchain.tree import Tree
from gradchain.tree.state import numbered

ONLY_HERE: dict[tuple[str, str], Callable[[Stage], Any]] = {
    ("accumulate", "weight"): lambda theirs: theirs["mini_step"],
    ("accumulate", "emitted"): lambda theirs: (theirs["mini_step"] == 0) & (theirs["gradient_step"] > 0),
    ("accumulate", "value"): lambda theirs: jnp.zeros(()),
    ("conditionally_mask", "held"): lambda theirs: theirs["step"] > 0,
    ("conditionally_transform", "held"): lambda theirs: theirs["step"] > 0,
    ("accumulate", "skipped"): lambda theirs: jnp.zeros_like(theirs["mini_step"]),
    ("scale_by_lbfgs", "position"): lambda theirs: _next_slot(theirs),
    ("reduce_on_plateau", "has_best"): lambda theirs: jnp.isfinite(theirs["best_value"]),
    ("schedule_free", "count"): lambda theirs: theirs["step_count"] - 1,
    ("scale_by_backtracking_linesearch", "retry"): lambda theirs: jnp.zeros_like(theirs["learning_rate"]),
    ("scale_by_zoom_linesearch", "guess"): lambda theirs: jnp.where(
        theirs["learning_rate"] > 0, theirs["learning_rate"], 1
    ),
    ("scale_by_zoom_linesearch", "slope"): lambda theirs: jnp.zeros_like(theirs["learning_rate"]),
}
"""What Optax doesn't keep, made of what it keeps in the same stage."""
COUNTS = ("count", "searches")
"""What our rules and searches call the number of their updates."""
RINGS = ("diff_params_memory", "diff_updates_memory", "weights_memory")
"""Slots of ``scale_by_lbfgs`` that are filled in turn; Optax fills one at every update."""
CONJUGATED = {("scale_by_backtracking_linesearch", "grad"), ("scale_by_zoom_linesearch", "grad")}
"""Gradients that Optax keeps as JAX returns them; here they point uphill, complex ones, too."""
FIRST = {"scale_by_dog": "is_init_step", "scale_by_optimistic_gradient": "is_initial_step"}
"""Flags by which Optax knows a rule's first update; here it is the count."""
CONSTANT = ("ns_coeffs", "steps_since_sync", "v", "v_row", "v_col")
"""What Optax keeps without need: constants, a counter that nothing moves, and placeholders of one zero."""
GATES = (
    *(combinator.Value for combinator in (accumulate, apply_if_finite, outer_steps, skip_spikes)),
    AlternatingSAM,
    Conditional,
)
"""Combinators that don't let every update through, so that counts inside are others than outside."""
BESIDE = ("adversary", "outer")
"""Labels of parts with counts of their own, which Optax's states don't show."""


@public
def from_optax_state(
    tx: Child,
    params: Tree,
    optax_state: Any,
    *,
    count: int | None = None,
    missing: Missing = "error",
    unexpected: Unexpected = "error",
) -> Any:
    """Return the state of ``tx`` that continues a run of the same composition of Optax's transforms.

    Stages are matched by name and order. If a rule keeps a count in gradchain but not in Optax, it gets the count of
    its neighbours, or ``count``; this matters only if its hyperparameters become schedules later.

    Args:
      tx: the transform, with the same stages and hyperparameters as in Optax.
      params: the parameters, or their shapes; for ``lookahead``, Optax's pair of fast and slow parameters.
      optax_state: the state that ``optimizer.update`` returned last.
      count: how many updates there were, for stages whose state doesn't tell.
      missing: ``"init"`` takes what Optax doesn't keep from ``tx.init(params)``.
      unexpected: ``"drop"`` ignores entries that have no counterpart.

    Raises:
      ValueError: if something can't be converted, with a complete list.

    Example:
      >>> import optax
      >>> optimizer = optax.adamw(1e-3)
      >>> updates, optax_state = optimizer.update(grads, optimizer.init(params), params)
      >>> state = from_optax_state(adamw(1e-3), params, optax_state)
      >>> print(state[0].count)
      1
    """
    where, tx = "from_optax_state", as_transform(tx)
    params, slow = params if _is_lookahead(params) else (params, None)
    expected = abstract_state(tx, params)
    here, theirs = _Layout(where, tx, expected), _Layout(where, Foreign(None), optax_state)
    partners = _partners(here.places, theirs.places)
    entries, used = _matched(here, theirs, partners)
    entries |= _slow_weights(here.places, slow)
    known = {p.stage: entries[p.address] for p in here.places if p.slot == "count" and p.address in entries}
    counts = _Counts(state_parts(tx, expected), known, count)
    for place in here.places:
        if place.slot in COUNTS and place.address not in entries:
            first = theirs.stages.get(partners.get(place.stage, ""), {}).get(FIRST.get(place.transform, ""))
            entries[place.address] = jnp.maximum(counts.of(place.stage), 0 if first is None else ~first)
    spare = [p.address for p in theirs.places if p.address not in used and not _is_spare(p)]
    entries |= {f"Optax's {address}": theirs.values[address] for address in spare}
    return load(where, tx, params, entries, missing, unexpected, settled=None)


@public
def to_optax_state(tx: Child, state: Any, optimizer: Any, params: Tree) -> Any:
    """Return the state of an Optax optimizer that continues a run of the same composition in gradchain.

    Args:
      tx: any transform.
      state: its state.
      optimizer: the Optax optimizer, with the same stages.
      params: the parameters.

    Raises:
      ValueError: if an entry that Optax needs is missing, or has no counterpart in Optax, with a complete list.

    Example:
      >>> import optax
      >>> tx = adamw(1e-3)
      >>> updates, state = tx.update(grads, tx.init(params), params)
      >>> optax_state = to_optax_state(tx, state, optax.adamw(1e-3), params)
      >>> print(optax_state[0].count)
      1
    """
    where, tx, optimizer = "to_optax_state", as_transform(tx), as_transform(optimizer)
    theirs, here = _Layout(where, optimizer, abstract_state(optimizer, params)), _Layout(where, tx, state)
    partners = _partners(here.places, theirs.places)
    sources = {_address_there(p, partners): _as_there(p, _turned(p, here)) for p in here.places}
    owners = {there: here.stages.get(stage, {}) for stage, there in partners.items()}
    counts = [stage["count"] for stage in here.stages.values() if "count" in stage]
    initial = jax.tree.leaves(optimizer.init(params))
    entries = dict[str, Any]()
    for place, first in zip(theirs.places, initial, strict=True):
        if place.address in sources:
            entries[place.address] = _as_kind(sources.pop(place.address), first)
        elif place.slot in ONLY_THERE and "count" in owners.get(place.stage, {}):
            entries[place.address] = _as_kind(ONLY_THERE[place.slot](owners[place.stage]), first)
        elif place.address.endswith("/count") and counts:
            entries[place.address] = functools.reduce(jnp.maximum, counts)
        elif place.slot in CONSTANT:
            entries[place.address] = first
    spare = [p for p in here.places if p.slot not in (*COUNTS, SLOT) and (p.transform, p.slot) not in ONLY_HERE]
    entries |= {f"gradchain's {p.address}": sources[a] for p in spare if (a := _address_there(p, partners)) in sources}
    return load(where, optimizer, params, entries, "error", "error", settled=None)


def _next_slot(stage: Stage) -> Any:
    """Return the slot of the memory of L-BFGS that Optax writes at the next update but the first."""
    return jnp.maximum(stage["count"] - 1, 0) % len(stage["weights_memory"])


def _turned(place: Place, here: "_Layout") -> Any:
    """Return what ``place`` holds as Optax keeps it: the memory of L-BFGS goes on where Optax will write."""
    x = here.values[place.address]
    if place.transform != "scale_by_lbfgs" or place.slot not in RINGS:
        return x
    stage = here.stages[place.stage]
    return jnp.roll(x, _next_slot(stage) - stage["position"], axis=0)


class _Layout:
    """A state by address, and the single numbers of each of its stages."""

    def __init__(self, where: str, tx: Transform, state: Any):
        self.places = places(where, tx, state)
        self.values = {place.address: x for place, x in zip(self.places, jax.tree.leaves(state), strict=True)}
        self.stages = dict[str, Stage]()
        for place in self.places:
            if not place.path:
                self.stages.setdefault(place.stage, {})[place.slot] = self.values[place.address]


def _matched(here: _Layout, theirs: _Layout, partners: Mapping[str, str]) -> tuple[dict[str, Any], set[str]]:
    """Return entries that Optax's state has, or that are made of what it has, and the addresses that they come from."""
    entries, used = dict[str, Any](), set[str]()
    for place in here.places:
        address = _address_there(place, partners)
        make = ONLY_HERE.get((place.transform, place.slot))
        if address in theirs.values:
            entries[place.address] = _as_kind(_as_there(place, theirs.values[address]), here.values[place.address])
            used.add(address)
        elif make and place.stage in partners:
            made = make(theirs.stages[partners[place.stage]])
            entries[place.address] = _as_kind(made, here.values[place.address])
    return entries, used


def _is_lookahead(params: Tree) -> bool:
    return getattr(params, "_fields", ()) == ("fast", "slow")


def _slow_weights(here: list[Place], slow: Tree | None) -> dict[str, Any]:
    """Return the slow weights, which Optax keeps in the parameters, as entries."""
    by_path = {path_name(path): x for path, x in jax.tree_util.tree_flatten_with_path(slow)[0]}
    outer = [place for place in here if (place.transform, place.slot) == ("outer_steps", "slow")]
    return {place.address: by_path[place.path] for place in outer if place.path in by_path}


def _partners(here: list[Place], theirs: list[Place]) -> dict[str, str]:
    """Return Optax's stage for each of ours that has one: the first of its name that isn't another's yet."""
    there, taken = {place.stage for place in theirs}, set[str]()
    partners = dict[str, str]()
    for stage, transform in dict.fromkeys((place.stage, place.transform) for place in here):
        *labels, _ = stage.split(".")
        shown = [label for label in labels if label not in BESIDE]
        names = (".".join([*x, name]) for name in ALIASES.get(transform, (transform,)) for x in (labels, shown))
        if found := next((full for name in names if (full := numbered(name, taken)) in there), None):
            partners[stage] = found
            taken.add(found)
    return partners


def _address_there(place: Place, partners: Mapping[str, str]) -> str:
    """Return the address in Optax's state of what ``place`` holds here, or one that doesn't exist."""
    slot = SLOTS.get(place.transform, {}).get(place.slot, place.slot)
    if place.stage not in partners or (place.slot and not slot):
        return f"nowhere: {place.address}"
    return "/".join(filter(None, (partners[place.stage], slot, place.path)))


def _as_there(place: Place, x: Any) -> Any:
    """Return what a place holds here as Optax keeps it, or the other way round."""
    return jnp.conj(x) if (place.transform, place.slot) in CONJUGATED else x


def _as_kind(x: Any, like: Any) -> Any:
    """Return one number in the dtype of ``like``, whole or not; what is no single number stays."""
    x = jnp.asarray(x)
    is_number = x.shape == like.shape == () and not jnp.issubdtype(x.dtype, jax.dtypes.extended)
    return x.astype(like.dtype) if is_number else x


def _is_spare(place: Place) -> bool:
    """Whether Optax keeps it in addition to what we need."""
    return place.slot in ONLY_THERE or place.slot in CONSTANT or place.address.endswith("/count")


class _Counts:
    """How many updates the stages have seen of which Optax's state doesn't say."""

    def __init__(self, parts: list[Part], found: Mapping[str, Any], count: int | None):
        self.gates = dict(_gates(parts))
        self.found = found
        self.of_rounds = {part.name for part in parts if isinstance(part.transform, accumulate.Value)}
        self.count = count

    def of(self, stage: str) -> Any:
        """Return the count of the stages around ``stage``, of the combinator around it, or the given one."""
        gates, beside = scope = self._scope(stage)
        if self.count is not None and scope == ((), ()):
            return jnp.asarray(self.count, jnp.int32)
        around = [x for name, x in self.found.items() if self._scope(name) == scope and name not in self.of_rounds]
        outside = [] if beside else [self.found[gate] for gate in reversed(gates) if gate in self.found]
        return functools.reduce(jnp.maximum, around or outside[:1] or [jnp.asarray(self.count or 0, jnp.int32)])

    def _scope(self, stage: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return what decides how many updates reach a stage."""
        *labels, _ = stage.split(".")
        return self.gates.get(stage, ()), tuple(label for label in labels if label in BESIDE)


def _gates(parts: list[Part]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield for each part the combinators around it that don't let every update through."""
    rest = iter(parts)

    def visit(above: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
        part = next(rest, None)
        if part is None:
            return
        yield part.name, above
        below = (*above, part.name) if isinstance(part.transform, GATES) else above
        for _ in part.transform.parts(part.state, part.params):
            yield from visit(below)

    yield from visit(())

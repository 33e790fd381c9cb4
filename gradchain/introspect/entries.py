"""Entries into a state: each is checked against what the transform has there, and all that don't fit are listed."""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gradchain.core.transform import Transform
from gradchain.introspect.paths import Place, abstract_state, places
from gradchain.introspect.weight_sums import warn_of_added, weight_sums
from gradchain.tree import Tree
from gradchain.tree.alignment import is_array, is_key, key_impl
from gradchain.tree.shardings import in_host_memory, move

Missing = Literal["error", "init"]
Unexpected = Literal["error", "drop"]
KINDS = (jnp.bool_, jnp.integer, jnp.floating, jnp.complexfloating)
"""Kinds of dtypes; numbers are cast within one, and from real to complex."""


def load(
    where: str,
    tx: Transform,
    params: Tree,
    entries: dict[str, Any],
    missing: str,
    unexpected: str,
    settled: Collection[str] | None = (),
) -> Any:
    """Return the state of ``tx`` with the entries in their places.

    Args:
      where: what error messages begin with.
      tx: the transform.
      params: the parameters, or their shapes if nothing is missing.
      entries: arrays by address.
      missing: ``"error"``, or ``"init"`` for those of ``tx.init(params)``.
      unexpected: ``"error"`` or ``"drop"``.
      settled: stages of which the caller knows that they are the same as before; ``None`` for all.

    Raises:
      ValueError: listing every entry that doesn't fit, is missing or unexpected, as far as that is an error.
    """
    _check_choice(where, "missing", missing, ("error", "init"))
    _check_choice(where, "unexpected", unexpected, ("error", "drop"))
    state = abstract_state(tx, params)
    expected, treedef = jax.tree.flatten(state)
    found = places(where, tx, state)
    entries = entries | weight_sums(tx, found, entries)
    leaves, problems = _read(found, expected, entries, missing)
    if unexpected == "error":
        known = {place.address for place in found}
        problems += [f"{name}: unexpected {_shown(x)}" for name, x in entries.items() if name not in known]
    if not problems and settled is not None:
        problems = _ambiguous(found, entries, settled)
    if problems:
        raise ValueError(_listing(where, problems, _hint(found, entries)))
    lacking = [place for place, leaf in zip(found, leaves, strict=True) if leaf is None]
    warn_of_added(where, tx, state, lacking, entries)
    if any(leaf is None for leaf in leaves):
        initial = jax.tree.leaves(tx.init(params))
        leaves = [first if leaf is None else leaf for leaf, first in zip(leaves, initial, strict=True)]
    return treedef.unflatten(leaves)


def _read(
    found: list[Place], expected: list[Any], entries: Mapping[str, Any], missing: str
) -> tuple[list[Any], list[str]]:
    """Return the state's leaves, ``None`` for those that are missing, and what is wrong with the entries."""
    leaves, problems, seen = list[Any](), list[str](), set[int]()
    for place, like in zip(found, expected, strict=True):
        leaf: Any = None
        if place.address in entries:
            x = entries[place.address]
            try:
                leaf = _placed(_fitted(x, like, id(x) in seen), like)
            except _Misfit as error:
                problems.append(f"{place.address}: expected {_shown(like)}, got {error}")
            seen.add(id(x))
        elif missing == "error":
            problems.append(f"{place.address}: expected {_shown(like)}, got nothing")
        leaves.append(leaf)
    return leaves, problems


def _check_choice(where: str, name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{where}: {name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def _listing(where: str, problems: list[str], hint: str) -> str:
    count = f"{len(problems)} entr{'y' if len(problems) == 1 else 'ies'}"
    return "\n  ".join([f"{where}: {count} can't be carried over:", *problems]) + hint


def _ambiguous(found: list[Place], entries: Mapping[str, Any], settled: Collection[str]) -> list[str]:
    """Return a problem for each name that more stages have here than in the dict, or fewer: which is which?"""
    mine, theirs = _by_name({place.stage for place in found}), _by_name({name.partition("/")[0] for name in entries})
    return [
        f"{', '.join(stages)}: the dict has {', '.join(theirs[name])}; say which is which, with "
        f"rename={{{theirs[name][0]!r}: {stages[-1]!r}}}, for instance, or {{{stages[0]!r}: {stages[0]!r}}}"
        for name, stages in mine.items()
        if name in theirs and len(theirs[name]) != len(stages) and not {*settled} & {*stages}
    ]


def _by_name(stages: Iterable[str]) -> dict[str, list[str]]:
    """Return stages by their names without numbers."""
    groups = dict[str, list[str]]()
    for stage in sorted(stages):
        groups.setdefault(re.sub(r"_\d+$", "", stage), []).append(stage)
    return groups


def _hint(found: list[Place], entries: Mapping[str, Any]) -> str:
    """Return what ``rename`` could do: a stage that is missing, where one of another name has all of its entries."""
    stages = dict[str, set[str]]()
    for place in found:
        stages.setdefault(place.stage, set()).add(place.address.removeprefix(place.stage))
    given = dict[str, set[str]]()
    for address in entries:
        stage, slash, rest = address.partition("/")
        given.setdefault(stage, set()).add(slash + rest)
    lost = {stage: rest for stage, rest in given.items() if stage not in stages}
    for stage, wanted in stages.items():
        for old, rest in lost.items():
            if stage not in given and wanted <= rest:
                return f"\nIs {old!r} now called {stage!r}? Then say rename={{{old!r}: {stage!r}}}."
    return ""


def _shown(x: Any) -> str:
    if isinstance(x, Tracer) or not is_array(x):
        return type(x).__name__
    return f"{x.dtype}{list(x.shape)}"


class _Misfit(Exception):
    """Says what came in place of a fitting array."""


def _fitted(x: Any, like: Any, again: bool) -> Any:
    """Return ``x`` as an array like ``like``; a copy if it is used ``again``.

    Raises:
      _Misfit: if its shape or its kind of numbers is another, or they don't fit into the dtype.
    """
    if is_key(like):
        data = _fitted(x, jax.eval_shape(jax.random.key_data, like), again)
        return jax.random.wrap_key_data(data, impl=key_impl(like))
    x = _array(x)
    if x.shape != like.shape or not _same_kind(x.dtype, like.dtype):
        raise _Misfit(_shown(x))
    with np.errstate(over="ignore"):
        new = jnp.array(x, like.dtype, copy=again) if isinstance(x, jax.Array) else x.astype(like.dtype)
    if _lossy(x.dtype, like.dtype) and not isinstance(x, Tracer) and getattr(x, "is_fully_addressable", True):
        _check_range(x, new, like)
    weak = like.weak_type and new.shape == () and not isinstance(x, Tracer)
    return jnp.asarray(new.item()) if weak else jnp.asarray(new, copy=None if isinstance(x, jax.Array) else True)


def _placed(x: Any, like: Any) -> Any:
    """Return ``x`` in the memory, the device's or the host's, that the transform keeps it in."""
    return x if in_host_memory(x) == in_host_memory(like) else move(x, in_host_memory(like))


def _array(x: Any) -> Any:
    """Return ``x`` as JAX's or NumPy's array."""
    if isinstance(x, jax.Array):
        return x
    try:
        array = np.asarray(x)
    except Exception as error:  # whatever a foreign object's conversion raises
        raise _Misfit(f"{type(x).__name__}, which isn't an array ({error})") from None
    if array.dtype.type is np.void and array.dtype.itemsize == 2:  # what NumPy's files make of bfloat16
        array = array.view(jnp.bfloat16)
    if not jnp.issubdtype(array.dtype, jnp.number) and array.dtype != bool:
        raise _Misfit(f"{type(x).__name__}, which isn't an array of numbers")
    return array


def _same_kind(dtype: Any, like: Any) -> bool:
    kinds = [next((i for i, kind in enumerate(KINDS) if jnp.issubdtype(d, kind)), None) for d in (dtype, like)]
    return kinds[0] is not None and (kinds[0] == kinds[1] or kinds == [2, 3])


def _lossy(dtype: Any, like: Any) -> bool:
    return jnp.promote_types(dtype, like) != like


def _check_range(x: Any, new: Any, like: Any) -> None:
    """Raise ``_Misfit`` if finite numbers became infinite, or whole ones others."""
    if jnp.issubdtype(like.dtype, jnp.integer):
        lost = np.asarray(x) != np.asarray(new)
    else:
        is_finite = jnp.isfinite if isinstance(x, jax.Array) else np.isfinite
        lost = is_finite(x) & ~is_finite(new)
    if np.any(lost):
        raise _Misfit(f"{_shown(x)} with numbers that {like.dtype} can't hold")

"""States as flat dicts from address to array, which can still be loaded after the optimizer has been changed."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradchain.core.foreign import Child, as_transform
from gradchain.introspect.entries import Missing, Unexpected, load
from gradchain.introspect.paths import state_paths
from gradchain.signatures import public
from gradchain.tree import Tree
from gradchain.tree.alignment import is_array, is_key

SCHEMA = "schema_version"
VERSION = 1


@public
def to_state_dict(tx: Child, state: Any) -> dict[str, Any]:
    """Return a state as a flat dict from address to array, for a checkpoint in any format.

    Addresses are those of :func:`state_paths`. PRNG keys become their raw data, from which :func:`from_state_dict`
    rebuilds the keys; all else is the state's own arrays, not copies. One more entry, ``schema_version``, is the
    version of this format.

    Args:
      tx: any transform.
      state: its state, on any number of devices. From a state of shapes (``jax.eval_shape(tx.init, params)``) it makes
        the dict of shapes that some checkpointers ask for.

    Raises:
      ValueError: if ``state`` isn't a state of this transform.
      TypeError: if it contains something that isn't an array.

    Example:
      >>> saved = to_state_dict(tx, state)
      >>> np.savez("state.npz", **saved)
      >>> state = from_state_dict(tx, params, np.load("state.npz"))
    """
    entries = {address: _plain(address, x) for address, x in state_paths(tx, state).items()}
    return {SCHEMA: np.asarray(VERSION, np.int32)} | entries


def _plain(address: str, x: Any) -> Any:
    if isinstance(x, bool | int | float | complex):
        return jnp.asarray(x)
    if not is_array(x):
        raise TypeError(f"to_state_dict: {address} is {type(x).__name__}, not an array")
    if not is_key(x):
        return x
    return jax.eval_shape(jax.random.key_data, x) if isinstance(x, jax.ShapeDtypeStruct) else jax.random.key_data(x)


@public
def from_state_dict(
    tx: Child,
    params: Tree,
    state_dict: Mapping[str, Any],
    *,
    missing: Missing = "error",
    unexpected: Unexpected = "error",
    rename: Mapping[str, str | Iterable[str]] | None = None,
) -> Any:
    """Return the state of ``tx`` from a dict made by :func:`to_state_dict`, even if ``tx`` has changed since.

    Entries are found by name. So stages may have been inserted, removed or reordered, wrapped in ``accumulate`` or
    ``masked``, or their hyperparameters replaced by schedules; slots in another dtype are cast. Missing or unexpected
    entries, after adding a layer for example, are an error unless you say how to handle them.

    Arrays of the right dtype are used without a copy: don't use those of the dict after the state has been donated.

    Args:
      tx: any transform.
      params: the parameters, or their shapes if nothing is missing.
      state_dict: from address to array: JAX's, NumPy's or any that NumPy understands. An ``NpzFile`` is accepted.
      missing: ``"init"`` takes missing entries from ``tx.init(params)``.
      unexpected: ``"drop"`` ignores entries that the transform has no place for.
      rename: new names for old ones. A name is an address or the beginning of one: a stage (``"trace"``), a stage and
        a slot (``"trace/trace"``), or labels (``"decay."``; ``""`` for all). Several new names can share the entries:
        ``{"scale_by_adam": ("matrices.scale_by_adam", "rest.scale_by_adam")}``.

    Raises:
      ValueError: for a dict of another form, an entry that can't be read, a name in ``rename`` that matches nothing,
        and for entries that are missing, unexpected, or don't match, with a complete list.

    Example:
      >>> tx = adamw(1e-3)
      >>> saved = to_state_dict(tx, tx.init(params))
      >>> cosine = cosine_decay_schedule(1e-3, 1000)
      >>> tx = accumulate(chain(clip_by_global_norm(1.0), adamw(cosine)), every=4)
      >>> state = from_state_dict(tx, params, saved, missing="init")  # accumulate's own state is new
    """
    where = "from_state_dict"
    entries = _entries(where, state_dict)
    settled: set[str] = set()
    if rename:
        entries, settled = _renamed(where, entries, rename)
    return load(where, as_transform(tx), params, entries, missing, unexpected, settled)


def _entries(where: str, state_dict: Any) -> dict[str, Any]:
    """Return the dict's entries without its version, after checking that it is such a dict."""
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            f"{where}: the state dict must be a dict from address to array, got {type(state_dict).__name__}"
        )
    if wrong := [key for key in state_dict if not isinstance(key, str)]:
        raise TypeError(f"{where}: the state dict's keys must be strings, got {wrong[0]!r}")
    entries: dict[Any, Any] = {key: _entry(where, state_dict, key) for key in state_dict}
    if SCHEMA not in entries:
        raise ValueError(f"{where}: this isn't a dict from to_state_dict: it has no entry {SCHEMA!r}")
    version = np.asarray(entries.pop(SCHEMA))
    if version.shape != () or not np.issubdtype(version.dtype, np.integer) or version != VERSION:
        raise ValueError(
            f"{where}: {SCHEMA} must be {VERSION}, got {version}; this version of gradchain reads no other"
        )
    return entries


def _entry(where: str, state_dict: Mapping[str, Any], key: str) -> Any:
    try:
        return state_dict[key]
    except Exception as error:  # whatever a file that is read piece by piece raises where it is damaged
        raise ValueError(f"{where}: {key} can't be read: {error}") from error


def _renamed(
    where: str, entries: dict[str, Any], rename: Mapping[str, str | Iterable[str]]
) -> tuple[dict[str, Any], set[str]]:
    """Return the entries by their new addresses, and the stages that were named."""
    result: dict[str, Any] = {}
    stages: set[str] = set()
    unused = dict(rename)
    for address, x in entries.items():
        old = next((old for old in sorted(rename, key=len, reverse=True) if _begins(address, old)), None)
        for full in [address] if old is None else _new(address, old, rename[old]):
            if full in result:
                raise ValueError(f"{where}: after renaming, two entries are called {full!r}")
            result[full] = x
            stages |= set() if old is None else {full.partition("/")[0]}
        unused.pop(old or "", None)
    if unused:
        first, there = next(iter(unused)), ", ".join(list(entries)[:20]) or "none"
        raise ValueError(f"{where}: rename: no entry is or begins with {first!r}; the first entries are {there}")
    return result, stages


def _new(address: str, old: str, new: str | Iterable[str]) -> list[str]:
    return [name + address.removeprefix(old) for name in ([new] if isinstance(new, str) else new)]


def _begins(address: str, name: str) -> bool:
    return name in ("", address) or (address.startswith(name) and (name.endswith(".") or address[len(name)] == "/"))

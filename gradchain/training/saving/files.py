"""What a folder of checkpoints holds: its steps, what each says of itself, its arrays checked against that."""

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradchain.arguments import described, is_numeric
from gradchain.training.saving.checksums import checksums
from gradchain.tree import Tree, show_path
from gradchain.tree.alignment import is_key, key_impl
from gradchain.tree.shardings import in_host_memory, move

FORMAT = 1
"""The version of what is written, so that a later library can tell."""
UNFINISHED = ".orbax-checkpoint-tmp"
"""In the name of what orbax is still writing, or was when it was killed."""


class Leaf(NamedTuple):
    """What a checkpoint says of one leaf."""

    shape: tuple[int, ...]
    dtype: str
    checksum: str

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


class Contents(NamedTuple):
    """What a checkpoint says of itself, read without its arrays."""

    step: int
    leaves: dict[str, Leaf]
    metadata: dict[str, Any]
    in_host: frozenset[str]
    """The leaves that lay in the host's memory."""


def orbax() -> Any:
    """Return orbax, which is optional."""
    try:
        import orbax.checkpoint as ocp
    except ImportError:
        raise ImportError("checkpoints need orbax: pip install orbax-checkpoint") from None
    return ocp


def folder_of(directory: str | os.PathLike[str]) -> Any:
    """Return a folder as an absolute path of the kind that orbax takes, which may be a remote one."""
    orbax()
    from etils import epath  # comes with orbax

    name = os.path.expanduser(os.fspath(directory))
    return epath.Path(name if "://" in name else os.path.abspath(name))


def steps_in(folder: Any) -> list[int]:
    """Return the numbers of the complete checkpoints in a folder, in order.

    Raises:
      ValueError: if there is anything else in it.
    """
    if not folder.exists():
        return []
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file, expected a folder of checkpoints")
    names = [entry.name for entry in folder.iterdir()]
    shown = [name for name in names if not name.startswith(".") and UNFINISHED not in name]
    foreign = sorted(name for name in shown if not name.isdecimal() or str(int(name)) != name)
    if foreign:
        listed = ", ".join(map(repr, foreign[:5])) + (" and more" if len(foreign) > 5 else "")
        raise ValueError(
            f"{folder} holds files that are not checkpoints of gradchain: {listed}; give checkpoints their own folder"
        )
    return sorted(map(int, shown))


def packed(step: int, tree: Tree, metadata: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what orbax is to save: arrays by path, and their description, which is JSON.

    Raises:
      TypeError: for a leaf that is no number, array or key (naming its path), or metadata that JSON can't hold.
    """
    leaves, _ = _named(tree)
    for path, leaf in leaves.items():
        if not (is_numeric(leaf) or (isinstance(leaf, jax.Array) and is_key(leaf))):
            raise TypeError(f"can't save {path}: it is {described(leaf)}, expected a number, an array or a key")
    arrays = {path: _data(leaf) for path, leaf in leaves.items()}
    sums = checksums(list(arrays.values()))
    table = {path: [*_described(leaf), sum_] for (path, leaf), sum_ in zip(leaves.items(), sums, strict=True)}
    parts: dict[str, Any] = {"format": FORMAT, "step": step, "leaves": table, "metadata": dict(metadata)}
    if in_host := [path for path, leaf in leaves.items() if in_host_memory(leaf)]:
        parts["in_host"] = in_host
    try:
        info = json.loads(json.dumps(parts))
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"metadata must be JSON: {error}") from None
    stored = {path: x for path, x in arrays.items() if x.size}  # orbax refuses empty arrays
    return stored or {"nothing": np.zeros(1)}, {**info, "digest": _digest(info)}


def contents(folder: Any, step: int) -> Contents:
    """Return what the checkpoint of that number says of itself.

    Raises:
      ValueError: if it is damaged, incomplete, renamed, or none of ours.
    """
    path = folder / str(step)
    try:
        info = json.loads((path / "info" / "metadata").read_text())
        digest, version, number = info.pop("digest"), info["format"], info["step"]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged, incomplete, or not a checkpoint of gradchain: {_told(error)}") from error
    if version != FORMAT:
        raise ValueError(f"{path} has format {version!r}; this version of gradchain reads {FORMAT}")
    if digest != _digest(info):
        raise ValueError(f"{path} is damaged: its description isn't the one that was written")
    if number != step:
        raise ValueError(f"{path} was renamed: it was saved as step {number}")
    leaves = {name: Leaf(tuple(shape), *rest) for name, (shape, *rest) in info["leaves"].items()}
    return Contents(step, leaves, info["metadata"], frozenset(info.get("in_host", ())))


def restored(folder: Any, saved: Contents, like: Tree, partial: bool = False) -> Tree:
    """Return a checkpoint's arrays, or some of them if ``partial``, in the structure of ``like`` and on its shardings.

    Raises:
      ValueError: if they don't fit ``like``, or are damaged.
    """
    path = folder / str(saved.step)
    leaves, structure = _named(like)
    _check_fit(path, leaves, saved.leaves, partial)
    wanted = {name: leaf for name, leaf in leaves.items() if np.prod(np.shape(leaf))}
    arrays = _read(path, wanted) if wanted else {}
    sums = dict(zip(arrays, checksums(list(arrays.values())), strict=True))
    if wrong := [name for name, x in sums.items() if x != saved.leaves[name].checksum]:
        raise ValueError(f"{path} is damaged: other bits than were saved in {', '.join(wrong)}")
    found = {name: _as(leaf, arrays[name]) if name in arrays else _empty(leaf) for name, leaf in leaves.items()}
    return structure.unflatten([_in_memory(leaf, found[name], name in saved.in_host) for name, leaf in leaves.items()])


def _in_memory(leaf: Any, x: Any, was_in_host: bool) -> Any:
    """Return ``x`` in the memory that ``leaf`` demands; in that which it was saved from, where that demands none."""
    demands_none = isinstance(leaf, jax.ShapeDtypeStruct) and leaf.sharding is None
    to_host = was_in_host if demands_none else in_host_memory(leaf)
    return x if to_host == in_host_memory(x) else move(x, to_host)


def _named(tree: Tree) -> tuple[dict[str, Any], Any]:
    pairs, structure = jax.tree_util.tree_flatten_with_path(tree)
    return {show_path(path): leaf for path, leaf in pairs}, structure


def _data(leaf: Any) -> Any:
    """Return a leaf as an array: a key's data, a Python number as NumPy stores it.

    Where there are several processes, what each has for itself is NumPy's, of which orbax takes the first process's.
    """
    if is_key(leaf):
        leaf = jax.random.key_data(leaf)
    if isinstance(leaf, jax.Array) and (jax.process_count() == 1 or not leaf.is_fully_addressable):
        return leaf
    return np.asarray(leaf)


def _described(leaf: Any) -> tuple[list[int], str]:
    leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    return list(leaf.shape), str(leaf.dtype)


def _digest(info: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(info, sort_keys=True).encode()).hexdigest()


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:300]}"


def _check_fit(path: Any, wanted: Mapping[str, Any], saved: Mapping[str, Leaf], partial: bool) -> None:
    problems = [f"{name} is missing from the checkpoint" for name in wanted if name not in saved]
    problems += [f"{name} is in the checkpoint alone" for name in saved if name not in wanted and not partial]
    for name in [name for name in wanted if name in saved]:
        shape, dtype = _described(wanted[name])
        if (tuple(shape), dtype) != saved[name][:2]:
            problems.append(f"{name} is {saved[name]} in the checkpoint, but {dtype}{shape} was asked for")
    if problems:
        listed = "\n  ".join(problems)
        raise ValueError(f"{path} doesn't fit the tree to load into:\n  {listed}")


def _read(path: Any, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arrays by path, as they lie in the checkpoint, onto the shardings wanted."""
    ocp = orbax()
    how = {name: _restore_args(ocp, leaf) for name, leaf in wanted.items()}
    args = ocp.args.PyTreeRestore(item=dict.fromkeys(wanted, 0), restore_args=how, partial_restore=True)
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            return dict(checkpointer.restore(path / "tree", args=args))
    except Exception as error:
        raise ValueError(f"{path} is damaged or incomplete: {_told(error)}") from error


def _restore_args(ocp: Any, leaf: Any) -> Any:
    sharding = None if is_key(leaf) else _placement(leaf)
    if sharding is None:
        return ocp.RestoreArgs(restore_type=np.ndarray)
    return ocp.ArrayRestoreArgs(sharding=sharding, global_shape=leaf.shape)


def _placement(leaf: Any) -> Any:
    """Return the sharding that a leaf demands: none if JAX may put it where it likes."""
    if isinstance(leaf, jax.Array):
        return leaf.sharding if leaf.committed else None
    return getattr(leaf, "sharding", None)


def _as(leaf: Any, x: Any) -> Any:
    """Return what was read as what ``leaf`` is: a key, a NumPy array, a Python number, a weakly typed one."""
    if is_key(leaf):
        keys = jax.random.wrap_key_data(jnp.asarray(x), impl=key_impl(leaf))
        return keys if _placement(leaf) is None else jax.device_put(keys, _placement(leaf))
    if isinstance(leaf, np.ndarray | np.generic):
        return x if isinstance(leaf, np.ndarray) else x[()]
    if not hasattr(leaf, "dtype"):
        return x.item()
    if isinstance(x, jax.Array):
        return x
    return jnp.asarray(x.item() if leaf.weak_type and not leaf.shape else x)


def _empty(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray) or _placement(leaf) is None:
        return (np if isinstance(leaf, np.ndarray) else jnp).zeros(leaf.shape, leaf.dtype)
    return jax.device_put(jnp.zeros(leaf.shape, leaf.dtype), _placement(leaf))

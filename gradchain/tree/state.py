"""Access to parts of an optimizer's state by name, whatever combinators they are nested in."""

import builtins
import dataclasses
import itertools
import re
from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any, NamedTuple

import jax
from jax.tree_util import DictKey, GetAttrKey, keystr

from gradchain.signatures import public
from gradchain.tree.alignment import T, Tree, children, under

Path = tuple[Any, ...]
Filter = Callable[[Path, Any], bool]
SHOWN = 30
"""How many names an error lists."""
OTHER_STATES = ("ApplyEvery",)
"""States of Optax that aren't called so."""


@public
@dataclasses.dataclass(frozen=True)
class NamedTupleKey:
    """The step of a path into a NamedTuple's field: what a ``filtering`` function may look at.

    Args:
      tuple_name: the class's name, such as ``ScaleByAdamState``.
      name: the field's.
    """

    tuple_name: str
    name: str

    def __str__(self) -> str:
        return f"{self.tuple_name}.{self.name}"


class Node(NamedTuple):
    """One node of a state: a leaf, or a tree of them."""

    path: Path
    address: str
    value: Any
    is_field: bool
    """Whether it is a field of a transform's state."""
    is_leaf: bool
    stage: str
    """The innermost transform's name with its labels; "" outside of any."""
    within: Path
    """The path from that transform's state, or from the root."""


class _Around(NamedTuple):
    """What lies around a node."""

    labels: str
    in_state: bool = False
    in_rule: bool = False
    stage: str = ""
    start: int = 0
    """How long the path to the stage's state is."""


def _children(node: Any, path: Path) -> tuple[list[tuple[Path, Any]], Any]:
    """Return a node's children with their paths, and the treedef that puts them together again."""
    pairs, treedef = children(node)
    if hasattr(node, "_fields"):
        pairs = [(NamedTupleKey(type(node).__name__, key.name), child) for key, child in pairs]
    return [((*path, key), child) for key, child in pairs], treedef


def transform_name(node: Any) -> str | None:
    """Return the name of the transform whose state this is, or None: states are NamedTuples called ``...State``."""
    if not hasattr(node, "_fields") or not type(node).__name__.endswith(("State", *OTHER_STATES)):
        return None
    name, _, rest = type(node).__qualname__.rpartition(".")
    if rest == "State":
        return name  # a rule's, which is called after its function
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(node).__name__.removesuffix("State")).lower()


def numbered(name: str, taken: Container[str]) -> str:
    """Return ``name``, or ``name_2``, ``name_3`` and so on: the first that isn't taken."""
    return _first_free(name, taken, 1)[1]


def _first_free(name: str, taken: Container[str], start: int) -> tuple[int, str]:
    """Return the first number from ``start`` on whose name isn't taken, and that name."""
    names = ((i, f"{name}_{i}" if i > 1 else name) for i in itertools.count(start))
    return next((i, full) for i, full in names if full not in taken)


class Names:
    """Names that differ, each as :func:`numbered` says; no number is tried again."""

    def __init__(self, taken: Iterable[str] = ()):
        self._taken = builtins.set(taken)
        self._last: dict[str, int] = {}

    def add(self, name: str) -> str:
        """Return the name, numbered if it is taken, and take it."""
        self._last[name], full = _first_free(name, self._taken, self._last.get(name, 0) + 1)
        self._taken.add(full)
        return full


def nodes(tree: Tree, label: str = "", taken: Iterable[str] = ()) -> list[Node]:
    """Return all nodes of a state, each with an address such as ``scale_by_adam.mu['layer']['kernel']``.

    A transform's state has the transform's name, after the dict keys (labels) around it; what is in it, its path from
    there. So names are those of ``hyperparams``, whatever tuples and wrappers lie between; but labels that the state
    doesn't show, such as ``outer`` in ``lookahead``, are missing, and the second of one name has a number instead.

    Args:
      tree: the state.
      label: what the transforms' names begin with.
      taken: names that are not to be given again.
    """
    names = Names(taken)

    def visit(path: Path, node: Any, address: str, around: _Around) -> Iterator[Node]:
        name = None if around.in_rule else transform_name(node)
        if name is not None:
            address = names.add(f"{around.labels}{name}")
            around = around._replace(stage=address, start=len(path))
        children, treedef = _children(node, path)
        is_leaf = jax.tree_util.treedef_is_leaf(treedef)
        is_field = around.in_state and name is None
        yield Node(path, address, node, is_field, is_leaf, around.stage, path[around.start :])
        in_rule = around.in_rule or (name is not None and type(node).__qualname__.endswith(".State"))
        for child_path, child in [] if is_leaf else children:
            key = child_path[-1]
            labels = f"{around.labels}{key.key}." if isinstance(key, DictKey) else around.labels
            below = around._replace(labels=labels, in_state=name is not None, in_rule=in_rule)
            yield from visit(child_path, child, _joined(address, key), below)

    return list(visit((), tree, "", _Around(label)))


def _joined(address: str, key: Any) -> str:
    if isinstance(key, NamedTupleKey | GetAttrKey):
        return f"{address}.{key.name}" if address else key.name
    return address + keystr((key,))


def _find(tree: Tree, key: Any, filtering: Filter | None) -> tuple[list[Node], list[Node]]:
    """Return the nodes that a key or an address selects, and all nodes."""
    every = nodes(tree)
    found = [node for node in every if _has_key(node, key)]
    if not found and isinstance(key, str):
        found = [node for node in every if node.address == key]
        tail = key if key.startswith("[") else f".{key}"
        found = found or [node for node in every if node.address.endswith(tail)]
    if filtering is not None:
        found = [node for node in found if filtering(node.path, node.value)]
    return found, every


def _has_key(node: Node, key: Any) -> bool:
    last = node.path[-1] if node.path else None
    own = getattr(last, "name", getattr(last, "key", None))
    named = hasattr(node.value, "_fields") and type(node.value).__name__ == key
    return named or (own is not None and own == key)


def _is_address(key: Any) -> bool:
    return isinstance(key, str) and ("." in key or "[" in key)


def _unknown(where: str, key: Any, every: list[Node], filtering: Filter | None) -> KeyError:
    """Return the error for what isn't there: it lists the parameters of the field that was meant, or all fields."""
    field = str(key).partition("[")[0]
    meant = [n for n in every if n.is_field and field and f".{n.address}".endswith(f".{field}")]
    names = [n.address for n in every if n.is_leaf and any(n.address.startswith(f"{m.address}[") for m in meant)]
    names = names or [n.address for n in every if n.is_field]
    names = names or [n.address for n in every if n.path and n.is_leaf]
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    passing = " that passes the filter" if filtering is not None else ""
    there = f"there is: {', '.join(names[:SHOWN])}{rest}" if names else "the tree is empty"
    return KeyError(f"{where}: nothing is called {key!r}{passing}; {there}")


@public
def get_all_with_path(tree: Tree, key: Any, filtering: Filter | None = None) -> list[tuple[Path, Any]]:
    """Return all parts of a state that a key selects, as pairs of a path and a value, from the outermost inward.

    Args:
      tree: a state, or any tree.
      key: a NamedTuple's field or class name, a dict's key, or an address: see :func:`get`.
      filtering: keep only the parts for which ``filtering(path, value)`` holds. A path is a tuple of keys as in
        ``jax.tree_util``, but for NamedTuples :class:`NamedTupleKey`, which tells the class too.
    """
    return [(node.path, node.value) for node in _find(tree, key, filtering)[0]]


@public
def get(tree: Tree, key: Any, default: Any = None, filtering: Filter | None = None) -> Any:
    """Return the part of a state that a key or an address selects.

    An *address* is a transform's name as ``hyperparams`` lists it, then a field, then a parameter's path:
    ``scale_by_adam``, ``scale_by_adam.mu``, ``scale_by_adam.mu['layer']['kernel']``. The second state of one name is
    ``trace_2``; labels of ``named_chain`` come first. Leading parts of an address may be left out, as long as the rest
    is unambiguous. States of Optax's transforms are named in the same way (``ScaleByAdamState`` is ``scale_by_adam``).

    Args:
      tree: a state, or any tree.
      key: as in Optax, a NamedTuple's field (``"mu"``) or class name (``"ScaleByAdamState"``) or a dict's key; or an
        address.
      default: what to return if nothing matches.
      filtering: keep only the parts for which ``filtering(path, value)`` holds, as in :func:`get_all_with_path`.

    Raises:
      KeyError: if several parts match, listing them; if an address (anything with a dot or bracket) matches nothing and
        there is no default, listing the addresses. A plain key that is missing gives ``default``, as in Optax.

    Example:
      >>> state = adam(1e-3).init({"layer": {"kernel": jnp.ones(2)}})
      >>> tree.get(state, "scale_by_adam.mu['layer']['kernel']")
      Array([0., 0.], dtype=float32)
    """
    found, every = _find(tree, key, filtering)
    if len(found) > 1:
        addresses = ", ".join(n.address or "(the root)" for n in found[:SHOWN])
        raise KeyError(f"tree.get: {key!r} fits several: {addresses}; give one of these, or use get_all_with_path")
    if found:
        return found[0].value
    if default is None and _is_address(key):
        raise _unknown("tree.get", key, every, filtering)
    return default


@public
def set(tree: T, filtering: Filter | None = None, /, **kwargs: Any) -> T:
    """Return a copy of a state with parts replaced.

    Args:
      tree: a state, or any tree.
      filtering: replace only parts for which ``filtering(path, value)`` holds, as in :func:`get_all_with_path`.
      **kwargs: new values by key or address, as in :func:`get`. All matching parts are replaced. Values are not
        converted: a Python number in place of an array changes the state's dtypes.

    Raises:
      KeyError: if a key matches nothing, listing what there is.

    Example:
      >>> state = adam(1e-3).init({"layer": {"kernel": jnp.ones(2)}})
      >>> state = tree.set(state, count=jnp.int32(0), **{"scale_by_adam.mu['layer']['kernel']": jnp.zeros(2)})
    """
    replacements: dict[Path, Any] = {}
    for key, value in kwargs.items():
        found, every = _find(tree, key, filtering)
        if not found:
            raise _unknown("tree.set", key, every, filtering)
        replacements |= dict.fromkeys((node.path for node in found), value)

    def rebuild(path: Path, node: Any) -> Any:
        if path in replacements:
            return replacements[path]
        children, treedef = _children(node, path)
        if jax.tree_util.treedef_is_leaf(treedef):
            return node
        return treedef.unflatten([rebuild(child_path, child) for child_path, child in children])

    return rebuild((), tree)


@jax.tree_util.register_static
class Placeholder:
    """Stands for a whole tree of parameters when :func:`map_params` asks for the shape of a state."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Placeholder)

    def __hash__(self) -> int:
        return hash(Placeholder)


def _is_placeholder(x: Any) -> bool:
    return isinstance(x, Placeholder)


@public
def map_params(
    initable: Any,
    f: Callable[..., Any],
    state: Any,
    /,
    *rest: Any,
    transform_non_params: Callable[..., Any] | None = None,
    is_leaf: Callable[[Any], bool] | None = None,
) -> Any:
    """Map a function over all trees in a state that have the structure of the parameters (moments, averages, ...).

    Args:
      initable: the transform, or its ``init``.
      f: called as ``f(leaf, *leaves_of_rest)`` for each leaf of each such tree.
      state: the state.
      *rest: trees shaped like the parameters, or prefixes of such trees: shardings, for example. They are matched by
        path. ``f`` isn't called for parameters that have no state, such as masked ones.
      transform_non_params: called on all other leaves (counts, keys); by default they are unchanged.
      is_leaf: as in ``jax.tree.map``, for the trees that are mapped over.

    Example:
      >>> tree.map_params(tx, lambda _, spec: spec, tx.init(params), specs, transform_non_params=lambda _: P())
    """
    skeleton = getattr(initable, "init", initable)(Placeholder())

    def leaf(place: Any, value: Any) -> Any:
        if _is_placeholder(place):
            leaves, treedef = jax.tree.flatten(value, is_leaf=is_leaf)
            columns = [under(treedef, own, "the state", "the tree beside it") for own in rest]
            return treedef.unflatten([f(*each) for each in zip(leaves, *columns, strict=True)])
        return value if transform_non_params is None else transform_non_params(value)

    return jax.tree.map(leaf, skeleton, state, is_leaf=_is_placeholder)

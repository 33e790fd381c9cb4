"""How trees fit each other: paths as code, ``None`` as a leaf, and errors that name the first difference."""

import math
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from gradchain.signatures import public

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # typing's takes a default from Python 3.13 on

    T = TypeVar("T", default=Any)
    S = TypeVar("S", default=Any)
else:
    T = typing.TypeVar("T")
    S = typing.TypeVar("S")

Tree = Any
"""Any pytree of arrays. ``T`` is one whose type is followed from argument to result, ``S`` a state likewise."""


@public
def show_path(path: Any) -> str:
    """Return a leaf's path as ``['block']['kernel']``; "(the whole tree)" for an empty one."""
    return jax.tree_util.keystr(path) or "(the whole tree)"


def is_array(x: Any) -> bool:
    """Return whether a leaf has a shape and a dtype: an array, or what stands for one."""
    return hasattr(x, "shape") and hasattr(x, "dtype")


def is_array_like(x: Any) -> bool:
    """Return whether a leaf is an array, what stands for one, or a Python number."""
    return hasattr(x, "dtype") or isinstance(x, int | float | complex)


def is_float0(x: Any) -> bool:
    """Return whether a leaf is what JAX gives for the derivative by a whole number, a bool or a key: nothing."""
    return getattr(x, "dtype", None) == jax.dtypes.float0


def without_float0(tree: Tree) -> Tree:
    """Return a tree of updates with ``None`` for derivatives that don't exist, ``float0`` to JAX."""
    if not any(map(is_float0, jax.tree.leaves(tree))):
        return tree
    return jax.tree.map(lambda x: None if is_float0(x) else x, tree)


def inexact(tree: Tree) -> Tree:
    """Return a tree with ``None`` for whole numbers, bools and keys, which have no gradient."""

    def leaf(x: Any) -> Any:
        if not is_array_like(x):
            return x
        return x if jnp.issubdtype(x.dtype if is_array(x) else jnp.result_type(x), jnp.inexact) else None

    return jax.tree.map(leaf, tree)


def is_key(x: Any) -> bool:
    """Return whether a leaf is an array of typed PRNG keys, or what stands for one."""
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def key_impl(keys: Any) -> Any:
    """Return the algorithm of PRNG keys, which JAX tells of keys but not of their shapes."""
    found: list[Any] = []
    jax.eval_shape(lambda x: found.append(jax.random.key_impl(x)), keys)
    return found[0]


def bytes_of(x: Any, shape: tuple[int, ...] | None = None) -> int:
    """Return the bytes of an array, of PRNG keys those of their data; ``shape`` is that of a part of it."""
    item = x.dtype.itemsize
    if is_key(x):
        data = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct((), x.dtype))
        item = math.prod(data.shape) * data.dtype.itemsize
    return math.prod(x.shape if shape is None else shape) * item


def kinds(arrays: Tree) -> tuple[list[Any], Callable[[Sequence[Any]], Tree]]:
    """Return the different ones among arrays by shape, dtype and layout, and what makes a tree of a value for each.

    What is only asked for shapes is so computed once for all arrays of one kind.
    """
    leaves, treedef = jax.tree.flatten(arrays)
    found: dict[Any, int] = {}
    first: list[Any] = []
    numbers: list[int] = []
    for x in leaves:
        kind = jnp.shape(x), x.dtype, getattr(x, "weak_type", False), getattr(x, "sharding", None)
        if kind not in found:
            found[kind] = len(first)
            first.append(x)
        numbers.append(found[kind])
    return first, lambda values: treedef.unflatten([values[i] for i in numbers])


def same_leaves(tree_x: Tree, tree_y: Tree) -> bool:
    """Return whether two trees hold the very same leaves, in the same order."""
    return all(x is y for x, y in zip(jax.tree.leaves(tree_x), jax.tree.leaves(tree_y), strict=True))


def _is_none(x: Any) -> bool:
    return x is None


@public
def flatten_optional(tree: Tree) -> tuple[list[Any], Any]:
    """Flatten with ``None`` as a leaf, so that trees with ``None`` in different places still align."""
    return jax.tree.flatten(tree, is_leaf=_is_none)


@public
def map_optional(function: Callable[..., Any], tree: Tree, other: Tree, where: str) -> Tree:
    """Map ``function(path, x, y)`` over ``tree`` and ``other``, with ``None`` in ``tree`` passed on as a leaf."""
    leaves, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_none)
    try:
        others = treedef.flatten_up_to(other)
    except (ValueError, TypeError):
        raise ValueError(f"{where}: {mismatch(tree, other, 'updates', 'params')}") from None
    return treedef.unflatten([function(path, x, y) for (path, x), y in zip(leaves, others, strict=True)])


@public
def overlay(tree: Tree, base: T) -> T:
    """Return ``base`` with the leaves of ``tree``; where ``tree`` has ``None``, what ``base`` has there stays."""
    return map_optional(lambda _, x, y: y if x is None else x, tree, base, "tree.overlay")


class Node(NamedTuple):
    """A node of one tree and its counterpart in another."""

    path: Any
    x: Any
    y: Any
    around: "Node | None"
    """The containers that hold them."""


def _aligned(node: Node) -> Iterator[Node]:
    """Yield all nodes of two trees side by side, paired by the names of keys and fields, whatever holds them."""
    yield node
    if _is_leaf(node.x) or _is_leaf(node.y) or node.x is None or node.y is None:
        return
    (xs, x_type), (ys, y_type) = children(node.x), children(node.y)
    if x_type == y_type:
        pairs = [(key, (x, y)) for (key, x), (_, y) in zip(xs, ys, strict=True)]
    else:
        mine, theirs = ({_name(key): (key, child) for key, child in each} for each in (xs, ys))
        names = {name: key for name, (key, _) in {**theirs, **mine}.items()}
        pairs = [(key, tuple(d.get(name, (key, ABSENT))[1] for d in (mine, theirs))) for name, key in names.items()]
    for key, (x, y) in pairs:
        yield from _aligned(Node((*node.path, key), x, y, node))


ABSENT: Any = object()
"""Stands for what a tree lacks."""


def children(node: Any) -> tuple[list[tuple[Any, Any]], Any]:
    """Return a container's children with their keys, and the treedef that puts them together; a leaf has none."""
    pairs, treedef = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)
    return [(path[0], child) for path, child in pairs if path], treedef


def _name(key: Any) -> str:
    return jax.tree_util.keystr((key,), simple=True)


def _is_leaf(x: Any) -> bool:
    return x is ABSENT or jax.tree_util.all_leaves([x])


def _is_box(x: Any) -> bool:
    """Return whether a node has a value and nothing else, as Flax's variables and partitioned parameters have."""
    found = children(x)[0]
    return [isinstance(key, jax.tree_util.GetAttrKey) and key.name for key, _ in found] == ["value"]


def _lacks(x: Any) -> bool:
    """Return whether there are no leaves."""
    return x is ABSENT or not jax.tree.leaves(x)


def flatten_by_path(treedef: Any, tree: Tree, name: str, name_tree: str) -> list[Any]:
    """Return the parts of ``tree`` under each leaf of ``treedef``, as ``treedef.flatten_up_to(tree)`` does.

    Containers of different types (a dict and a FrozenDict, a dataclass, a NamedTuple; a list and a tuple) are matched
    by their keys, and a box with its content. Where ``tree`` has ``None``, so have all leaves of ``treedef`` under it.
    Leaves of ``tree`` that no leaf of ``treedef`` is above are left out.

    Raises:
      ValueError: naming the first path that ``tree`` lacks.
    """
    return _parts(treedef, tree, name, name_tree, ends=False)


def under(treedef: Any, tree: Tree, name: str, name_tree: str) -> list[Any]:
    """Return ``flatten_by_path``; but ``tree`` may end above leaves of ``treedef``, which then have that leaf."""
    return _parts(treedef, tree, name, name_tree, ends=True)


def _parts(treedef: Any, tree: Tree, name: str, name_tree: str, ends: bool) -> list[Any]:
    try:
        return treedef.flatten_up_to(tree)
    except (ValueError, TypeError):
        numbered = treedef.unflatten(range(treedef.num_leaves))
    parts: list[Any] = [None] * treedef.num_leaves
    for node in _aligned(Node((), numbered, tree, None)):
        above = node.y is not ABSENT and _is_leaf(node.y)
        goes_on = above and not _is_leaf(node.x) and not _is_box(node.x)
        if not _lacks(node.x) and (node.y is ABSENT or (goes_on and not ends)):
            raise ValueError(_difference(node, name, name_tree))
        if above or _is_leaf(node.x):
            for i in [] if node.x is ABSENT else jax.tree.leaves(node.x):
                parts[i] = node.y
    return parts


def spread(treedef: Any, values: Sequence[Any], tree: Tree, name: str, name_tree: str) -> list[Any]:
    """Return for each leaf of ``tree`` the value at the leaf of ``treedef`` above it, by path.

    ``None`` counts as a leaf of ``tree``, and has the value ``None``.

    Raises:
      ValueError: naming the first path that only one of them has.
    """
    found, treedef_tree = dict[int, Any](), jax.tree.structure(tree)
    positions = treedef_tree.unflatten(range(treedef_tree.num_leaves))
    for value, part in zip(values, flatten_by_path(treedef, positions, name, name_tree), strict=True):
        found |= dict.fromkeys(jax.tree.leaves(part), value)
    if len(found) < treedef_tree.num_leaves:
        filled = treedef.unflatten(range(treedef.num_leaves))
        raise ValueError(mismatch(filled, positions, name, name_tree, prefix=True))
    ordered = (found[i] for i in range(len(found)))
    return [None if x is None else next(ordered) for x in flatten_optional(tree)[0]]


@public
def mismatch(tree_x: Tree, tree_y: Tree, name_x: str, name_y: str, prefix: bool = False) -> str:
    """Describe how two trees differ: the first path that only one of them has, or the first containers that differ.

    Args:
      tree_x: a tree.
      tree_y: another.
      name_x: what the first is called.
      name_y: what the second is called.
      prefix: whether the first may end above the second's leaves.
    """
    nodes = list(_aligned(Node((), tree_x, tree_y, None)))
    clashes = [node for node in nodes if _clash(node, prefix)]
    clashes = clashes or [node for node in nodes if node.x is ABSENT or node.y is ABSENT]
    for node in sorted(clashes, key=lambda node: not _has_more(node)):
        return _difference(node, name_x, name_y)
    for node in nodes:
        if type(node.x) is not type(node.y) and not (_is_leaf(node.x) or _is_leaf(node.y)):
            return f"{name_x} and {name_y} differ in structure: {_types(node, name_x, name_y)}"
    return (
        f"{name_x} and {name_y} differ in structure: {name_x} is {jax.tree.structure(tree_x)}, "
        f"{name_y} is {jax.tree.structure(tree_y)}"
    )


def _clash(node: Node, prefix: bool) -> bool:
    """Return whether one of two trees has leaves at a node where the other ends or has nothing."""
    if _lacks(node.x) and _lacks(node.y):
        return False
    if any(z is ABSENT or z is None for z in (node.x, node.y)):
        return not (prefix and node.y is None)
    return _is_leaf(node.x) != _is_leaf(node.y) and not (prefix and _is_leaf(node.x))


def _has_more(node: Node) -> bool:
    """Return whether it is the first tree that has a path which the second lacks."""
    if _lacks(node.x) and _lacks(node.y):
        return node.y is ABSENT
    return _lacks(node.y) or (_is_leaf(node.y) and not _lacks(node.x))


def _difference(node: Node, name_x: str, name_y: str) -> str:
    """Describe a node that only one of two trees has, or where one of them ends."""
    deeper, has, lacks = (node.x, name_x, name_y) if _has_more(node) else (node.y, name_y, name_x)
    below = next(iter(jax.tree_util.tree_leaves_with_path(deeper)), ((), None))[0]
    around = node.around if node.x is ABSENT or node.y is ABSENT else node
    more = f" ({_types(around, name_x, name_y)})" if around and type(around.x) is not type(around.y) else ""
    path = show_path((*node.path, *below))
    return f"{name_x} and {name_y} differ in structure: {has} has {path}, which {lacks} lacks{more}"


def _types(node: Node, name_x: str, name_y: str) -> str:
    x, y = ("an array" if _is_leaf(z) else "None" if z is None else f"of type {type(z).__name__}" for z in node[1:3])
    at = f"at {show_path(node.path)} " if node.path else ""
    return f"{at}{name_x} is {x}, {name_y} {y}"


@public
def match(tree: Tree, like: T, where: str, name: str, name_like: str) -> T:
    """Return ``tree`` in the structure of ``like``, after checking that structure and shapes agree.

    Where ``like`` has ``None``, ``tree`` may hold anything (the static parts of an Equinox model, say); it becomes
    ``None`` too.

    Raises:
      ValueError: naming ``where`` and the path of the first difference.
    """
    if jax.tree.structure(tree) != jax.tree.structure(like):
        treedef = jax.tree.structure(like, is_leaf=_is_none)
        try:
            parts = treedef.flatten_up_to(tree)
        except (ValueError, TypeError):
            raise ValueError(f"{where}: {mismatch(like, tree, name_like, name)}") from None
        wanted = jax.tree.leaves(like, is_leaf=_is_none)
        tree = treedef.unflatten([None if w is None else p for p, w in zip(parts, wanted, strict=True)])
        if jax.tree.structure(tree) != jax.tree.structure(like):
            raise ValueError(f"{where}: {mismatch(like, tree, name_like, name)}")
    for x, y in zip(jax.tree.leaves(tree), jax.tree.leaves(like), strict=True):
        if jnp.shape(x) != jnp.shape(y):
            raise ValueError(f"{where}: {_shape_mismatch(tree, like, name, name_like)}")
    return tree


def _shape_mismatch(tree: Tree, like: Tree, name: str, name_like: str) -> str:
    with_path = jax.tree_util.tree_flatten_with_path(tree)[0]
    for (path, x), y in zip(with_path, jax.tree.leaves(like), strict=True):
        if jnp.shape(x) != jnp.shape(y):
            return f"{show_path(path)} has shape {jnp.shape(x)} in {name} but {jnp.shape(y)} in {name_like}"
    raise AssertionError("unreachable: shapes agree")


@public
def batch_size(tree: Tree, where: str = "batch_size") -> int:
    """Return the length of the first axis that all arrays share; 0 for a tree without any.

    Args:
      tree: a tree of arrays with a leading batch axis.
      where: what error messages begin with.

    Raises:
      ValueError: if an array has no axis, or another length.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    for path, x in leaves:
        if not jnp.shape(x):
            raise ValueError(f"{where}: {show_path(path)} is a scalar and lacks the leading batch axis")
        if len(x) != len(leaves[0][1]):
            (first, like), *_ = leaves
            raise ValueError(
                f"{where}: batch axes differ: {show_path(first)} has shape {jnp.shape(like)}, "
                f"{show_path(path)} has {jnp.shape(x)}"
            )
    return len(leaves[0][1]) if leaves else 0


@public
def one_example(tree: Tree, where: str) -> Tree:
    """Return the shapes and dtypes that remain without the leading batch axis, which all arrays must share."""
    batch_size(tree, where)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x)[1:], jnp.result_type(x)), tree)

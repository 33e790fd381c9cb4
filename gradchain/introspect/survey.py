"""What a transform does with each parameter: the labels, the rules that apply, the bytes of state."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from gradchain.combinators.hidden_matrices import HiddenMatrices
from gradchain.combinators.labels import path_name
from gradchain.combinators.routing import partition
from gradchain.core.rule import Rule
from gradchain.core.transform import Part, Transform
from gradchain.matrices.views import DimensionsKind, view
from gradchain.tree import Placeholder, Tree, flatten_optional
from gradchain.tree.alignment import bytes_of, is_array


class ParameterRow(NamedTuple):
    """What :func:`gradchain.describe` says about one parameter."""

    path: str
    """As ``encoder/layers/0/kernel``."""
    shape: tuple[int, ...]
    dtype: str
    labels: tuple[str, ...]
    """The label in each partition that reaches it, a nested one's after its parent's: ``outer.inner``."""
    transforms: tuple[str, ...]
    """The names of the rules that apply to it, in order."""
    seen_as: str
    """How rules for matrices see it: ``12 of (64, 256)``; empty where there are none."""
    why: str
    """Why it is a hidden matrix or isn't one, where :func:`gradchain.hidden_matrices` decides."""
    state_bytes: int


class Survey:
    """Goes through a transform's parts, and notes for each parameter what applies to it."""

    def __init__(self, params: Tree):
        self.paths = Paths()
        self.params = dict(self.paths.arrays(params))
        self.labels: dict[str, list[str]] = {path: [] for path in self.params}
        self.transforms: dict[str, list[str]] = {path: [] for path in self.params}
        self.views = dict.fromkeys(self.params, "")
        self.reasons = dict.fromkeys(self.params, "")
        self.bytes = dict.fromkeys(self.params, 0)
        self.shared_bytes = 0

    def rows(self) -> Iterator[ParameterRow]:
        """Yield what was noted."""
        for path, x in self.params.items():
            names = tuple(self.labels[path]), tuple(self.transforms[path])
            facts = self.views[path], self.reasons[path], self.bytes[path]
            yield ParameterRow(path, tuple(x.shape), str(x.dtype), *names, *facts)

    def visit(self, tx: Transform, state: Any, params: Tree, label: str) -> None:
        """Note what ``tx`` does with its share of the parameters."""
        if params is None:  # it sees none of them: what a measurement keeps
            self.shared_bytes += size_of(state)
            return
        children = tx.parts(state, params)
        if isinstance(tx, Rule) and not children:
            self.note_rule(tx, state, params)
        else:
            self.note_state(state, params, children)
        self.note_views(tx, params)
        if isinstance(tx, partition.Value) and isinstance(tx.param_labels, HiddenMatrices):
            self.reasons |= {self.owner(path): x.why for path, x in tx.param_labels.readings(params)}
        if not children:
            for path in dict.fromkeys(map(self.owner, active(tx, params, self.paths))):
                self.transforms[path].append(tx.name)
        for child in children:
            below = label
            if isinstance(tx, partition.Value):
                below = f"{label}.{child.name}" if label else child.name
                self.relabel(child.params, label, below)
            self.visit(child.transform, child.state, child.params, below)

    def owner(self, path: str) -> str:
        """Return the path of the parameter that a path leads to, or to a part of: a complex array's real one, say."""
        while path not in self.params:
            path = path.rpartition("/")[0]
        return path

    def relabel(self, params: Tree, old: str, new: str) -> None:
        """Replace a partition's label by that of a partition inside it."""
        for path in dict.fromkeys(self.owner(path) for path, _ in self.paths.arrays(params)):
            self.labels[path] = [label for label in self.labels[path] if label != old] + [new]

    def note_views(self, tx: Transform, params: Tree) -> None:
        """Note how a transform sees arrays as matrices, if it does."""
        for path, x, (axes, dims) in seen_by(tx, params, self.paths):
            if not self.views[self.owner(path)]:  # a rule that per_layer is around sees less than it did
                shape = list(x.shape)
                layers = [shape.pop(axis) for axis in axes]
                self.views[self.owner(path)] = shown(tuple(shape), dims, math.prod(layers))

    def note_rule(self, rule: Rule, state: Any, params: Tree) -> None:
        """Count a rule's slots to their parameters, and the rest of its state to none."""
        pairs, treedef = self.paths(params), flatten_optional(params)[1]
        total = size_of(state)
        for name in rule.spec.slots:
            for (path, _), slot in zip(pairs, treedef.flatten_up_to(getattr(state, name)), strict=True):
                if size := size_of(slot):
                    self.bytes[self.owner(path)] += size
                    total -= size
        self.shared_bytes += total

    def note_state(self, state: Any, params: Tree, children: list[Part]) -> None:
        """Count trees like the parameters to these, and the rest, but for the children's states, to none."""
        if any(state is child.state for child in children):
            return
        own, treedef = flatten_optional(params)
        leaves = jax.tree.leaves(state)
        alike = jax.tree.structure(state) == jax.tree.structure(params)
        if alike and (treedef.num_nodes > 1 or [x.shape for x in leaves] == [x.shape for x in own]):
            for (path, _), x in zip(self.paths.arrays(params), leaves, strict=True):
                self.bytes[self.owner(path)] += size_of(x)
        elif leaves:
            inner = jax.tree.leaves(state, is_leaf=lambda x: x is not state)
            if inner[0] is state:
                self.shared_bytes += size_of(state)
            else:
                for node in inner:
                    self.note_state(node, params, children)


class Paths:
    """Leaves with their paths; ``None`` counts as one. Trees of one structure share them."""

    def __init__(self) -> None:
        self._known: list[tuple[Any, list[str]]] = []

    def __call__(self, tree: Tree) -> list[tuple[str, Any]]:
        """Return pairs of a path and a leaf."""
        leaves, treedef = flatten_optional(tree)
        names = next((names for known, names in self._known if known == treedef), None)
        if names is None:
            pairs = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: x is None)[0]
            names = [path_name(path) for path, _ in pairs]
            self._known.append((treedef, names))
        return [*zip(names, leaves, strict=True)]

    def arrays(self, tree: Tree) -> Iterator[tuple[str, Any]]:
        """Return those of arrays."""
        return ((path, x) for path, x in self(tree) if is_array(x))


def seen_by(tx: Transform, params: Tree, paths: Paths) -> Iterator[tuple[str, Any, tuple[Any, Any]]]:
    """Yield the path of each array that a transform sees as matrices, the array, its layer axes and dimensions."""
    rule = tx.unlayered if isinstance(tx, Rule) else tx
    fields = ((name, kind, value) for name, kind, value in rule.fields() if isinstance(kind, DimensionsKind))
    field, kind, value = next(fields, (None, None, None))
    if field is None or kind is None or params is None or isinstance(params, Placeholder):
        return
    if isinstance(tx, Rule):
        found = [(own.axes, dict(own.fields)[field]) for own in tx.declarations(params)]
    else:
        found = [((), dims) for dims in kind.resolve(f"{tx.name}: {field}", value, params)]
    for (path, x), one in zip(paths(params), found, strict=True):
        if is_array(x) and (one[1] is not None or (isinstance(tx, Rule) and x.ndim - len(one[0]) == 2)):
            yield path, x, one


def shown(shape: tuple[int, ...], dims: Any, layers: int) -> str:
    """Return a view as ``36 of (64, 64)``, blocks counted where they are equal."""
    if isinstance(dims, str):
        return f"axes of {f'{layers} of ' if layers != 1 else ''}{shape}"
    seen = view(shape, dims)
    count, blocks = layers * math.prod(seen.batch), len(seen.row_blocks) * len(seen.column_blocks)
    if len({*seen.row_blocks}) == len({*seen.column_blocks}) == 1:
        size, count, parts = (seen.row_blocks[0], seen.column_blocks[0]), count * blocks, ""
    else:
        size, parts = (seen.rows, seen.columns), f" in {blocks} blocks"
    return f"{f'{count} of ' if count != 1 else ''}{size}{parts}"


def active(tx: Transform, params: Tree, paths: Paths) -> list[str]:
    """Return the paths of the arrays that a transform applies to."""
    arrays = [path for path, _ in paths.arrays(params)]
    if not (isinstance(tx, Rule) and arrays):
        return arrays
    pairs = paths(params)
    return [path for (path, _), on in zip(pairs, tx.active(params, len(pairs)), strict=True) if on]


def size_of(state: Any) -> int:
    """Return the bytes of all arrays in a tree."""
    return sum(map(bytes_of, jax.tree.leaves(state)))

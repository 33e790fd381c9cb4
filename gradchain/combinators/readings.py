"""How arrays of models are seen as matrices, by their names, shapes and modules: Flax, Haiku, Equinox, plain dicts."""

import dataclasses
import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax

from gradchain.combinators import names
from gradchain.combinators.names import match, stem
from gradchain.matrices.views import MuonDimensionNumbers, axes_of
from gradchain.tree import Tree

GATES = {"LSTMCell": 4, "GRUCell": 3}
EACH_HEAD, HEADS_TOGETHER = "attention, each head by itself", "attention, heads together"
LARGEST_KERNEL = 16
"""The largest side of a square filter, where only shapes tell a convolution."""


class Reading(NamedTuple):
    """How an array is seen, and why."""

    dims: MuonDimensionNumbers | str | None
    """``None`` for what isn't a hidden matrix."""
    why: str
    role: Literal["vector", "embedding", "output"] | None = None
    """What it is instead of a hidden matrix, if that is known."""

    @property
    def outer(self) -> bool:
        """Whether it is an embedding or an output layer."""
        return self.role in ("embedding", "output")

    def after(self, axes: int, why: str) -> "Reading":
        """Return the reading of an array that has further axes before this one's."""
        if not isinstance(self.dims, MuonDimensionNumbers):
            return self
        inputs, outputs = (tuple(axis + axes for axis in axes_of(x)) for x in self.dims[:2])
        return Reading(_dims(inputs, outputs, *self.dims[2:]), f"{self.why}, {why}")


class Module(NamedTuple):
    """What one of Equinox's own modules says about its arrays."""

    kind: str
    """The name of its class."""
    spatial: int | None = None
    """The number of spatial dimensions of a convolution."""
    groups: int = 1
    heads: int = 1


@dataclasses.dataclass(frozen=True)
class Place:
    """What is known of an array: its names, its shape, the modules around it."""

    names: tuple[str, ...]
    """From the root, in lower case."""
    shape: tuple[int, ...]
    per_head: bool
    modules: tuple[Module, ...] = ()
    """Equinox's own, from the root."""
    axes_beside: int = 0
    """The most axes of an array in the same module."""
    is_layer: bool = False
    """Whether it is that of one layer, so that none of its axes is one of layers."""

    @property
    def leaf(self) -> str:
        """The array's own name."""
        return self.names[-1] if self.names else ""

    @property
    def near(self) -> tuple[str, ...]:
        """The last three names, without numbers."""
        return tuple(name for name in self.names if not name.isdigit() and name != "~")[-3:]

    @property
    def layer(self) -> str:
        """The name that says what kind of layer it is: the one above, or its own if that says more."""
        return "".join(self.near[:-1][-1:]) if self.leaf in names.KERNELS else self.leaf

    @property
    def by_outputs(self) -> bool:
        """Whether the outputs come first, as PyTorch and Equinox store weights."""
        return self.leaf.startswith("weight")


@functools.lru_cache(maxsize=4096)
def read(place: Place, stacked: bool | None) -> Reading:
    """Return how an array is seen; ``stacked`` says whether its first axis is one of layers, if that is known."""
    if len(place.shape) < 2 + bool(stacked):
        return Reading(None, "a number" if not place.shape else "a vector", "vector")
    if place.modules:
        return _read_equinox(place)
    if outside := _outside(place):
        return outside
    held = stack_of(place) is not None if stacked is None else stacked
    if held:
        if stacked is None and _may_be_a_filter(place):
            return Reading(None, "unclear: a stack of filters, or one filter")
        rest = dataclasses.replace(place, shape=place.shape[1:], is_layer=True)
        return _sized(place, _layout(rest).after(1, "stacked"))
    return _sized(place, _layout(place))


def _may_be_a_filter(place: Place) -> bool:
    return "conv" in place.layer and len(place.shape) == 4 and place.shape[0] == place.shape[1]


def _outside(place: Place) -> Reading | None:
    """Return the reading of an array that isn't inside the network, ``None`` if its names don't say so."""
    if names.is_vector(place.leaf, len(place.shape), place.axes_beside):
        return Reading(None, "a bias or a scale", "vector")
    if place.leaf != "kernel" and match([place.layer, *place.near[-2:-1]], names.NORMS):
        return Reading(None, "of a normalisation", "vector")
    if match(place.near, names.EMBEDDINGS):
        return Reading(None, "an embedding", "embedding")
    return Reading(None, "an output layer", "output") if _is_output(place) else None


def _is_output(place: Place) -> bool:
    """Return whether a name among the last says so, and none before it that it is inside a block."""
    outer = [i for i, name in enumerate(place.names) if name in place.near and _is_head(name)]
    if not outer or (place.names[outer[0]] == "out" and len(place.shape) > 2):
        return False
    return not _in_block(place.names[: outer[0]])


def _is_head(name: str) -> bool:
    return match([name], names.OUTPUTS) and not match([name], names.NOT_OUTPUTS)


def _in_block(path: Iterable[str]) -> bool:
    return any(name.isdigit() or match([stem(name)], names.BLOCKS) for name in path)


def is_inside(place: Place) -> bool:
    """Return whether an array is in a block of layers, and so can't be the network's output."""
    return _in_block(place.names[:-1])


def is_embedding(place: Place) -> bool:
    """Return whether an array is a table of embeddings."""
    named = place.leaf in ("embedding", "embeddings") or (place.modules and place.modules[-1].kind == "Embedding")
    return len(place.shape) == 2 and bool(named)


def stack_of(place: Place) -> tuple[str, ...] | None:
    """Return the path of the stack of layers that an array is in by its names, if there are axes enough."""
    if len(place.shape) < 3 and match([place.leaf], (*names.KERNELS, "w*", "*_proj", "*weight")):
        return None
    for i, (name, after) in enumerate(zip(place.names, (*place.names[1:], ""), strict=True)):
        lifted = after and re.match(r"(scan|vmap|checkpointscan)[a-z]", name)
        if lifted or (match([name], names.STACKS) and name == stem(name) and not after.isdigit()):
            return place.names[: i + 1]
    return None


def beside(places: Sequence[Place]) -> list[Place]:
    """Return places that know the most axes of an array in the same module."""
    axes: dict[tuple[str, ...], int] = {}
    for place in places:
        axes[place.names[:-1]] = max(axes.get(place.names[:-1], 0), len(place.shape))
    return [dataclasses.replace(place, axes_beside=axes[place.names[:-1]]) for place in places]


def _layout(place: Place) -> Reading:
    """Return how an array inside the network is seen."""
    if len(place.shape) < 2:
        return Reading(None, "a vector for each layer", "vector")
    if match(place.names, names.EXPERTS) and len(place.shape) == 3:
        return _matrix(place, 1, "experts")
    for look in (_einsum, _convolution, _fused, _filter, _gates, _projection):
        if found := look(place):
            return found
    if len(place.shape) == 2:
        return _matrix(place, 0, "two axes")
    return Reading(None, f"unclear: {len(place.shape)} axes may be layers, heads or a filter")


def _einsum(place: Place) -> Reading | None:
    """Return how Gemma's projections are seen, whose names say what their axes are."""
    inputs, outputs, heads = names.EINSUMS.get(place.layer, ((), (), None))
    if not inputs or len(place.shape) != 1 + max(outputs):
        return None
    if place.per_head:
        inputs, outputs = (tuple(axis for axis in axes if axis != heads) for axes in (inputs, outputs))
    if heads is None:
        return Reading(_dims(inputs, outputs), "gate and input along an axis")
    return Reading(_dims(inputs, outputs), EACH_HEAD if place.per_head else HEADS_TOGETHER)


def _convolution(place: Place) -> Reading | None:
    """Return how filters of a convolution are seen that is called one."""
    if len(place.shape) == 2 or "conv" not in place.layer:
        return None
    if "local" in place.layer:
        return Reading(None, "filters that differ from place to place")
    return _of_window(place)


def _filter(place: Place) -> Reading | None:
    """Return how filters of a convolution are seen that only their shape tells."""
    sides = place.shape[-2:] if place.by_outputs else place.shape[:2]
    square = place.leaf in names.KERNELS and len(place.shape) == 4 and sides[0] == sides[1] <= LARGEST_KERNEL
    return _of_window(place) if square else None


def _of_window(place: Place) -> Reading | None:
    shape, ndim = place.shape, len(place.shape)
    told = re.search(r"conv(?:_?transpose)?_?([123])_?d", place.layer)
    spatial = int(told[1]) if told else min(ndim - 2, 3)
    batch = ndim - 2 - spatial
    if batch < 0 or batch > 1:
        return None
    filters = MuonDimensionNumbers(tuple(range(spatial + 1)), spatial + 1)
    if place.by_outputs:
        filters = MuonDimensionNumbers((*range(2, spatial + 2), 1), 0)
    elif place.leaf == "w" and "transpose" in place.layer:  # Haiku's have the outputs last but one
        filters = MuonDimensionNumbers((*range(spatial), spatial + 1), spatial)
    inputs = axes_of(filters.reduction_axis)[-1] + batch
    if "depthwise" in place.layer or shape[inputs] == 1:
        return Reading(None, "a depthwise convolution" if "depthwise" in place.layer else "one input channel")
    found = Reading(filters, "a convolution")
    return found.after(1, "stacked") if batch else found


def _fused(place: Place) -> Reading | None:
    """Return how several projections in one array are seen: side by side, or along an axis of their own."""
    found = ((parts, what) for patterns, parts, what in names.FUSED if match([place.layer], patterns))
    parts, what = next(found, (0, ""))
    if not parts or len(place.shape) not in (2, 3, 4):
        return None
    if len(place.shape) == 2:
        rows, columns = reversed(place.shape) if place.by_outputs else place.shape
        if columns == parts * rows or (parts == 2 and columns % 2 == 0):
            return _matrix(place, 0, f"{what} side by side", blocks=parts)
        return _matrix(place, 0, f"{what} side by side, of unknown widths: as one")
    if parts not in place.shape[1:-1] or place.by_outputs:
        return None
    along = 1 + place.shape[1:-1].index(parts)
    outputs = tuple(axis for axis in range(1, len(place.shape)) if axis != along)
    return Reading(_dims((0,), outputs[-1:] if place.per_head else outputs), f"{what} along an axis")


def _gates(place: Place) -> Reading | None:
    """Return how the gates of Haiku's and NNX's recurrent cells are seen, ``None`` for what isn't one."""
    cell = next((stem(name) for name in place.near[:-1] if stem(name) in ("lstm", "gru")), None)
    gates = {"w": 4, "w_i": 3, "w_h": 3}.get(place.leaf)
    if place.layer in ("dense_i", "dense_h"):
        gates = {"lstm": 4, "gru": 3}.get(cell or "")
    if cell is None or gates is None or len(place.shape) != 2 or place.shape[1] % gates:
        return None
    return _matrix(place, 0, "gates side by side", blocks=gates)


def _projection(place: Place) -> Reading | None:
    """Return how projections of attention with an axis for heads are seen."""
    if len(place.shape) not in (3, 4) or place.by_outputs:
        return None
    into, out_of = names.INTO_HEADS, names.OUT_OF_HEADS
    if place.leaf != "kernel":
        into = out_of = ()
    if len(place.shape) == 3 and _is_of_one_layer(place):
        into, out_of = (*into, *names.ALSO_INTO_HEADS), (*out_of, *names.ALSO_OUT_OF_HEADS)
    if match([place.layer], into):
        axes = (0,), ((2,) if place.per_head else (1, 2))
    elif match([place.layer], out_of):
        axes = ((1,) if place.per_head else (0, 1)), (2,)
    else:
        return None
    found = Reading(_dims(*axes), EACH_HEAD if place.per_head else HEADS_TOGETHER)
    return found if len(place.shape) == 3 else found.after(1, "stacked")


def _is_of_one_layer(place: Place) -> bool:
    """Return whether no axis can be one of layers, since the layer is a single one, or the stack's axis is gone."""
    numbered = any(name.isdigit() or (name != stem(name) and stem(name) in names.LAYERS) for name in place.names)
    return place.is_layer or numbered


def _read_equinox(place: Place) -> Reading:
    """Return how an array in one of Equinox's own modules is seen, which says exactly what it is."""
    kind, spatial, groups, _ = place.modules[-1]
    if not (kind == "Linear" or spatial is not None or kind in GATES) or not place.by_outputs:
        if kind == "Embedding":
            return Reading(None, "an embedding", "embedding")
        return Reading(None, f"equinox.nn.{kind}'s {place.leaf}", "vector")
    batch = len(place.shape) - 2 - (spatial or 0)
    own = dataclasses.replace(place, shape=place.shape[batch:])
    if outside := _outside(own):
        return outside
    if spatial is None:
        gates = _matrix(own, 0, "gates side by side", GATES[kind]) if kind in GATES else None
        found = gates or _fused(own) or _heads_of(own) or _matrix(own, 0, "a linear layer")
    elif own.shape[1] == 1:
        found = Reading(None, "a depthwise convolution" if groups > 1 else "one input channel")
    else:
        dims = _dims((*range(2, spatial + 2), 1), (0,), 1, groups)
        found = Reading(dims, f"a convolution in {groups} groups" if groups > 1 else "a convolution")
    return _sized(place, found.after(batch, "stacked") if batch else found)


def _heads_of(place: Place) -> Reading | None:
    """Return how a projection of Equinox's attention is seen by head, ``None`` if it isn't."""
    heads = next((module.heads for module in place.modules if module.kind == "MultiheadAttention"), 1)
    if heads == 1 or not place.per_head:
        return None
    blocks = (heads, 1) if place.layer == "output_proj" else (1, heads)
    return Reading(_dims((1,), (0,), *blocks), EACH_HEAD)


def _matrix(place: Place, batch: int, why: str, blocks: int = 1) -> Reading:
    axes = (batch + 1, batch) if place.by_outputs else (batch, batch + 1)
    return Reading(MuonDimensionNumbers(*axes, 1, blocks), why)


def _sized(place: Place, found: Reading) -> Reading:
    """Return a reading, unless the matrix has a single row or column."""
    if not isinstance(found.dims, MuonDimensionNumbers):
        return found
    for name, axes in zip(("row", "column"), found.dims[:2], strict=True):
        size = 1
        for axis in axes_of(axes):
            size *= place.shape[axis]
        if size == 1:
            return Reading(None, f"a single {name}")
    return found


def _dims(inputs: tuple[int, ...], outputs: tuple[int, ...], *blocks: Any) -> MuonDimensionNumbers:
    """Return dimension numbers, single axes as numbers."""
    return MuonDimensionNumbers(*(x[0] if len(x) == 1 else x for x in (inputs, outputs)), *blocks)


def located(tree: Tree) -> Iterator[tuple[Any, Any, tuple[Module, ...]]]:
    """Yield (path, leaf, Equinox's own modules around it), in the tree's order."""
    yield from _located(tree, (), ())


def _located(node: Any, above: tuple[Any, ...], modules: tuple[Module, ...]) -> Iterator[Any]:
    if kind := _class(node):
        spatial = getattr(node, "num_spatial_dims", None)
        groups = getattr(node, "groups", 1) if spatial is not None else 1
        modules = (*modules, Module(kind, spatial, groups, getattr(node, "num_heads", 1)))
    pairs = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node and _class(x) is not None)[0]
    for path, x in pairs:
        if x is not node and _class(x):
            yield from _located(x, (*above, *path), modules)
        else:
            yield (*above, *path), x, modules


def _class(x: Any) -> str | None:
    """Return the name of Equinox's class that a node is of, ``None`` for anything else."""
    return next((cls.__name__ for cls in type(x).__mro__ if cls.__module__.startswith("equinox.nn.")), None)

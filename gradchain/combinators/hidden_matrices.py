"""Which arrays of a model are hidden matrices, and optimizers that treat these apart from the rest."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp

from gradchain.combinators.labels import Labels, LayerShape, check_pattern, listed, matches, path_name
from gradchain.combinators.readings import (
    Place,
    Reading,
    beside,
    is_embedding,
    is_inside,
    located,
    read,
    stack_of,
)
from gradchain.combinators.routing import partition
from gradchain.core.foreign import Child, as_transform
from gradchain.core.hyper import FrozenTree
from gradchain.core.transform import Transform
from gradchain.core.value import kind_of
from gradchain.matrices.frames import FrameNumbers
from gradchain.matrices.views import DimensionsKind, MuonDimensionNumbers
from gradchain.signatures import brief, public
from gradchain.tree import Tree
from gradchain.tree.alignment import is_array

DIMENSIONS: Any = kind_of(FrameNumbers)


@dataclasses.dataclass(frozen=True, repr=False)
class HiddenMatrices(Labels):
    """See :func:`hidden_matrices`."""

    patterns: tuple[tuple[str, MuonDimensionNumbers | str | None], ...] = ()
    stacked: tuple[str, ...] = ()
    per_head: bool = False
    matrices: str = "matrices"
    rest: str = "rest"
    embeddings: str | None = None

    def over(self, tree: Tree, checked: bool) -> Tree:
        readings = self.readings(tree)
        if checked and readings:
            self.check([path for path, _ in readings])
        return jax.tree.structure(tree).unflatten([self._label(reading) for _, reading in readings])

    def _label(self, reading: Reading) -> str:
        if reading.dims is not None:
            return self.matrices
        return self.embeddings if reading.outer and self.embeddings is not None else self.rest

    def dimension_numbers(self, params: Tree) -> Tree:
        """Return the dimension numbers of each array, ``None`` for what isn't a hidden matrix."""
        return jax.tree.structure(params).unflatten([reading.dims for _, reading in self.readings(params)])

    def readings(self, params: Tree) -> list[tuple[str, Reading]]:
        """Return the path of each leaf, and how it is seen and why."""
        leaves = [*located(params)]
        paths, arrays = [path_name(path) for path, _, _ in leaves], [x for _, x, _ in leaves]
        places = beside([self._place(*leaf) for leaf in leaves])
        found = [self._reading(*each) for each in zip(paths, places, arrays, strict=True)]
        for i in _outputs(places, found):
            if self._pattern(paths[i]) is None:
                found[i] = Reading(None, "an output layer: as many columns as embeddings", "output")
        by_names = [
            place if self._by_names(*each) else None for place, *each in zip(places, paths, arrays, strict=True)
        ]
        for i in _of_no_stack(by_names, found):
            found[i] = Reading(None, "unclear: a stack whose first axes differ")
        return list(zip(paths, found, strict=True))

    def check(self, paths: list[str]) -> None:
        for pattern in (*(pattern for pattern, _ in self.patterns), *self.stacked):
            if not any(matches(pattern, path) for path in paths):
                raise ValueError(
                    f"hidden_matrices: pattern {pattern!r} matches no parameter; there are: {listed(paths)}"
                )

    def _pattern(self, path: str) -> int | None:
        return next((i for i, (pattern, _) in enumerate(self.patterns) if matches(pattern, path)), None)

    def _place(self, path: Any, x: Any, modules: tuple[Any, ...]) -> Place:
        last: Any = path[-1] if path else None
        if isinstance(last, jax.tree_util.GetAttrKey) and last.name == "value" and not modules:
            path = path[:-1]  # of the variables that Flax has arrays in
        return Place(
            tuple(path_name(path).lower().split("/")), tuple(x.shape) if is_array(x) else (), self.per_head, modules
        )

    def _reading(self, path: str, place: Place, x: Any) -> Reading:
        index = self._pattern(path)
        if index is not None:
            pattern, dims = self.patterns[index]
            return Reading(dims, f"as {pattern!r} says")
        if not is_array(x) or not jnp.issubdtype(x.dtype, jnp.inexact):
            return Reading(None, "no array of real or complex numbers")
        if self._by_names(path, x):
            return read(place, None)
        return read(place, not isinstance(x, LayerShape))

    def _by_names(self, path: str, x: Any) -> bool:
        """Return whether names alone say what an array is, and whether it is a stack."""
        said = self._pattern(path) is not None or any(matches(pattern, path) for pattern in self.stacked)
        return not said and not isinstance(x, LayerShape)

    def __repr__(self) -> str:
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        first = [repr([*self.patterns])] if given.pop("patterns") else []
        others = [f"{k}={[*v] if isinstance(v, tuple) else v!r}" for k, v in given.items() if v != getattr(DEFAULT, k)]
        return f"hidden_matrices({', '.join(first + others)})"


DEFAULT = HiddenMatrices()


def _outputs(places: Sequence[Place], found: Sequence[Reading]) -> list[int]:
    """Return which matrices are output layers because they alone have as many columns as there are embeddings."""
    sizes = {place.shape[0] for place in places if is_embedding(place)}
    by_size: dict[int, list[int]] = {}
    for i, (place, reading) in enumerate(zip(places, found, strict=True)):
        if reading.dims is not None and len(place.shape) == 2 and not is_inside(place):
            columns = place.shape[0 if place.by_outputs else 1]
            if columns in sizes and columns > place.shape[1 if place.by_outputs else 0]:
                by_size.setdefault(columns, []).append(i)
    return [alike[0] for alike in by_size.values() if len(alike) == 1]


def _of_no_stack(places: Sequence[Place | None], found: Sequence[Reading]) -> list[int]:
    """Return which matrices are in something that isn't a stack along the first axis, whose sizes differ."""
    stacks: dict[tuple[str, ...], dict[int, int]] = {}
    for i, (place, reading) in enumerate(zip(places, found, strict=True)):
        if place is not None and not place.modules and reading.dims is not None and (path := stack_of(place)):
            stacks.setdefault(path, {})[i] = place.shape[0]
    return [i for sizes in stacks.values() if len({*sizes.values()}) > 1 for i in sizes]


@dataclasses.dataclass(frozen=True)
class HasDimensionNumbers:
    """The labels that a function from parameters to dimension numbers stands for."""

    function: Callable[[Tree], Tree]
    matrices: str
    rest: str

    def __call__(self, params: Tree) -> Tree:
        where = "for_hidden_matrices: weight_dimension_numbers's result"
        return _labels(DIMENSIONS.normalize(where, self.function(params)), self.matrices, self.rest).thaw()


def _labels(dims: Any, matrices: str, rest: str) -> Any:
    """Return the labels that dimension numbers stand for."""
    if isinstance(dims, FrozenTree):
        return FrozenTree(tuple(rest if one is None else matrices for one in dims.leaves), dims.treedef)
    if isinstance(dims, HiddenMatrices):
        return dataclasses.replace(dims, matrices=matrices, rest=rest, embeddings=None)
    return HasDimensionNumbers(dims, matrices, rest)


@public
def hidden_matrices(
    patterns: Sequence[tuple[str, MuonDimensionNumbers | str | None]] = (),
    *,
    stacked: Sequence[str] = (),
    per_head: bool = False,
    matrices: str = "matrices",
    rest: str = "rest",
    embeddings: str | None = None,
) -> HiddenMatrices:
    r"""Say which arrays of a model are hidden matrices, and which axes are their rows and columns.

    It goes wherever a transform takes ``weight_dimension_numbers``, and wherever labels go, and is the default of the
    optimizers for matrices, such as :func:`muon`. Parameters of Flax (linen and NNX), Haiku and Equinox are recognised
    by their paths, their shapes and, for Equinox, the modules themselves:

    * vectors, biases, scales, normalisations, embeddings and output layers belong to the rest, whatever their shape;
      what is called ``b`` is a bias only beside weights with more axes. An output layer is recognised by its name
      (``head``, ``lm_head``, ``logits``), or as the only matrix outside of blocks with as many columns as there are
      embeddings. A head that is tied to an embedding is that array;
    * a kernel is (inputs, outputs). A ``weight`` is (outputs, inputs), as Equinox and PyTorch store it;
    * projections of attention with an axis for the heads are one matrix, or one for each head with ``per_head``. Flax's
      names are known (``query``, ``out``), and in single layers others, too (``q_proj``, ``wo``);
    * query, key and value in one array (``qkv``), or gate and input (``gate_up``), are a matrix each;
    * convolutions are matrices (height · width · inputs, outputs). Those with one input channel, depthwise ones among
      them, belong to the rest;
    * layers that are stacked along a first axis, and experts, are batches of matrices.

    What remains unclear, such as a kernel of three axes under an unknown name, belongs to the rest. The reason is in
    ``describe(tx, params).table(by="parameter")``; look at it before a long run, and add patterns where it is wrong.

    Args:
      patterns: pairs of a pattern, as for :func:`by_path`, and what the arrays that it matches are:
        :class:`MuonDimensionNumbers`, ``"axes"`` for rules that treat each axis of an array, or ``None`` for the rest.
        The first match decides.
      stacked: patterns of arrays whose first axis is one of layers. Usual names such as ``layers``, where no number
        follows, and those that Flax and Haiku give, are known.
      per_head: whether each head of attention is a matrix of its own, where the array says what a head is: in Flax's
        and Equinox's own attention, not in Haiku's.
      matrices: label of the matrices.
      rest: label of the rest.
      embeddings: label of embeddings and output layers; by default that of the rest.

    Returns:
      A function from parameters to the tree of their labels. Its method ``dimension_numbers(params)`` returns the tree
      of dimension numbers, with ``None`` for the rest.

    Raises:
      ValueError: from ``init``, for a pattern that matches no parameter.

    Example:
      >>> params = {"layers": {"attn": {"query": {"kernel": jnp.ones((6, 8, 2, 4))}}}, "head": jnp.ones((8, 9))}
      >>> hidden_matrices()(params)
      {'head': 'rest', 'layers': {'attn': {'query': {'kernel': 'matrices'}}}}
      >>> hidden_matrices().dimension_numbers(params)["layers"]["attn"]["query"]["kernel"].output_axis
      (2, 3)
      >>> tx = muon(0.02, muon_weight_dimension_numbers=hidden_matrices([("head", MuonDimensionNumbers())]))
    """
    pairs: list[Any] = [*patterns] if isinstance(patterns, list | tuple) else [patterns]
    for pair in pairs:
        if (
            not isinstance(pair, list | tuple)
            or len(pair) != 2
            or not isinstance(pair[1], MuonDimensionNumbers | str | None)
        ):
            raise TypeError(
                f"hidden_matrices takes pairs of a pattern and MuonDimensionNumbers or None, got {brief(pair)}; "
                "for the labels of parameters, call what it returns: hidden_matrices()(params)"
            )
    if isinstance(stacked, str):
        raise TypeError(f"hidden_matrices: stacked is a list of patterns, got {stacked!r}; write [{stacked!r}]")
    for pattern in (*(pattern for pattern, _ in pairs), *stacked):
        check_pattern("hidden_matrices", pattern)
    given = tuple((pattern, dims and DIMENSIONS.convert(dims)) for pattern, dims in pairs)
    return HiddenMatrices(given, tuple(stacked), per_head, matrices, rest, embeddings)


@public
def for_hidden_matrices(
    tx: Child, rest: Child, weight_dimension_numbers: Any = None, *, labels: tuple[str, str] = ("matrices", "rest")
) -> Transform:
    """Apply one transform to the hidden matrices of a model, and another to the rest.

    It is a :func:`partition` in which every rule of ``tx`` that takes ``weight_dimension_numbers``, and was given none,
    gets those by which the parameters are divided: Flax's projections of attention, Equinox's weights, which have the
    outputs first, and stacked layers are treated as what they are.

    Args:
      tx: for matrices, such as ``chain(scale_by_muon(), scale_by_learning_rate(0.02))``.
      rest: for all other parameters, such as :func:`adamw`.
      weight_dimension_numbers: which parameters are matrices, and how: a tree of :class:`MuonDimensionNumbers`, or
        ``"axes"`` for rules that treat each axis of an array, with ``None`` for the rest; a function from parameters
        to one, or one for all. By default :func:`hidden_matrices`.
      labels: what both groups are called in the names of hyperparameters and in the state.

    Raises:
      ValueError: when it is used, if dimension numbers don't fit the parameters.

    Example:
      >>> tx = for_hidden_matrices(chain(scale_by_muon(), scale_by_learning_rate(0.02)), rest=adamw(1e-3))
    """
    dims = DIMENSIONS.normalize("for_hidden_matrices: weight_dimension_numbers", weight_dimension_numbers)
    dims = hidden_matrices() if dims is None else dims
    matrices = _with_dimensions(as_transform(tx), dims)
    return partition({labels[0]: matrices, labels[1]: rest}, _labels(dims, *labels))


def _with_dimensions(tx: Transform, dims: Any) -> Transform:
    """Return a transform whose rules have dimension numbers where they take some and have none."""
    children, treedef = jax.tree.flatten(tx, is_leaf=lambda x: x is not tx and isinstance(x, Transform))
    new = [_with_dimensions(x, dims) if isinstance(x, Transform) else x for x in children]
    tx = cast(Transform, treedef.unflatten(new))
    given = dims.thaw() if isinstance(dims, FrozenTree) else dims  # whose numbers each rule checks
    taken = {name: given for name, kind, value in tx.fields() if isinstance(kind, DimensionsKind) and value is None}
    return tx.with_fields(**taken) if taken else tx

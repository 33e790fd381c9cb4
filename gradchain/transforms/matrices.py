"""Which axes of an array make up a matrix, for rules that need matrices."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import jax
from jax import Array

from gradchain.core.hyper import PerLeafKind
from gradchain.signatures import public


@public
class MuonDimensionNumbers(NamedTuple):
    """Say which axes of an array are the rows and which the columns of a matrix; all others are batches of matrices.

    Several axes are taken together, in the order given: a projection of attention stored as (features, heads, size) is
    the matrix ``MuonDimensionNumbers(0, (1, 2))``, and ``MuonDimensionNumbers(1, 2)`` a stack of matrices along axis 0.
    """

    reduction_axis: Sequence[int] | int = 0
    """The axis or axes that a layer sums over: the inputs."""
    output_axis: Sequence[int] | int = 1
    """The axis or axes of the outputs."""


GaLoreDimensionNumbers = MuonDimensionNumbers
"""The same, under the name that goes with :func:`~gradchain.galore`."""


def _tuple(axes: Sequence[int] | int) -> tuple[int, ...]:
    return (axes,) if isinstance(axes, int) else tuple(axes)


def _hashable(dims: MuonDimensionNumbers) -> MuonDimensionNumbers:
    return MuonDimensionNumbers(*(axes if isinstance(axes, int) else tuple(axes) for axes in dims))


class View(NamedTuple):
    """How an array is seen as matrices."""

    order: tuple[int, ...]
    """The axes: batches, then rows, then columns."""
    moved: tuple[int, ...]
    """The array's shape in that order."""
    batch: tuple[int, ...]
    rows: int
    columns: int

    def matrices(self, x: Array) -> Array:
        """Return the array as ``(*batch, rows, columns)``."""
        return x.transpose(self.order).reshape(*self.batch, self.rows, self.columns)

    def whole(self, x: Array) -> Array:
        """Return matrices that no device has just a part of; on mesh axes that are explicit, where types tell."""
        spec = jax.typeof(x).sharding.spec
        batch = jax.sharding.PartitionSpec(*spec[:-2], None, None)
        return x if batch == spec else jax.sharding.reshard(x, batch)

    def array(self, x: Array) -> Array:
        """Return matrices as the array that they came from."""
        return x.reshape(self.moved).transpose(sorted(range(len(self.order)), key=lambda i: self.order[i]))


def view(where: str, shape: tuple[int, ...], dims: MuonDimensionNumbers | None) -> View:
    """Return how an array of this shape is seen as matrices.

    Args:
      where: names the transform in error messages.
      shape: the array's.
      dims: its dimension numbers; ``None`` if it is a matrix.

    Raises:
      ValueError: if axes are missing, given twice or don't exist.
    """
    if dims is None and len(shape) != 2:
        raise ValueError(f"{where}: an array of shape {shape} is no matrix; it needs MuonDimensionNumbers")
    dims = dims or MuonDimensionNumbers()
    given = (*_tuple(dims.reduction_axis), *_tuple(dims.output_axis))
    axes = tuple(axis % len(shape) if shape else axis for axis in given)
    if any(not -len(shape) <= axis < len(shape) for axis in given) or len({*axes}) < len(axes):
        raise ValueError(f"{where}: {dims} doesn't fit an array of shape {shape}: axes must exist, and differ")
    first = len(_tuple(dims.reduction_axis))
    batch = tuple(axis for axis in range(len(shape)) if axis not in axes)
    sizes = [shape[axis] for axis in axes]
    order = (*batch, *axes)
    rows, columns = math.prod(sizes[:first]), math.prod(sizes[first:])
    return View(order, tuple(shape[i] for i in order), tuple(shape[i] for i in batch), rows, columns)


DimensionNumbers = Annotated[Any, PerLeafKind("MuonDimensionNumbers", MuonDimensionNumbers, _hashable, view)]
"""Dimension numbers for each array: a tree of them, one for all, or a function from parameters to a tree."""

"""Arrays as matrices: which axes are rows and columns, and blocks that are matrices of their own."""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

from jax import Array

from gradchain.core.hyper import PerLeafKind
from gradchain.matrices.axes import AxesView, pieces
from gradchain.signatures import public


@public
class MuonDimensionNumbers(NamedTuple):
    """Say which axes of an array are the rows and which the columns of a matrix; all others are batches of matrices.

    Several axes are taken together, in the order given: a projection of attention stored as (features, heads, size) is
    the matrix ``MuonDimensionNumbers(0, (1, 2))``, or with ``MuonDimensionNumbers(0, 2)`` one matrix for each head.
    ``MuonDimensionNumbers(1, 2)`` is a stack of matrices along axis 0.

    Rows and columns may be cut into blocks, each of them a matrix of its own: query, key and value that are stored in
    one array (features, 3 features) are ``MuonDimensionNumbers(output_blocks=3)``.
    """

    reduction_axis: Sequence[int] | int = 0
    """The axis or axes that a layer sums over: the inputs."""
    output_axis: Sequence[int] | int = 1
    """The axis or axes of the outputs."""
    reduction_blocks: Sequence[int] | int = 1
    """Into how many equal blocks the rows are cut, or the sizes of the blocks."""
    output_blocks: Sequence[int] | int = 1
    """Into how many equal blocks the columns are cut, or the sizes of the blocks."""


GaLoreDimensionNumbers = MuonDimensionNumbers
"""The same, under the name that goes with :func:`~gradchain.galore`."""


def axes_of(axes: Sequence[int] | int) -> tuple[int, ...]:
    """Return one or several axes as a tuple."""
    return (axes,) if isinstance(axes, int) else tuple(axes)


def as_hashable(dims: MuonDimensionNumbers) -> MuonDimensionNumbers:
    """Return dimension numbers whose axes and blocks are tuples."""
    return MuonDimensionNumbers(*(axes if isinstance(axes, int) else tuple(axes) for axes in dims))


@public
class MatrixView(NamedTuple):
    """How an array is seen as matrices; made by :func:`view`.

    The views that rules need are three: ``matrices`` and ``array`` for rules that treat the whole matrix, ``split`` and
    ``join`` for those that keep state for each block, and ``map`` for those that keep none.
    """

    order: tuple[int, ...]
    """The array's axes: batches, then rows, then columns."""
    moved: tuple[int, ...]
    """The array's shape in that order."""
    batch: tuple[int, ...]
    """The sizes of the batch axes."""
    row_blocks: tuple[int, ...]
    """The sizes of the blocks that the rows are cut into; one where they aren't cut."""
    column_blocks: tuple[int, ...]
    """The sizes of the blocks that the columns are cut into."""

    @property
    def rows(self) -> int:
        """The number of rows of the whole matrix."""
        return sum(self.row_blocks)

    @property
    def columns(self) -> int:
        """The number of columns of the whole matrix."""
        return sum(self.column_blocks)

    @property
    def is_cut(self) -> bool:
        """Whether the matrix is cut into more than one block."""
        return self._blocks.is_cut

    def matrices(self, x: Array) -> Array:
        """Return the array as ``(*batch, rows, columns)``, whole, whatever its blocks."""
        return x.transpose(self.order).reshape(*self.batch, self.rows, self.columns)

    def array(self, x: Array) -> Array:
        """Return matrices as the array that they came from."""
        return x.reshape(self.moved).transpose(sorted(range(len(self.order)), key=lambda i: self.order[i]))

    def split(self, x: Array) -> list[Array]:
        """Return the array's blocks, those of equal shape in one array ``(*batch, blocks, rows, columns)``.

        A matrix that isn't cut is the only one, ``(*batch, rows, columns)``. The list is a slot like any other: its
        length and shapes depend on the array's shape alone.
        """
        return self._blocks.split(self.matrices(x))

    def join(self, blocks: Sequence[Array]) -> Array:
        """Return the array that :meth:`split` made these blocks of."""
        return self.array(self._blocks.join(blocks))

    def map(self, function: Callable[..., Array], *arrays: Array) -> Array:
        """Return ``function`` applied to the blocks of arrays of this shape, which keeps their shape, as one array.

        Args:
          function: takes as many stacks of matrices ``(..., rows, columns)`` as there are arrays.
          *arrays: arrays of the shape that the view is of.
        """
        return self.join([function(*blocks) for blocks in zip(*map(self.split, arrays), strict=True)])

    @property
    def _blocks(self) -> AxesView:
        return AxesView((self.row_blocks, self.column_blocks))


@public
def view(
    shape: Sequence[int],
    dims: MuonDimensionNumbers | None = None,
    *,
    block_size: int | None = None,
    where: str = "matrices.view",
) -> MatrixView:
    """Return how an array of this shape is seen as matrices.

    Args:
      shape: the array's, such as ``g.shape``.
      dims: its dimension numbers; ``None`` if it is a matrix, inputs by outputs.
      block_size: the most rows and columns of a block, at least 1: longer ones are cut into blocks of this size, the
        last one smaller where they don't divide. ``None`` cuts only what ``dims`` cuts.
      where: names the transform in error messages.

    Raises:
      ValueError: if axes are missing, given twice or don't exist, or blocks don't make up the rows or columns; if an
        array that isn't a matrix has no dimension numbers.

    Example:
      >>> seen = matrices.view((8, 2, 4), MuonDimensionNumbers(0, (1, 2)), block_size=5)
      >>> [x.shape for x in seen.split(jnp.ones((8, 2, 4)))]
      [(1, 5, 5), (1, 5, 3), (1, 3, 5), (1, 3, 3)]
    """
    shape = tuple(shape)
    if dims is None and len(shape) != 2:
        raise ValueError(f"{where}: an array of shape {shape} is not a matrix; it needs MuonDimensionNumbers")
    if block_size is not None and block_size < 1:
        raise ValueError(f"{where}: block_size must be at least 1, got {block_size}")
    dims = dims or MuonDimensionNumbers()
    given = (*axes_of(dims.reduction_axis), *axes_of(dims.output_axis))
    axes = tuple(axis % len(shape) if shape else axis for axis in given)
    if any(not -len(shape) <= axis < len(shape) for axis in given) or len({*axes}) < len(axes):
        raise ValueError(f"{where}: {dims} doesn't fit an array of shape {shape}: axes must exist, and differ")
    first = len(axes_of(dims.reduction_axis))
    batch = tuple(axis for axis in range(len(shape)) if axis not in axes)
    order = (*batch, *axes)
    sizes = [shape[axis] for axis in axes]
    row_blocks, column_blocks = (
        _blocks(f"{where}: {name}", math.prod(lengths), blocks, block_size)
        for name, lengths, blocks in (
            ("reduction_blocks", sizes[:first], dims.reduction_blocks),
            ("output_blocks", sizes[first:], dims.output_blocks),
        )
    )
    moved = tuple(shape[i] for i in order)
    return MatrixView(order, moved, tuple(shape[i] for i in batch), row_blocks, column_blocks)


def _blocks(where: str, size: int, blocks: Sequence[int] | int, most: int | None) -> tuple[int, ...]:
    """Return the sizes of the blocks of ``size`` rows or columns."""
    if isinstance(blocks, int):
        if blocks < 1 or size % blocks:
            raise ValueError(f"{where}={blocks} doesn't divide {size}")
        sizes = (size // blocks,) * blocks
    else:
        sizes = tuple(blocks)
        if sum(sizes) != size or min(sizes, default=0) < 0:
            raise ValueError(f"{where}={sizes} must add up to {size}, got {sum(sizes)}")
    if most is None:
        return sizes
    return tuple(part for whole in sizes for part in pieces(whole, most))


def _fits(where: str, shape: tuple[int, ...], dims: MuonDimensionNumbers | None) -> None:
    view(shape, dims, where=where)


class DimensionsKind(PerLeafKind):
    """Dimension numbers, also as the method ``dimension_numbers`` of what says more about parameters than these."""

    def resolve(self, where: str, value: Any, tree: Any) -> list[Any]:
        return super().resolve(where, getattr(value, "dimension_numbers", value), tree)


DimensionNumbers = Annotated[Any, DimensionsKind("MuonDimensionNumbers", MuonDimensionNumbers, as_hashable, _fits)]
"""Dimension numbers for each array: a tree of them, one for all, or a function from parameters to a tree."""


def _fits_or_flat(where: str, shape: tuple[int, ...], dims: MuonDimensionNumbers | None) -> None:
    if dims is not None or len(shape) > 1:
        view(shape, dims, where=where)


DimensionNumbersOrVectors = Annotated[
    Any, DimensionsKind("MuonDimensionNumbers", MuonDimensionNumbers, as_hashable, _fits_or_flat)
]
"""The same for rules that know what to do with an array of fewer than two axes."""

"""Arrays as blocks in which each axis may have a basis of its own: matrices, or all axes of an array of any order."""

import math
from typing import Annotated, Any, Literal, NamedTuple

import jax.numpy as jnp
from jax import Array

from gradchain.core.value import Choice
from gradchain.matrices.axes import AxesView, along_axes, axes_view
from gradchain.matrices.factors import gathered
from gradchain.matrices.views import DimensionsKind, MatrixView, MuonDimensionNumbers, as_hashable, view
from gradchain.numerics import divide, sqrt

Sides = Annotated[Literal["both", "rows", "columns", "smaller"], Choice("both", "rows", "columns", "smaller")]
"""Which axes of a matrix have a factor, or a basis."""
ByAxis = dict[int, Array]
"""A matrix, or a vector, for some of the axes of a block."""


class Frame(NamedTuple):
    """How an array is cut into blocks, and of how many axes; all others are batch axes."""

    seen: MatrixView | AxesView
    order: int

    def blocks(self, x: Array) -> list[Array]:
        """Return the array's blocks, whole on each device that has a part of them."""
        return [gathered(block, self.order) for block in self.seen.split(x)]

    def turned(self, x: Array, bases: ByAxis, without: int | None = None) -> Array:
        """Return a block in terms of the bases of its axes, but for one."""
        return along_axes(x, {i: jnp.conj(q.mT) for i, q in bases.items() if i != without}, self.order)

    def turned_back(self, x: Array, bases: ByAxis) -> Array:
        """Return a block that is in terms of the bases in its own."""
        return along_axes(x, bases, self.order)

    def divided(self, x: Array, values: ByAxis, without: int | None = None) -> Array:
        """Return a block divided by the roots of numbers along each of its axes, but for one."""
        roots = {i: divide(jnp.ones_like(d), sqrt(d)) for i, d in values.items() if i != without}
        return along_axes(x, roots, self.order)

    def scaled(self, x: Array, values: ByAxis, eps: Any) -> Array:
        """Return a block divided by the root of the product of numbers along its axes, to which ``eps`` is added."""
        root = along_axes(jnp.ones_like(x.real), {i: sqrt(d) for i, d in values.items()}, self.order)
        return divide(x, root + eps, eps == 0)

    def mean(self, x: Array, axis: int | None = None) -> Array:
        """Return the means of a block over all of its axes but one."""
        first = x.ndim - self.order
        number = math.prod(n for i, n in enumerate(self.sizes(x)) if i != axis)
        return jnp.sum(x, axis=tuple(first + i for i in range(self.order) if i != axis)) / max(number, 1)

    def sizes(self, block: Array) -> tuple[int, ...]:
        """Return how long the axes of a block are, without batch axes."""
        return block.shape[block.ndim - self.order :]

    def axes(self, block: Array, sides: str) -> list[int]:
        """Return the axes of a block that ``sides`` names, if it is a matrix; other arrays have all of theirs."""
        if sides == "both" or self.order != 2:
            return [*range(self.order)]
        rows, columns = self.sizes(block)
        return [0] if sides == "rows" or (sides == "smaller" and rows <= columns) else [1]


def frame(shape: tuple[int, ...], dims: MuonDimensionNumbers | str | None, block_size: int | None, where: str) -> Frame:
    """Return the frame of an array: the matrices that its dimension numbers make of it, all of its axes, or none."""
    if isinstance(dims, str):
        return Frame(axes_view(shape, block_size), len(shape))
    if dims is None and len(shape) < 2:
        return Frame(axes_view(()), 0)
    return Frame(view(shape, dims, block_size=block_size, where=where), 2)


def _convert(dims: MuonDimensionNumbers | str) -> MuonDimensionNumbers | str:
    return Choice("axes").normalize("dimension numbers", dims) if isinstance(dims, str) else as_hashable(dims)


def _fits(where: str, shape: tuple[int, ...], dims: MuonDimensionNumbers | str | None) -> None:
    if dims is None and len(shape) > 2:
        raise ValueError(
            f"{where}: an array of shape {shape} is not a matrix; it needs MuonDimensionNumbers, or 'axes' for a basis "
            "of each of its axes"
        )
    frame(shape, dims, None, where)


def _fits_without_vectors(where: str, shape: tuple[int, ...], dims: MuonDimensionNumbers | str | None) -> None:
    if len(shape) < (2 if dims is None else 1):
        raise ValueError(
            f"{where}: an array of shape {shape} is not a matrix; give it to adam by partition, or for a vector say "
            "'axes'"
        )
    _fits(where, shape, dims)


OF: Any = (MuonDimensionNumbers, str)
FrameNumbers = Annotated[Any, DimensionsKind("MuonDimensionNumbers or 'axes'", OF, _convert, _fits)]
"""Dimension numbers for each array, ``"axes"`` for all of its axes: a tree of them, one, or a function to a tree.

Vectors and scalars without any have no bases."""
MatrixFrameNumbers = Annotated[
    Any, DimensionsKind("MuonDimensionNumbers or 'axes'", OF, _convert, _fits_without_vectors)
]
"""The same for rules that have nothing to offer to vectors."""

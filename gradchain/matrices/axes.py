"""Arrays of any order with a matrix for each axis: Gram matrices of unfoldings, products along an axis, blocks."""

import itertools
import string
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from gradchain.numerics import compute_dtype
from gradchain.signatures import public


@public
def axis_gram(x: Array, axis: int, order: int) -> Array:
    r"""Return the Gram matrices :math:`A_{ij} = \sum x_{\dots i \dots}\,\overline{x_{\dots j \dots}}` of one axis.

    The sum runs over all other axes of each array. That of a matrix's rows (axis 0) is :math:`X X^*`, that of its
    columns (axis 1) the transpose of :math:`X^* X`. Products have the highest precision.

    Args:
      x: arrays of ``order`` axes, with any number of batch axes in front, real or complex.
      axis: which of the ``order`` axes, from 0.
      order: how many of the last axes make up an array.

    Returns:
      An array ``(*batch, n, n)`` for an axis of length n, in at least float32.

    Example:
      >>> x = jnp.arange(6.0).reshape(1, 2, 3)
      >>> print(matrices.axis_gram(x, 1, 3))
      [[ 5. 14.]
       [14. 50.]]
    """
    x = x.astype(compute_dtype(x.dtype))
    axes, other = _letters(order), string.ascii_uppercase[0]
    moved = axes.replace(axes[axis], other)
    return jnp.einsum(f"...{axes},...{moved}->...{axes[axis]}{other}", x, jnp.conj(x), precision="highest")


@public
def along_axes(x: Array, factors: dict[int, Array], order: int) -> Array:
    r"""Multiply axes by matrices: :math:`y_{\dots i \dots} = \sum_j P_{ij}\,x_{\dots j \dots}`, one axis after another.

    Args:
      x: arrays of ``order`` axes, with any number of batch axes in front.
      factors: for each axis, from 0, a matrix ``(*batch, m, n)``, or a diagonal ``(*batch, n)``. Axes that aren't
        mentioned stay as they are.
      order: how many of the last axes make up an array.

    Returns:
      The arrays, in which an axis of length n now has length m.

    Example:
      >>> print(matrices.along_axes(jnp.ones((2, 3)), {0: jnp.array([[1.0, 2.0]]), 1: jnp.arange(3.0)}, 2))
      [[0. 3. 6.]]
    """
    batch = x.ndim - order
    axes = _letters(order)
    for axis, factor in factors.items():
        if factor.ndim == batch + 1:
            x = x * factor.reshape(*x.shape[:batch], *[1] * axis, -1, *[1] * (order - axis - 1))
            continue
        moved = axes.replace(axes[axis], "A")
        x = jnp.einsum(f"...A{axes[axis]},...{axes}->...{moved}", factor, x, precision="highest")
    return x


def _letters(order: int) -> str:
    return string.ascii_lowercase[:order]


@public
class AxesView(NamedTuple):
    """How an array of any order is cut into blocks along all of its axes; made by :func:`axes_view`."""

    blocks: tuple[tuple[int, ...], ...]
    """For each axis, the sizes of the blocks that it is cut into; one where it isn't cut."""

    @property
    def is_cut(self) -> bool:
        """Whether the array is cut into more than one block."""
        return any(len(sizes) > 1 for sizes in self.blocks)

    def split(self, x: Array) -> list[Array]:
        """Return the blocks of arrays, those of equal shape in one array ``(*batch, blocks, *shape)``.

        Arrays that aren't cut are the only ones, as they are. Batch axes may be in front.
        """
        if not self.is_cut:
            return [x]
        batch = x.ndim - len(self.blocks)
        return [
            jnp.stack([x[..., *map(slice, place, map(sum, zip(place, shape, strict=True)))] for place in places], batch)
            for shape, places in self._places().items()
        ]

    def join(self, blocks: Sequence[Array]) -> Array:
        """Return the arrays that :meth:`split` made these blocks of."""
        if not self.is_cut:
            return blocks[0]
        order = len(self.blocks)
        joined = {
            place: lax.index_in_dim(stack, k, -1 - order, keepdims=False)
            for stack, places in zip(blocks, self._places().values(), strict=True)
            for k, place in enumerate(places)
        }
        for axis in reversed(range(order)):
            starts = [i for i, _ in offsets(self.blocks[axis])]
            rows = dict.fromkeys(place[:axis] for place in joined)
            joined = {row: jnp.concatenate([joined[*row, i] for i in starts], axis=axis - order) for row in rows}
        return joined[()]

    def _places(self) -> dict[tuple[int, ...], list[tuple[int, ...]]]:
        """Return where blocks begin, by their shape."""
        places: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
        for block in itertools.product(*map(offsets, self.blocks)):
            places.setdefault(tuple(n for _, n in block), []).append(tuple(i for i, _ in block))
        return places


@public
def axes_view(shape: Sequence[int], block_size: int | None = None) -> AxesView:
    """Return how an array of this shape is cut into blocks whose axes are all short.

    Args:
      shape: the array's, of any order.
      block_size: the most that a block has along an axis: longer axes are cut into blocks of this size, the last one
        smaller where they don't divide. ``None`` cuts nothing.

    Raises:
      ValueError: if ``block_size`` is below 1.

    Example:
      >>> seen = matrices.axes_view((5, 2, 4), block_size=4)
      >>> [x.shape for x in seen.split(jnp.ones((5, 2, 4)))]
      [(1, 4, 2, 4), (1, 1, 2, 4)]
    """
    if block_size is not None and block_size < 1:
        raise ValueError(f"axes_view: block_size must be at least 1, got {block_size}")
    return AxesView(tuple((n,) if block_size is None else pieces(n, block_size) for n in shape))


def offsets(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield (begin, size) of blocks that lie one after another."""
    return zip(itertools.accumulate((0, *sizes)), sizes, strict=False)


def pieces(size: int, most: int) -> tuple[int, ...]:
    """Return the sizes of the blocks that an axis is cut into, none of them above ``most``."""
    return (most,) * (size // most) + ((size % most,) if size % most or not size else ())

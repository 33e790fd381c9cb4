"""The linear assignment problem, inside ``jit``."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from gradchain.numerics import compute_dtype
from gradchain.signatures import public

__all__ = ["base_hungarian_algorithm", "hungarian_algorithm"]

FREE = -1


class Matching(NamedTuple):
    """A matching of some rows, and dual prices that prove it optimal for them."""

    row_price: Array
    column_price: Array
    row_of: Array
    """The row of each column, or FREE."""
    column_of: Array


class Search(NamedTuple):
    """Dijkstra's search for the cheapest way to make room for one more row."""

    row: Array
    """The row that is visited next, or FREE when a free column has been reached."""
    column: Array
    reach: Array
    """How far the search has come."""
    distance: Array
    came_from: Array
    """For each column the row from which it is nearest."""
    visited: Array


@public
def hungarian_algorithm(cost_matrix: ArrayLike) -> tuple[Array, Array]:
    r"""Return the cheapest assignment of rows to columns, one to one.

    .. math:: \min_\pi \sum_i C_{i \pi(i)}

    Shortest augmenting paths: rows are added one after another, each by the cheapest path of reassignments, which
    takes :math:`O(n^2 m)` for :math:`n \le m`; each step is vectorised over columns. It runs under ``jit`` and
    ``vmap``, and the total cost ``cost_matrix[i, j].sum()`` is differentiable.

    Args:
      cost_matrix: :math:`C`, an :math:`n \times m` matrix of numbers above minus infinity. Infinity and NaN forbid a
        pair, as long as there is an assignment without them; where there is none, the result is some assignment. Sums
        are computed in at least float32; whole numbers are exact as far as the default floating-point dtype holds
        them (:math:`2^{24}` in float32).

    Returns:
      ``(i, j)``: row and column indices of the :math:`\min(n, m)` pairs, by increasing row, as in SciPy. Among
      equally cheap assignments any may be returned.

    Raises:
      ValueError: if ``cost_matrix`` isn't a matrix.
      TypeError: if it is complex.

    Reference: Crouse, *On implementing 2D rectangular assignment algorithms*, 2016, section II.
    """
    cost = lax.stop_gradient(jnp.asarray(cost_matrix))
    if cost.ndim != 2:
        raise ValueError(f"hungarian_algorithm: cost_matrix must be a matrix, got shape {cost.shape}")
    if jnp.iscomplexobj(cost):
        raise TypeError(f"hungarian_algorithm: cost_matrix must be real, got {cost.dtype}")
    exact = compute_dtype(cost.dtype) if jnp.issubdtype(cost.dtype, jnp.floating) else jnp.result_type(float)
    cost = cost.astype(exact)
    cost = jnp.where(jnp.isnan(cost), jnp.inf, cost)
    if cost.shape[0] > cost.shape[1]:
        row_of = _assign(cost.T)
        columns = jnp.argsort(row_of)
        return row_of[columns], columns
    return jnp.arange(cost.shape[0]), _assign(cost)


@public
def base_hungarian_algorithm(cost_matrix: ArrayLike) -> tuple[Array, Array]:
    """Return :func:`hungarian_algorithm` of ``cost_matrix``. Optax has two implementations under these names."""
    return hungarian_algorithm(cost_matrix)


def _assign(cost: Array) -> Array:
    """Return the column of each row of a matrix that is at least as wide as high."""
    rows, columns = cost.shape
    start = Matching(
        jnp.zeros(rows, cost.dtype),
        jnp.zeros(columns, cost.dtype),
        jnp.full(columns, FREE, int),
        jnp.full(rows, FREE, int),
    )
    if rows == 0:
        return start.column_of
    return lax.fori_loop(0, rows, lambda row, matching: _add(cost, matching, jnp.asarray(row)), start).column_of


def _add(cost: Array, matching: Matching, row: Array) -> Matching:
    """Match one more row."""
    found = _search(cost, matching, row)
    reached = found.visited & (found.distance < jnp.finfo(cost.dtype).max)
    gain = jnp.where(reached, found.reach - found.distance, 0)
    owner = jnp.where(matching.row_of == FREE, cost.shape[0], matching.row_of)
    row_price = matching.row_price.at[owner].add(gain, mode="drop").at[row].add(found.reach)
    row_of, column_of = _reassign(matching, found, row)
    return Matching(row_price, matching.column_price - gain, row_of, column_of)


def _search(cost: Array, matching: Matching, row: Array) -> Search:
    """Visit columns by increasing distance from ``row`` until one is free."""
    columns = cost.shape[1]
    unreached = jnp.finfo(cost.dtype).max

    def visit(now: Search) -> Search:
        reduced = now.reach + cost[now.row] - matching.row_price[now.row] - matching.column_price
        nearer = ~now.visited & (reduced < now.distance)
        distance = jnp.where(nearer, reduced, now.distance)
        came_from = jnp.where(nearer, now.row, now.came_from)
        # a column that can't be reached still comes before one that was visited: the search always ends
        column = jnp.argmin(jnp.where(now.visited, jnp.inf, distance))
        reach = jnp.where(distance[column] < unreached, distance[column], now.reach)
        return Search(matching.row_of[column], column, reach, distance, came_from, now.visited.at[column].set(True))

    start = Search(
        row=row,
        column=jnp.asarray(FREE, int),
        reach=jnp.zeros((), cost.dtype),
        distance=jnp.full(columns, unreached, cost.dtype),
        came_from=jnp.full(columns, row),
        visited=jnp.zeros(columns, bool),
    )
    return lax.while_loop(lambda now: now.row != FREE, visit, start)


def _reassign(matching: Matching, found: Search, row: Array) -> tuple[Array, Array]:
    """Give each row on the path found the next column on it; the last one gets the free column."""

    def shift(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        column, row_of, column_of = carry
        taker = found.came_from[column]
        return column_of[taker], row_of.at[column].set(taker), column_of.at[taker].set(column)

    # the row that is added had no column before: with it the path ends
    start = (found.column, matching.row_of, matching.column_of)
    return lax.while_loop(lambda carry: carry[0] != FREE, shift, start)[1:]

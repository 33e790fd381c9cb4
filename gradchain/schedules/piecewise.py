"""Schedules given by a table of steps, constant or interpolated between them."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, NamedTuple, Self

import jax.numpy as jnp
from jax import Array

from gradchain.core.hyper import Hyper, Number, Numbers, value_at
from gradchain.core.value import Choice, Kind, Value, register
from gradchain.schedules import curves
from gradchain.schedules.base import STEPS, check_order, counted
from gradchain.schedules.curves import Knot, through

SCALE = Number("NonNegative", "[0, inf)")
CURVES = {"linear": curves.linear, "cosine": curves.cosine}


class Breakpoint(NamedTuple):
    """A step and the factor that applies from there on."""

    boundary: Any
    scale: Any


def _named(boundaries: tuple[Any, ...]) -> dict[str, Any]:
    return {f"boundary {i}": boundary for i, boundary in enumerate(boundaries)}


@register
class Breakpoints(Value):
    """A table from boundaries to scales in which both are numbers that may be traced; shown as a dict."""

    boundaries: Annotated[tuple[Any, ...], Numbers(STEPS)]
    scales: Annotated[tuple[Any, ...], Numbers(SCALE)]

    def checked(self) -> Self:
        check_order("boundaries_and_scales", _named(self.boundaries))
        return self

    def __repr__(self) -> str:
        rows = tuple(zip(self.boundaries, self.scales, strict=True))
        if len(set(map(repr, self.boundaries))) < len(rows):
            return repr(rows)
        return f"{{{', '.join(f'{boundary!r}: {scale!r}' for boundary, scale in rows)}}}"


def entries(table: Any, count: Array) -> list[Breakpoint]:
    """Return the rows of ``Breakpoints``, with those of its numbers that are schedules evaluated at ``count``."""
    pairs = zip(table.boundaries, table.scales, strict=True)
    return [Breakpoint(value_at(boundary, count), value_at(scale, count)) for boundary, scale in pairs]


class Table(Kind):
    """A dict from boundary to scale, or pairs of them in increasing order."""

    data = True
    label = "Mapping[Steps, NonNegative]"
    absent = Breakpoints((), ())

    def normalize(self, where: str, value: Any) -> Any:
        if isinstance(value, Breakpoints):
            return value
        rows = _rows(where, value)
        boundaries = Numbers(STEPS).normalize(f"{where} boundaries", [boundary for boundary, _ in rows])
        scales = Numbers(SCALE).normalize(f"{where} scales", [scale for _, scale in rows])
        check_order(where, _named(boundaries))
        return Breakpoints(boundaries, scales)


def _rows(where: str, table: Any) -> list[Any]:
    if isinstance(table, Mapping):
        return sorted(table.items(), key=lambda row: row[0])
    rows: list[Any] = list(table) if isinstance(table, Iterable) else [table]
    if not all(isinstance(row, tuple | list) and len(row) == 2 for row in rows):
        raise TypeError(f"{where} must be a dict or pairs (boundary, scale), got {table!r}")
    return rows


Boundaries = Annotated[Any, Table()]
"""A dict from step to factor; or pairs, where steps are traced or batches and so can't be keys of a dict."""


@counted
def piecewise_constant_schedule(count: Array, init_value: Hyper, boundaries_and_scales: Boundaries | None = None):
    r"""Multiply the value by a factor at each of the given steps, and keep it constant in between.

    .. math:: a \prod_{i:\, b_i \le k} s_i

    The first value is ``init_value``, the last ``init_value`` times all scales, from the largest boundary on.

    Args:
      init_value: :math:`a`.
      boundaries_and_scales: :math:`\{b_i: s_i\}`, both at least 0: the step and the factor that applies from
        there on. Factors accumulate. ``None`` leaves the value constant. Pairs ``[(b, s), ...]`` mean the same, and
        their numbers may be traced, or be batches.

    Example:
      The classical step decay 0.1, 0.05, 0.025:

      >>> step_decay = piecewise_constant_schedule(0.1, {1000: 0.5, 2000: 0.5})
      >>> step_decay(jnp.array([0, 999, 1000, 2000]))
      Array([0.1  , 0.1  , 0.05 , 0.025], dtype=float32)
    """
    value = init_value + jnp.zeros(count.shape, float)
    for boundary, scale in entries(boundaries_and_scales, count):
        value = value * jnp.where(curves.since(count, boundary) >= 0, scale, 1)
    return value


@counted
def piecewise_interpolate_schedule(
    count: Array,
    interpolate_type: Annotated[Any, Choice(*CURVES)],
    init_value: Hyper,
    boundaries_and_scales: Boundaries | None = None,
):
    r"""Interpolate between given values, linearly or along half cosine waves.

    At step :math:`b_i` the value is :math:`v_i = a \prod_{j \le i} s_j`. Between two boundaries it goes from one to the
    next,

    .. math:: v_{i-1} + (v_i - v_{i-1})\,x_k \quad\text{or}\quad v_i + (v_{i-1} - v_i)\,\tfrac12 (1 + \cos \pi x_k),
        \qquad x_k = \frac{k - b_{i-1}}{b_i - b_{i-1}}, \quad b_0 = 0, \; v_0 = a.

    The first value is ``init_value``, the last ``init_value`` times all scales, from the largest boundary on.

    Args:
      interpolate_type: ``"linear"`` or ``"cosine"``.
      init_value: :math:`a`.
      boundaries_and_scales: :math:`\{b_i: s_i\}` as in :func:`piecewise_constant_schedule`. Traced pairs must be in
        increasing order of their boundaries.
    """
    knots = [Knot(0.0, init_value)]
    for boundary, scale in entries(boundaries_and_scales, count):
        knots.append(Knot(boundary, knots[-1].value * scale, CURVES[interpolate_type]))
    return through(count, knots)

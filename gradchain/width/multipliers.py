"""How much wider each array is than in a smaller model: the ratios that rates are scaled by."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np

from gradchain.combinators.hidden_matrices import hidden_matrices
from gradchain.combinators.labels import check_pattern, listed, matches, path_name
from gradchain.combinators.readings import Reading
from gradchain.matrices.views import MuonDimensionNumbers, axes_of
from gradchain.signatures import brief, public
from gradchain.tree import Tree, mismatch
from gradchain.tree.alignment import is_array

WidthKind = Literal["hidden", "input", "output", "vector", "fixed"]
Axes = tuple[int, ...]
Layout = Literal["inputs_first", "outputs_first"]
DimensionsByPath = Sequence[tuple[str, MuonDimensionNumbers]]


@public
@dataclasses.dataclass(frozen=True)
class Width:
    """How much wider one array is than in the base model."""

    path: str
    shape: tuple[int, ...]
    base_shape: tuple[int, ...]
    kind: WidthKind
    """``"hidden"``: inputs and outputs grow; ``"input"``: the outputs alone, as of the first layer and of embeddings;
    ``"output"``: the inputs alone, as of the last layer; ``"vector"``: a bias or gain of something that grows;
    ``"fixed"``: nothing grows."""
    inputs: float
    """The ratio of the numbers of inputs, :math:`r_\\mathrm{in}`."""
    outputs: float
    """The ratio of the numbers of outputs, :math:`r_\\mathrm{out}`."""
    fans: tuple[int, int]
    """The numbers of inputs and outputs."""
    base_fans: tuple[int, int]
    """Those in the base model."""

    @property
    def ratio(self) -> float:
        """The ratio of the widths: of the inputs where they grow, else of the outputs."""
        return self.inputs if self.kind in ("hidden", "output") else self.outputs


@public
class Widths(Mapping[str, Width]):
    """What :func:`gradchain.width_multipliers` returns: the :class:`Width` of each array, by path."""

    def __init__(self, tree: Tree):
        self.tree = tree
        """The same as a tree like the parameters, with ``None`` for leaves that aren't arrays."""
        self._arrays = {width.path: width for width in jax.tree.leaves(tree)}

    def __getitem__(self, path: str) -> Width:
        return self._arrays[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        from gradchain.width.exponents import describe_widths

        return describe_widths(self)


@public
def width_multipliers(
    params: Tree,
    base_params: Tree,
    *,
    weight_dimension_numbers: DimensionsByPath = (),
    layout: Layout | None = None,
    roles: Mapping[str, WidthKind] | None = None,
    allow_same: bool = False,
) -> Widths:
    """Compare the shapes of a model's parameters with those of a narrower one, on which the rates were tuned.

    An axis whose size differs is one that grows with the width. The ratio of an array's inputs is the product of the
    ratios of its input axes, that of its outputs likewise.

    Which axes are inputs and which are outputs is decided for each array by the first of these that says so:

    1. ``weight_dimension_numbers``, by path;
    2. vectors have outputs only: arrays with one axis, and biases and scales that :func:`hidden_matrices` recognises;
    3. hidden matrices have the axes by which :func:`hidden_matrices` sees them: projections of attention with an axis
       for heads, fused ones, convolutions, stacked layers, experts. A ``weight`` is (outputs, inputs), as Equinox and
       PyTorch store it;
    4. of embeddings the axis that grows is the outputs;
    5. the last axis is the outputs and the one before it the inputs, the other way round for a ``weight``.

    Axes that are neither, such as those of a window or of stacked layers, must not differ, if they aren't given.

    Args:
      params: the model's parameters, or their shapes, as ``jax.eval_shape`` gives them.
      base_params: those of the base model, or their shapes: a tree of the same structure.
      weight_dimension_numbers: pairs of a pattern (as for :func:`by_path`) and :class:`MuonDimensionNumbers`. Axes that
        they don't name are batches, whose sizes may differ: ``MuonDimensionNumbers(1, 2)`` for layers stacked along
        axis 0, ``MuonDimensionNumbers((), 1)`` for their biases.
      layout: where a ``weight`` has its outputs, ``"inputs_first"`` or ``"outputs_first"``, which is the default.
      roles: kinds by pattern, where shapes can't tell. An embedding that is used as the output layer, too, has the
        shape of an input: leave it one, and divide the logits by the ratio of the widths in the model; or make it
        ``"output"``. ``"fixed"`` leaves an array as in the base model.
      allow_same: accept that no axis differs at all.

    Raises:
      ValueError: if the trees differ in structure, naming the first path; if shapes differ in the number of axes; if no
        axis of any array differs, which without ``allow_same`` is taken for a forgotten base model; if axes differ that
        can't be attributed; if a pattern matches nothing, or a role doesn't fit a shape.

    Example:
      >>> def shapes(n):
      ...     return {"w1": jax.ShapeDtypeStruct((8, n), float), "w2": jax.ShapeDtypeStruct((n, n), float)}
      >>> widths = width_multipliers(shapes(256), shapes(64))
      >>> widths["w2"].kind, widths["w2"].inputs
      ('hidden', 4.0)
    """
    if layout not in (None, *get_args(Layout)):
        raise ValueError(f"width_multipliers: layout must be one of {', '.join(get_args(Layout))}, got {layout!r}")
    pairs, treedef = jax.tree_util.tree_flatten_with_path(params)
    base = jax.tree_util.tree_flatten_with_path(base_params)[0]
    if [path_name(path) for path, _ in pairs] != [path_name(path) for path, _ in base]:
        problem = mismatch(params, base_params, "params", "base_params")
        raise ValueError(f"width_multipliers: {problem}; the base model differs in its widths alone")
    given = Given.of(weight_dimension_numbers, layout, roles or {}, [path_name(path) for path, _ in pairs])
    readings = hidden_matrices().readings(params)
    found = [
        _width(path, tuple(x.shape), tuple(y.shape), reading, given) if is_array(x) else None
        for (path, reading), (_, x), (_, y) in zip(readings, pairs, base, strict=True)
    ]
    if not allow_same and all(width is None or width.shape == width.base_shape for width in found):
        raise ValueError(
            "width_multipliers: no array differs from its base: params and base_params are the same model, for which "
            "there is nothing to scale. Give the shapes of the narrower model, or allow_same=True for the base model"
        )
    return Widths(treedef.unflatten(found))


def check_widths(where: str, widths: Any) -> None:
    """Raise ``TypeError`` for what :func:`width_multipliers` didn't return, such as parameters."""
    if not isinstance(widths, Widths):
        raise TypeError(f"{where}: widths are what width_multipliers(params, base_params) returns, got {brief(widths)}")


class Given(NamedTuple):
    """What the caller says of axes and kinds."""

    dims: DimensionsByPath
    layout: Layout | None
    roles: Mapping[str, WidthKind]

    @classmethod
    def of(
        cls, dims: DimensionsByPath, layout: Layout | None, roles: Mapping[str, WidthKind], paths: list[str]
    ) -> "Given":
        pairs: list[Any] = [*dims]
        if not all(
            isinstance(x, tuple | list) and len(x) == 2 and isinstance(x[1], MuonDimensionNumbers) for x in pairs
        ):
            raise TypeError(
                "width_multipliers: weight_dimension_numbers are pairs of a pattern and MuonDimensionNumbers, got "
                f"{brief(dims)}"
            )
        for what, patterns in (("weight_dimension_numbers", [pattern for pattern, _ in dims]), ("roles", list(roles))):
            for pattern in patterns:
                check_pattern(f"width_multipliers: {what}", pattern)
                if not any(matches(pattern, path) for path in paths):
                    raise ValueError(
                        f"width_multipliers: {what}: {pattern!r} matches no parameter; there are: {listed(paths)}"
                    )
        for pattern, kind in roles.items():
            if kind not in get_args(WidthKind):
                kinds = ", ".join(get_args(WidthKind))
                raise ValueError(f"width_multipliers: roles: {pattern!r} must be one of {kinds}, got {kind!r}")
        return cls(dims, layout, roles)

    def dimensions(self, path: str) -> MuonDimensionNumbers | None:
        """Return the dimension numbers that the caller gives an array."""
        return next((dims for pattern, dims in self.dims if matches(pattern, path)), None)

    def role(self, path: str) -> WidthKind | None:
        """Return the kind that the caller gives an array."""
        return next((kind for pattern, kind in self.roles.items() if matches(pattern, path)), None)


def _width(path: str, shape: tuple[int, ...], base: tuple[int, ...], reading: Reading, given: Given) -> Width:
    if len(shape) != len(base):
        raise ValueError(f"width_multipliers: {path} has shape {shape}, and {base} in the base model")
    inputs, outputs = _axes(path, shape, base, reading, given)
    fans, base_fans = _fans(shape, inputs, outputs), _fans(base, inputs, outputs)
    ratios = fans[0] / max(base_fans[0], 1), fans[1] / max(base_fans[1], 1)
    kind: WidthKind = "fixed"
    if not inputs:
        kind = "vector" if ratios[1] != 1 else kind
    elif ratios != (1, 1):
        kind = "hidden" if 1 not in ratios else "input" if ratios[0] == 1 else "output"
    width = Width(path, shape, base, kind, *ratios, fans, base_fans)
    role = given.role(path)
    return width if role is None or role == kind else _with_role(width, role)


def _with_role(width: Width, role: WidthKind) -> Width:
    """Return a width of the kind that the caller says it is."""
    if role == "fixed":
        return dataclasses.replace(width, kind=role, inputs=1.0, outputs=1.0, base_fans=width.fans)
    if {role, width.kind} == {"input", "output"}:  # it is used the other way round
        (inputs, outputs), (base_inputs, base_outputs) = width.fans, width.base_fans
        return dataclasses.replace(
            width,
            kind=role,
            inputs=width.outputs,
            outputs=width.inputs,
            fans=(outputs, inputs),
            base_fans=(base_outputs, base_inputs),
        )
    raise ValueError(
        f"width_multipliers: roles: {width.path} can't be {role!r}: by its shapes {width.base_shape} and {width.shape} "
        f"it is {width.kind!r}; give it weight_dimension_numbers"
    )


def _axes(
    path: str, shape: tuple[int, ...], base: tuple[int, ...], reading: Reading, given: Given
) -> tuple[Axes, Axes]:
    """Return the axes of an array's inputs, those of a window included, and of its outputs."""
    if (dims := given.dimensions(path)) is not None:
        return _named_axes(path, shape, dims)
    every = tuple(range(len(shape)))
    if reading.role == "vector":
        return (), every
    grown = [axis for axis in every if shape[axis] != base[axis]]
    is_weight = path.rpartition("/")[2].startswith("weight")
    if isinstance(reading.dims, MuonDimensionNumbers) and not (is_weight and given.layout == "inputs_first"):
        inputs, outputs = _named_axes(path, shape, reading.dims)
    elif reading.role == "embedding" and len(grown) == 1:
        inputs, outputs = tuple(axis for axis in every if axis not in grown), tuple(grown)
    else:
        source, out = (1, 0) if is_weight and given.layout != "inputs_first" else (len(shape) - 2, len(shape) - 1)
        if all(axis in (source, out) for axis in grown):
            return tuple(axis for axis in every if axis != out), (out,)
        inputs, outputs = (source,), (out,)
    if others := [axis for axis in grown if axis not in (*inputs, *outputs)]:
        raise ValueError(
            f"width_multipliers: {path} has shape {shape}, and {base} in the base model: axis {others[0]} differs, and "
            f"nothing says whether it is inputs, outputs or a batch; write weight_dimension_numbers=[({path!r}, "
            "MuonDimensionNumbers(inputs, outputs))]"
        )
    return inputs, outputs


def _named_axes(path: str, shape: tuple[int, ...], dims: MuonDimensionNumbers) -> tuple[Axes, Axes]:
    named = [axes_of(axes) for axes in dims[:2]]
    if any(not -len(shape) <= axis < len(shape) for axes in named for axis in axes):
        raise ValueError(f"width_multipliers: {dims} doesn't fit {path}, which has shape {shape}")
    inputs, outputs = (tuple(axis % len(shape) for axis in axes) for axes in named)
    return inputs, outputs


def _fans(shape: tuple[int, ...], inputs: Axes, outputs: Axes) -> tuple[int, int]:
    sizes = np.array(shape, int)
    return math.prod(sizes[list(inputs)].tolist()), math.prod(sizes[list(outputs)].tolist())

"""Layers stacked in one array, as models that ``scan`` over their layers have them."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, cast

import jax
import jax.numpy as jnp

from gradchain.combinators.labels import Labels, LayerShape, check_pattern, matches
from gradchain.combinators.steering import InjectHyperparams
from gradchain.core.foreign import Child, ChildKind, Foreign, as_transform
from gradchain.core.hyper import PerLeafKind
from gradchain.core.lift import Own
from gradchain.core.rule import Rule
from gradchain.core.transform import Part, Transform
from gradchain.core.value import register
from gradchain.signatures import public
from gradchain.tree import Tree, flatten_optional, show_path


class Around(Rule):
    """A rule, its field ``tx``, with more declared for single arrays than it declares itself."""

    if TYPE_CHECKING:
        tx: Any

    def init(self, params: Tree) -> Any:
        return self.unlayered.init_leaves(params, self.declarations(params))

    @property
    def unlayered(self) -> Rule:
        return self.tx.unlayered

    @property
    def constrains(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.tx.constrains

    def parts(self, state: Any = None, params: Tree | None = None) -> list[Part]:
        return [Part("", self.tx, state, params)]


def inside(tx: Transform) -> Iterator[Transform]:
    """Yield ``tx`` and the transforms in it, down to single rules."""
    yield tx
    if not isinstance(tx, Rule):
        for part in tx.parts():
            yield from inside(part.transform)


def around_rules(tx: Transform, wrap: Callable[[Rule], Transform]) -> Transform:
    """Return ``tx`` with each rule in it replaced by what ``wrap`` returns."""
    if isinstance(tx, Rule):
        return wrap(tx)
    children, treedef = jax.tree.flatten(tx, is_leaf=lambda x: x is not tx and isinstance(x, Transform))
    new = [around_rules(x, wrap) if isinstance(x, Transform) else x for x in children]
    return cast(Transform, treedef.unflatten(new))


@dataclasses.dataclass(frozen=True, repr=False)
class AxesByPath(Labels):
    """Layer axes by patterns of paths; what matches none holds no layers."""

    patterns: tuple[tuple[str, int | None], ...]

    def label(self, path: str, leaf: Any) -> int | None:
        return next((axis for pattern, axis in self.patterns if matches(pattern, path)), None)

    def __repr__(self) -> str:
        return repr(list(self.patterns))


class AxesKind(PerLeafKind):
    """Layer axes, as :func:`per_layer` takes them."""

    def __init__(self) -> None:
        super().__init__("a whole number", int)

    def normalize(self, where: str, value: Any) -> Any:
        if not (isinstance(value, list | tuple) and value and all(map(_is_pair, cast(Any, value)))):
            return super().normalize(where, value)
        for pattern, axis in cast(Any, value):
            check_pattern(where, pattern)
            super().normalize(where, axis)
        return AxesByPath(tuple((pattern, axis) for pattern, axis in cast(Any, value)))


def _is_pair(x: Any) -> bool:
    return isinstance(x, list | tuple) and len(cast(Any, x)) == 2 and isinstance(x[0], str)


AXES = AxesKind()


@register
class PerLayer(Around):
    """One leafwise rule with its layer axes, see :func:`per_layer`."""

    name = "per_layer"
    tx: Annotated[Any, ChildKind()]  # a rule
    axes: Annotated[Any, AXES]

    def declarations(self, tree: Tree) -> list[Own]:
        axes = [
            _axis(*each) for each in zip(_paths(tree), AXES.resolve("per_layer: axes", self.axes, tree), strict=True)
        ]
        leaves, treedef = flatten_optional(tree)
        layers = treedef.unflatten([_layer(x, axis) for x, axis in zip(leaves, axes, strict=True)])
        return [
            own if axis is None else own._replace(axes=(axis, *own.axes))
            for own, axis in zip(self.tx.declarations(layers), axes, strict=True)
        ]


def _paths(tree: Tree) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: x is None)[0]


def _axis(pair: tuple[Any, Any], axis: int | None) -> int | None:
    """Return a leaf's layer axis, counted from the first."""
    path, leaf = pair
    if axis is None or leaf is None:
        return None
    ndim = jnp.ndim(leaf)
    if not -ndim <= axis < ndim:
        raise ValueError(f"per_layer: {show_path(path)} has no axis {axis}, its shape is {jnp.shape(leaf)}")
    return axis % ndim


def _layer(leaf: Any, axis: int | None) -> Any:
    """Return the shape and dtype of one layer."""
    if axis is None:
        return leaf
    return LayerShape((*leaf.shape[:axis], *leaf.shape[axis + 1 :]), leaf.dtype)


@public
def per_layer(tx: Child, axes: Any) -> Transform:
    r"""Apply rules that use whole arrays to each layer separately, where one array holds several layers.

    A model that ``scan``\ s over its layers keeps their parameters in one array with a layer axis. To a rule that uses
    an array's shape, axes or norm (LAMB's trust ratio, Adafactor's rows and columns, block-wise clipping) the whole
    stack would be one parameter. ``per_layer`` gives each layer the update that it would get as an array of its own;
    state is stacked in the same way, and random rules draw from a key for each layer.

    Elementwise rules aren't affected; neither are rules that use all arrays together: a global norm stays global. Masks
    are resolved against the stacked arrays.

    Args:
      tx: any transform, a whole optimizer for instance.
      axes: the layer axis of each array: an integer for all, a tree of integers over (a prefix of) the parameters with
        ``None`` for arrays that hold no layers; a list of pairs of a pattern and an axis, where the first that matches
        an array's path decides (patterns are those of :func:`by_path`; an array that none matches holds no layers); or
        a function from parameters to a tree of axes, such as :func:`by_leaf`. Negative axes count from the last.

    Returns:
      ``tx`` with ``per_layer`` around each rule that it makes a difference to. For nested layers write
      ``per_layer(per_layer(tx, inner), outer)``; inner axes are then counted without the outer one.

    Raises:
      TypeError: for inner transforms that can't be inspected: other libraries', and
        :func:`inject_hyperparams`, whose factory may call ``per_layer`` itself.
      ValueError: when the transform is used, if an array lacks its axis.

    Example:
      >>> params = {"layers": {"kernel": jnp.ones((12, 64, 64))}, "head": jnp.ones((64, 10))}
      >>> tx = per_layer(lamb(1e-3), [("layers", 0)])
      >>> tx = per_layer(lamb(1e-3), {"layers": 0, "head": None})  # the same
    """
    axes = AXES.normalize("per_layer: axes", axes)
    if axes is None:
        raise TypeError("per_layer: axes can't be None; for arrays without layers use it in a tree of axes")
    tx = as_transform(tx)
    if unseen := next((x for x in inside(tx) if isinstance(x, Foreign | InjectHyperparams)), None):
        raise TypeError(f"per_layer can't look into {unseen!r}; leave it outside, or use per_layer in its factory")
    return around_rules(tx, lambda rule: PerLayer(rule, axes) if rule.unlayered.spec.kind == "leafwise" else rule)

"""Shardings of an optimizer's state on a mesh of devices: like its parameters, or sharded further (ZeRO-1)."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax.sharding import PartitionSpec

from gradchain.combinators.labels import path_name
from gradchain.core.foreign import Child, as_transform
from gradchain.core.rule import Rule
from gradchain.core.transform import Transform
from gradchain.matrices.views import MuonDimensionNumbers, view
from gradchain.signatures import public
from gradchain.tree import Tree, overlay
from gradchain.tree.alignment import kinds
from gradchain.tree.shardings import Layout, bytes_per_device, layout_of

__all__ = ["bytes_per_device", "state_shardings", "zero_shardings"]


@public
def state_shardings(tx: Child, params: Tree, shardings: Tree | None = None) -> Any:
    """Return the sharding for each array of a transform's state: for ``jax.jit(tx.init, out_shardings=...)``.

    State of a parameter's shape, such as a moment, is sharded like the parameter; Adafactor's rows and columns like the
    axis that they belong to; counts, keys and estimates are replicated. Nothing is computed and no memory is allocated:
    JAX's own sharding propagation is applied to ``tx.init``, so it works for any composition, Optax's transforms
    included.

    Args:
      tx: any transform.
      params: the parameters, or their shapes (``jax.ShapeDtypeStruct``); leaves that aren't arrays are ignored.
      shardings: the parameters' shardings: a tree of ``NamedSharding`` s like ``params``, or the upper part of one,
        such as a single one for all. By default the shardings of ``params`` themselves.

    Returns:
      A tree like the state, of ``NamedSharding`` s. State that :func:`~gradchain.offload_state` keeps in host memory
      has that memory kind.

    Raises:
      TypeError: if a parameter has no ``NamedSharding``, naming its path.
      ValueError: if parameters are on different meshes; if ``tx.init`` uses a sharded axis in a way for which JAX has
        no rule, such as a product over it.

    Example:
      >>> from jax.sharding import AxisType, NamedSharding
      >>> mesh = jax.make_mesh((1,), ("model",), axis_types=(AxisType.Auto,))  # or of as many devices as there are
      >>> layout = state_shardings(tx, params, NamedSharding(mesh, P("model")))
      >>> layout[0].mu["encoder"]["kernel"].spec == P("model"), layout[0].count.spec == P()
      (True, True)
      >>> state = jax.jit(tx.init, out_shardings=layout)(params)
    """
    return layout_of("state_shardings", params, shardings).of_results(as_transform(tx).init, "state_shardings")


@public
def zero_shardings(
    tx: Child, params: Tree, shardings: Tree | None = None, *, axis: str | Sequence[str] = "data"
) -> Any:
    """Return shardings that also shard the optimizer's state over the axis that the batch is sharded over (ZeRO-1).

    Data parallelism keeps a copy of the whole state on every device. Sharded over ``n`` devices it takes ``1/n`` of the
    memory, and of the time to update it: each device updates its part, and then the parts of the parameters' update are
    gathered. Transforms don't change, and the trajectory is the same up to rounding.

    Each array is split along its longest axis that ``n`` divides, unless it is split along it already. State of rules
    that use whole arrays (Muon's momentum) is split only along axes that separate such arrays, so that no matrix is
    split: the layer axis of :func:`~gradchain.per_layer`, the batch axes of :class:`~gradchain.MuonDimensionNumbers`.
    Arrays that can't be split in this way keep their sharding.

    Args:
      tx: any transform.
      params: the parameters or their shapes, as in :func:`state_shardings`.
      shardings: the parameters' shardings, as there.
      axis: the axis, or axes, of the mesh to shard the state over.

    Returns:
      A tree like the state, of ``NamedSharding`` s.

    Raises:
      ValueError: if the mesh has no such axis; otherwise as :func:`state_shardings`.

    Reference: Rajbhandari et al., *ZeRO: Memory Optimizations Toward Training Trillion Parameter Models*, 2020.

    Example:
      >>> from jax.sharding import AxisType, NamedSharding
      >>> mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))  # or of as many devices as there are
      >>> copies = NamedSharding(mesh, P())  # of the parameters, one on every device
      >>> layout = zero_shardings(tx, params, copies, axis="data")
      >>> layout[0].mu["encoder"]["kernel"].spec == P("data")
      True
      >>> state = jax.jit(tx.init, out_shardings=layout)(params)
      >>> update = jax.jit(tx.update, out_shardings=(copies, layout), donate_argnums=1)
      >>> updates, state = update(grads, state, params)
    """
    where = "zero_shardings"
    tx, plain = as_transform(tx), layout_of(where, params, shardings)
    names = (axis,) if isinstance(axis, str) else tuple(axis)
    if missing := [name for name in names if name not in plain.mesh.shape]:
        raise ValueError(f"{where}: the mesh has no axis {missing[0]!r}; it has {', '.join(plain.mesh.shape)}")
    whole, kept = _whole_arrays(tx, plain)
    torn = _spread(plain, names, [None] * len(plain.specs))
    intact = _spread(plain, names, whole)
    pairs = zip(intact.specs, torn.specs, plain.specs, strict=True)
    free = torn._replace(specs=tuple(i if i != p else t for i, t, p in pairs))
    results = [layout.of_results(tx.init, where) for layout in (free, intact, plain)]
    leaves = zip(*map(jax.tree.leaves, results), strict=True)
    chosen = [x[kept.get(i, 0)] for i, x in enumerate(leaves)]
    return jax.tree.unflatten(jax.tree.structure(results[0]), chosen)


def _spread(layout: Layout, names: tuple[str, ...], allowed: Sequence[frozenset[int] | None]) -> Layout:
    """Return the layout with each array split further over the mesh's axes ``names``, along one of its allowed axes."""
    arrays = jax.tree.leaves(layout.arrays)
    n = math.prod(layout.mesh.shape[name] for name in names)
    specs = [
        _split(spec, x.shape, layout, names, n, range(x.ndim) if on is None else on)
        for spec, x, on in zip(layout.specs, arrays, allowed, strict=True)
    ]
    return layout._replace(specs=tuple(specs))


def _split(spec: PartitionSpec, shape: tuple[int, ...], layout: Layout, names: Any, n: int, allowed: Any) -> Any:
    parts = [entry if isinstance(entry, tuple) else () if entry is None else (entry,) for entry in spec]
    if {*names} & {name for part in parts for name in part}:
        return spec
    now = [math.prod(layout.mesh.shape[name] for name in part) for part in parts]
    fits = [i for i in allowed if shape[i] and shape[i] % (now[i] * n) == 0]
    if not fits:
        return spec
    best = min(fits, key=lambda i: (now[i], -shape[i], i))
    parts[best] = (*parts[best], *names)
    return PartitionSpec(*(part or None for part in parts))


def _whole_arrays(tx: Transform, layout: Layout) -> tuple[list[frozenset[int] | None], dict[int, int]]:
    """Return what rules that look at whole arrays ask of a layout.

    Returns:
      For each parameter, the axes that may be split, ``None`` where all may. And for each array of the state that is
      such a rule's, by its number, 1; 2 where it isn't known which parameters it is of.
    """
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(layout.arrays)]
    first, all_of = kinds(layout.arrays)
    state = jax.eval_shape(lambda first: tx.init(overlay(all_of(first), layout.tree)), first)
    numbers = {id(x): i for i, x in enumerate(jax.tree.leaves(state))}
    whole: dict[str, frozenset[int]] = {}
    kept: dict[int, int] = {}
    for rule, own_state, params in _leafwise(tx, state, layout.tree):
        kept |= {numbers[id(x)]: 1 if params is not None else 2 for x in jax.tree.leaves(own_state)}
        for path, axes in _separating_axes(rule, params):
            while path not in paths:  # a part of a parameter, such as a complex one's real part
                path = path.rpartition("/")[0]
            whole[path] = whole.get(path, axes) & axes
    return [whole.get(path) for path in paths], kept


def _leafwise(tx: Transform, state: Any, params: Tree) -> Iterator[tuple[Rule, Any, Tree]]:
    """Yield the rules that look at whole arrays, with their states and parameters."""
    if isinstance(tx, Rule):
        if tx.unlayered.spec.kind == "leafwise":
            yield tx, state, params
        return
    for child in tx.parts(state, params):
        yield from _leafwise(child.transform, child.state, child.params)


def _separating_axes(rule: Rule, params: Tree) -> Iterator[tuple[str, frozenset[int]]]:
    """Yield, for each array that a rule applies to, its path and the axes along which arrays lie side by side."""
    pairs = jax.tree_util.tree_flatten_with_path(params, is_leaf=lambda x: x is None)[0]
    if params is None:
        return
    active = rule.active(params, len(pairs))
    for (path, x), own, on in zip(pairs, rule.declarations(params), active, strict=True):
        if on:
            rest = list(range(x.ndim))
            layers = [rest.pop(axis) for axis in own.axes]
            dims = next((v for _, v in own.fields if isinstance(v, MuonDimensionNumbers)), None)
            if dims is not None:
                seen = view([x.shape[i] for i in rest], dims, where=rule.name)
                layers += [rest[i] for i in seen.order[: len(seen.batch)]]
            yield path_name(path), frozenset(layers)

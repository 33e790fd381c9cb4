"""Where the arrays of a tree lie on a mesh of devices, and where a function of them puts its results."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from gradchain.signatures import public
from gradchain.tree.alignment import Tree, bytes_of, flatten_optional, is_array, kinds, overlay, show_path, spread

HOST = "pinned_host"
"""The kind of memory that JAX calls ``Host``."""


def in_host_memory(x: Any) -> bool:
    """Return whether an array, a traced one or what stands for one lies in the host's memory."""
    if isinstance(x, jax.ShapeDtypeStruct):
        return getattr(x.sharding, "memory_kind", None) == HOST
    return isinstance(x, jax.Array) and jax.typeof(x).memory_space == jax.memory.Space.Host


def move(x: Any, to_host: bool) -> Any:
    """Return an array in the host's memory or the device's."""
    return jax.device_put(x, jax.memory.Space.Host if to_host else jax.memory.Space.Device)


class Layout(NamedTuple):
    """A tree's arrays and how each lies on one mesh."""

    mesh: Any
    tree: Tree
    """The whole tree; leaves that are no arrays (an Equinox model's functions) have no layout."""
    arrays: Tree
    """The shapes and dtypes of its arrays, ``None`` elsewhere."""
    specs: tuple[PartitionSpec, ...]
    """One for each array; as many entries as the array has axes."""

    def of_results(self, function: Callable[[Any], Any], where: str) -> Tree:
        """Return the shardings of what ``function`` makes of the tree, by JAX's own rules of propagation.

        Nothing is computed. An array made like another (``zeros_like``) lies like it; one that is reduced over some
        axes keeps the others' layout; one that depends on no array lies whole on every device.

        Raises:
          ValueError: where JAX can't tell how a result would lie.
        """
        abstract = AbstractMesh(
            self.mesh.axis_sizes, self.mesh.axis_names, axis_types=(AxisType.Explicit,) * len(self.mesh.axis_names)
        )
        leaves, treedef = jax.tree.flatten(self.arrays)
        leaves = [
            jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(abstract, spec))
            for x, spec in zip(leaves, self.specs, strict=True)
        ]
        try:
            with jax.sharding.use_abstract_mesh(abstract):
                first, whole = kinds(treedef.unflatten(leaves))
                program = jax.make_jaxpr(lambda first: function(overlay(whole(first), self.tree)), return_shape=True)
                jaxpr, shapes = program(first)
        except Exception as error:
            if type(error).__name__ != "ShardingTypeError":  # which JAX doesn't export
                raise
            raise ValueError(f"{where}: JAX can't tell how the state would lie on {self.mesh}: {error}") from None
        return jax.tree.unflatten(jax.tree.structure(shapes), [self._sharding(x) for x in jaxpr.out_avals])

    def _sharding(self, aval: Any) -> NamedSharding:
        spec = aval.sharding.spec if aval.sharding.mesh.shape_tuple else PartitionSpec()
        kind = HOST if aval.memory_space == jax.memory.Space.Host else None
        return NamedSharding(self.mesh, _short(spec), memory_kind=kind)


def layout_of(where: str, tree: Tree, shardings: Tree | None = None) -> Layout:
    """Return the layout of a tree of arrays, or of shapes, from their own shardings or those given beside them.

    Args:
      where: what error messages begin with.
      tree: arrays, or ``jax.ShapeDtypeStruct`` s.
      shardings: a tree like it, or the upper part of one, of ``NamedSharding`` s; each array's own by default.

    Raises:
      TypeError: for an array without a ``NamedSharding``, naming its path.
      ValueError: if there are no arrays, or they lie on different meshes, naming the path.
    """
    arrays = jax.tree.map(_shape, tree)
    pairs = [(path, x) for path, x in jax.tree_util.tree_leaves_with_path(tree) if is_array(x)]
    if not pairs:
        raise ValueError(f"{where}: the tree has no arrays")
    own = [getattr(x, "sharding", None) for _, x in pairs]
    if shardings is not None:
        own = _beside(where, arrays, shardings)
    named = [_checked(where, path, x, sharding) for (path, x), sharding in zip(pairs, own, strict=True)]
    mesh = named[0].mesh
    for (path, _), sharding in zip(pairs, named, strict=True):
        if sharding.mesh.shape_tuple != mesh.shape_tuple:
            raise ValueError(f"{where}: {show_path(path)} lies on {sharding.mesh}, other arrays on {mesh}")
    specs = tuple(_full(sharding.spec, x.ndim) for sharding, (_, x) in zip(named, pairs, strict=True))
    return Layout(mesh, tree, arrays, specs)


def _beside(where: str, arrays: Tree, shardings: Tree) -> list[Any]:
    """Return the sharding of each array from a tree of them, or its upper part, matched by path."""
    leaves, treedef = flatten_optional(shardings)
    try:
        each = spread(treedef, leaves, arrays, "shardings", "the tree")
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return [own for own, x in zip(each, flatten_optional(arrays)[0], strict=True) if x is not None]


def _checked(where: str, path: Any, x: Any, sharding: Any) -> NamedSharding:
    if not isinstance(sharding, NamedSharding):
        raise TypeError(
            f"{where}: {show_path(path)} has {sharding!r} for its sharding, expected a NamedSharding: put the "
            "arrays on a mesh by jax.device_put, or give their shardings as a tree"
        )
    try:
        sharding.check_compatible_aval(x.shape)
        sharding.shard_shape(x.shape)
    except ValueError as error:
        raise ValueError(f"{where}: {show_path(path)} can't be split so: {error}") from None
    return sharding


def _shape(x: Any) -> jax.ShapeDtypeStruct | None:
    return jax.ShapeDtypeStruct(x.shape, x.dtype) if is_array(x) else None


def _full(spec: PartitionSpec, ndim: int) -> PartitionSpec:
    return PartitionSpec(*spec, *[None] * (ndim - len(spec)))


def _short(spec: PartitionSpec) -> PartitionSpec:
    """Return the spec without ``None`` at its end, as people write it."""
    last = max((i for i, entry in enumerate(spec, 1) if entry is not None), default=0)
    return PartitionSpec(*spec[:last])


@public
def bytes_per_device(tree: Tree, shardings: Tree | None = None) -> int:
    """Return how many bytes of a tree's arrays are on each device.

    Args:
      tree: arrays, or their shapes (``jax.ShapeDtypeStruct``): nothing is computed.
      shardings: a tree like it; each array's own sharding by default. Arrays without one are on a single device.

    Example:
      >>> from jax.sharding import AbstractMesh, NamedSharding
      >>> copies = NamedSharding(AbstractMesh((4,), ("data",)), P())  # four devices, which needn't be there
      >>> shapes = jax.eval_shape(tx.init, params)
      >>> bytes_per_device(shapes, state_shardings(tx, params, copies))
      208
      >>> bytes_per_device(shapes, zero_shardings(tx, params, copies))
      64
    """
    arrays = [x for x in jax.tree.leaves(tree) if is_array(x)]
    own = [getattr(x, "sharding", None) for x in arrays]
    own = own if shardings is None else _beside("bytes_per_device", jax.tree.map(_shape, tree), shardings)
    shapes = [x.shape if s is None else s.shard_shape(x.shape) for x, s in zip(arrays, own, strict=True)]
    return sum(map(bytes_of, arrays, shapes))

"""Where parameters, state and batches of a run lie on a mesh of devices."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array, lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gradchain.training.variables import Variables
from gradchain.tree import Tree
from gradchain.tree.alignment import is_key
from gradchain.tree.shardings import layout_of


class Placement(NamedTuple):
    """A mesh, whose first axis batches are spread over, and the layout of parameters and state; hashable."""

    mesh: Mesh
    params: tuple[Any, ...]
    """The sharding of each array."""
    state: tuple[Any, ...]

    def batch(self, batch: Tree) -> Tree:
        """Return the batch, spread over the first axis if that divides it."""

        def leaf(x: Any) -> Any:
            return x if len(x) % _width(self.mesh) else lax.with_sharding_constraint(x, along_first(self.mesh))

        return jax.tree.map(leaf, batch)

    def keep(self, params: Tree, state: Any, *numbers: Any) -> tuple[Any, ...]:
        """Return parameters and state where they lay before, and ``numbers`` on every device."""
        whole = NamedSharding(self.mesh, PartitionSpec())
        return (
            _laid_out(params, self.params),
            _laid_out(state, self.state),
            *lax.with_sharding_constraint(numbers, whole),
        )


def _laid_out(tree: Tree, shardings: tuple[Any, ...]) -> Tree:
    leaves, treedef = jax.tree.flatten(tree)
    return treedef.unflatten(lax.with_sharding_constraint(leaves, list(shardings)))


def _width(mesh: Mesh) -> int:
    return mesh.shape[mesh.axis_names[0]]


def along_first(mesh: Mesh) -> NamedSharding:
    """Return the layout of arrays that are split along their first axis, over the mesh's first."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))


def automatic(mesh: Mesh) -> Mesh:
    """Return the mesh with axes along which the compiler splits the work."""
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))


def check_mesh(mesh: Any) -> None:
    """Raise TypeError unless ``mesh`` is a mesh, or ``None``."""
    if mesh is not None and not isinstance(mesh, Mesh):
        raise TypeError(f"mesh must be a jax.sharding.Mesh, such as jax.make_mesh((8,), ('data',)), got {mesh!r}")


def check_divides(mesh: Mesh, batch_size: int) -> None:
    """Raise ValueError unless a batch can be spread evenly over the mesh's first axis."""
    if batch_size % _width(mesh):
        raise ValueError(
            f"batch_size is {batch_size}, but the mesh's axis {mesh.axis_names[0]!r}, which batches are spread over, "
            f"has length {_width(mesh)}, which doesn't divide it"
        )


def on_mesh(mesh: Mesh, tree: Tree) -> Tree:
    """Return the tree on the devices of ``mesh``: arrays that lie on such a mesh, as they lie; others whole on each."""

    def leaf(x: Any) -> Any:
        if not isinstance(x, Array | np.ndarray):
            return x
        old: Any = getattr(x, "sharding", None)
        there = isinstance(old, NamedSharding) and automatic_like(old.mesh, mesh)
        spec = old.spec if there else PartitionSpec()
        sharding = NamedSharding(mesh, spec, memory_kind=getattr(old, "memory_kind", None))
        if is_key(x):  # which device_put doesn't send to other processes
            return jax.random.wrap_key_data(
                jax.device_put(jax.random.key_data(x), sharding), impl=jax.random.key_impl(x)
            )
        return jax.device_put(x, sharding)

    return jax.tree.map(leaf, tree)


def automatic_like(one: Any, other: Mesh) -> bool:
    """Tell whether two meshes have the same devices and axes, whatever the axes' types."""
    return isinstance(one, Mesh) and one.shape_tuple == other.shape_tuple and (one.devices == other.devices).all()


def place(mesh: Mesh, tx: Any, variables: Variables[Any], state: Any) -> tuple[Placement, Any, Variables[Any], Any]:
    """Return what a run begins with, on the mesh; a new state if there is none yet."""
    mesh = automatic(mesh)
    tx, variables = on_mesh(mesh, (tx, variables))
    if state is None:
        layout = layout_of("fit", variables.params).of_results(tx.init, "fit")
        state = jax.jit(tx.init, out_shardings=layout)(variables.params)
    state = on_mesh(mesh, state)
    layouts = [tuple(x.sharding for x in jax.tree.leaves(tree)) for tree in (variables, state)]
    return Placement(mesh, *layouts), tx, variables, state

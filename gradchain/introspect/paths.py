"""Every array of a state by address, ``stage/slot/parameter path``, whatever combinators the stage is nested in."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradchain.combinators.steering import InjectHyperparams
from gradchain.core.foreign import Child, Foreign, as_transform
from gradchain.core.hyperparams import named_parts
from gradchain.core.rule import Rule
from gradchain.core.transform import Part, Transform, check_state
from gradchain.signatures import public
from gradchain.tree import Tree, overlay
from gradchain.tree.alignment import is_array, kinds
from gradchain.tree.shardings import HOST, in_host_memory
from gradchain.tree.state import NamedTupleKey, Names, Node, Path, nodes


class Place(NamedTuple):
    """Where an array of a state belongs."""

    address: str
    """As ``scale_by_adam/mu/layer/kernel``, different for each array. NUL and lone surrogates are escaped."""
    stage: str
    """The name of the transform that keeps it: that of :func:`gradchain.hyperparams`, labels in front."""
    transform: str
    """The same without labels and number: the constructor's name."""
    slot: str
    """The field of the transform's state; "" where the state is the array itself."""
    path: str
    """The path in that field: of most slots, the parameter's."""


class Owner(NamedTuple):
    """The innermost transform around an array."""

    stage: str
    transform: str
    path: Path


class Cell(jax.ShapeDtypeStruct):
    """Stands for one leaf of a state while the state is taken apart; hyperparameters' checks let it pass."""

    def __init__(self, index: int):
        super().__init__((), jnp.float32)
        self.index = index


def abstract_state(tx: Transform, params: Tree) -> Any:
    """Return shapes and dtypes of ``tx.init(params)``; parameters may be shapes themselves, or no arrays at all.

    What lies in the host's memory has a sharding that says so; nothing else has one.
    """
    arrays = jax.tree.map(lambda x: x if is_array(x) else None, params)
    spaces: list[Any] = []

    first, whole = kinds(arrays)

    def init(first: list[Any]) -> Any:
        state = tx.init(overlay(whole(first), params))
        spaces.extend(map(in_host_memory, jax.tree.leaves(state)))
        return state

    leaves, treedef = jax.tree.flatten(jax.eval_shape(init, first))
    return treedef.unflatten(_in_host(x) if host else x for x, host in zip(leaves, spaces, strict=True))


def _in_host(x: Any) -> Any:
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0], memory_kind=HOST)
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding, weak_type=x.weak_type)


@public
def state_paths(tx: Child, state: Any) -> dict[str, Any]:
    """Return every array of a state by its address, ``stage/slot/parameter path``, in the state's own order.

    A stage has the name that :func:`hyperparams` gives it: the constructor's, after the labels of ``partition`` and
    ``named_chain`` around it; the second of one name is ``trace_2``. Combinators that keep arrays are stages too
    (``accumulate/acc_grads/kernel``); otherwise they add nothing to the address. Stages of other libraries are named
    after the classes of their states, so that Optax's ``ScaleByAdamState`` is ``scale_by_adam``.

    Args:
      tx: any transform.
      state: its state, or a tree of the same structure, of shapes or shardings for instance.

    Returns:
      A dict from address to leaf. Since it has the state's order, ``jax.tree.structure(state).unflatten(paths)`` is
      the state with each array replaced by its address.

    Raises:
      ValueError: if ``state`` isn't a state of this transform.

    Example:
      >>> tx = sgd(0.1, momentum=0.9)
      >>> list(state_paths(tx, tx.init({"w": jnp.zeros(3)})))
      ['trace/count', 'trace/trace/w', 'scale_by_learning_rate/count']
    """
    found = places("state_paths", as_transform(tx), state)
    return {place.address: leaf for place, leaf in zip(found, jax.tree.leaves(state), strict=True)}


def places(where: str, tx: Transform, state: Any) -> list[Place]:
    """Return where each leaf of a state belongs, in the state's order; ``where`` begins error messages."""
    leaves, treedef = jax.tree.flatten(state)
    cells = treedef.unflatten(map(Cell, range(len(leaves))))
    try:
        owners = dict(_owners(tx, cells))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: the state isn't one of {tx.name}: {error}") from error
    names = Names()
    result: list[Place] = []
    for index in range(len(leaves)):
        owner = owners[index]
        steps = [_step(key) for key in owner.path]
        address = names.add(_written("/".join([owner.stage, *steps])))
        result.append(Place(address, owner.stage, owner.transform, "".join(steps[:1]), "/".join(steps[1:])))
    return result


def _written(address: str) -> str:
    """Return an address as all file formats can hold it: what ends a name in zip files, or isn't text, is escaped."""
    return re.sub("[\x00\ud800-\udfff]", lambda match: ascii(match[0])[1:-1], address)


def _step(key: Any) -> str:
    return key.name if isinstance(key, NamedTupleKey) else jax.tree_util.keystr((key,), simple=True)


def _owners(tx: Transform, cells: Any) -> Iterator[tuple[int, Owner]]:
    """Yield for each cell the transforms around it, the innermost last."""
    parts = state_parts(tx, cells)
    for part in parts:
        if isinstance(part.transform, Rule) and part.state is not None:
            check_state(part.transform.name, part.state, part.transform.unlayered.State._fields)
        for path, cell in jax.tree_util.tree_flatten_with_path(part.state)[0]:
            yield cell.index, Owner(part.name, part.transform.name, path)
    taken = {part.name for part in parts}
    for part in parts:
        for node in _foreign(part, taken):
            taken.add(node.stage)
            yield node.value.index, Owner(node.stage, re.sub(r".*\.|_\d+$", "", node.stage), node.within)


def state_parts(tx: Transform, state: Any, params: Tree | None = None) -> list[Part]:
    """Return the parts of ``tx`` by name with their states, those that ``inject_hyperparams`` builds included."""
    parts = named_parts(tx, state, params)
    for part in parts:  # it grows on the way: what is built may hold what builds
        if isinstance(part.transform, InjectHyperparams):
            built = part.transform.build(part.transform.arguments)
            taken = [other.name for other in parts]
            inner = None if part.state is None else part.state.inner_state
            parts += named_parts(built, inner, part.params, _labels(part.name), taken)
    return parts


def _foreign(part: Part, taken: set[str]) -> list[Node]:
    """Return the leaves of another library's state that lie in states with a name."""
    if not isinstance(part.transform, Foreign):
        return []
    return [
        node for node in nodes(part.state, _labels(part.name), taken) if isinstance(node.value, Cell) and node.stage
    ]


def _labels(name: str) -> str:
    label, dot, _ = name.rpartition(".")
    return label + dot

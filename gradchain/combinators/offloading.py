"""Optimizer state kept in host memory between updates."""

import functools
from typing import Any

import jax
from jax import Array

from gradchain.core.combinator import combinator
from gradchain.core.foreign import Child
from gradchain.core.transform import Part, Transform
from gradchain.eager import custom_jvp
from gradchain.tree import Tree
from gradchain.tree.shardings import move


@combinator
class offload_state(Transform):
    """Keep a transform's state in host memory, and copy it to the device for each update.

    Optimizer state is needed once per step and is often twice as large as the parameters. Keeping it in the host's
    (pinned) memory leaves device memory to activations, at the cost of moving it there and back. Results don't change.
    Inside a compiled step the compiler overlaps the transfers with other work where it can; counts and other scalars
    stay on the device.

    Use it outermost. Derivatives with respect to hyperparameters or earlier parameters would go through the state,
    which JAX can't differentiate there: for meta-learning, don't use ``offload_state``.
    :func:`~gradchain.state_shardings` includes the memory kind, so that offloading and sharding can be combined.

    :func:`from_state_dict` and :func:`~gradchain.training.load_checkpoint` put the arrays back into host memory.
    JAX's pickles don't: :func:`to_state_dict` makes a dict that does.

    Args:
      tx: any transform.

    Raises:
      RuntimeError: from ``init`` and ``update``, if the backend has no memory of the kind ``pinned_host``. (GPUs, TPUs
        and, where it changes nothing, CPUs have it.)
      TypeError: from ``init`` and ``update``, where a derivative would go through the state.

    Example:
      >>> tx = offload_state(adamw(1e-3))
      >>> state = tx.init(params)
      >>> state[0].mu["encoder"]["kernel"].sharding.memory_kind
      'pinned_host'

    Reference: Ren et al., *ZeRO-Offload: Democratizing Billion-Scale Model Training*, 2021, which also computes the
    update on the host.
    """

    tx: Child

    def init(self, params: Tree) -> Any:
        return _to_host(self.tx.init(params))

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        updates, state = self.tx.step(updates, _to_device(state), params, extra)
        return updates, _to_host(state)

    def parts(self, state: Any = None, params: Tree | None = None) -> list[Part]:
        return [Part("", self.tx, state, params)]

    def eval_params(self, state: Any, params: Tree) -> Tree:
        return self.tx.eval_params(_to_device(state), params)


def _to_host(state: Any) -> Any:
    check_host_memory()
    return jax.tree.map(lambda x: _moved(True, x) if _is_large(x) else x, state)


def _to_device(state: Any) -> Any:
    return jax.tree.map(lambda x: _moved(False, x) if _is_large(x) else x, state)


@functools.partial(custom_jvp, nondiff_argnums=(0,))
def _moved(to_host: bool, x: Any) -> Any:
    return move(x, to_host)


@_moved.defjvp
def _refused(to_host: bool, primals: Any, tangents: Any) -> Any:
    """Refuse what JAX can't do in a loop: its derivatives of such state are in another memory than the state."""
    raise TypeError(
        "offload_state: JAX can't differentiate through state in the host's memory; differentiate the transform "
        "without offload_state"
    )


def _is_large(x: Any) -> bool:
    return isinstance(x, Array) and x.ndim > 0


def check_host_memory() -> None:
    """Raise ``RuntimeError`` if the devices can't reach the host's memory."""
    device = jax.local_devices()[0]
    kinds = [memory.kind for memory in device.addressable_memories()]
    if "pinned_host" not in kinds:
        raise RuntimeError(
            f"offload_state: {device} has no memory of kind pinned_host, only {', '.join(kinds)}; "
            "use the transform without offload_state"
        )

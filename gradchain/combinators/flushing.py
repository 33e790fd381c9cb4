"""The end of an incomplete round of accumulation."""

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from gradchain import tree
from gradchain.combinators.accumulation import AccumulateState, accumulate, accumulations
from gradchain.combinators.chain import Chain, NamedChain
from gradchain.combinators.parallel import Parallel
from gradchain.combinators.routing import partition
from gradchain.combinators.sharpness import AlternatingSAM
from gradchain.combinators.steering import InjectHyperparams
from gradchain.core.foreign import Child, ChildKind, as_transform
from gradchain.core.transform import Part, Transform
from gradchain.core.value import register
from gradchain.signatures import public
from gradchain.tree import Tree
from gradchain.tree.alignment import S, T


@register
class Rest(Transform):
    """A transform that does nothing for a step: updates are 0, and its state stays."""

    name = "rest"
    inner: Child

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        return tree.zeros_like(updates if params is None else params), state

    @property
    def skips(self) -> bool:
        return False

    def parts(self, state: Any = None, params: Tree | None = None) -> list[Part]:
        return [Part("", self.inner, state, params)]


@register
class Finish(Transform):
    """An accumulation that ends its round, and those inside it, instead of a step; see :func:`flush`."""

    name = "finish"
    inner: Annotated[Any, ChildKind()]

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        updates, state = self.inner.finish(updates, state, params, extra)
        if not self.inner.tx.collects:
            return updates, state
        zeros, inner = tree.zeros_like(updates), finishing(self.inner.tx)
        rest, inner_state = inner.step(zeros, state.inner_state, params, extra)
        emitted = state.emitted | inner.emitted(state.inner_state, inner_state)
        return tree.add(updates, rest), state._replace(inner_state=inner_state, emitted=emitted)

    @property
    def skips(self) -> bool:
        return True

    def emitted(self, before: Any, after: Any) -> Any:
        return after.emitted

    def parts(self, state: Any = None, params: Tree | None = None) -> list[Part]:
        return [Part("", self.inner, state, params)]


def finishing(tx: Transform) -> Transform:
    """Return the transform that ends the rounds in ``tx`` instead of a step; what would come before them rests.

    Raises:
      ValueError: for one accumulation behind another in a chain.
    """
    if not tx.collects:
        return Rest(tx)
    if isinstance(tx, accumulate.Value):
        return Finish(tx)
    if isinstance(tx, InjectHyperparams):
        factory = tx.factory
        return dataclasses.replace(tx, factory=lambda **fields: finishing(as_transform(factory(**fields))))
    if isinstance(tx, Chain | NamedChain):
        first, *others = [i for i, stage in enumerate(tx.stages) if stage.collects]
        if others:
            raise ValueError(f"flush: only one of several accumulations in a chain can be ended, got {tx!r}")
        stages = *map(Rest, tx.stages[:first]), finishing(tx.stages[first]), *tx.stages[first + 1 :]
        return dataclasses.replace(tx, stages=stages)
    if isinstance(tx, AlternatingSAM):
        raise ValueError(
            f"flush: only half of the updates of {tx!r} reach the accumulation inside; put accumulate around sam"
        )
    side_by_side = isinstance(tx, partition.Value | Parallel)
    children, treedef = jax.tree.flatten(tx, is_leaf=lambda x: x is not tx and isinstance(x, Transform))
    new = [finishing(x) if isinstance(x, Transform) and (x.collects or side_by_side) else x for x in children]
    return treedef.unflatten(new)


@public
def flush(tx: Child, state: S, params: T, **extra: Any) -> tuple[T, S]:
    """Return the update of an incomplete round of :func:`accumulate`, and the state after it.

    For the end of training, when no more micro-steps come. The update is made from the mean (or sum) of the micro-steps
    so far, and the state is that after a full round. Transforms inside the accumulation and after it take their step,
    and those around it count it; those before it do nothing. If no round has begun, updates are 0, and the state is
    unchanged.

    Args:
      tx: a transform with :func:`accumulate` in it, at any depth. (Optax's ``MultiSteps`` isn't recognised.)
      state: its state.
      params: the current parameters.
      **extra: further arguments that transforms inside ask for. ``value`` isn't needed: it is that of the round.

    Raises:
      ValueError: if there is no :func:`accumulate` in ``tx``, or one behind another in a chain, or one inside the
        alternating form of :func:`sam`.

    Example:
      >>> tx = accumulate(adam(1e-3), every=4)
      >>> updates, state = tx.update(grads, tx.init(params), params)  # the last micro-step that there is
      >>> updates, state = flush(tx, state, params)
      >>> params = apply_updates(params, updates)
    """
    tx = as_transform(tx)
    if not tx.collects:
        raise ValueError(f"flush: there is no accumulate in {tx!r}")
    zeros = tree.zeros_like(params)
    updates, new = finishing(tx).update(zeros, state, params, **extra)
    begun = jnp.any(jnp.stack([x.mini_step > 0 for x in _all_accumulations(state)]))
    return tree.where(begun, (updates, new), (tree.zeros_like(updates), state))


def _all_accumulations(state: Any) -> list[AccumulateState]:
    """Return the states of all accumulations in a state."""
    here = accumulations(state)
    return here + [x for outer in here for x in _all_accumulations(outer.inner_state)]

"""``chain`` and ``named_chain`` of Optax."""

from collections import OrderedDict
from typing import Any

from gradchain.combinators.chain import Chain, NamedChain
from gradchain.core.foreign import as_transform
from gradchain.core.transform import Transform
from gradchain.core.value import register
from gradchain.optax._shown import OptaxLike, Shown, as_floats
from gradchain.signatures import public
from gradchain.tree import Tree


def _hidden(tx: Transform, state: Any) -> tuple[Transform, Any]:
    """Return a transform and its state with the rules of gradchain, and their states, in the place of shown ones."""
    if isinstance(tx, Shown):
        return (tx, state) if tx.spread else (tx.rule, tx.hide(state))
    if not isinstance(tx, OptaxChain):
        return tx, state
    if len(state) != len(tx.stages):
        raise ValueError(f"chain: the state has {len(state)} parts and the chain {len(tx.stages)}; call init first")
    pairs = [_hidden(stage, own) for stage, own in zip(tx.stages, state, strict=True)]
    return Chain(tuple(stage for stage, _ in pairs)), tuple(own for _, own in pairs)


def _shown(tx: Transform, state: Any) -> Any:
    """Return a state as ``init`` shows it."""
    if isinstance(tx, OptaxChain):
        return tuple(_shown(stage, own) for stage, own in zip(tx.stages, state, strict=True))
    return tx.show(state) if isinstance(tx, Shown) and not tx.spread else state


@register
class OptaxChain(OptaxLike, Chain):
    """A chain of stages whose states are Optax's; a step runs the rules inside, in one call for each array."""

    name = "chain"

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        hidden, inner = _hidden(self, state)
        updates, inner = hidden.step(as_floats(updates), inner, as_floats(params), extra)
        return updates, _shown(self, inner)


@register
class OptaxNamedChain(OptaxLike, NamedChain):
    """A chain whose state is an ordered dict of its stages' states."""

    name = "named_chain"

    def init(self, params: Tree) -> Any:
        return OrderedDict((name, tx.init(params)) for name, tx in zip(self.names, self.stages, strict=True))

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        states = tuple(state[name] for name in self.names)
        updates, states = OptaxChain(self.stages).step(updates, states, params, extra)
        return updates, OrderedDict(zip(self.names, states, strict=True))


@public
def chain(*args: Any) -> Any:
    """Apply transforms one after another (:func:`gradchain.chain`); the state is the tuple of theirs."""
    return OptaxChain(tuple(as_transform(tx) for tx in args))


@public
def named_chain(*args: tuple[str, Any]) -> Any:
    """Apply named transforms one after another (:func:`gradchain.named_chain`); the state is an ordered dict."""
    names = tuple(name for name, _ in args)
    if len(names) != len(set(names)):
        raise ValueError(f"named_chain: names must be different, got {list(names)}")
    return OptaxNamedChain(names, tuple(as_transform(tx) for _, tx in args))

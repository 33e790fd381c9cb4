"""``chain``: transforms one after another."""

from collections.abc import Iterator
from typing import Any, cast

from gradchain.core.foreign import Child, Children
from gradchain.core.lift import step_leaves
from gradchain.core.rule import Rule
from gradchain.core.transform import Part, Transform
from gradchain.core.value import register
from gradchain.signatures import public
from gradchain.tree import Tree


def _flatten(tx: Transform, state: Any) -> list[tuple[Transform, Any]]:
    """Return the stages of a chain, those of chains inside it in their places, with their states."""
    if not isinstance(tx, Chain):
        return [(tx, state)]
    if not isinstance(state, tuple | list) or len(cast(Any, state)) != len(tx.stages):
        size = len(cast(Any, state)) if isinstance(state, tuple | list) else type(state).__name__
        raise ValueError(f"chain: the state is from another transform: expected {len(tx.stages)} parts, got {size}")
    return [pair for stage, own in zip(tx.stages, state, strict=True) for pair in _flatten(stage, own)]


def _unflatten(tx: Transform, states: Iterator[Any]) -> Any:
    """Return the states of a chain's flattened stages as they are nested."""
    return tuple(_unflatten(stage, states) for stage in tx.stages) if isinstance(tx, Chain) else next(states)


def _groups(pairs: list[tuple[Transform, Any]]) -> list[list[tuple[Transform, Any]]]:
    """Split into runs of rules that one call a leaf can hold, and single other stages."""
    groups: list[list[tuple[Transform, Any]]] = []
    for stage, state in pairs:
        previous = groups[-1][-1][0] if groups else None
        joins = isinstance(stage, Rule) and stage.by_leaf and not stage.unlayered.spec.whole
        if joins and isinstance(previous, Rule) and previous.by_leaf:
            groups[-1].append((stage, state))
        else:
            groups.append([(stage, state)])
    return groups


@register
class Chain(Transform):
    """See :func:`chain`."""

    name = "chain"
    stages: Children

    def init(self, params: Tree) -> tuple[Any, ...]:
        return tuple(stage.init(params) for stage in self.stages)

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        states: list[Any] = []
        for group in _groups(_flatten(self, state)):
            if len(group) > 1:
                rules, now = [cast(Rule, stage) for stage, _ in group], [own for _, own in group]
                updates, new = step_leaves(rules, updates, now, params, extra)
            else:
                (stage, own), *_ = group
                updates, *new = stage.step(updates, own, params, extra)
            states += new
        return updates, _unflatten(self, iter(states))

    def parts(self, state: Any = None, params: Tree | None = None) -> list[Part]:
        states = [None] * len(self.stages) if state is None else state
        return [Part("", stage, s, params) for stage, s in zip(self.stages, states, strict=True)]

    def __repr__(self) -> str:
        return f"chain({', '.join(map(repr, self.stages))})"


@public
def chain(*args: Child) -> Transform:
    """Apply transforms one after another, each to the updates that the one before returned.

    Consecutive elementwise and leafwise rules, including those of nested chains, run as one call for each array.
    Between the stages, updates of half-precision parameters stay in float32.

    Args:
      *args: transforms, gradchain's or any with ``init`` and ``update`` (optax's). With no arguments it is the
        identity.

    Returns:
      A transform whose state is the tuple of its stages' states.

    Example:
      >>> tx = chain(clip_by_global_norm(1.0), scale_by_adam(), scale_by_learning_rate(1e-3))
    """
    return Chain.new(args)


@register
class NamedChain(Transform):
    """See :func:`named_chain`."""

    name = "named_chain"
    names: tuple[str, ...]
    stages: Children

    def init(self, params: Tree) -> dict[str, Any]:
        return dict(zip(self.names, Chain(self.stages).init(params), strict=True))

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        if not isinstance(state, dict) or set(state) != set(self.names):  # pyright: ignore
            got = list(state) if isinstance(state, dict) else type(state).__name__  # pyright: ignore
            raise ValueError(f"named_chain: the state is from another transform: expected {self.names}, got {got}")
        states = tuple(state[name] for name in self.names)
        updates, states = Chain(self.stages).step(updates, states, params, extra)
        return updates, dict(zip(self.names, states, strict=True))

    def parts(self, state: Any = None, params: Tree | None = None) -> list[Part]:
        states = state or dict.fromkeys(self.names)
        return [Part(name, tx, states[name], params) for name, tx in zip(self.names, self.stages, strict=True)]

    def __repr__(self) -> str:
        return f"named_chain({', '.join(map(repr, zip(self.names, self.stages, strict=True)))})"


@public
def named_chain(*args: tuple[str, Child]) -> Transform:
    """Apply named transforms one after another; the state is a dict from name to state.

    Args:
      *args: pairs of a name and a transform. The names label the hyperparameters too
        (``hyperparams(tx)["warm.trace.decay"]``).

    Raises:
      ValueError: if a name is given twice or isn't a string.
    """
    if not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in args):  # pyright: ignore
        raise TypeError(f"named_chain takes pairs of a name and a transform, got {args}")
    names = tuple(name for name, _ in args)
    if len(set(names)) != len(names) or not all(isinstance(name, str) for name in names):  # pyright: ignore
        raise ValueError(f"named_chain: names must be different strings, got {names}")
    return NamedChain.new(names, [tx for _, tx in args])

"""``chain`` and ``named_chain`` of Optax."""

from typing import Any

from gradchain.combinators.chain import Chain, NamedChain
from gradchain.core.foreign import as_transform
from gradchain.core.value import register


@register
class OptaxChain(Chain):
    """A chain whose stages have Optax's states."""

    name = "chain"


def chain(*args: Any) -> Any:
    """Apply transforms one after another (:func:`gradchain.chain`); the state is the tuple of theirs."""
    return OptaxChain(tuple(as_transform(tx) for tx in args))


def named_chain(*args: tuple[str, Any]) -> Any:
    """Apply named transforms one after another (:func:`gradchain.named_chain`); the state is a dict by name."""
    names = tuple(name for name, _ in args)
    if len(names) != len(set(names)):
        raise ValueError(f"named_chain: names must be different, got {list(names)}")
    return NamedChain(names, tuple(as_transform(tx) for _, tx in args))

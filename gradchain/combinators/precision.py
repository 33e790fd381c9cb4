"""Control over the dtype of the updates that leave a transform."""

from typing import Any

from gradchain.core.combinator import combinator
from gradchain.core.extra import with_value_fn
from gradchain.core.foreign import Child
from gradchain.core.transform import Part, Transform
from gradchain.tree import Tree


@combinator
class float32_updates(Transform):
    """Return updates for half-precision parameters in float32, as computed, and not in the parameters' dtype.

    For code that adds them with its own rounding, such as stochastic rounding. Use it outermost: between the stages of
    a chain, updates are in float32 anyway.

    Args:
      tx: any transform.
    """

    tx: Child

    def init(self, params: Tree) -> Any:
        return self.tx.init(params)

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        return self.tx.step(updates, state, params, extra)

    def update(self, updates: Tree, state: Any, params: Tree | None = None, **extra: Any) -> tuple[Tree, Any]:
        return self.step(updates, state, self.matched(params, updates), with_value_fn(extra))

    def parts(self, state: Any = None, params: Tree | None = None) -> list[Part]:
        return [Part("", self.tx, state, params)]

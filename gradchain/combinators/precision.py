"""Control over the dtype of the updates that leave a transform."""

from typing import Any

from gradchain.core.extra import with_value_fn
from gradchain.core.foreign import as_transform
from gradchain.core.transform import Part, Transform
from gradchain.core.value import Child, register
from gradchain.signatures import public
from gradchain.tree import Tree


@register
class Float32Updates(Transform):
    """See :func:`float32_updates`."""

    name = "float32_updates"
    kinds = {"inner": Child()}
    required = frozenset({"inner"})
    inner: Transform

    def init(self, params: Tree) -> Any:
        return self.inner.init(params)

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        return self.inner.step(updates, state, params, extra)

    def update(self, updates: Tree, state: Any, params: Tree | None = None, **extra: Any) -> tuple[Tree, Any]:
        return self.step(updates, state, self.matched(params, updates), with_value_fn(extra))

    def parts(self, state: Any = None, params: Tree | None = None) -> list[Part]:
        return [Part("", self.inner, state, params)]


@public
def float32_updates(tx: Any) -> Transform:
    """Return the updates as computed, in float32 for half-precision parameters, instead of in the parameters' dtype.

    For code that adds them with its own rounding, such as stochastic rounding. It only matters outermost: between the
    stages of a chain updates are in float32 anyway.

    Args:
      tx: any transform.
    """
    return Float32Updates(as_transform(tx))

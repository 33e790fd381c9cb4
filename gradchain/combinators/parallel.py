"""Transforms side by side: each sees the same gradient, and a function merges their updates."""

from collections.abc import Callable
from typing import Any

import jax

from gradchain import tree
from gradchain.core.evaluation import side_by_side
from gradchain.core.foreign import Child, Children, is_unapplied
from gradchain.core.transform import Part, Transform, either
from gradchain.core.value import register
from gradchain.numerics import divide
from gradchain.signatures import brief, public
from gradchain.tree import Tree


@register
class Parallel(Transform):
    """See :func:`parallel`."""

    name = "parallel"
    branches: Children
    merge: Callable[..., Tree]

    def init(self, params: Tree) -> tuple[Any, ...]:
        return tuple(branch.init(params) for branch in self.branches)

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        size = len(self.branches)
        if type(state) not in (tuple, list) or len(state) != size:
            got = len(state) if type(state) in (tuple, list) else type(state).__name__
            raise ValueError(f"parallel: the state is from another transform: expected {size} parts, got {got}")
        pairs = [tx.step(updates, own, params, extra) for tx, own in zip(self.branches, state, strict=True)]
        merged = self.merge(*(result for result, _ in pairs))
        if jax.tree.structure(merged) != jax.tree.structure(updates):
            raise ValueError(
                f"parallel: {tree.mismatch(merged, updates, 'the merged updates', 'the incoming updates')}"
            )
        return merged, tuple(own for _, own in pairs)

    def parts(self, state: Any = None, params: Tree | None = None) -> list[Part]:
        states = [None] * len(self.branches) if state is None else state
        return [Part("", branch, own, params) for branch, own in zip(self.branches, states, strict=True)]

    def emitted(self, before: Any, after: Any) -> Any:
        return either(*self._each_emitted(before, after))

    def eval_params(self, state: Any, params: Tree) -> Tree:
        return side_by_side(self.name, self.parts(state, params), params)

    def __repr__(self) -> str:
        return f"parallel({', '.join(map(repr, self.branches))}, merge={self.merge!r})"


@public
def parallel(*args: Child, merge: Callable[..., Tree]) -> Transform:
    """Apply several transforms to the same updates independently, and merge their results.

    Args:
      *args: one or more transforms. All see the same incoming updates, parameters and extra arguments.
      merge: a function that takes as many trees of updates as there are transforms, in their order, and returns one of
        the same structure: :func:`graft`, :func:`graft_global`, :func:`tree.add <gradchain.tree.add>`, or your own.

    Returns:
      A transform whose state is the tuple of its branches' states.

    Raises:
      ValueError: at the first update, if ``merge`` changes the structure.

    Example:
      >>> tx = parallel(sgd(0.1), adam(1e-3), merge=graft)  # Adam's direction in steps as long as SGD's
    """
    if not args or not callable(merge):
        raise TypeError(f"parallel takes transforms and a function merge=, got {len(args)} transforms and {merge!r}")
    return Parallel.new(args, merge)


@public
def graft(magnitude: Tree, direction: Tree) -> Tree:
    r"""Return, for each array, the norm of one tree in the direction of another: :math:`u_i = d_i \|m_i\| / \|d_i\|`.

    A merge for :func:`parallel`. Where :math:`d_i` is 0, so is :math:`u_i`. Norms are taken in at least float32.

    Args:
      magnitude: updates :math:`m`, of which only the Euclidean norm of each array is used.
      direction: updates :math:`d`.

    Reference: Agarwal et al., *Disentangling Adaptive Gradient Methods from Learning Rates*, 2020, section 3.
    """
    _check("graft", magnitude, direction)
    return jax.tree.map(lambda m, d: divide(tree.norm(m), tree.norm(d)) * d, magnitude, direction)


@public
def graft_global(magnitude: Tree, direction: Tree) -> Tree:
    r"""Return the direction of one tree with the global norm of another: :math:`u = d \|m\| / \|d\|`.

    A merge for :func:`parallel`: :func:`graft` with the norm over the whole tree.

    Args:
      magnitude: updates :math:`m`, of which only the Euclidean norm is used.
      direction: updates :math:`d`.
    """
    _check("graft_global", magnitude, direction)
    ratio = divide(tree.norm(magnitude), tree.norm(direction))
    return jax.tree.map(lambda d: ratio * d, direction)


def _check(name: str, magnitude: Tree, direction: Tree) -> None:
    """Raise unless both are updates, in one structure."""
    for given in (magnitude, direction):
        if is_unapplied(given):
            raise TypeError(
                f"{name} merges the updates of transforms that run side by side: write "
                f"parallel(first, second, merge={name}), got {brief(given)}"
            )
    if jax.tree.structure(magnitude) != jax.tree.structure(direction):
        raise ValueError(f"{name}: {tree.mismatch(magnitude, direction, 'magnitude', 'direction')}")

"""Optax's masks and partitions, which leave a ``MaskedNode`` in the place of what a transform doesn't get."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax

from gradchain.combinators.steering import StaticArguments
from gradchain.core.foreign import Child, Children, as_transform
from gradchain.core.transform import Part, either
from gradchain.core.value import register
from gradchain.optax._around import Around, Inner, all_equal, static
from gradchain.optax._base import set_to_zero
from gradchain.optax._states import MaskedNode, MaskedState, PartitionState
from gradchain.tree import Placeholder, Tree

__all__ = [
    "MaskedNode",
    "MaskedState",
    "MultiTransformState",
    "PartitionState",
    "freeze",
    "masked",
    "multi_transform",
    "partition",
    "selective_transform",
]


def _of(mask: Any, tree: Tree) -> Tree:
    """Return a mask for a tree: the result of calling it, where all of it can be called."""
    leaves = jax.tree.leaves(mask)
    return mask(tree) if leaves and all(map(callable, leaves)) else mask


def _chosen(mask: Tree, tree: Tree) -> Tree:
    """Return what the mask, which may be a prefix of the tree, leaves of it."""
    return jax.tree.map(lambda on, x: x if on else MaskedNode(), mask, tree)


@register
class Masked(Inner):
    """See :func:`masked`."""

    name = "masked"
    inner: Child
    mask: StaticArguments
    mask_compatible_extra_args: bool = False

    def init(self, params: Tree) -> MaskedState:
        if isinstance(params, Placeholder):
            return MaskedState(self.inner.init(params))
        return MaskedState(self.inner.init(self._mine(params)))

    def _mine(self, params: Tree) -> Tree:
        return _chosen(_of(self.mask.values["value"], params), params)

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        mask = _of(self.mask.values["value"], updates)
        if self.mask_compatible_extra_args:
            extra = {name: _chosen(mask, x) if all_equal(x, updates) else x for name, x in extra.items()}
        mine = None if params is None else _chosen(mask, params)
        new, inner = self.inner.step(_chosen(mask, updates), state.inner_state, mine, extra)
        return jax.tree.map(lambda on, x, old: x if on else old, mask, new, updates), MaskedState(inner)

    def parts(self, state: Any = None, params: Tree | None = None) -> list[Part]:
        return super().parts(state, None if params is None else self._mine(params))


def masked(inner: Any, mask: Tree | Callable[[Any], Tree], *, mask_compatible_extra_args: bool = False) -> Any:
    """Optax's signature of :func:`gradchain.masked`; a mask function is called with the updates."""
    return Masked(as_transform(inner), static(mask), mask_compatible_extra_args)


@register
class Partition(Around):
    """See :func:`partition`."""

    name = "partition"
    transforms: Children
    labels: tuple[Hashable, ...]
    param_labels: StaticArguments
    mask_compatible_extra_args: bool = False

    def init(self, params: Tree) -> PartitionState:
        if isinstance(params, Placeholder):
            return PartitionState({k: MaskedState(tx.init(params)) for k, tx in self._pairs()})
        given = self._given(params)
        found = set(jax.tree.leaves(given))
        if unserved := found - set(self.labels):
            raise ValueError(
                f"partition: Some parameters have no corresponding transformation: there is none for "
                f"{sorted(map(repr, unserved))}, only for {sorted(map(repr, self.labels))}"
            )
        return PartitionState({k: self._part(k, given).init(params) for k in self.labels})

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        given, states = self._given(updates), dict[Any, Any]()
        for label in self.labels:
            updates, states[label] = self._part(label, given).step(updates, state.inner_states[label], params, extra)
        return updates, PartitionState(states)

    def _pairs(self) -> Any:
        return zip(self.labels, self.transforms, strict=True)

    def _given(self, tree: Tree) -> Tree:
        """Return the tree of labels."""
        labels = self.param_labels.values["value"]
        return labels(tree) if callable(labels) else labels

    def _part(self, label: Hashable, given: Tree) -> Masked:
        mask = static(jax.tree.map(lambda x: x == label, given))
        return Masked(dict(self._pairs())[label], mask, self.mask_compatible_extra_args)

    def emitted(self, before: Any, after: Any) -> Any:
        return either(*self._each_emitted(before, after))

    def parts(self, state: Any = None, params: Tree | None = None) -> list[Part]:
        given = None if params is None else self._given(params)

        def part(label: Any, tx: Any) -> Part:
            mine = None if params is None else _chosen(jax.tree.map(lambda x: x == label, given), params)
            return Part(str(label), tx, None if state is None else state.inner_states[label].inner_state, mine)

        return [part(label, tx) for label, tx in self._pairs()]


def partition(
    transforms: Mapping[Hashable, Any],
    param_labels: Tree | Callable[[Any], Tree],
    *,
    mask_compatible_extra_args: bool = False,
) -> Any:
    """Optax's signature of :func:`gradchain.partition`; labels are of any hashable kind, functions see the updates."""
    parts = tuple(as_transform(tx) for tx in transforms.values())
    return Partition(parts, tuple(transforms), static(param_labels), mask_compatible_extra_args)


multi_transform = partition
MultiTransformState = PartitionState


def freeze(mask: bool | Tree) -> Any:
    """Optax's signature of :func:`gradchain.freeze`."""
    return masked(set_to_zero(), mask)


def selective_transform(optimizer: Any, *, freeze_mask: bool | Tree) -> Any:
    """Optax's signature of :func:`gradchain.selective_transform`."""
    labels = jax.tree.map(lambda frozen: "freeze" if frozen else "train", freeze_mask)
    return partition({"train": optimizer, "freeze": set_to_zero()}, lambda params: labels)

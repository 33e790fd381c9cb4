"""Which parameters get which transform: ``masked``, ``partition``, and parameters that stay as they are."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY
from typing import Annotated, Any, NamedTuple, Self

import jax

from gradchain.combinators.labels import ByLabelKind, ByPath, LabelsKind, RouteKind, listed, resolve
from gradchain.core.combinator import combinator
from gradchain.core.extra import functions_of
from gradchain.core.foreign import AnyTransform, Child
from gradchain.core.hyper import FrozenTree
from gradchain.core.hyperparams import LEAF
from gradchain.core.transform import Part, Transform, check_state, either
from gradchain.signatures import public
from gradchain.transforms.scaling import set_to_zero
from gradchain.tree import Tree, flatten_optional, mismatch, show_path
from gradchain.tree.alignment import is_array_like


def _select(tree: Tree, chosen: list[bool]) -> Tree:
    """Return ``tree`` with ``None`` in place of the leaves that aren't chosen."""
    leaves, treedef = flatten_optional(tree)
    if treedef == LEAF and not chosen[0]:
        return ()  # None itself would mean that there are no parameters
    return treedef.unflatten([x if on else None for x, on in zip(leaves, chosen, strict=True)])


def _merge(where: str, tree: Tree, new: Tree, chosen: list[bool]) -> Tree:
    """Return ``tree`` with the chosen leaves from ``new``, which a transform made of the selected ones."""
    selected = _select(tree, chosen)
    if jax.tree.structure(new) != jax.tree.structure(selected):
        raise ValueError(f"{where}: {mismatch(new, selected, 'its result', 'the updates that it got')}")
    leaves, treedef = flatten_optional(tree)
    results = iter(jax.tree.leaves(new))
    return treedef.unflatten([next(results) if on else x for x, on in zip(leaves, chosen, strict=True)])


def _select_extra(extra: dict[str, Any], updates: Tree, chosen: list[bool]) -> dict[str, Any]:
    """Return extra arguments with those that are trees like ``updates`` reduced to the chosen leaves."""
    structure = jax.tree.structure(updates)
    if structure == LEAF:
        return extra  # a single array looks like any scalar argument
    return {k: _select(v, chosen) if jax.tree.structure(v) == structure else v for k, v in extra.items()}


def _own_functions(where: str, extra: dict[str, Any], params: Tree | None, chosen: list[bool]) -> dict[str, Any]:
    """Return extra arguments with functions of all parameters as functions of the chosen ones, the others at rest."""
    if params is None:
        return extra
    return functions_of(extra, lambda mine: _merge(where, params, mine, chosen), lambda whole: _select(whole, chosen))


class MaskedState(NamedTuple):
    """State of :func:`masked`."""

    inner_state: Any


@combinator
class masked(Transform):
    """Apply a transform to some parameters, and pass the updates of the others unchanged.

    ``inner`` sees ``None`` in place of the others, and has no state for them. The mask is resolved against the
    parameters, at ``init`` and at each update (Optax calls a mask function with the *updates*, so that the mask can
    change from one update to the next).

    Args:
      inner: any transform.
      mask: a tree of bools, the parameters' own or a prefix of it by path, in any containers; :func:`by_path`,
        :func:`by_leaf`, or a function from parameters to such a tree. Functions (but for :func:`by_path`) need
        ``params`` in every update. Anything that is a container to JAX, such as an Equinox module, is a tree, also if
        it can be called.
      mask_compatible_extra_args: apply the mask also to extra arguments that have the structure of the updates.
        Functions of the parameters, ``value_fn`` and ``grad_fn``, become functions of ``inner``'s parameters in any
        case, with the others held fixed.

    Raises:
      ValueError: if the mask doesn't fit the parameters, or ``params`` are needed and missing.

    Example:
      >>> decay = masked(add_decayed_weights(0.1), by_path([("bias", False)], default=True))
    """

    inner: Child
    mask: Annotated[Any, RouteKind()]
    _: KW_ONLY
    mask_compatible_extra_args: bool = False

    def init(self, params: Tree) -> MaskedState:
        return MaskedState(self.inner.init(_select(params, self._chosen(params))))

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        check_state(self.name, state, MaskedState._fields)
        chosen = self._chosen(params, updates)
        if self.mask_compatible_extra_args:
            extra = _select_extra(extra, updates, chosen)
        mine, extra = (
            None if params is None else _select(params, chosen),
            _own_functions(self.name, extra, params, chosen),
        )
        new, inner_state = self.inner.step(_select(updates, chosen), state.inner_state, mine, extra)
        return _merge(self.inner.name, updates, new, chosen), MaskedState(inner_state)

    def _chosen(self, params: Tree | None, updates: Tree | None = None) -> list[bool]:
        return [bool(flag) for flag in resolve(self.mask, self.kinds["mask"], "masked: mask", params, updates)]

    def parts(self, state: Any = None, params: Tree | None = None) -> list[Part]:
        mine = None if params is None else _select(params, self._chosen(params, params))
        return [Part("", self.inner, None if state is None else state.inner_state, mine)]


class PartitionState(NamedTuple):
    """State of :func:`partition`."""

    inner_states: dict[str, Any]


@combinator
class partition(Transform):
    """Apply to each parameter the transform that its label selects.

    Each transform sees ``None`` in place of other transforms' parameters, and has no state for them: a rule that uses
    all updates together, such as clipping by global norm, uses those of its own label. Labels are resolved against the
    parameters, at ``init`` and at each update. They are prefixed to the names of hyperparameters
    (``decay.scale_by_adam.b1``). Leaves that aren't arrays, such as the activation functions of an Equinox model,
    belong to no transform, whatever their label.

    Args:
      transforms: a dict from label to transform. Labels that no parameter has are allowed. A label is a string or
        anything else that is hashable: a bool, a whole number, a member of an enum. Names of hyperparameters and the
        keys of ``state.inner_states`` are strings: ``True``, ``0``, and a member's name.
      param_labels: a tree of labels, the parameters' own or a prefix of it by path, in any containers; :func:`by_path`,
        :func:`by_leaf`, :func:`matrices_and_rest`, or a function from parameters to such a tree. Functions,
        :func:`by_leaf` among them, need ``params`` in every update. Anything that is a container to JAX, such as an
        Equinox module, is a tree, also if it can be called.
      mask_compatible_extra_args: split also extra arguments that have the structure of the updates.
        Functions of the parameters, ``value_fn`` and ``grad_fn``, become functions of each part's parameters in any
        case, with the others held fixed.

    Raises:
      ValueError: if the labels don't fit the parameters, if there is no transform for one of them, if two labels have
        the same name, or if ``params`` are needed and missing.
      TypeError: if a label isn't hashable.

    Example:
      >>> labels = by_path([("bias", "plain"), ("*norm*", "plain")], default="decay")
      >>> tx = partition({"decay": adamw(1e-3, weight_decay=0.1), "plain": adam(1e-3)}, labels)
    """

    transforms: Annotated[Mapping[Any, AnyTransform], ByLabelKind()]
    param_labels: Annotated[Any, LabelsKind()]
    _: KW_ONLY
    mask_compatible_extra_args: bool = False

    def checked(self) -> Self:
        labels = self.param_labels
        if isinstance(labels, FrozenTree) and (unknown := sorted({*labels.leaves} - {*self.transforms, None})):
            there = listed(map(repr, self.transforms))
            raise ValueError(f"partition: no transform for label {listed(map(repr, unknown))}; there are {there}")
        return self

    def init(self, params: Tree) -> PartitionState:
        labels = self.labels(params)
        groups = {label: _select(params, [own == label for own in labels]) for label in self.transforms}
        return PartitionState({label: tx.init(groups[label]) for label, tx in self.transforms.items()})

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        check_state(self.name, state, PartitionState._fields)
        if state.inner_states.keys() != self.transforms.keys():
            expected, got = list(self.transforms), list(state.inner_states)
            raise ValueError(f"partition: the state is from another transform: expected {expected}, got {got}")
        labels = self.labels(params, updates)
        merged, states = updates, dict[str, Any]()
        for label, tx in self.transforms.items():
            chosen = [own == label for own in labels]
            mine = None if params is None else _select(params, chosen)
            own_extra = _select_extra(extra, updates, chosen) if self.mask_compatible_extra_args else extra
            own_extra = _own_functions(self.name, own_extra, params, chosen)
            new, states[label] = tx.step(_select(updates, chosen), state.inner_states[label], mine, own_extra)
            merged = _merge(tx.name, merged, new, chosen)
        return merged, PartitionState(states)

    def emitted(self, before: Any, after: Any) -> Any:
        return either(*self._each_emitted(before, after))

    def labels(self, params: Tree | None, updates: Tree | None = None) -> list[Any]:
        """Return each leaf's label, after checking that there is a transform for it; ``None`` for what is no array."""
        labels = resolve(self.param_labels, self.kinds["param_labels"], "partition: param_labels", params, updates)
        leaves = flatten_optional(updates if params is None else params)[0]
        labels = [label if is_array_like(x) else None for label, x in zip(labels, leaves, strict=True)]
        unserved = [i for i, label in enumerate(labels) if label is not None and label not in self.transforms]
        if unserved:
            tree = updates if params is None else params
            paths = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: x is None)[0]
            found = listed(f"{labels[i]!r} of {show_path(paths[i][0])}" for i in unserved)
            raise ValueError(
                f"partition: no transform for label {found}; there are {listed(map(repr, self.transforms))}"
            )
        return labels

    def parts(self, state: Any = None, params: Tree | None = None) -> list[Part]:
        labels = [] if params is None else self.labels(params, params)

        def part(label: str, tx: Transform) -> Part:
            mine = None if params is None else _select(params, [own == label for own in labels])
            return Part(label, tx, None if state is None else state.inner_states[label], mine)

        return [part(label, tx) for label, tx in self.transforms.items()]


@public
def freeze(mask: Any) -> Transform:
    """Set the updates of some parameters to zero, and pass the others unchanged.

    Put it last in a chain to keep the parameters fixed. Transforms before it still keep state for them; use
    :func:`selective_transform` to avoid that.

    Args:
      mask: as for :func:`masked`; true where the update becomes zero, even where it is not finite.
    """
    return masked(set_to_zero(), mask)


@public
def selective_transform(optimizer: Child, *, freeze_mask: Any) -> Transform:
    """Apply a transform to some parameters, and freeze the others: these have no state, and their updates are zero.

    It is a :func:`partition` with the labels ``train`` and ``freeze``.

    Args:
      optimizer: any transform.
      freeze_mask: as for :func:`masked`; true where parameters are frozen. ``True`` alone freezes all.

    Example:
      >>> tx = selective_transform(adam(1e-3), freeze_mask=by_path([("encoder", True)], default=False))
    """
    mask = RouteKind().normalize("selective_transform: freeze_mask", freeze_mask)
    return partition({"train": optimizer, "freeze": set_to_zero()}, _frozen_or_trained(mask))


def _frozen_or_trained(mask: Any) -> Any:
    """Return a mask as labels."""
    if isinstance(mask, FrozenTree):
        return FrozenTree(tuple(_label(on) for on in mask.leaves), mask.treedef)
    if isinstance(mask, ByPath):
        return ByPath(tuple((pattern, _label(on)) for pattern, on in mask.patterns), _label(mask.default))
    return FrozenOrTrained(mask)


def _label(frozen: Any) -> str | None:
    if frozen is None:
        return None
    if not isinstance(frozen, bool):
        raise TypeError(f"selective_transform: freeze_mask must be made of bools, found {frozen!r}")
    return "freeze" if frozen else "train"


@dataclasses.dataclass(frozen=True)
class FrozenOrTrained:
    """The labels that a mask function stands for."""

    mask: Callable[[Tree], Tree]

    def __call__(self, params: Tree) -> Tree:
        return jax.tree.map(_label, self.mask(params))

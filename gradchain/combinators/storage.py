"""``store``: the slots of any transform in 16, 8 or 4 bits per element."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gradchain.codecs import Codec, Stored, codec, decode, encode, is_stored
from gradchain.combinators.labels import Labels, listed, path_name
from gradchain.core.foreign import Child, as_transform
from gradchain.core.hyper import Key, first_key, next_key
from gradchain.core.hyperparams import named_parts, walk
from gradchain.core.rule import FIELDS, Rule
from gradchain.core.spec import Slot
from gradchain.core.transform import Transform, check_state
from gradchain.core.value import Integer, Kind, register
from gradchain.rounding import seeds
from gradchain.signatures import public
from gradchain.tree import Tree
from gradchain.tree.state import transform_name

NEGATIVE = Slot()
"""What isn't declared may be negative."""


class StoreState(NamedTuple):
    """State of :func:`store`."""

    key: jax.Array
    inner_state: Any


class CodecKind(Kind):
    """A codec, given by its name, its dtype or in full; or what chooses one for each array by its path."""

    label = "Codec"

    def normalize(self, where: str, value: Any) -> Any:
        if value is None or isinstance(value, Codec | Labels):
            return value
        try:
            return codec(value)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{where}: {error}") from None


class CodecsKind(CodecKind):
    """Codecs by slot, as a tuple of pairs."""

    def normalize(self, where: str, value: Any) -> Any:
        return tuple((name, super(CodecsKind, self).normalize(f"store: {name}", x)) for name, x in dict(value).items())


@register
class Store(Transform):
    """See :func:`store`."""

    name = "store"
    inner: Child
    default: Annotated[Any, CodecKind()]
    min_size: Annotated[int, Integer()]
    key: Key
    slots: Annotated[Any, CodecsKind()]

    def init(self, params: Tree) -> StoreState:
        return StoreState(first_key("store: key", self.key), Encoder(self).encoded(self.inner.init(params)))

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        check_state(self.name, state, StoreState._fields)
        kept, key = next_key("store: key", self.key, state.key)
        updates, inner = self.inner.step(updates, _decoded(state.inner_state), params, extra)
        return updates, StoreState(kept, _encoded_like(state.inner_state, inner, key))

    def eval_params(self, state: Any, params: Tree) -> Tree:
        return self.inner.eval_params(_decoded(state.inner_state), params)

    def __repr__(self) -> str:
        named = dict(self.slots) | {"min_size": self.min_size, "key": self.key}
        return f"store({self.inner!r}, {self.default!r}{''.join(f', {k}={v!r}' for k, v in named.items())})"


class Encoder:
    """Puts the slots of a first state into stored form, by the choices that :func:`store` was given."""

    def __init__(self, tx: Store):
        rules = [part.transform.unlayered for part in walk(tx.inner) if isinstance(part.transform, Rule)]
        self.tx = tx
        self.rules = {rule.State: rule.spec for rule in rules}
        self.slots = dict(tx.slots)
        self.fields: dict[str, None] = {}
        self.paths: dict[Any, list[str]] = {}

    def encoded(self, state: Any) -> Any:
        """Return the state with its slots in stored form.

        Raises:
          ValueError: for a choice that was never asked for: a slot that isn't there, a pattern that fits no path.
        """
        result = self.visit(state)
        for name in self.slots:
            if not any(name in (field, field.rpartition(".")[2]) for field in self.fields):
                known = listed(field for field in self.fields if field.rpartition(".")[2] not in ("count", "key"))
                raise ValueError(f"store: no slot is called {name!r}; there are: {known}")
        for choice, paths in self.paths.items():
            if paths:
                choice.check(paths)
        return result

    def visit(self, node: Any) -> Any:
        """Return a part of the state with its slots in stored form; another :func:`store` has chosen for its own."""
        return jax.tree.map(lambda x: self.visit_state(x) if _is_state(x) else x, node, is_leaf=_is_state)

    def visit_state(self, state: Any) -> Any:
        """Return a transform's state with its slots in stored form."""
        if isinstance(state, StoreState):
            return state
        spec, changes = self.rules.get(type(state)), dict[str, Any]()
        for field, value in state._asdict().items():
            if spec and field in FIELDS:
                continue
            address = f"{transform_name(state)}.{field}"
            self.fields[address] = None
            slot = spec.slots.get(field) if spec else None
            named = self.slots.get(address, self.slots.get(field))
            if named is not None and slot and slot.exact:
                raise ValueError(f"store: {address} needs all of its bits; leave it out")
            choice = self.tx.default if named is None and slot and not slot.exact else named
            if choice is not None:
                changes[field] = self.encode_slot(choice, value, slot or NEGATIVE)
            elif spec is None:
                changes[field] = self.visit(value)
        return state._replace(**changes)

    def encode_slot(self, choice: Any, arrays: Tree, slot: Slot) -> Tree:
        """Return the arrays of one slot in stored form, those that are small or left out as they are."""

        def leaf(path: Any, x: Any) -> Any:
            own = choice
            if isinstance(choice, Labels):
                self.paths.setdefault(choice, []).append(path_name(path))
                own = CHOICE.normalize(f"store: {path_name(path)}", choice.label(path_name(path), x))
            if own is None or own.format == "float32" or not jnp.issubdtype(x.dtype, jnp.inexact):
                return x
            if x.size < max(self.tx.min_size, 1):
                return x
            # Without the barrier XLA encodes zeros as it compiles, which takes seconds for a large array.
            return encode(own.for_slot(slot.nonnegative), lax.optimization_barrier(x), None)

        return jax.tree_util.tree_map_with_path(leaf, arrays)


CHOICE = CodecKind()


def _is_state(x: Any) -> bool:
    return transform_name(x) is not None


def _apart(x: Any) -> bool:
    """Whether a store leaves a node alone, or takes it as one array."""
    return isinstance(x, Stored | StoreState)


def _decoded(state: Any, is_leaf: Callable[[Any], bool] = _apart) -> Any:
    return jax.tree.map(lambda x: decode(x) if is_stored(x) else x, state, is_leaf=is_leaf)


def _encoded_like(old: Any, new: Any, key: jax.Array) -> Any:
    """Return ``new`` with the arrays in stored form that ``old`` has in it."""
    olds, treedef = jax.tree.flatten(old, is_leaf=_apart)
    each = iter(seeds(key, len(olds)))
    return treedef.unflatten(
        [
            encode(x.codec, y, next(each)) if is_stored(x) else y
            for x, y in zip(olds, treedef.flatten_up_to(new), strict=True)
        ]
    )


@public
def decoded(state: Any) -> Any:
    """Return a state in which all arrays that :func:`store` keeps in fewer bits are decoded to float32.

    Use it to inspect or plot a state, or to continue without ``store``: the ``inner_state`` of the result is a valid
    state of the inner transform.

    Args:
      state: the state of any transform, at any depth.

    Example:
      >>> params = {"kernel": jnp.ones((64, 64))}
      >>> tx = store(adam(1e-3), mu="bfloat16", nu="int8")
      >>> nu = tree.get(decoded(tx.init(params)), "scale_by_adam.nu['kernel']")
      >>> nu.shape, nu.dtype
      ((64, 64), dtype('float32'))
    """
    return _decoded(state, is_leaf=is_stored)


@public
def store(tx: Child, default: Any = None, /, *, min_size: int = 4096, key: Key = 0, **slots: Any) -> Transform:
    r"""Keep the slots of a transform in 16, 8 or 4 bits per element instead of 32.

    At each update the slots are decoded to float32, the transform runs as usual, and the new slots are encoded again.
    So it works around any transform. With ``"int8"`` for both moments Adam's state takes 2.03 bytes per parameter
    instead of 8.

    Rounding is stochastic, unless a codec says otherwise: a second moment with :math:`\beta_2 = 0.999` changes by at
    most a thousandth of itself when it shrinks, which rounding to nearest with fewer than 11 bits would always undo.

    Args:
      tx: any transform, or another library's.
      default: how to store slots that aren't named: the name of a format (see :func:`codec`), a dtype or a codec for
        all declared slots of gradchain's own rules, but for those that are ``exact`` (see :class:`Slot`): bases,
        roots, and the factors that they are made of. ``None`` doesn't change them.
      min_size: arrays with fewer elements aren't encoded: biases and scales matter more than the few bytes they take.
      key: a seed or PRNG key for the rounding; the state keeps it.
      **slots: how to store the slots of one name: ``mu="bfloat16"``, ``nu=codec("int8", block_size=64)``. A choice by
        parameter is a :func:`by_path` or :func:`by_leaf` whose labels are formats, ``"float32"`` for parameters whose
        slots aren't encoded. Names are those in the state: of a rule's slots, and, if they are named, of arrays that a
        combinator or another library's transform keeps (``average`` in :func:`average_params`).
        ``**{"scale_by_adam.mu": "int8"}`` selects the slot of one transform only.

    Returns:
      A transform whose state is ``(key, inner_state)``, with ``Stored(codes, scales)`` in place of arrays: codes
      are ``uint8`` or a small float dtype, two 4-bit codes in a byte, scales float32. :func:`decoded` shows them as
      arrays.

    Raises:
      ValueError: for an unknown format, and around :func:`offload_state`; by ``init``, for a slot that isn't there,
        naming those that are, for one that is exact, and for a pattern that fits no path.

    Example:
      >>> params = {"embed": jnp.ones((1000, 64)), "kernel": jnp.ones((64, 64))}
      >>> tx = store(adamw(1e-3), mu="bfloat16", nu="int8")
      >>> tx = store(adamw(1e-3), by_path([("embed", "float32")], default="int8"))
      >>> mu = tx.init(params).inner_state[0].mu
      >>> mu["embed"].dtype, mu["kernel"].codes.dtype
      (dtype('float32'), dtype('uint8'))

    References:
      Dettmers et al., *8-bit Optimizers via Block-wise Quantization*, 2022.
      Li et al., *Memory Efficient Optimizers with 4-bit States*, 2023.
    """
    inner = as_transform(tx)
    if any(part.transform.name == "offload_state" for part in named_parts(inner)):
        raise ValueError(
            "store: offload_state inside keeps slots in the host's memory; put it around store: "
            "offload_state(store(...))"
        )
    return Store.new(inner, default, min_size, key, slots)

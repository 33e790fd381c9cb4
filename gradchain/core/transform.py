"""``Transform``: what an optimizer is. Read this file first."""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self, cast

import jax
import jax.numpy as jnp
from jax import lax

from gradchain import tree
from gradchain.core.extra import with_value_fn
from gradchain.core.hyper import at_scalar
from gradchain.core.mistakes import ELSEWHERE, holds_state, misplaced
from gradchain.core.value import Value
from gradchain.numerics import compute_dtype, real_dtype
from gradchain.rounding import is_half, round_at, seeds, uniform
from gradchain.signatures import public
from gradchain.tree import Tree
from gradchain.tree.alignment import S, T, inexact, is_array, is_float0, is_key, kinds, same_leaves, without_float0
from gradchain.tree.construction import can_hold


@public
class Part(NamedTuple):
    """One transform inside another, as :meth:`Transform.parts` lists it."""

    name: str
    """Label that the parent adds to the names below it; "" where it adds none."""
    transform: "Transform"
    state: Any
    params: Any


class Transform(Value):
    """A gradient transformation: an immutable pytree of its hyperparameters, with ``init`` and ``update``.

    ``init, update = tx`` unpacks it. Subclasses define ``init`` and ``step``.
    """

    constrains: ClassVar[Literal["", "freezes", "bounds"]] = ""
    """What its updates do to the parameters, whatever came in: leave them where they are, or lead them into a set."""
    relies: ClassVar[bool] = False
    """Whether its evaluation weights follow from the parameters, as long as these take the updates that it returns."""
    counted: ClassVar[frozenset[str]] = frozenset()
    """Fields of its state whose arrays it takes to be as old as its count; those of an array added later aren't."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if callable(vars(cls).get("init")):
            cls.init = _for_shapes_too(cls.init)

    @classmethod
    def new(cls, *args: Any, **kwargs: Any) -> Self:
        made = super().new(*args, **kwargs)
        if cls.parts is not Transform.parts:
            _check_order(made)
        return made

    def init(self, params: Tree) -> Any:
        """Return the state before the first update.

        Args:
          params: a tree of inexact arrays; only shapes, dtypes and (for a few rules) values matter. Leaves that are
            masked out or frozen may have any dtype. Where there is a ``jax.ShapeDtypeStruct`` among the leaves, the
            state is made of them, too, and no memory is allocated; :func:`gradchain.state_shardings` says how it lies.
        """
        raise TypeError(f"{type(self).__name__} must define init")

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        """Return (updates, state), leaving half-precision input in float32: what combinators call on their parts."""
        raise TypeError(f"{type(self).__name__} must define step")

    def update(self, updates: T, state: S, params: T | None = None, **extra: Any) -> tuple[T, S]:
        """Return the transformed updates and the next state.

        Args:
          updates: gradients, or updates from an earlier transform: a tree like ``params``; ``None`` where there is
            none. Leaves of dtype ``float0``, JAX's derivatives with respect to integers, count as ``None``.
          state: from ``init`` or the last ``update``.
          params: the current parameters; may be missing where no rule needs them.
          **extra: further arguments; those that no rule asks for are ignored. ``value`` is the loss, a real scalar.

        Returns:
          (updates, state): updates to *add* to the parameters, in the parameters' dtypes (in the incoming
          updates' dtypes where ``params`` is missing), and a state of unchanged structure, shapes and dtypes.

        Raises:
          ValueError: if ``updates``, ``state`` or ``params`` don't fit each other; if params or an extra argument are
            needed and missing; if an extra argument that must be a scalar is an array.
          TypeError: if an array isn't of an inexact dtype.
        """
        if updates is None:
            raise TypeError(f"{self.name}: updates is None; the order is update(updates, state, params)")
        updates = without_float0(updates)
        try:
            params = self.matched(params, updates)
            new_updates, new_state = self.step(updates, state, params, with_value_fn(extra))
        except ValueError as error:
            if hint := misplaced(updates, state, params):
                raise ValueError(f"{error}; {hint}") from None
            raise
        try:
            return tree.cast_like(new_updates, updates if params is None else params), new_state
        except TypeError as error:
            raise TypeError(f"{self.name}: {error}") from None

    @property
    def per_example(self) -> bool:
        """Whether incoming updates have a leading batch axis that parameters and outgoing updates lack.

        That of a combinator is its first part's.
        """
        return any(part.transform.per_example for part in self.parts()[:1])

    def matched(self, params: Tree | None, updates: Tree) -> Tree | None:
        """Return ``params`` in the structure of ``updates``, after checking that shapes agree (for ``update``)."""
        if params is None:
            return None
        if self.per_example:
            example = tree.one_example(updates, self.name)
            return tree.match(params, example, self.name, "params", "updates without their batch axis")
        return tree.match(params, updates, self.name, "params", "updates")

    @property
    def skips(self) -> bool:
        """Whether there may be steps on which it emits nothing: updates are 0, and nothing is counted."""
        return any(part.transform.skips for part in self.parts())

    @property
    def collects(self) -> bool:
        """Whether an update may be made of the gradients of several steps, of which the last is only one."""
        return any(part.transform.collects for part in self.parts())

    def emitted(self, before: Any, after: Any) -> Any:
        """Return whether the step between two states emitted an update: one boolean, or True where it always does.

        That of a combinator is true if each part emitted; where its parts work side by side, if any did. What counts
        updates around others (averages, slow steps) counts those that are emitted.

        Args:
          before: the state that the step was given.
          after: the state that it returned.
        """
        return both(*self._each_emitted(before, after)) if self.skips else True

    def _each_emitted(self, before: Any, after: Any) -> list[Any]:
        pairs = zip(self.parts(before), self.parts(after), strict=True)
        return [new.transform.emitted(old.state, new.state) for old, new in pairs]

    def __iter__(self) -> Iterator[Any]:
        return iter((self.init, self.update))

    if not TYPE_CHECKING:  # where any attribute would do

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(f"{type(self).name} has no attribute {name!r}{ELSEWHERE.get(name, '')}")

    def parts(self, state: Any = None, params: Tree | None = None) -> list[Part]:
        """Return the transforms inside this one, in the pytree's order, with their states and parameters if given.

        These are the fields annotated ``Child``. The state of the child ``x`` is the state's field ``x_state``, or
        ``inner_state``; of several, the fields' names are labels. A combinator for which that isn't so overrides this.
        """
        names = [name for name, kind in self.kinds.items() if kind.child]
        several = len(names) > 1
        return [
            Part(name if several else "", getattr(self, name), _state_of(self, name, state), params) for name in names
        ]

    def eval_params(self, state: Any, params: T) -> T:
        """Return the weights for evaluation: ``params``, changed by each part that keeps better ones.

        The parts take turns in the order of ``parts``, each on its share of what the ones before made; leaves that a
        part isn't given stay. Weights of earlier parts obey the later ones (see ``constrained``). Where no part keeps
        weights, the very leaves of ``params`` come back. Combinators inherit this, unless their parts work side by side
        on the same leaves (see ``core.evaluation.side_by_side``) or they keep weights themselves.
        """
        weights, parts = params, self.parts(state, params)
        for index, part in enumerate(parts):
            if jax.tree.leaves(part.params):
                share = part.params if weights is params else self.parts(state, weights)[index].params
                allowed = share
                if not same_leaves(share, part.params):
                    relying = next(filter(None, (relied(earlier.transform) for earlier in parts[:index])), "")
                    allowed = part.transform.constrained(share, part.state, part.params, relying)
                kept = part.transform.eval_params(part.state, allowed)
                weights = weights if kept is share else tree.overlay(kept, weights)
        return weights

    def constrained(self, weights: Tree, state: Any, params: Tree, relying: str = "") -> Tree:
        """Return evaluation weights as this transform, which comes later, lets parameters be.

        Only what ``constrains`` changes anything: frozen parameters have their own values, and a move from ``params``
        out of a set is led back. The parts take turns, each on its share.

        Args:
          weights: evaluation weights that earlier transforms keep.
          state: this transform's state.
          params: the current parameters.
          relying: the name of an earlier transform that relies on its updates being taken.

        Raises:
          ValueError: if the parameters were kept in a set, and an earlier transform has relied on its updates.
        """
        if same_leaves(weights, params):
            return weights
        if self.constrains:
            if relying and self.constrains == "bounds":
                raise ValueError(
                    f"{self.name} behind {relying} changes the updates that its evaluation weights are made of; put it "
                    f"inside: {relying}(chain(..., {self.name}(...)), ...)"
                )
            move = jax.tree.map(difference, weights, params)
            return apply_updates(params, self.step(move, state, params, {})[0])
        parts, shares = self.parts(state, params), self.parts(state, weights)
        for part, share in zip(parts, shares, strict=True):
            if jax.tree.leaves(part.params):
                own = part.transform.constrained(share.params, part.state, part.params, relying)
                weights = weights if own is share.params else tree.overlay(own, weights)
        return weights

    def settings(self, state: Any = None) -> dict[str, Any]:
        """Return this transform's own numeric fields, without its parts'; evaluated where ``state`` is given."""
        return {name: value for name, kind, value in self.fields() if kind.data and not kind.child}

    def number(self, name: str, count: Any, dtype: Any = None) -> Any:
        """Return the number in field ``name`` after ``count`` updates: a schedule's value, ``None`` if it is absent.

        An array is cast to ``dtype``; a Python number stays one. A batch of numbers is a ``ValueError``.
        """
        value = at_scalar(f"{self.name}: {name}", getattr(self, name), count)
        return value if dtype is None or value is None or isinstance(value, int | float) else jnp.asarray(value, dtype)

    def step_where(
        self, condition: jax.Array, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]
    ) -> tuple[Tree, Any]:
        """Return what :meth:`step` does where ``condition`` holds, else zeros and the state as it is.

        Both are computed: under ``vmap`` a ``cond`` would be too. The transform sees zeros where its result is dropped,
        so that no NaN in it reaches a derivative.
        """
        seen = tree.where(condition, updates, tree.zeros_like(updates))
        new, new_state = self.step(seen, state, params, extra)
        return tree.where(condition, new, tree.zeros_like(new)), tree.where(condition, new_state, state)

    def describe(self, params: Tree, state: Any = None, *, steps: int | None = None, shardings: Any = None) -> Any:
        """Return :func:`gradchain.describe` of this transform, to print: its stages, hyperparameters and state."""
        from gradchain.introspect.describe import describe  # loads when a report is asked for

        return describe(self, params, state, steps=steps, shardings=shardings)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with hyperparameters changed, under any name that :func:`gradchain.set_hyperparams` accepts."""
        from gradchain.core.hyperparams import set_hyperparams

        return cast(Self, set_hyperparams(self, changes))


def _for_shapes_too(init: Callable[[Any, Tree], Any]) -> Any:
    """Return a method that returns shapes of what ``init`` does where parameters are shapes."""

    @functools.wraps(init)
    def init_of(self: Any, params: Tree) -> Any:
        leaves, treedef = jax.tree.flatten(params)
        if not any(isinstance(x, jax.ShapeDtypeStruct) for x in leaves):
            return init(self, params)
        first, whole = kinds({i: x for i, x in enumerate(leaves) if is_array(x)})

        def init_all(first: list[Any]) -> Any:
            arrays = whole(first)
            return init(self, treedef.unflatten([arrays.get(i, x) for i, x in enumerate(leaves)]))

        return jax.eval_shape(init_all, first)

    return init_of


def _state_of(tx: Transform, child: str, state: Any) -> Any:
    """Return the state of a child in that of the combinator around it."""
    if state is None:
        return None
    for name in (f"{child}_state", "inner_state"):
        if name in getattr(state, "_fields", ()):
            return getattr(state, name)
    raise ValueError(
        f"{tx.name}: its state has no field {child}_state for the state of {child}; add it, or define parts"
    )


def _check_order(tx: Transform) -> None:
    """Raise ``TypeError`` if ``parts`` are listed in another order than the pytree's, which changes numbers by it."""
    leaves = jax.tree.leaves(tx, is_leaf=lambda x: x is not tx and isinstance(x, Transform))
    listed, expected = [part.transform for part in tx.parts()], [x for x in leaves if isinstance(x, Transform)]
    if listed and list(map(id, listed)) != list(map(id, expected)):
        raise TypeError(
            f"{tx.name}: parts must list the transforms inside as the pytree does, in the order of the fields and of "
            f"sorted keys: {expected}, got {listed}"
        )


def relied(tx: Transform) -> str:
    """Return the name of the first transform in ``tx`` that ``relies`` on its updates, or nothing."""
    return tx.name if tx.relies else next(filter(None, (relied(part.transform) for part in tx.parts())), "")


def both(*flags: Any) -> Any:
    """Return whether all flags hold, each True or one boolean; True if all are."""
    return functools.reduce(jnp.logical_and, [flag for flag in flags if flag is not True] or [True])


def either(*flags: Any) -> Any:
    """Return whether any flag holds, each True or one boolean; True if one is."""
    return True if any(flag is True for flag in flags) else functools.reduce(jnp.logical_or, flags)


def count_of(state: Any) -> Any:
    """Return the state's count of updates, or None where it keeps none."""
    return state.count if "count" in getattr(state, "_fields", ()) else None


def check_state(where: str, state: Any, expected: tuple[str, ...]) -> None:
    """Raise ``ValueError`` unless ``state`` is a NamedTuple with the ``expected`` fields."""
    fields = getattr(state, "_fields", None)
    if fields != expected:
        raise ValueError(
            f"{where}: the state is from another transform: expected {expected}, got {fields or type(state).__name__}"
        )


def lacks_params(where: str, why: str = "") -> ValueError:
    """Return the error for an update without the parameters that it needs."""
    return ValueError(f"{where} needs params: call update(updates, state, params){why}")


def scalar_dtype(params: Tree) -> Any:
    """Return the real dtype in which numbers of the whole transform are computed and stored."""
    found = {x.dtype if isinstance(x, jax.Array) else jnp.result_type(x) for x in jax.tree.leaves(inexact(params))}
    return real_dtype(compute_dtype(jnp.float32, *found))


@public
def apply_updates(
    params: T, updates: Tree, rounding: Literal["nearest", "stochastic"] = "nearest", key: jax.Array | None = None
) -> T:
    """Return ``params + updates``, in the parameters' dtypes.

    Args:
      params: a tree of arrays. Leaves where ``updates`` has ``None`` are returned unchanged.
      updates: a tree of the same structure and shapes; ``None`` (or JAX's ``float0``) where nothing changes.
      rounding: how sums are rounded to half-precision parameters. With rounding to nearest, an update below 1/512 of a
        bfloat16 parameter is lost, however often it is repeated. ``"stochastic"`` keeps sums correct on average (see
        :func:`stochastic_round`); it needs updates that haven't been rounded already, so put :func:`float32_updates`
        around the transform. Compensated summation needs state: :func:`kahan` and :func:`master_weights` are
        transforms, whose updates are added as usual. :func:`stochastic_rounding` does the rounding inside a transform,
        for code that calls ``apply_updates`` itself.
      key: a PRNG key, a new one at each step; for ``"stochastic"``.

    Raises:
      ValueError: if structure or shapes differ; for another ``rounding``, or if the key is missing.
      TypeError: if a sum would lose its fractional part in an integer dtype, or its imaginary part in a real one.

    Example:
      >>> params, tx = jnp.ones(1000, jnp.bfloat16), float32_updates(sgd(1e-3))
      >>> updates, state = tx.update(-params, tx.init(params), params)
      >>> print(apply_updates(params, updates).mean(dtype=float))  # 1.001 is 1 to the nearest
      1.0
      >>> params = apply_updates(params, updates, rounding="stochastic", key=key)
      >>> print(f"{params.mean(dtype=float):.3f}")
      1.001
    """
    if isinstance(updates, tuple) and len(cast(Any, updates)) == 2 and holds_state(updates[1]):
        raise ValueError("apply_updates: updates is the pair that update returns: updates, state = tx.update(...)")
    if holds_state(rounding):
        raise TypeError("apply_updates takes no state: write apply_updates(params, updates)")
    draws = iter(_draws(rounding, key, updates))

    def leaf(path: Any, update: Any, param: Any) -> Any:
        seed = next(draws)
        if update is None or is_float0(update):
            return param
        if is_key(param):
            raise TypeError(
                f"apply_updates: parameter {tree.show_path(path)} is a PRNG key, expected None for its update"
            )
        if jnp.shape(update) != jnp.shape(param):
            raise ValueError(
                f"apply_updates: update {tree.show_path(path)} has shape {jnp.shape(update)}, "
                f"its parameter {jnp.shape(param)}"
            )
        if not can_hold(jnp.result_type(param), jnp.result_type(update)):
            raise TypeError(
                f"apply_updates: parameter {tree.show_path(path)} is {jnp.result_type(param)} and can't hold its sum "
                f"with an update of {jnp.result_type(update)}, expected None for its update"
            )
        return _sum(param, update, seed)

    return tree.map_optional(leaf, updates, params, "apply_updates")


def _draws(rounding: str, key: jax.Array | None, updates: Tree) -> Any:
    """Return a seed for each array, ``None`` to round to nearest."""
    if rounding == "nearest":
        return itertools.repeat(None)
    if rounding == "kahan":
        raise ValueError("apply_updates: kahan keeps what was lost, so it is a transform: kahan(tx)")
    if rounding != "stochastic":
        raise ValueError(f"apply_updates: rounding must be 'nearest' or 'stochastic', got {rounding!r}")
    if key is None:
        raise ValueError("apply_updates: rounding='stochastic' needs a PRNG key: pass key=jax.random.key(0)")
    return seeds(key, len(tree.flatten_optional(updates)[0]))


def difference(x: Any, y: Any) -> jax.Array:
    """Return ``x - y`` in at least float32."""
    dtype = compute_dtype(jnp.result_type(x), jnp.result_type(y))
    return jnp.asarray(x, dtype) - jnp.asarray(y, dtype)


def _sum(param: Any, update: Any, seed: jax.Array | None) -> jax.Array:
    dtype = jnp.result_type(param)
    if dtype == jnp.bool_:
        return jnp.logical_or(param, update)
    if seed is None and dtype == jnp.result_type(update):
        return lax.add(param, update)
    wide = compute_dtype(dtype, jnp.result_type(update))
    total = jnp.asarray(param, wide) + jnp.asarray(update, wide)
    if seed is None or not is_half(dtype):
        return total.astype(dtype)
    return round_at(total, dtype, uniform(total.shape, seed))

"""Contrib's transforms around others, or beside them: complex arrays as real ones, plateaus, norms, SAM."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gradchain.combinators._weights import stored, widened
from gradchain.core.foreign import Child, as_transform
from gradchain.core.hyper import Hyper
from gradchain.core.transform import Part, apply_updates, difference
from gradchain.core.value import register
from gradchain.numerics import safe_increment
from gradchain.optax import _states as _s
from gradchain.optax import tree as optax_tree
from gradchain.optax._around import Around, Inner
from gradchain.optax._base import stateless
from gradchain.optax._parts import needed, scalar, value_of
from gradchain.optax._shown import loose
from gradchain.tree import Tree
from gradchain.tree import where as choose


@register
class SplitRealAndImaginary(Inner):
    """See :func:`split_real_and_imaginary`."""

    name = "split_real_and_imaginary"
    inner: Child

    def init(self, params: Tree) -> _s.SplitRealAndImaginaryState:
        return _s.SplitRealAndImaginaryState(self.inner.init(_split(params)))

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        mine = None if params is None else _split(params)
        new, inner = self.inner.step(_split(updates), state.inner_state, mine, extra)
        whole = jax.tree.map(lambda x: x.real + 1j * x.imaginary if _is_pair(x) else x, new, is_leaf=_is_pair)
        return whole, _s.SplitRealAndImaginaryState(inner)

    def parts(self, state: Any = None, params: Tree | None = None) -> Any:
        return super().parts(state, None if params is None else _split(params))


class SplitRealAndImaginaryArrays(NamedTuple):
    """A complex array as two real ones."""

    real: Any
    imaginary: Any


def _is_pair(x: Any) -> bool:
    return isinstance(x, SplitRealAndImaginaryArrays)


def _split(tree: Tree) -> Tree:
    return jax.tree.map(lambda x: SplitRealAndImaginaryArrays(x.real, x.imag) if jnp.iscomplexobj(x) else x, tree)


def split_real_and_imaginary(inner: Any) -> Any:
    """Optax's signature of :func:`gradchain.split_real_and_imaginary`."""
    return SplitRealAndImaginary(as_transform(inner))


@register
class ReduceOnPlateau(Around):
    """See :func:`gradchain.optax.contrib.reduce_on_plateau`."""

    name = "reduce_on_plateau"
    factor: Hyper = 0.1
    patience: Hyper = 10
    rtol: Hyper = 1e-4
    atol: Hyper = 0.0
    cooldown: Hyper = 0
    accumulation_size: Hyper = 1
    min_scale: Hyper = 0.0

    def init(self, params: Tree) -> _s.ReduceLROnPlateauState:
        a, b, c = (jnp.zeros((), jnp.int32) for _ in range(3))
        return _s.ReduceLROnPlateauState(scalar(1, params), scalar(jnp.inf, params), a, b, c, scalar(0, params))

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        value, count = jnp.asarray(value_of(self.name, extra), state.avg_value.dtype), safe_increment(state.count)
        mean = (state.count * state.avg_value + value) / count
        new = choose(count == self.accumulation_size, self._judged(state, mean), state._replace(count=count))
        new = stored(new._replace(avg_value=jnp.where(count == self.accumulation_size, 0, mean)), state)
        return jax.tree.map(lambda g: new.scale.astype(g.real.dtype) * g, widened(updates)), new

    def _judged(self, state: Any, mean: Array) -> Any:
        """Return the state after a whole mean."""
        improved = mean < (1 - self.rtol) * state.best_value - self.atol
        waited = jnp.where(improved, 0, safe_increment(state.plateau_count))
        cools, reduces = state.cooldown_count > 0, (waited == self.patience) & (state.cooldown_count <= 0)
        reduced = jnp.maximum(jnp.where(reduces, self.factor * state.scale, state.scale), self.min_scale)
        judged = _s.ReduceLROnPlateauState(
            scale=jnp.where(cools, state.scale, reduced),
            best_value=jnp.where(improved, mean, state.best_value),
            plateau_count=jnp.where(cools | reduces, 0, waited),
            cooldown_count=jnp.where(cools, state.cooldown_count - 1, jnp.where(reduces, self.cooldown, 0)),
            count=jnp.zeros_like(state.count),
            avg_value=state.avg_value,
        )
        return stored(judged, state)


def reduce_on_plateau(
    factor: Any = 0.1,
    patience: int = 10,
    rtol: Any = 1e-4,
    atol: Any = 0.0,
    cooldown: int = 0,
    accumulation_size: int = 1,
    min_scale: Any = 0.0,
) -> Any:
    """Optax's signature of :func:`gradchain.reduce_on_plateau`."""
    if factor <= 0.0 or factor >= 1.0:
        raise ValueError(f"Factor must be in the range (0, 1), got factor = {factor}.")
    if rtol < 0.0 or atol < 0.0:
        raise ValueError(f"Both rtol and atol must be non-negative, got rtol = {rtol} and atol = {atol}.")
    if rtol == 0.0 and atol == 0.0:
        raise ValueError(f"At least one of rtol or atol must be positive, got rtol = {rtol} and atol = {atol}.")
    if rtol > 1.0:
        raise ValueError(f"rtol must be less than or equal to 1.0, got rtol = {rtol}.")
    counts = {"patience": patience, "cooldown": cooldown, "accumulation_size": accumulation_size}
    return loose(ReduceOnPlateau, factor=factor, rtol=rtol, atol=atol, min_scale=min_scale, **counts)


def normalize() -> Any:
    """Divide updates by their norm over all arrays; zeros stay."""

    def normalized(updates: Tree, params: Tree | None) -> Tree:
        size = optax_tree.norm(updates)
        return jax.tree.map(lambda g: g / jnp.where(size == 0, 1, size), updates)

    return stateless(normalized)


@register
class SAM(Around):
    """See :func:`gradchain.optax.contrib.sam`."""

    name = "sam"
    optimizer: Child
    adv_optimizer: Child
    sync_period: int = 2
    reset_state: bool = True
    opaque_mode: bool = False
    batch_axis_name: Any = None

    def init(self, params: Tree) -> _s.SAMState:
        cache = None if self.opaque_mode else jax.tree.map(lambda x: jnp.array(x, copy=True), params)
        zero = jnp.zeros((), jnp.int32)
        return _s.SAMState(zero, self.optimizer.init(params), self.adv_optimizer.init(params), cache)

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        needed(self.name, params)
        if self.opaque_mode:
            return self._opaque(updates, state, params, extra)
        first, last = state.steps_since_sync == 0, state.steps_since_sync == self.sync_period - 1
        up, adversary = self.adv_optimizer.step(updates, state.adv_state, params, {})
        start = choose(first, params, state.cache)
        down, inner = self.optimizer.step(updates, state.opt_state, state.cache, {})
        down = jax.tree.map(lambda c, p, u: difference(c, p) + u, state.cache, params, down)
        restart = self.adv_optimizer.init(params) if self.reset_state else state.adv_state
        new = _s.SAMState(
            steps_since_sync=(state.steps_since_sync + 1) % self.sync_period,
            opt_state=choose(last, inner, state.opt_state),
            adv_state=choose(last, restart, adversary),
            cache=start,
        )
        return choose(last, down, jax.tree.map(lambda x: -x, up)), new

    def _opaque(self, updates: Tree, state: Any, params: Any, extra: dict[str, Any]) -> tuple[Tree, Any]:
        grad_fn: Callable[..., Any] | None = extra.get("grad_fn")
        if grad_fn is None:
            raise ValueError("sam: grad_fn must be provided when opaque_mode=True")
        weights, adversary = params, state.adv_state
        for i in range(self.sync_period - 1):
            up, adversary = self.adv_optimizer.step(updates, adversary, weights, {})
            weights = apply_updates(weights, jax.tree.map(lambda x: -x, up))
            updates = grad_fn(weights, i)
            if self.batch_axis_name is not None:
                updates = jax.lax.pmean(updates, self.batch_axis_name)
        adversary = self.adv_optimizer.init(params) if self.reset_state else adversary
        updates, inner = self.optimizer.step(updates, state.opt_state, params, {})
        return updates, _s.SAMState(jnp.zeros_like(state.steps_since_sync), inner, adversary, None)

    def parts(self, state: Any = None, params: Tree | None = None) -> Any:
        states = (None, None) if state is None else (state.opt_state, state.adv_state)
        return [
            Part("optimizer", self.optimizer, states[0], params),
            Part("adversary", self.adv_optimizer, states[1], params),
        ]


def sam(
    optimizer: Any,
    adv_optimizer: Any,
    sync_period: int = 2,
    reset_state: bool = True,
    opaque_mode: bool = False,
    batch_axis_name: str | None = None,
) -> Any:
    """Optax's signature of :func:`gradchain.sam`."""
    if sync_period < 1:
        raise ValueError(f"sam: Synchronization period must be >= 1, got {sync_period}")
    return loose(
        SAM,
        optimizer=optimizer,
        adv_optimizer=adv_optimizer,
        sync_period=sync_period,
        reset_state=reset_state,
        opaque_mode=opaque_mode,
        batch_axis_name=batch_axis_name,
    )

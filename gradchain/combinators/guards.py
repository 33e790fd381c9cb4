"""Guards: skip steps whose gradient or loss can't be trusted."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gradchain import tree
from gradchain.combinators._reports import Reports
from gradchain.combinators._weights import check_arrays
from gradchain.core.combinator import combinator
from gradchain.core.extra import demand_number
from gradchain.core.foreign import Child
from gradchain.core.hyper import Count, Decay, NonNegative, Whole
from gradchain.core.transform import both, check_state
from gradchain.numerics import safe_increment, sqrt
from gradchain.signatures import public
from gradchain.tree import Tree


def count_not_finite(updates: Tree) -> Array:
    """Return how many elements of a tree are infinite or NaN."""
    leaves = [jnp.asarray(x) for x in jax.tree.leaves(updates)]
    return sum((jnp.sum(~jnp.isfinite(x), dtype=jnp.int32) for x in leaves), jnp.zeros((), jnp.int32))


@public
def skip_not_finite(updates: Tree, gradient_step: ArrayLike, params: Tree | None) -> tuple[Array, dict[str, Array]]:
    """Tell :func:`accumulate` to skip a micro-step whose gradient has an infinity or a NaN.

    Args:
      updates: the micro-step's gradient.
      gradient_step: the number of updates so far; ignored.
      params: ignored.

    Returns:
      (skip, info) with ``info["should_skip"]`` and ``info["num_not_finite"]``.

    Example:
      >>> tx = accumulate(adam(1e-3), every=4, should_skip_update_fn=skip_not_finite)
    """
    bad = count_not_finite(updates)
    return bad > 0, {"should_skip": bad > 0, "num_not_finite": bad}


@public
def skip_large_updates(
    updates: Tree, gradient_step: ArrayLike, params: Tree | None, max_squared_norm: ArrayLike
) -> tuple[Array, dict[str, Array]]:
    """Tell :func:`accumulate` to skip a micro-step whose gradient's squared norm isn't below a bound, or is NaN.

    The norm is taken in at least float32; complex gradients work too.

    Args:
      updates: the micro-step's gradient.
      gradient_step: the number of updates so far; ignored.
      params: ignored.
      max_squared_norm: the bound; bind it with ``functools.partial``, which compares by identity.

    Returns:
      (skip, info) with ``info["should_skip"]`` and ``info["norm_squared"]``.

    Example:
      >>> tx = accumulate(adam(1e-3), 4, should_skip_update_fn=partial(skip_large_updates, max_squared_norm=100.0))
    """
    norm_squared = tree.norm(updates, squared=True)
    skip = ~(norm_squared < max_squared_norm)
    return skip, {"should_skip": skip, "norm_squared": norm_squared}


class ApplyIfFiniteState(NamedTuple):
    """State of :func:`apply_if_finite`."""

    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]
    notfinite_count: Array
    """How many updates in a row weren't finite."""
    last_finite: Array
    """Whether the last one was."""
    total_notfinite: Array
    """How many weren't, from the start on."""
    inner_state: Any


@combinator
class apply_if_finite(Reports):
    """Skip updates whose gradient has an infinity or a NaN: the update is 0, and the state of ``inner`` doesn't change.

    Args:
      inner: any transform.
      max_consecutive_errors: after this many bad gradients in a row, give up and let further bad ones through, so that
        a run that can't recover doesn't stall unnoticed.

    Example:
      >>> tx = apply_if_finite(adam(1e-3), max_consecutive_errors=5)
      >>> state.total_notfinite  # how many were left out
    """

    inner: Child
    max_consecutive_errors: Whole

    def init(self, params: Tree) -> ApplyIfFiniteState:
        zeros = [jnp.zeros((), jnp.int32) for _ in range(3)]
        return ApplyIfFiniteState(zeros[0], zeros[1], jnp.ones((), bool), zeros[2], self.inner.init(params))

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        check_state(self.name, state, ApplyIfFiniteState._fields)
        finite = count_not_finite(updates) == 0
        in_a_row = jnp.where(finite, 0, safe_increment(state.notfinite_count))
        most = self.number("max_consecutive_errors", state.count)
        new, inner_state = self.inner.step_where(finite | (in_a_row > most), updates, state.inner_state, params, extra)
        total = jnp.where(finite, state.total_notfinite, safe_increment(state.total_notfinite))
        return new, ApplyIfFiniteState(safe_increment(state.count), in_a_row, finite, total, inner_state)

    @property
    def skips(self) -> bool:
        return True

    def emitted(self, before: Any, after: Any) -> Any:
        most = self.number("max_consecutive_errors", before.count)
        return both(after.last_finite | (after.notfinite_count > most), super().emitted(before, after))

    def report(self, state: ApplyIfFiniteState) -> dict[str, Any]:
        return {"not_finite": state.total_notfinite, "not_finite_in_a_row": state.notfinite_count}


class SkipSpikesState(NamedTuple):
    """State of :func:`skip_spikes`."""

    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]
    mean: Array
    variance: Array
    seen: Array
    """How many values are in the mean."""
    skipped_in_a_row: Array
    skipped: Array
    """How many steps were skipped, from the start on."""
    inner_state: Any


@combinator
class skip_spikes(Reports):
    r"""Skip steps whose gradient norm, or loss, is far above its running mean: updates are 0, the state is unchanged.

    A step is skipped if its :math:`x_n` isn't finite, or

    .. math::
        x_n > \mu + k \sigma, \qquad
        \mu \leftarrow \mu + a_n (x_n - \mu), \qquad
        \sigma^2 \leftarrow (1 - a_n) (\sigma^2 + a_n (x_n - \mu)^2), \qquad
        a_n = \max(1 - \beta, 1 / n).

    Skipped steps don't enter the mean and variance. After ``max_consecutive_skips`` skipped steps in a row, the level
    is taken to have changed for good: the next finite step is taken, and the statistics restart from it.

    Args:
      inner: any transform.
      k: how many standard deviations above the mean are allowed, at least 0; typically 3 to 6.
      decay: :math:`\beta` in [0, 1), of mean and variance. For the first :math:`1 / (1 - \beta)` steps they are plain
        averages.
      warmup: how many values are collected before any step can be skipped as a spike; at least 1.
      max_consecutive_skips: how many spikes in a row are skipped. Steps that aren't finite are always skipped.
      by_value: watch the loss, passed as ``update(..., value=loss)``, instead of the gradient's global norm.

    Reference: Finch, *Incremental calculation of weighted mean and variance*, 2009, section 9, for mean and variance.

    Example:
      >>> tx = skip_spikes(adamw(1e-3), k=4.0, by_value=True)
      >>> updates, state = tx.update(grads, state, params, value=loss)
    """

    inner: Child
    k: NonNegative = 4.0
    decay: Decay = 0.99
    warmup: Count = 20
    max_consecutive_skips: Whole = 5
    by_value: bool = False

    def init(self, params: Tree) -> SkipSpikesState:
        check_arrays(self.name, params)
        count, seen, in_a_row, skipped = (jnp.zeros((), jnp.int32) for _ in range(4))
        mean, variance = (jnp.zeros((), tree.norm(params).dtype) for _ in range(2))
        return SkipSpikesState(count, mean, variance, seen, in_a_row, skipped, self.inner.init(params))

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        check_state(self.name, state, SkipSpikesState._fields)
        x = self._watched(updates, extra).astype(state.mean.dtype)
        k, decay, warmup, most = (self.number(name, state.count) for name in self.settings())
        high = (state.seen >= warmup) & (x - state.mean > k * sqrt(state.variance))
        finite = jnp.isfinite(x)
        takes = finite & (~high | (state.skipped_in_a_row >= most))
        new, inner_state = self.inner.step_where(takes, updates, state.inner_state, params, extra)
        seen = safe_increment(jnp.where(high, 0, state.seen))
        mean, variance = _with_value(x, state.mean, state.variance, jnp.maximum(1 - decay, 1 / seen))
        taken = SkipSpikesState(state.count, mean, variance, seen, jnp.zeros_like(seen), state.skipped, inner_state)
        in_a_row, skipped = map(safe_increment, (state.skipped_in_a_row, state.skipped))
        left_out = state._replace(skipped_in_a_row=in_a_row, skipped=skipped, inner_state=inner_state)
        return new, tree.where(takes, taken, left_out)._replace(count=safe_increment(state.count))

    def _watched(self, updates: Tree, extra: dict[str, Any]) -> Array:
        if not self.by_value:
            return tree.global_norm(updates)
        return jnp.asarray(demand_number(self.name, extra, "value"))

    @property
    def skips(self) -> bool:
        return True

    def emitted(self, before: Any, after: Any) -> Any:
        return both(after.skipped_in_a_row == 0, super().emitted(before, after))

    def report(self, state: SkipSpikesState) -> dict[str, Any]:
        return {"skipped": state.skipped, "skipped_in_a_row": state.skipped_in_a_row}


def _with_value(x: Array, mean: Array, variance: Array, weight: Array) -> tuple[Array, Array]:
    """Return (mean, variance) with ``x`` in them, at a ``weight`` of 1 for the first value."""
    weight, limit = weight.astype(mean.dtype), float(jnp.finfo(mean.dtype).max) ** 0.5 / 2
    difference = x - mean
    square = jnp.clip(difference, -limit, limit) ** 2
    return mean + weight * difference, (1 - weight) * (variance + weight * square)

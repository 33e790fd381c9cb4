"""Loss scaling: gradients in float16 that neither vanish nor overflow."""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gradchain.combinators._reports import Reports
from gradchain.combinators._weights import widened
from gradchain.combinators.guards import count_not_finite
from gradchain.core.combinator import combinator
from gradchain.core.foreign import Child
from gradchain.core.hyper import Count, Number, Positive
from gradchain.core.lift import inexact_leaves
from gradchain.core.transform import both, check_state
from gradchain.numerics import safe_increment
from gradchain.signatures import public
from gradchain.tree import Tree


class LossScaleState(NamedTuple):
    """State of :func:`loss_scale`."""

    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]
    scale: Array
    """What the next loss is to be multiplied by: :func:`current_loss_scale`."""
    good_steps: Array
    """How many steps since the scale last changed."""
    skipped: Array
    """How many steps were left out, from the start on."""
    inner_state: Any


@combinator
class loss_scale(Reports):
    r"""Divide gradients of a scaled loss by the scale, skip steps that overflowed, and adapt the scale.

    The smallest positive float16 number is 6e-8, and smaller gradients underflow to 0. Gradients of the loss times
    :math:`S` don't, but may overflow. After an overflow (an infinity or a NaN in the gradients) the updates are 0, the
    state of ``tx`` doesn't change, and :math:`S` is halved; after ``growth_interval`` steps in a row without overflow
    it is doubled. So it stays just below what the largest gradient allows. ``growth_interval=None`` is static scaling:
    :math:`S` is constant.

    The loss has to be multiplied by the current scale, which :func:`current_loss_scale` reads from the state:

    .. code-block:: python

        def scaled_loss(params, batch, state):
            return loss_fn(params, batch) * current_loss_scale(state)

    The loops of ``gradchain.training`` do that automatically. bfloat16 has the range of float32 and needs no scale.

    Args:
      tx: any transform; it sees the unscaled gradients, in float32. Clipping belongs inside.
      init_scale: the initial :math:`S`, above 0. Scaling by powers of two is exact.
      growth_interval: steps without overflow after which :math:`S` grows, at least 1; ``None`` for static scaling.
      factor: what :math:`S` is multiplied by, and divided by after an overflow; at least 1.
      min_scale: lower bound on :math:`S`.
      max_scale: upper bound on :math:`S`.

    Example:
      >>> tx = loss_scale(adamw(1e-3))
      >>> grads = jax.grad(lambda p: loss_fn(p, batch) * current_loss_scale(state))(params)
      >>> updates, state = tx.update(grads, state, params)

    Reference: Micikevicius et al., *Mixed Precision Training*, 2018, section 3.2.
    """

    tx: Child
    init_scale: Positive = 2.0**15
    growth_interval: Count | None = 2000
    factor: Annotated[Any, Number("Hyper", "[1, inf)")] = 2.0
    min_scale: Positive = 1.0
    max_scale: Positive = 2.0**24

    def init(self, params: Tree) -> LossScaleState:
        count, good_steps, skipped = (jnp.zeros((), jnp.int32) for _ in range(3))
        scale = jnp.array(self.number("init_scale", count), jnp.float32, copy=True)
        return LossScaleState(count, scale, good_steps, skipped, self.tx.init(params))

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        check_state(self.name, state, LossScaleState._fields)
        inexact_leaves(self.name, updates, "update")
        updates = jax.tree.map(lambda g: g * (1 / state.scale).astype(jnp.finfo(g.dtype).dtype), widened(updates))
        finite = count_not_finite(updates) == 0
        new, inner_state = self.tx.step_where(finite, updates, state.inner_state, params, extra)
        scale, good_steps = self._next_scale(finite, state)
        skipped = jnp.where(finite, state.skipped, safe_increment(state.skipped))
        return new, LossScaleState(safe_increment(state.count), scale, good_steps, skipped, inner_state)

    def _next_scale(self, finite: Array, state: LossScaleState) -> tuple[Array, Array]:
        """Return (scale, good_steps) after a step."""
        scale, good_steps = state.scale, safe_increment(state.good_steps)
        numbers = {name: self.number(name, state.count) for name in self.settings()}
        if self.growth_interval is None:
            return scale, jnp.where(finite, good_steps, 0)
        grows = good_steps >= numbers["growth_interval"]
        factor, least, most = (numbers[name] for name in ("factor", "min_scale", "max_scale"))
        larger = jnp.where(grows, jnp.minimum(scale * factor, jnp.maximum(scale, most)), scale)
        smaller = jnp.maximum(scale / factor, jnp.minimum(scale, least))
        return jnp.where(finite, larger, smaller).astype(scale.dtype), jnp.where(finite & ~grows, good_steps, 0)

    @property
    def skips(self) -> bool:
        return True

    def emitted(self, before: Any, after: Any) -> Any:
        return both(after.skipped == before.skipped, super().emitted(before, after))

    def report(self, state: LossScaleState) -> dict[str, Any]:
        return {"scale": state.scale, "skipped": state.skipped}


@public
def current_loss_scale(state: Any) -> Array | float:
    """Return the factor for the next loss: the scale in the state of a :func:`loss_scale`, or 1 if there is none.

    Args:
      state: the state of any transform, with one :func:`loss_scale` in it at any depth.

    Raises:
      ValueError: if there are several.

    Example:
      >>> loss = loss_fn(params, batch) * current_loss_scale(state)
    """
    scales = [x.scale for x in scale_states(state)]
    if len(scales) > 1:
        raise ValueError(
            f"current_loss_scale: {len(scales)} transforms scale the loss; let one do it, around the others"
        )
    return scales[0] if scales else 1.0


def scale_states(state: Any) -> list[LossScaleState]:
    """Return the states of all loss scales in the state of a transform."""

    def is_scale(x: Any) -> bool:
        return isinstance(x, LossScaleState)

    here = [x for x in jax.tree.leaves(state, is_leaf=is_scale) if is_scale(x)]
    return here + [x for outer in here for x in scale_states(outer.inner_state)]

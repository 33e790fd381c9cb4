"""``cautious``: update only the elements where the current gradient agrees with the update."""

from dataclasses import KW_ONLY
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp

from gradchain.combinators._around import check_own_gradients
from gradchain.core.combinator import combinator
from gradchain.core.foreign import Child
from gradchain.core.hyper import NonNegative
from gradchain.core.transform import Transform, check_state
from gradchain.numerics import compute_dtype, divide, real_dtype, safe_increment
from gradchain.tree import Tree


class CautiousState(NamedTuple):
    """State of :func:`cautious`."""

    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]
    inner_state: Any


@combinator
class cautious(Transform):
    r"""Drop the elements of an update that point uphill by the current gradient, and scale up the others.

    For each array with :math:`d` elements, of which :math:`n` agree,

    .. math:: u_i = \frac{d}{n + \xi}\;\tilde u_i \;\text{ where } \tilde u_i g_i < 0, \text{ else } 0

    with :math:`\tilde u` the update of ``tx`` and :math:`g` its input. Momentum then never works against
    the gradient. As in the paper, weight decay stays outside: ``chain(cautious(scale_by_adam(), downhill=False),
    add_decayed_weights(0.1), scale_by_learning_rate(1e-3))``. For complex numbers the product is
    :math:`\mathrm{Re}(\bar g \tilde u)`.

    Args:
      tx: any transform.
      xi: :math:`\xi \ge 0`; 1 in the paper.
      downhill: whether updates of ``tx`` point downhill, as an optimizer's do. Updates of a transform without a
        learning rate point uphill; set False for it.

    Raises:
      ValueError: if ``tx`` accumulates gradients (:func:`accumulate`), since only the last one would be seen here.

    Reference: Liang et al., *Cautious Optimizers: Improving Training with One Line of Code*, 2024, algorithms 1 and 2.
    """

    tx: Child
    xi: NonNegative = 1.0
    _: KW_ONLY
    downhill: bool = True

    def checked(self) -> Self:
        check_own_gradients(self.name, self.tx)
        return self

    def init(self, params: Tree) -> CautiousState:
        return CautiousState(jnp.zeros((), jnp.int32), self.tx.init(params))

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        check_state(self.name, state, CautiousState._fields)
        inner, inner_state = self.tx.step(updates, state.inner_state, params, extra)
        updates = jax.tree.map(lambda u, g: self._agreeing(u, g, state.count), inner, updates)
        return updates, CautiousState(safe_increment(state.count), inner_state)

    def _agreeing(self, u: jax.Array, g: jax.Array, count: jax.Array) -> jax.Array:
        """Return the update where it agrees with the gradient, scaled up for what is missing."""
        g = g.astype(compute_dtype(g.dtype))
        product = jnp.real(jnp.conj(g) * u)
        agrees = product < 0 if self.downhill else product > 0
        dtype = real_dtype(u.dtype)
        kept = jnp.sum(agrees, dtype=dtype)
        return jnp.where(agrees, u, 0) * divide(jnp.asarray(u.size, dtype), kept + self.number("xi", count, dtype))

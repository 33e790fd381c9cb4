"""``mechanize``: learn the scale of an optimizer's updates while it runs."""

from typing import Annotated, Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from gradchain import tree
from gradchain.combinators._around import check_own_gradients, where
from gradchain.combinators._weights import copies, stored, wide
from gradchain.core.combinator import combinator
from gradchain.core.foreign import Child
from gradchain.core.hyper import NonNegative, Positive
from gradchain.core.transform import Transform, check_state, scalar_dtype
from gradchain.core.value import Integer
from gradchain.numerics import bounded, decaying_max, safe_increment, sqrt
from gradchain.tree import Tree
from gradchain.tree.arithmetic import bounded_together


class MechanicState(NamedTuple):
    """State of :func:`mechanize`."""

    base_optimizer_state: Any
    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]
    r: jax.Array
    m: jax.Array
    v: jax.Array
    s: jax.Array
    x0: Tree


@combinator
class mechanize(Transform):
    r"""Mechanic: learn the scale :math:`s` of an optimizer's updates, so that its rate needs no tuning.

    Weights are :math:`x_k = x_0 + s_k \Delta_k`, with :math:`\Delta_k` the sum of the base optimizer's updates. With
    :math:`h_k = -\langle g_k + \lambda\,s_k \|g_k\| x_k / \|x_k\|, \Delta_k \rangle`, for each of several
    :math:`\beta_i = 1 - 10^{-i}`,

    .. math::
        m_k = \max(\beta m_{k-1}, |h_k| + \epsilon), \quad v_k = \beta^2 v_{k-1} + h_k^2, \quad
        r_k = \beta r_{k-1} + s_k\,\mathrm{clip}(h_k, \pm m_{k-1})

    .. math:: s_{k+1} = \frac{s_0\,m_k / n + \max(r_k, 0)}{\sqrt{v_k} + \epsilon}

    and :math:`s` is the sum over :math:`i`. The clipping is Optax's. The base optimizer keeps its schedule, with a peak
    of 1. If later transforms change the updates, :math:`\Delta` is wrong; make this the outermost transform.

    Args:
      base_optimizer: any optimizer whose updates, unlike LAMB's, aren't scaled by the norm of the weights.
      weight_decay: :math:`\lambda \ge 0`, which stabilises the scale; not the optimizer's own decay.
      eps: :math:`\epsilon > 0`.
      s_init: :math:`s_0`, the initial scale; choose it far too small.
      num_betas: :math:`n`, the number of averages.

    Raises:
      ValueError: if ``base_optimizer`` accumulates gradients (:func:`accumulate`), since the scale would only see the
        last one.

    Reference: Cutkosky et al., *Mechanic: A Learning Rate Tuner*, 2023, algorithm 1.
    """

    base_optimizer: Child
    weight_decay: NonNegative = 1e-2
    eps: Positive = 1e-8
    s_init: Positive = 1e-6
    num_betas: Annotated[int, Integer(1)] = 6

    def checked(self) -> Self:
        check_own_gradients(self.name, self.base_optimizer)
        return self

    def init(self, params: Tree) -> MechanicState:
        base, dtype = self.base_optimizer.init(params), scalar_dtype(params)
        r, m, v = (jnp.zeros(self.num_betas, dtype) for _ in range(3))
        s_init = self.number("s_init", jnp.zeros((), jnp.int32), dtype)
        s = jnp.full(self.num_betas, s_init, dtype)
        return MechanicState(base, jnp.zeros((), jnp.int32), r, m, v, s, copies(self.name, params))

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        check_state(self.name, state, MechanicState._fields)
        x = wide(self, params)
        u, base = self.base_optimizer.step(updates, state.base_optimizer_state, params, extra)
        emitted = self.base_optimizer.emitted(state.base_optimizer_state, base)
        x0 = tree.match(state.x0, x, self.name, "the state's x0", "params")
        x0 = tree.where(state.count == 0, x, x0)
        eps = self.number("eps", state.count, state.s.dtype)
        back = tree.sub(x0, x)
        old = jnp.sum(state.s)
        g = bounded_together(wide(self, where(emitted, updates, tree.zeros_like(updates))), power=1)
        h = bounded(self._slope(g, x, back, old, state.count) / (old + eps), 2**24)
        r, m, v, s = self._tune(h, state)
        new = jnp.sum(s)
        shrink = 1 - new / (old + eps)
        updates = jax.tree.map(lambda d, u: shrink * d + new * u, back, u)
        moved = MechanicState(base, safe_increment(state.count), r, m, v, s, stored(x0, state.x0))
        return where(emitted, (updates, moved), (u, state._replace(base_optimizer_state=base)))

    def _slope(self, g: Tree, x: Tree, back: Tree, s: jax.Array, count: jax.Array) -> jax.Array:
        """Return the inner product of ``back`` with the gradient, decay included."""
        decay, eps = (self.number(name, count, s.dtype) for name in ("weight_decay", "eps"))
        strength = decay * s * tree.norm(g) / (tree.norm(x) + eps)
        return jnp.real(tree.vdot(g, back) + strength * tree.vdot(x, back)).astype(s.dtype)

    def _tune(self, h: jax.Array, state: MechanicState) -> tuple[jax.Array, ...]:
        """Return the next r, m, v and s: algorithm 1, lines 8-14, with the reward clipped."""
        eps, s_init = (self.number(name, state.count, state.s.dtype) for name in ("eps", "s_init"))
        beta = jnp.asarray(1 - 0.1 ** np.arange(1.0, self.num_betas + 1), state.s.dtype)
        m = decaying_max(state.m, h, beta, eps)
        v = beta**2 * state.v + h**2
        r = beta * state.r + jnp.clip(h, -state.m, state.m) * state.s
        wealth = s_init / self.num_betas * m + jnp.maximum(r, 0)
        return r, m, v, wealth / (sqrt(v) + eps)

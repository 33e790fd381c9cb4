"""Adam whose learning rate is a growing lower bound on the distance to the solution, estimated from gradients."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gradchain import tree
from gradchain.core.hyper import Decay, NonNegative, Positive, TermMask
from gradchain.core.rule import treewise
from gradchain.core.spec import At, Slot, Slots
from gradchain.numerics import abs_sq, divide, ema, sqrt
from gradchain.transforms.adaptive import SECOND_MOMENT
from gradchain.transforms.distance import START
from gradchain.tree import Tree
from gradchain.tree.arithmetic import bounded_together

ESTIMATE: dict[str, Any] = {"d": lambda hyper: hyper.estim_lr0, "r": 0.0}


@treewise(slots={"m": Slot(), "v": SECOND_MOMENT, "s": Slot()}, scalars=ESTIMATE, param=True, debiased=("b1", "b2"))
def scale_by_dadapt_adam(
    updates: Tree,
    slot: Slots,
    at: At,
    learning_rate: NonNegative = 1.0,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    estim_lr0: Positive = 1e-6,
    weight_decay: NonNegative = 0.0,
    weight_decay_mask: TermMask | None = None,
):
    r"""Scale by Adam's moments and by an estimate of the distance to the solution: D-Adaptation.

    .. math::
        \lambda_k &= \gamma\,d_{k-1} \frac{\sqrt{1 - \beta_2^k}}{1 - \beta_1^k}, \qquad
        m_k = \beta_1 m_{k-1} + (1 - \beta_1)\,\lambda_k g_k, \qquad
        v_k = \beta_2 v_{k-1} + (1 - \beta_2)\,|g_k|^2 \\
        s_k &= \beta_3 s_{k-1} + (1 - \beta_3)\,\lambda_k g_k, \quad
        r_k = \beta_3 r_{k-1} + (1 - \beta_3)\,\lambda_k
        \left\langle g_k, \frac{s_{k-1}}{\sqrt{v_{k-1}} + \epsilon}\right\rangle, \quad
        \beta_3 = \sqrt{\beta_2} \\
        d_k &= \max\left(d_{k-1}, \frac{r_k}{(1 - \beta_3)\,\|s_k\|_1}\right), \qquad
        u_k = \frac{m_k}{\sqrt{v_k} + \epsilon} + \lambda_k \omega\,w_k

    Norms and products are taken over all arrays; where the sums are 0, the estimate doesn't change. The product uses
    the denominators before the update, as in the authors' code and in Optax.

    Args:
      learning_rate: :math:`\gamma \ge 0`, or a schedule around 1; it is part of the estimate.
      b1: :math:`\beta_1` in [0, 1).
      b2: :math:`\beta_2` in [0, 1).
      eps: :math:`\epsilon \ge 0`.
      estim_lr0: :math:`d_0 > 0`, below the distance to the solution.
      weight_decay: :math:`\omega \ge 0`, decoupled.
      weight_decay_mask: which parameters to decay, a mask as in :func:`add_decayed_weights`; ``None`` for all.

    Reference: Defazio and Mishchenko, *Learning-Rate-Free Learning by D-Adaptation*, 2023, algorithm 5.
    """
    updates = bounded_together(updates)
    b3 = b2**0.5
    rate = learning_rate * slot.d * (sqrt(at.weight_sum("b2")) / at.weight_sum("b1"))
    scaled = jax.tree.map(lambda s, v: divide(s, sqrt(v) + eps, eps == 0), slot.s, slot.v)
    r = ema(slot.r, rate * jnp.real(tree.vdot(updates, scaled)), b3)
    m = jax.tree.map(lambda m, g: ema(m, rate * g, b1), slot.m, updates)
    v = jax.tree.map(lambda v, g: ema(v, abs_sq(g), b2), slot.v, updates)
    s = jax.tree.map(lambda s, g: ema(s, rate * g, b3), slot.s, updates)
    d = jnp.maximum(slot.d, divide(r, (1 - b3) * tree.norm(s, 1)))

    def step(m: Array, v: Array, w: Array, decays: bool) -> Array:
        scaled = divide(m, sqrt(v) + eps, eps == 0)
        return scaled + rate * weight_decay * w if decays else scaled

    return jax.tree.map(step, m, v, at.param, weight_decay_mask), slot(m=m, v=v, s=s, d=d, r=r)


@treewise(
    slots={"m": Slot(), "v": SECOND_MOMENT, "s": Slot(), "init_params": START},
    scalars=ESTIMATE,
    param=True,
    debiased=("b1", "b2"),
)
def scale_by_prodigy(
    updates: Tree,
    slot: Slots,
    at: At,
    learning_rate: NonNegative = 1.0,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    beta3: Decay | None = None,
    eps: NonNegative = 1e-8,
    estim_lr0: Positive = 1e-6,
    estim_lr_coef: Positive = 1.0,
    weight_decay: NonNegative = 0.0,
    safeguard_warmup: bool = False,
    weight_decay_mask: TermMask | None = None,
):
    r"""Scale by Adam's moments and by an estimate of the distance to the solution that grows fast: Prodigy.

    .. math::
        \lambda_k &= \gamma\,d_{k-1} \frac{\sqrt{1 - \beta_2^k}}{1 - \beta_1^k}, \quad
        m_k = \beta_1 m_{k-1} + (1 - \beta_1)\,d_{k-1} g_k, \quad
        v_k = \beta_2 v_{k-1} + (1 - \beta_2)\,|d_{k-1} g_k|^2 \\
        r_k &= \beta_3 r_{k-1} + \frac{d_{k-1}}{d_0} \lambda_k \langle g_k, w_1 - w_k\rangle, \qquad
        s_k = \beta_3 s_{k-1} + \frac{d_{k-1}}{d_0} \lambda_k g_k \\
        d_k &= \max\left(d_{k-1}, \frac{c\,r_k}{\|s_k\|_1}\right), \qquad
        u_k = \lambda_k \left(\frac{m_k}{\sqrt{v_k} + d_k \epsilon} + \omega\,w_k\right)

    Norms and products are taken over all arrays; where the sums are 0, the estimate doesn't change (in Optax it becomes
    NaN if the first gradient is zero). Call ``init`` with the actual initial parameters, not with shapes or zeros. As
    in Optax and in the authors' code, the new estimate multiplies :math:`\epsilon`; that code applies bias correction
    only on request.

    Args:
      learning_rate: :math:`\gamma \ge 0`, or a schedule around 1; it is part of the estimate.
      b1: :math:`\beta_1` in [0, 1).
      b2: :math:`\beta_2` in [0, 1).
      beta3: :math:`\beta_3` in [0, 1); ``None`` for :math:`\sqrt{\beta_2}`.
      eps: :math:`\epsilon \ge 0`.
      estim_lr0: :math:`d_0 > 0`, below the distance to the solution.
      estim_lr_coef: :math:`c > 0`; below 1 for shorter steps.
      weight_decay: :math:`\omega \ge 0`, decoupled.
      safeguard_warmup: put :math:`d_{k-1}` in place of :math:`\lambda_k` in :math:`s_k`, so that small rates during
        a warm-up don't make the estimate large.
      weight_decay_mask: which parameters to decay, a mask as in :func:`add_decayed_weights`; ``None`` for all.

    Reference: Mishchenko and Defazio, *Prodigy: An Expeditiously Adaptive Parameter-Free Learner*, 2024, algorithm 4.
    """
    updates = bounded_together(updates)
    b3 = b2**0.5 if beta3 is None else beta3
    rate = learning_rate * slot.d * (sqrt(at.weight_sum("b2")) / at.weight_sum("b1"))
    growth = slot.d / estim_lr0
    m = jax.tree.map(lambda m, g: ema(m, slot.d * g, b1), slot.m, updates)
    v = jax.tree.map(lambda v, g: ema(v, abs_sq(slot.d * g), b2), slot.v, updates)
    r = b3 * slot.r + growth * rate * jnp.real(tree.vdot(updates, tree.sub(slot.init_params, at.param)))
    s = jax.tree.map(lambda s, g: b3 * s + growth * (slot.d if safeguard_warmup else rate) * g, slot.s, updates)
    d = jnp.maximum(slot.d, divide(estim_lr_coef * r, tree.norm(s, 1)))

    def step(m: Array, v: Array, w: Array, decays: bool) -> Array:
        scaled = divide(m, sqrt(v) + d * eps, eps == 0)
        return rate * (scaled + weight_decay * w if decays else scaled)

    return jax.tree.map(step, m, v, at.param, weight_decay_mask), slot(
        m=m, v=v, s=s, init_params=slot.init_params, d=d, r=r
    )

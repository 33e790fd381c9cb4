"""Penalties on the size of the weights, as transforms of the updates."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from gradchain.core.hyper import Mask, NonNegative, Positive, TermMask
from gradchain.core.rule import elementwise
from gradchain.core.spec import At, Slots
from gradchain.core.transform import Transform
from gradchain.numerics import plus_multiple


def _plus(g: Array, strength: Any, gradient: Array) -> Array:
    """Return ``g + strength * gradient``; a constant 0 moves no memory, which XLA may not leave out on its own."""
    return g if isinstance(strength, float) and not strength else plus_multiple(g, strength, gradient)


@elementwise(param=True)
def add_decayed_weights(g: Array, slot: Slots, at: At, weight_decay: NonNegative = 0.0, mask: Mask | None = None):
    r"""Add a multiple of the weights: :math:`u = g + \lambda w`.

    Placed before a scaling by moments it is L2 regularisation (:func:`add_l2_penalty`, as in ``torch.optim.Adam``);
    between that scaling and the learning rate it is decoupled weight decay, as in AdamW.

    Args:
      weight_decay: :math:`\lambda \ge 0`, or a schedule.
      mask: a tree of bools like the parameters (or a prefix of it), or a function from parameters to one; where it is
        False, updates pass unchanged.

    Reference: Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, 2019, algorithm 2.
    """
    return _plus(g, weight_decay, at.param)


@elementwise(param=True)
def descend_with_corrected_decay(
    g: Array,
    slot: Slots,
    at: At,
    learning_rate: NonNegative,
    peak_learning_rate: Positive,
    weight_decay: NonNegative = 0.0,
    mask: TermMask | None = None,
):
    r"""Step downhill, with weight decay that falls with the square of the learning rate: the last stage of AdamC.

    .. math:: u = -\eta_k \left( g + \frac{\eta_k}{\hat\eta}\,\lambda w \right)

    Weights in front of a normalisation come to a balance at which their norm, and so the size of their gradients,
    depends on the ratio of decay to learning rate. Under a decay of :math:`\eta_k \lambda` that balance moves as the
    rate falls, and gradients grow towards the end of training; with the square it stays. This stage takes the place of
    both :func:`add_decayed_weights` and :func:`scale_by_learning_rate`, so that the rate is one number, however it is
    set.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule.
      peak_learning_rate: :math:`\hat\eta > 0`, the schedule's largest value. There the decay is that of
        :func:`add_decayed_weights`.
      weight_decay: :math:`\lambda \ge 0`, or a schedule.
      mask: which parameters to decay, a mask as in :func:`add_decayed_weights`; ``None`` for all. The correction is
        meant for all layers but the last.

    Reference: Defazio, *Why Gradients Rapidly Increase Near the End of Training*, 2025, algorithm 1.
    """
    if mask:
        g = _plus(g, weight_decay, learning_rate / peak_learning_rate * at.param)
    return -learning_rate * g


def optional_decay(weight_decay: NonNegative | None, mask: Mask | None) -> list[Transform]:
    """Return the stage that adds decayed weights, or none: ``None`` keeps no count and needs no parameters."""
    return [] if weight_decay is None else [add_decayed_weights(weight_decay, mask)]


@elementwise(param=True)
def add_l2_penalty(g: Array, slot: Slots, at: At, strength: NonNegative, mask: Mask | None = None):
    r"""Add the gradient of :math:`\tfrac\lambda2 \|w\|_2^2`: :math:`u = g + \lambda w`.

    Put it first in a chain, where it changes the objective that the rest of the chain minimises. The arithmetic is that
    of :func:`add_decayed_weights`, which goes after the scaling.

    Args:
      strength: :math:`\lambda \ge 0`, or a schedule.
      mask: as in :func:`add_decayed_weights`.
    """
    return _plus(g, strength, at.param)


@elementwise(param=True)
def add_l1_penalty(g: Array, slot: Slots, at: At, strength: NonNegative, mask: Mask | None = None):
    r"""Add a subgradient of :math:`\lambda \|w\|_1`: :math:`u = g + \lambda\,\mathrm{sign}(w)`.

    The sign of 0 is 0. Subgradient steps make weights small but jump over zero instead of stopping there.
    For complex weights the sign is :math:`w / |w|`.

    Args:
      strength: :math:`\lambda \ge 0`, or a schedule.
      mask: as in :func:`add_decayed_weights`.

    Reference: Tibshirani, *Regression Shrinkage and Selection via the Lasso*, 1996.
    """
    return _plus(g, strength, jnp.sign(at.param))

"""Adaptive methods whose denominators lag a step behind: ADOPT and ACProp."""

from gradchain.combinators.chain import chain
from gradchain.core.hyper import Decay, DType, Mask, NonNegative
from gradchain.core.transform import Transform
from gradchain.signatures import public
from gradchain.transforms.decay import add_decayed_weights, optional_decay
from gradchain.transforms.delayed import scale_by_acprop, scale_by_adopt
from gradchain.transforms.scaling import scale_by_learning_rate


@public
def adopt(
    learning_rate: NonNegative,
    b1: Decay = 0.9,
    b2: Decay = 0.9999,
    eps: NonNegative = 1e-6,
    mu_dtype: DType | None = None,
    weight_decay: NonNegative | None = None,
    mask: Mask | None = None,
    *,
    nesterov: bool = False,
    use_clipping: bool = True,
    clip_value_fn: NonNegative | None = None,
) -> Transform:
    r"""ADOPT: Adam that converges whatever :math:`\beta_2` is, :func:`~gradchain.scale_by_adopt`.

    The first step leaves the parameters unchanged.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule; typically 1e-3.
      b1: decay of the average of normalised gradients.
      b2: decay of the second moment.
      eps: lower bound on its root.
      mu_dtype: dtype of the stored average.
      weight_decay: :math:`\lambda \ge 0`, or a schedule; decoupled, multiplied by the learning rate. ``None`` for none.
      mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.
      nesterov: look ahead along the average.
      use_clipping: clip normalised gradients; the bound is tight at first and grows.
      clip_value_fn: the bound to clip to, a schedule or a number, in place of :math:`(k - 1)^{1/4}`.

    Reference: Taniguchi et al., *ADOPT: Modified Adam Can Converge with Any* :math:`\beta_2` *with the Optimal Rate*,
    2024.
    """
    return chain(
        scale_by_adopt(
            b1, b2, eps, mu_dtype, nesterov=nesterov, use_clipping=use_clipping, clip_value_fn=clip_value_fn
        ),
        *optional_decay(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@public
def acprop(
    learning_rate: NonNegative,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-16,
    eps_root: NonNegative = 1e-16,
    weight_decay: NonNegative = 0.0,
    mask: Mask | None = None,
) -> Transform:
    r"""ACProp: gradients divided by their past prediction error, :func:`~gradchain.scale_by_acprop`.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule.
      b1: decay of the average that predicts the gradients.
      b2: decay of the squared prediction error.
      eps: added to the denominator, outside the square root.
      eps_root: added to the stored average.
      weight_decay: :math:`\lambda \ge 0`, or a schedule; decoupled, multiplied by the learning rate.
      mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.

    Reference: Zhuang et al., *Momentum Centering and Asynchronous Update for Adaptive Gradient Methods*, 2021.
    """
    return chain(
        scale_by_acprop(b1, b2, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )

"""Adam with momentum that remembers very old gradients."""

from gradchain.combinators.chain import chain
from gradchain.core.hyper import Decay, DType, Hyper, Mask, NonNegative
from gradchain.core.transform import Transform
from gradchain.signatures import public
from gradchain.transforms.decay import add_decayed_weights
from gradchain.transforms.mixed_momentum import scale_by_ademamix, scale_by_simplified_ademamix
from gradchain.transforms.scaling import scale_by_learning_rate


@public
def ademamix(
    learning_rate: NonNegative,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    b3: Decay = 0.9999,
    alpha: Hyper = 5.0,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: DType | None = None,
    weight_decay: NonNegative = 0.0,
    mask: Mask | None = None,
) -> Transform:
    r"""AdEMAMix: AdamW with a second, very slow average of gradients, :func:`~gradchain.scale_by_ademamix`.

    For long runs. For short runs, a smaller ``b3`` (0.999) works better.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule; typically as AdamW's.
      b1: decay of the fast average.
      b2: decay of the second moment.
      b3: decay of the slow average, or a schedule.
      alpha: weight of the slow average, or a schedule.
      eps: added to the denominator, outside the square root.
      eps_root: added inside the square root.
      mu_dtype: dtype of both stored averages.
      weight_decay: :math:`\lambda \ge 0`, or a schedule; decoupled, multiplied by the learning rate.
      mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.

    Reference: Pagliardini et al., *The AdEMAMix Optimizer: Better, Faster, Older*, 2024.
    """
    return chain(
        scale_by_ademamix(b1, b2, b3, alpha, eps, eps_root, mu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@public
def simplified_ademamix(
    learning_rate: NonNegative,
    b1: Decay = 0.99,
    b2: Decay = 0.95,
    alpha: Hyper = 0.0,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    weight_decay: NonNegative = 0.0,
    mask: Mask | None = None,
) -> Transform:
    r"""AdEMAMix with one average: :func:`~gradchain.scale_by_simplified_ademamix`, then weight decay and the rate.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule; about :math:`1 - \beta_1` times AdamW's.
      b1: decay of the momentum, which is a sum and not an average.
      b2: decay of the second moment.
      alpha: extra weight of the current gradient, or a schedule.
      eps: added to the denominator, outside the square root.
      eps_root: added inside the square root.
      weight_decay: :math:`\lambda \ge 0`, or a schedule; decoupled, multiplied by the learning rate.
      mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.

    Reference: Morwani et al., *Connections between Schedule-Free Optimizers, AdEMAMix, and Accelerated SGD Variants*,
    2025.
    """
    return chain(
        scale_by_simplified_ademamix(b1, b2, alpha, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )

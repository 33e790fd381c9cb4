"""Optimizers that lower the variance of stochastic gradients."""

from gradchain.combinators.chain import chain
from gradchain.core.hyper import Decay, Mask, NonNegative, Positive
from gradchain.core.transform import Transform
from gradchain.signatures import public
from gradchain.transforms.adaptive import scale_by_adam
from gradchain.transforms.decay import add_decayed_weights
from gradchain.transforms.scaling import scale_by_learning_rate
from gradchain.transforms.variance_reduction import scale_by_mars


@public
def mars(
    learning_rate: NonNegative,
    b1: Decay = 0.95,
    b2: Decay = 0.99,
    eps: NonNegative = 1e-8,
    gamma: NonNegative = 0.025,
    max_norm: Positive = 1.0,
    weight_decay: NonNegative = 0.0,
    mask: Mask | None = None,
) -> Transform:
    r"""MARS-AdamW: AdamW on variance-reduced gradients, :func:`~gradchain.scale_by_mars`.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule; the paper uses 3e-3 to 6e-3 for language models.
      b1: decay of the first moment, also used in the correction.
      b2: decay of the second moment.
      eps: added to the denominator, outside the square root.
      gamma: strength of the correction.
      max_norm: bound on each array's corrected gradient.
      weight_decay: :math:`\lambda \ge 0`, or a schedule.
      mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.

    Reference: Yuan et al., *MARS: Unleashing the Power of Variance Reduction for Training Large Models*, 2024,
    algorithm 2.
    """
    return chain(
        scale_by_mars(b1, gamma, max_norm),
        scale_by_adam(b1, b2, eps),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )

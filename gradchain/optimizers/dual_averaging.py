"""MADGRAD."""

from gradchain.combinators.chain import chain
from gradchain.core.hyper import Fraction, Mask, NonNegative
from gradchain.core.transform import Transform
from gradchain.signatures import public
from gradchain.transforms.decay import add_decayed_weights
from gradchain.transforms.dual_averaging import scale_by_madgrad


@public
def madgrad(
    learning_rate: NonNegative,
    momentum: Fraction = 0.9,
    weight_decay: NonNegative = 0.0,
    eps: NonNegative = 1e-6,
    mask: Mask | None = None,
) -> Transform:
    r"""MADGRAD: adaptive steps with momentum, by dual averaging, :func:`~gradchain.scale_by_madgrad`.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule; typically between Adam's and gradient descent's.
      momentum: weight of the current parameters in the average with the new point, in [0, 1].
      weight_decay: :math:`\lambda \ge 0`, added to the gradient; use 0, or less than with other optimizers.
      eps: added to the cube root, and to the rate.
      mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.

    Reference: Defazio and Jelassi, *Adaptivity without Compromise: A Momentumized, Adaptive, Dual Averaged Gradient
    Method for Stochastic Optimization*, 2021.
    """
    return chain(add_decayed_weights(weight_decay, mask), scale_by_madgrad(learning_rate, momentum, eps))

"""Optimizers whose step is in proportion to the norm of each parameter array."""

from gradchain.combinators.chain import chain
from gradchain.core.hyper import Decay, Fraction, Mask, NonNegative
from gradchain.core.transform import Transform
from gradchain.signatures import public
from gradchain.transforms.adaptive import scale_by_adam
from gradchain.transforms.decay import add_decayed_weights
from gradchain.transforms.layerwise import descend_and_shrink, scale_by_novograd, scale_by_trust_ratio
from gradchain.transforms.momentum import trace
from gradchain.transforms.scaling import scale_by_learning_rate


@public
def lars(
    learning_rate: NonNegative,
    weight_decay: NonNegative = 0.0,
    weight_decay_mask: Mask | None = True,
    trust_coefficient: NonNegative = 0.001,
    eps: NonNegative = 0.0,
    trust_ratio_mask: Mask | None = True,
    momentum: Fraction = 0.9,
    nesterov: bool = False,
) -> Transform:
    r"""LARS: gradient descent with momentum, and steps in proportion to each array's norm. For very large batches.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule.
      weight_decay: added to the gradient, applied before the trust ratio.
      weight_decay_mask: which parameters to decay; True means all.
      trust_coefficient: norm of the step as a fraction of the parameters' norm, at learning rate 1.
      eps: added to the gradient's norm.
      trust_ratio_mask: which parameters to scale by the trust ratio; True means all. Biases are often left out.
      momentum: decay of a :func:`~gradchain.trace` placed after the learning rate.
      nesterov: use Nesterov's form of it.

    Reference: You et al., *Large Batch Training of Convolutional Networks*, 2017, algorithm 1.
    """
    return chain(
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_trust_ratio(trust_coefficient=trust_coefficient, eps=eps, mask=trust_ratio_mask),
        scale_by_learning_rate(learning_rate),
        trace(momentum, nesterov),
    )


@public
def lamb(
    learning_rate: NonNegative,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-6,
    eps_root: NonNegative = 0.0,
    weight_decay: NonNegative = 0.0,
    mask: Mask | None = None,
) -> Transform:
    r"""LAMB: AdamW with steps in proportion to each array's norm. For very large batches.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule: the norm of the step as a fraction of the parameters' norm.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added to the denominator, outside the square root.
      eps_root: added inside the square root.
      weight_decay: :math:`\lambda \ge 0`, or a schedule; applied before the trust ratio.
      mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.

    Reference: You et al., *Large Batch Optimization for Deep Learning: Training BERT in 76 minutes*, 2020,
    algorithm 2.
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_trust_ratio(),
        scale_by_learning_rate(learning_rate),
    )


@public
def fromage(learning_rate: NonNegative, min_norm: NonNegative = 1e-6) -> Transform:
    r"""Fromage: each array turns by a given angle, :math:`\arctan\eta`, so that the weights stay bounded.

    The last stage is :func:`~gradchain.descend_and_shrink`, which holds the learning rate as given; Optax splits it
    over two stages.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule; the paper uses 0.01 throughout.
      min_norm: lower bound on the norms of parameters and gradients.

    Reference: Bernstein et al., *On the distance between two neural networks and the stability of learning*, 2020,
    algorithm 1.
    """
    return chain(scale_by_trust_ratio(min_norm), descend_and_shrink(learning_rate))


@public
def novograd(
    learning_rate: NonNegative,
    b1: Fraction = 0.9,
    b2: Decay = 0.25,
    eps: NonNegative = 1e-6,
    eps_root: NonNegative = 0.0,
    weight_decay: NonNegative = 0.0,
    mask: Mask | None = None,
) -> Transform:
    r"""NovoGrad: momentum of gradients that are normalised per array, :func:`~gradchain.scale_by_novograd`.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule.
      b1: decay of the momentum.
      b2: decay of the squared norms.
      eps: added to the denominator, outside the square root.
      eps_root: added inside the square root.
      weight_decay: :math:`\lambda \ge 0`; included in the momentum.
      mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.

    Reference: Ginsburg et al., *Stochastic Gradient Methods with Layer-wise Adaptive Moments for Training of Deep
    Networks*, 2019, algorithm 1.
    """
    return chain(
        scale_by_novograd(b1, b2, eps, eps_root, weight_decay, weight_decay_mask=mask),
        scale_by_learning_rate(learning_rate),
    )

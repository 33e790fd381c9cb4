"""Adam with one thing changed, as whole optimizers."""

from gradchain.combinators.chain import chain
from gradchain.core.hyper import Decay, DType, Hyper, Mask, NonNegative
from gradchain.core.transform import Transform
from gradchain.signatures import public
from gradchain.transforms.adam_variants import (
    scale_by_adamax,
    scale_by_adan,
    scale_by_amsgrad,
    scale_by_belief,
    scale_by_radam,
    scale_by_yogi,
)
from gradchain.transforms.adaptive import scale_by_adam, scale_by_laprop
from gradchain.transforms.decay import add_decayed_weights, optional_decay
from gradchain.transforms.momentum import scale_by_optimistic_gradient
from gradchain.transforms.scaling import scale_by_learning_rate


@public
def adamax(learning_rate: NonNegative, b1: Decay = 0.9, b2: Decay = 0.999, eps: NonNegative = 1e-8) -> Transform:
    r"""AdaMax: Adam in the infinity norm, :func:`~gradchain.scale_by_adamax`.

    No parameter element moves by much more than :math:`\eta` in a step. Suits sparse gradients.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule; typically 2e-3.
      b1: decay of the first moment.
      b2: decay of the maximum.
      eps: added to the absolute value of the gradient.

    Reference: Kingma and Ba, *Adam: A Method for Stochastic Optimization*, 2015, algorithm 2.
    """
    return chain(scale_by_adamax(b1, b2, eps), scale_by_learning_rate(learning_rate))


@public
def adamaxw(
    learning_rate: NonNegative,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 1e-4,
    mask: Mask | None = None,
) -> Transform:
    r"""AdaMax with decoupled weight decay: :math:`w \leftarrow w - \eta\,(u + \lambda w)`.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule.
      b1: decay of the first moment.
      b2: decay of the maximum.
      eps: added to the absolute value of the gradient.
      weight_decay: :math:`\lambda \ge 0`, or a schedule.
      mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.

    References:
      Kingma and Ba, *Adam: A Method for Stochastic Optimization*, 2015, algorithm 2.
      Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, 2019.
    """
    return chain(
        scale_by_adamax(b1, b2, eps),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@public
def amsgrad(
    learning_rate: NonNegative,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: DType | None = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
    weight_decay: NonNegative | None = None,
    mask: Mask | None = None,
) -> Transform:
    r"""AMSGrad: Adam whose denominator never falls, :func:`~gradchain.scale_by_amsgrad`.

    Converges on convex problems on which Adam doesn't.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule; typically 1e-3.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added to the denominator, outside the square root.
      eps_root: added inside the square root.
      mu_dtype: dtype of the stored first moment.
      bias_correction_mu: apply bias correction to the first moment.
      bias_correction_nu: apply bias correction to the second moment, before taking the maximum.
      weight_decay: :math:`\lambda \ge 0`, or a schedule; decoupled, multiplied by the learning rate. ``None`` for none.
      mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.

    Reference: Reddi et al., *On the Convergence of Adam and Beyond*, 2018, algorithm 2.
    """
    return chain(
        scale_by_amsgrad(b1, b2, eps, eps_root, mu_dtype, bias_correction_mu, bias_correction_nu),
        *optional_decay(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@public
def adabelief(
    learning_rate: NonNegative,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-16,
    eps_root: NonNegative = 1e-16,
    weight_decay: NonNegative | None = None,
    weight_decay_mask: Mask | None = None,
    *,
    nesterov: bool = False,
) -> Transform:
    r"""AdaBelief: long steps where gradients match their prediction, :func:`~gradchain.scale_by_belief`.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule; typically 1e-3.
      b1: decay of the first moment.
      b2: decay of the squared prediction error.
      eps: added to the denominator, outside the square root.
      eps_root: added to the stored average.
      weight_decay: :math:`\lambda \ge 0`, or a schedule; decoupled, multiplied by the learning rate. ``None`` for none.
      weight_decay_mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.
      nesterov: look ahead along the first moment.

    Reference: Zhuang et al., *AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients*, 2020.
    """
    return chain(
        scale_by_belief(b1, b2, eps, eps_root, nesterov=nesterov),
        *optional_decay(weight_decay, weight_decay_mask),
        scale_by_learning_rate(learning_rate),
    )


@public
def yogi(
    learning_rate: NonNegative,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-3,
    weight_decay: NonNegative | None = None,
    mask: Mask | None = None,
) -> Transform:
    r"""Yogi: Adam whose effective learning rate increases only slowly, :func:`~gradchain.scale_by_yogi`.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule; typically 1e-2.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added to the denominator, outside the square root.
      weight_decay: :math:`\lambda \ge 0`, or a schedule; decoupled, multiplied by the learning rate. ``None`` for none.
      mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.

    Reference: Zaheer et al., *Adaptive Methods for Nonconvex Optimization*, 2018, algorithm 2.
    """
    return chain(scale_by_yogi(b1, b2, eps), *optional_decay(weight_decay, mask), scale_by_learning_rate(learning_rate))


@public
def radam(
    learning_rate: NonNegative,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    threshold: NonNegative = 5.0,
    weight_decay: NonNegative | None = None,
    mask: Mask | None = None,
    *,
    nesterov: bool = False,
) -> Transform:
    r"""Rectified Adam: a warm-up that follows from the second moment's variance, :func:`~gradchain.scale_by_radam`.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule; typically 1e-3.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added to the denominator, outside the square root.
      eps_root: added inside the square root.
      threshold: smallest :math:`\rho_k` at which the update is divided by the second moment.
      weight_decay: :math:`\lambda \ge 0`, or a schedule; decoupled, multiplied by the learning rate. ``None`` for none.
      mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.
      nesterov: look ahead along the first moment.

    Reference: Liu et al., *On the Variance of the Adaptive Learning Rate and Beyond*, 2020, algorithm 2.
    """
    return chain(
        scale_by_radam(b1, b2, eps, eps_root, threshold, nesterov=nesterov),
        *optional_decay(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@public
def adan(
    learning_rate: NonNegative,
    b1: Decay = 0.98,
    b2: Decay = 0.92,
    b3: Decay = 0.99,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    mask: Mask | None = None,
) -> Transform:
    r"""Adan: Adam with Nesterov momentum from gradient differences, :func:`~gradchain.scale_by_adan`.

    Weight decay is decoupled, :math:`w \leftarrow w - \eta\,(u + \lambda w)`; the paper's is implicit,
    :math:`w \leftarrow (w - \eta u) / (1 + \eta\lambda)`.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule; tolerates rates 5 to 10 times those of Adam.
      b1: decay of the average of gradients.
      b2: decay of the average of gradient differences.
      b3: decay of the average of squares.
      eps: added to the denominator, outside the square root.
      eps_root: added inside the square root.
      weight_decay: :math:`\lambda \ge 0`, or a schedule.
      mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.

    Reference: Xie et al., *Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep Models*, 2022.
    """
    return chain(
        scale_by_adan(b1, b2, b3, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@public
def optimistic_adam_v2(
    learning_rate: NonNegative,
    *,
    alpha: Hyper = 1.0,
    beta: Hyper = 1.0,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: DType | None = None,
    nesterov: bool = True,
) -> Transform:
    r"""Adam whose updates are extrapolated to the next step, for games such as GAN training.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule.
      alpha: weight of Adam's update, see :func:`~gradchain.scale_by_optimistic_gradient`.
      beta: how far to extrapolate.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added to the denominator, outside the square root.
      eps_root: added inside the square root.
      mu_dtype: dtype of the stored first moment.
      nesterov: use NAdam's numerator, which adds Nesterov momentum.

    Reference: Daskalakis et al., *Training GANs with Optimism*, 2018, algorithm 1.
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        scale_by_optimistic_gradient(alpha, beta),
        scale_by_learning_rate(learning_rate),
    )


@public
def laprop(
    learning_rate: NonNegative,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-15,
    eps_root: NonNegative = 0.0,
    mu_dtype: DType | None = None,
    weight_decay: NonNegative = 0.0,
    mask: Mask | None = None,
) -> Transform:
    r"""LaProp: Adam that divides by the second moment first and averages then, :func:`~gradchain.scale_by_laprop`.

    It is stable for any two decays, :math:`\beta_2 < \beta_1` included, where Adam isn't.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule; typically 4e-4.
      b1: decay of the average of normalised gradients.
      b2: decay of the second moment.
      eps: added to the denominator, outside the square root.
      eps_root: added inside the square root.
      mu_dtype: dtype of the stored average.
      weight_decay: :math:`\lambda \ge 0`, or a schedule; decoupled, multiplied by the learning rate. Some
        implementations decay the new weights: that is ``decay_updated_weights(rate * weight_decay)`` behind this.
      mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.

    Reference: Ziyin et al., *LaProp: Separating Momentum and Adaptivity in Adam*, 2020, algorithm 1.
    """
    return chain(
        scale_by_laprop(b1, b2, eps, eps_root, mu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )

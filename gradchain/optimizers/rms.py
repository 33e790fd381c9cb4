"""AdaGrad, AdaDelta and the RMSprop family."""

from gradchain.combinators.chain import chain
from gradchain.core.hyper import Decay, Fraction, Mask, NonNegative
from gradchain.core.transform import Transform
from gradchain.signatures import public
from gradchain.transforms.adaptive import scale_by_adadelta, scale_by_rms, scale_by_rss, scale_by_stddev
from gradchain.transforms.decay import add_decayed_weights, optional_decay
from gradchain.transforms.momentum import trace
from gradchain.transforms.scaling import identity, scale_by_learning_rate


@public
def adagrad(
    learning_rate: NonNegative,
    initial_accumulator_value: NonNegative = 0.1,
    eps: NonNegative = 1e-7,
    weight_decay: NonNegative | None = None,
    mask: Mask | None = None,
) -> Transform:
    r"""AdaGrad: divide each gradient element by the root of the sum of its squares so far.

    Suits sparse gradients; on long runs the steps become very small. The scaling is :func:`~gradchain.scale_by_rss`.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule; typically 0.01 to 1.
      initial_accumulator_value: initial value of the sum.
      eps: added inside the square root.
      weight_decay: :math:`\lambda \ge 0`, or a schedule; decoupled, multiplied by the learning rate. ``None`` for none.
      mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.

    Reference: Duchi et al., *Adaptive Subgradient Methods for Online Learning and Stochastic Optimization*, 2011.
    """
    return chain(
        scale_by_rss(initial_accumulator_value, eps),
        *optional_decay(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@public
def adadelta(
    learning_rate: NonNegative | None = None,
    rho: Decay = 0.9,
    eps: NonNegative = 1e-6,
    weight_decay: NonNegative = 0.0,
    weight_decay_mask: Mask | None = None,
) -> Transform:
    r"""AdaDelta: steps in the parameters' units, with no rate to choose, :func:`~gradchain.scale_by_adadelta`.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule. ``None`` is 1, as in the paper (Optax's ``None`` goes uphill).
      rho: decay of both averages.
      eps: sets the size of the first steps.
      weight_decay: :math:`\lambda \ge 0`, or a schedule; added to the gradient, before the scaling.
      weight_decay_mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.

    Reference: Zeiler, *ADADELTA: An Adaptive Learning Rate Method*, 2012.
    """
    return chain(
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_adadelta(rho, eps),
        scale_by_learning_rate(1.0 if learning_rate is None else learning_rate),
    )


@public
def rmsprop(
    learning_rate: NonNegative,
    decay: Decay = 0.9,
    eps: NonNegative = 1e-8,
    initial_scale: NonNegative = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: Fraction | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
    weight_decay: NonNegative | None = None,
    mask: Mask | None = None,
) -> Transform:
    r"""RMSprop with Optax's conventions: scale by the root mean square, then the learning rate, then momentum.

    :math:`\epsilon` is inside the root and the momentum trace holds steps already multiplied by the rate. For
    PyTorch's conventions use :func:`rmsprop_torch`, for TensorFlow's :func:`rmsprop_tf`.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule; typically 1e-3.
      decay: decay of the average of squared gradients.
      eps: see :func:`~gradchain.scale_by_rms`.
      initial_scale: initial value of that average.
      eps_in_sqrt: whether ``eps`` is added inside the square root.
      centered: divide by the standard deviation (:func:`~gradchain.scale_by_stddev`) instead.
      momentum: decay of a :func:`~gradchain.trace` placed after the learning rate; ``None`` for none.
      nesterov: use Nesterov's form of it.
      bias_correction: apply Adam's bias correction to the averages.
      weight_decay: :math:`\lambda \ge 0`, or a schedule; decoupled, multiplied by the learning rate. ``None`` for none.
      mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.

    Reference: Hinton, *Neural Networks for Machine Learning*, lecture 6e, 2012.
    """
    scale_by = scale_by_stddev if centered else scale_by_rms
    return chain(
        scale_by(decay, eps, initial_scale, eps_in_sqrt, bias_correction),
        *optional_decay(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
        identity() if momentum is None else trace(momentum, nesterov),
    )


@public
def rmsprop_torch(
    learning_rate: NonNegative = 0.01,
    decay: Decay = 0.99,
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    momentum: Fraction | None = None,
    centered: bool = False,
    mask: Mask | None = None,
) -> Transform:
    r"""RMSprop as ``torch.optim.RMSprop`` computes it, with its defaults.

    :math:`\epsilon` is outside the root, weight decay is an L2 term in the gradient, and momentum comes before the
    learning rate, so that a changed rate takes effect on the whole trace at once.

    Args:
      learning_rate: PyTorch's ``lr``.
      decay: PyTorch's ``alpha``.
      eps: added to the denominator, outside the square root.
      weight_decay: L2 strength.
      momentum: PyTorch's ``momentum``; its 0 means none, here ``None``.
      centered: divide by the standard deviation instead.
      mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.
    """
    scale_by = scale_by_stddev if centered else scale_by_rms
    return chain(
        add_decayed_weights(weight_decay, mask),
        scale_by(decay, eps, eps_in_sqrt=False),
        identity() if momentum is None else trace(momentum),
        scale_by_learning_rate(learning_rate),
    )


@public
def rmsprop_tf(
    learning_rate: NonNegative = 0.001,
    decay: Decay = 0.9,
    eps: NonNegative = 1e-10,
    momentum: Fraction | None = None,
    centered: bool = False,
    initial_scale: NonNegative = 1.0,
    weight_decay: NonNegative | None = None,
    mask: Mask | None = None,
) -> Transform:
    r"""RMSprop as ``tf.compat.v1.train.RMSPropOptimizer`` computes it, with its defaults.

    The average starts at one, :math:`\epsilon` is inside the root, and momentum comes after the learning rate.
    Keras's ``RMSprop`` is the same with ``eps=1e-7, initial_scale=0.0``.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule.
      decay: decay of the average; Keras calls it ``rho``.
      eps: added inside the square root.
      momentum: decay of a trace placed after the learning rate; ``None`` for none.
      centered: divide by the standard deviation instead.
      initial_scale: initial value of the average.
      weight_decay: :math:`\lambda \ge 0`, or a schedule; decoupled, multiplied by the learning rate. ``None`` for none.
      mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.
    """
    return rmsprop(
        learning_rate, decay, eps, initial_scale, True, centered, momentum, weight_decay=weight_decay, mask=mask
    )

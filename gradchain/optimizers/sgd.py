"""Gradient descent: with and without momentum, with noise, and for games."""

from gradchain.combinators.chain import chain
from gradchain.core.hyper import DType, Fraction, Hyper, Key, Mask, NonNegative
from gradchain.core.transform import Transform
from gradchain.signatures import public
from gradchain.transforms.decay import optional_decay
from gradchain.transforms.momentum import scale_by_optimistic_gradient, trace
from gradchain.transforms.noise import add_noise
from gradchain.transforms.scaling import identity, scale_by_learning_rate


@public
def sgd(
    learning_rate: NonNegative,
    momentum: Fraction | None = None,
    nesterov: bool = False,
    accumulator_dtype: DType | None = None,
    weight_decay: NonNegative | None = None,
    mask: Mask | None = None,
) -> Transform:
    r"""Gradient descent: :math:`w \leftarrow w - \eta\,u`, with :math:`u` the gradient or its momentum trace.

    The learning rate is applied after the momentum, as in PyTorch: a changed rate takes effect on the whole trace at
    once.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule. On a quadratic, plain descent needs :math:`\eta < 2/L`.
      momentum: :math:`\mu` of :func:`~gradchain.trace`; ``None`` means no trace at all, 0.0 a trace that
        equals the gradient.
      nesterov: Nesterov's form instead of the heavy ball.
      accumulator_dtype: dtype of the trace.
      weight_decay: :math:`\lambda \ge 0`, or a schedule; :math:`\lambda w` is added to the gradient, before the
        momentum, as in PyTorch. ``None`` for none.
      mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.
    """
    return chain(
        *optional_decay(weight_decay, mask),
        identity() if momentum is None else trace(momentum, nesterov, accumulator_dtype),
        scale_by_learning_rate(learning_rate),
    )


@public
def noisy_sgd(learning_rate: NonNegative, eta: NonNegative = 0.01, gamma: Hyper = 0.55, key: Key = 0) -> Transform:
    r"""Gradient descent with annealed Gaussian noise on the gradients, see :func:`~gradchain.add_noise`.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule.
      eta: the noise's variance on the first update.
      gamma: how fast the variance decays.
      key: a seed or PRNG key; an array of them makes a batch of transforms.

    Reference: Neelakantan et al., *Adding Gradient Noise Improves Learning for Very Deep Networks*, 2015.
    """
    return chain(add_noise(eta, gamma, key), scale_by_learning_rate(learning_rate))


@public
def optimistic_gradient_descent(learning_rate: NonNegative, alpha: Hyper = 1.0, beta: Hyper = 1.0) -> Transform:
    r"""Gradient descent on extrapolated gradients. It converges in games where plain gradient descent cycles.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule.
      alpha: weight of the gradient, see :func:`~gradchain.scale_by_optimistic_gradient`.
      beta: how far to extrapolate.

    Reference: Mokhtari et al., *A Unified Analysis of Extra-gradient and Optimistic Gradient Methods for Saddle Point
    Problems*, 2020.
    """
    return chain(scale_by_optimistic_gradient(alpha, beta), scale_by_learning_rate(learning_rate))

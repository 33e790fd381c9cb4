"""Optimizers that step by signs: all elements move equally far."""

from gradchain.combinators.chain import chain
from gradchain.core.hyper import Decay, DType, Fraction, Mask, NonNegative, Positive
from gradchain.core.transform import Transform
from gradchain.signatures import public
from gradchain.transforms.decay import add_decayed_weights, optional_decay
from gradchain.transforms.momentum import ema
from gradchain.transforms.scaling import scale, scale_by_learning_rate, scale_by_sign
from gradchain.transforms.signs import scale_by_lion, scale_by_rprop


@public
def sign_sgd(
    learning_rate: NonNegative, weight_decay: NonNegative | None = None, mask: Mask | None = None
) -> Transform:
    r"""Step by the gradient's sign: :math:`w \leftarrow w - \eta\,\mathrm{sign}(g)`.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule; about a tenth of Adam's.
      weight_decay: :math:`\lambda \ge 0`, or a schedule; decoupled, multiplied by the learning rate. ``None`` for none.
      mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.

    Reference: Bernstein et al., *signSGD: Compressed Optimisation for Non-Convex Problems*, 2018, algorithm 1.
    """
    return chain(scale_by_sign(), *optional_decay(weight_decay, mask), scale_by_learning_rate(learning_rate))


@public
def signum(
    learning_rate: NonNegative,
    beta: Decay = 0.9,
    accumulator_dtype: DType | None = None,
    weight_decay: NonNegative | None = None,
    mask: Mask | None = None,
) -> Transform:
    r"""Step by the sign of a moving average of gradients.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule.
      beta: decay of the average.
      accumulator_dtype: dtype of the stored average.
      weight_decay: :math:`\lambda \ge 0`, or a schedule; decoupled, multiplied by the learning rate. ``None`` for none.
      mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.

    Reference: Bernstein et al., *signSGD: Compressed Optimisation for Non-Convex Problems*, 2018, algorithm 2.
    """
    return chain(
        ema(beta, False, accumulator_dtype),
        scale_by_sign(),
        *optional_decay(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@public
def lion(
    learning_rate: NonNegative,
    b1: Decay = 0.9,
    b2: Decay = 0.99,
    mu_dtype: DType | None = None,
    weight_decay: NonNegative = 1e-3,
    mask: Mask | None = None,
) -> Transform:
    r"""Lion: the sign of a momentum with two decays, :func:`~gradchain.scale_by_lion`, and decoupled weight decay.

    Keeps one slot where Adam keeps two. Every element moves by :math:`\eta` in each step, so use a learning rate 3 to
    10 times smaller than for AdamW, and a weight decay larger by the same factor.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule; typically 1e-4.
      b1: decay of the average whose sign is taken.
      b2: decay of the average that is kept.
      mu_dtype: dtype of the stored average.
      weight_decay: :math:`\lambda \ge 0`, or a schedule.
      mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.

    Reference: Chen et al., *Symbolic Discovery of Optimization Algorithms*, 2023, algorithm 2.
    """
    return chain(
        scale_by_lion(b1, b2, mu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@public
def rprop(
    learning_rate: NonNegative,
    eta_minus: Fraction = 0.5,
    eta_plus: Positive = 1.2,
    min_step_size: NonNegative = 1e-6,
    max_step_size: Positive = 50.0,
) -> Transform:
    r"""Resilient propagation: each element has its own step size, which grows while the gradient keeps its sign.

    For full-batch gradients. Differs from Optax's, see :func:`~gradchain.scale_by_rprop`.

    Args:
      learning_rate: the initial step size.
      eta_minus: factor that multiplies the step size when the sign changes.
      eta_plus: factor while the sign stays the same.
      min_step_size: the smallest step size.
      max_step_size: the largest step size.

    Reference: Riedmiller and Braun, *A direct adaptive method for faster backpropagation learning: the RPROP
    algorithm*, 1993.
    """
    return chain(scale_by_rprop(learning_rate, eta_minus, eta_plus, min_step_size, max_step_size), scale(-1.0))

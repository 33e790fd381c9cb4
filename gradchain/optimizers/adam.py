"""Adam and its nearest relatives."""

from gradchain.combinators.chain import chain
from gradchain.core.hyper import Decay, DType, Mask, NonNegative, Positive, TermMask
from gradchain.core.transform import Transform
from gradchain.signatures import public
from gradchain.transforms.adaptive import scale_by_adam
from gradchain.transforms.decay import add_decayed_weights, descend_with_corrected_decay
from gradchain.transforms.scaling import scale_by_learning_rate


@public
def adam(
    learning_rate: NonNegative,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: DType | None = None,
    *,
    nesterov: bool = False,
) -> Transform:
    r"""Adam: :func:`~gradchain.scale_by_adam`, then the learning rate.

    Each step changes every parameter element by about :math:`\eta`, whatever the scale of the gradient.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule; typically 1e-3.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added to the denominator, outside the square root.
      eps_root: added inside the square root.
      mu_dtype: dtype of the stored first moment.
      nesterov: use NAdam's numerator, which adds Nesterov momentum.

    Reference: Kingma and Ba, *Adam: A Method for Stochastic Optimization*, 2015.
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        scale_by_learning_rate(learning_rate),
    )


@public
def adamw(
    learning_rate: NonNegative,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: DType | None = None,
    weight_decay: NonNegative = 1e-4,
    mask: Mask | None = None,
    *,
    nesterov: bool = False,
) -> Transform:
    r"""Adam with decoupled weight decay: :math:`w \leftarrow w - \eta\,(u + \lambda w)`.

    The decay is multiplied by the learning rate, as in PyTorch and Optax; the paper's is not. PyTorch's default
    :math:`\lambda` is 0.01.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule; typically 1e-3.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added to the denominator, outside the square root.
      eps_root: added inside the square root.
      mu_dtype: dtype of the stored first moment.
      weight_decay: :math:`\lambda \ge 0`, or a schedule.
      mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.
      nesterov: use NAdam's numerator, which adds Nesterov momentum.

    Reference: Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, 2019, algorithm 2.
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@public
def adamc(
    learning_rate: NonNegative,
    peak_learning_rate: Positive,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: DType | None = None,
    weight_decay: NonNegative = 1e-4,
    mask: TermMask | None = None,
    *,
    nesterov: bool = False,
) -> Transform:
    r"""AdamW whose decay is corrected for the schedule: it falls with the square of the rate.

    With :func:`~gradchain.descend_with_corrected_decay` the norms of gradients don't grow as the learning rate falls.
    At a constant rate it is :func:`adamw`.

      >>> shape = warmup_cosine_decay_schedule(0.0, 1.0, 100, 1000)
      >>> tx = adamc(3e-3 * shape, peak_learning_rate=3e-3)

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule; typically 1e-3 at its peak.
      peak_learning_rate: the schedule's largest value.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added to the denominator, outside the square root.
      eps_root: added inside the square root.
      mu_dtype: dtype of the stored first moment.
      weight_decay: :math:`\lambda \ge 0`, or a schedule.
      mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`. The author leaves the correction out
        for the output layer, which no normalisation follows: give it to :func:`adamw` by
        :func:`~gradchain.partition`.
      nesterov: use NAdam's numerator, which adds Nesterov momentum.

    Reference: Defazio, *Why Gradients Rapidly Increase Near the End of Training*, 2025, algorithm 1.
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        descend_with_corrected_decay(learning_rate, peak_learning_rate, weight_decay, mask),
    )


@public
def nadam(
    learning_rate: NonNegative,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: DType | None = None,
    *,
    nesterov: bool = True,
) -> Transform:
    r"""Adam with Nesterov's numerator: :func:`adam` with ``nesterov=True``, under its own name.

    ``torch.optim.NAdam`` also warms :math:`\beta_1` up; see :func:`~gradchain.scale_by_adam`.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule; typically 1e-3.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added to the denominator, outside the square root.
      eps_root: added inside the square root.
      mu_dtype: dtype of the stored first moment.
      nesterov: whether to use NAdam's numerator.

    Reference: Dozat, *Incorporating Nesterov Momentum into Adam*, 2016.
    """
    return adam(learning_rate, b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)


@public
def nadamw(
    learning_rate: NonNegative,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: DType | None = None,
    weight_decay: NonNegative = 1e-4,
    mask: Mask | None = None,
    *,
    nesterov: bool = True,
) -> Transform:
    r"""AdamW with Nesterov's numerator: :func:`adamw` with ``nesterov=True``, under its own name.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule; typically 1e-3.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added to the denominator, outside the square root.
      eps_root: added inside the square root.
      mu_dtype: dtype of the stored first moment.
      weight_decay: :math:`\lambda \ge 0`, or a schedule.
      mask: which parameters to decay.
      nesterov: whether to use NAdam's numerator.

    References:
      Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, 2019.
      Dozat, *Incorporating Nesterov Momentum into Adam*, 2016.
    """
    return adamw(learning_rate, b1, b2, eps, eps_root, mu_dtype, weight_decay, mask, nesterov=nesterov)

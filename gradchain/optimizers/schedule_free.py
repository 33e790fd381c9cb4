"""Schedule-free forms of SGD and AdamW."""

from gradchain.combinators.chain import chain
from gradchain.combinators.schedule_free import schedule_free
from gradchain.core.hyper import Count, Decay, DType, Fraction, Mask, NonNegative
from gradchain.core.transform import Transform
from gradchain.schedules import warmup_constant_schedule
from gradchain.signatures import public
from gradchain.transforms.adaptive import scale_by_rms
from gradchain.transforms.decay import add_decayed_weights, optional_decay
from gradchain.transforms.scaling import scale_by_learning_rate


@public
def schedule_free_sgd(
    learning_rate: NonNegative = 1.0,
    warmup_steps: Count | None = None,
    b1: Fraction = 0.9,
    weight_decay: NonNegative | None = None,
    weight_lr_power: NonNegative = 2.0,
    state_dtype: DType | None = None,
    r: NonNegative = 0.0,
    mask: Mask | None = None,
) -> Transform:
    r"""Schedule-free SGD, see :func:`~gradchain.schedule_free`. Evaluate at ``eval_params(tx, state, params)``.

    Args:
      learning_rate: :math:`\eta \ge 0`; larger than SGD's with momentum, by a factor of about :math:`1 / (1 - \mu)`.
      warmup_steps: steps over which the rate rises linearly from 0; ``None`` for none.
      b1: :math:`\beta_1`.
      weight_decay: added to the gradient as :math:`\lambda y`; ``None`` for none.
      weight_lr_power: :math:`p`.
      state_dtype: dtype of :math:`z`.
      r: :math:`r \ge 0`, the power of the step count in the weights of the average.
      mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.

    Reference: Defazio et al., *The Road Less Scheduled*, 2024.
    """
    rate = _warmed_up(learning_rate, warmup_steps)
    base = chain(*optional_decay(weight_decay, mask), scale_by_learning_rate(rate))
    return schedule_free(base, rate, b1, weight_lr_power, state_dtype, r)


@public
def schedule_free_adamw(
    learning_rate: NonNegative = 0.0025,
    warmup_steps: Count | None = None,
    b1: Fraction = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    weight_lr_power: NonNegative = 2.0,
    state_dtype: DType | None = None,
    r: NonNegative = 0.0,
    mask: Mask | None = None,
) -> Transform:
    r"""Schedule-free AdamW, see :func:`~gradchain.schedule_free`. Evaluate at ``eval_params(tx, state, params)``.

    The base is Adam without a first moment, that is :func:`~gradchain.scale_by_rms` with bias correction.

    Args:
      learning_rate: :math:`\eta \ge 0`; 1 to 10 times that of AdamW with a schedule.
      warmup_steps: steps over which the rate rises linearly from 0; ``None`` for none.
      b1: :math:`\beta_1`.
      b2: decay of the second moment.
      eps: added to the denominator, outside the square root.
      weight_decay: :math:`\lambda \ge 0`, applied at :math:`y`, times the rate.
      weight_lr_power: :math:`p`.
      state_dtype: dtype of :math:`z`.
      r: :math:`r \ge 0`, the power of the step count in the weights of the average.
      mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.

    Reference: Defazio et al., *The Road Less Scheduled*, 2024, algorithm 1.
    """
    rate = _warmed_up(learning_rate, warmup_steps)
    base = chain(
        scale_by_rms(b2, eps, eps_in_sqrt=False, bias_correction=True),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(rate),
    )
    return schedule_free(base, rate, b1, weight_lr_power, state_dtype, r)


def _warmed_up(learning_rate: NonNegative, warmup_steps: Count | None) -> NonNegative:
    return learning_rate if warmup_steps is None else warmup_constant_schedule(0.0, learning_rate, warmup_steps)

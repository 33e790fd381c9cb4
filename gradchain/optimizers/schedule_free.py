"""Schedule-free forms of SGD and AdamW."""

from gradchain.combinators.chain import chain
from gradchain.combinators.schedule_free import schedule_free, schedule_free_plus
from gradchain.core.hyper import Count, Decay, DType, Fraction, Mask, NonNegative, Whole
from gradchain.core.transform import Transform
from gradchain.schedules import warmup_constant_schedule
from gradchain.signatures import public
from gradchain.transforms.adaptive import scale_by_adam, scale_by_rms
from gradchain.transforms.decay import add_decayed_weights, optional_decay
from gradchain.transforms.scaling import scale, scale_by_learning_rate


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


@public
def schedule_free_plus_adamw(
    learning_rate: NonNegative = 1.0,
    warmup_steps: Count | None = None,
    b1: Decay = 0.9,
    b2: Decay = 0.95,
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    sf_b1: Fraction = 0.9,
    norm_decay: Decay = 0.0,
    start: Whole | None = None,
    weight_lr_power: NonNegative = 2.0,
    r: NonNegative = 0.0,
    state_dtype: DType | None = None,
    mask: Mask | None = None,
) -> Transform:
    r"""Schedule-Free+ AdamW: no schedule, and a rate that follows from the loss, :func:`~gradchain.schedule_free_plus`.

    Pass the loss: ``update(grads, state, params, value=loss)``. Evaluate at ``eval_params(tx, state, params)``. In
    contrast to :func:`schedule_free_adamw`, Adam keeps its first moment here.

    Args:
      learning_rate: :math:`\eta \ge 0`, the factor of Polyak's rate.
      warmup_steps: steps over which the factor rises linearly from 0; ``None`` for none.
      b1: decay of Adam's first moment.
      b2: decay of the second moment.
      eps: added to the denominator, outside the square root.
      weight_decay: :math:`\lambda \ge 0`, times the squared rate: usually 20 to 50.
      sf_b1: :math:`\beta_1` of the average, or a schedule.
      norm_decay: decay of the average of the gradients' norms.
      start: the number of updates before averaging starts; ``None`` for twice ``warmup_steps``, or 0.
      weight_lr_power: :math:`p`.
      r: :math:`r \ge 0`, the power of the step count in the weights of the average.
      state_dtype: dtype of :math:`z`.
      mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.

    Reference: ``AdamCScheduleFreePlusPaper`` in the repository *facebookresearch/schedule_free*, 2026.
    """
    rate, base = _warmed_up(learning_rate, warmup_steps), chain(scale_by_adam(b1, b2, eps), scale(-1.0))
    start = start if start is not None else 0 if warmup_steps is None else 2 * warmup_steps
    return schedule_free_plus(base, rate, sf_b1, weight_decay, mask, norm_decay, start, weight_lr_power, r, state_dtype)


def _warmed_up(learning_rate: NonNegative, warmup_steps: Count | None) -> NonNegative:
    return learning_rate if warmup_steps is None else warmup_constant_schedule(0.0, learning_rate, warmup_steps)

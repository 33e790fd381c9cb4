"""Adaptive optimizers that need little memory."""

import jax.numpy as jnp

from gradchain.combinators.chain import chain
from gradchain.core.hyper import Decay, DType, Mask, NonNegative, Positive
from gradchain.core.transform import Transform
from gradchain.signatures import public
from gradchain.transforms.clipping import clip_by_block_rms
from gradchain.transforms.decay import optional_decay
from gradchain.transforms.factored import scale_by_factored_rms, scale_by_sm3
from gradchain.transforms.layerwise import scale_by_param_block_rms
from gradchain.transforms.momentum import ema
from gradchain.transforms.scaling import scale, scale_by_learning_rate


@public
def sm3(
    learning_rate: NonNegative, momentum: Decay = 0.9, weight_decay: NonNegative | None = None, mask: Mask | None = None
) -> Transform:
    r"""SM3: AdaGrad with one vector per axis in place of a whole array, :func:`~gradchain.scale_by_sm3`.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule.
      momentum: decay of the average of updates, the only slot as large as the parameters.
      weight_decay: :math:`\lambda \ge 0`, or a schedule; decoupled, multiplied by the learning rate. ``None`` for none.
      mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.

    Reference: Anil et al., *Memory-Efficient Adaptive Optimization*, 2019.
    """
    return chain(scale_by_sm3(momentum), *optional_decay(weight_decay, mask), scale_by_learning_rate(learning_rate))


@public
def adafactor(
    learning_rate: NonNegative | None = None,
    min_dim_size_to_factor: int = 128,
    decay_rate: NonNegative = 0.8,
    decay_offset: NonNegative = 0,
    multiply_by_parameter_scale: bool = True,
    clipping_threshold: Positive | None = 1.0,
    momentum: Decay | None = None,
    dtype_momentum: DType | None = jnp.float32,
    weight_decay_rate: NonNegative | None = None,
    eps: Positive = 1e-30,
    factored: bool = True,
    weight_decay_mask: Mask | None = None,
) -> Transform:
    r"""Adafactor: factored second moments, clipped updates, and steps in proportion to the size of the parameters.

    The stages are :func:`~gradchain.scale_by_factored_rms`, :func:`~gradchain.clip_by_block_rms`, the learning rate,
    :func:`~gradchain.scale_by_param_block_rms`, :func:`~gradchain.ema` without correction, and
    :func:`~gradchain.add_decayed_weights`. The weight decay isn't multiplied by the learning rate. The
    average's decay has the parameters' precision (Optax's is always in float32).

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule; the paper's is :math:`\min(10^{-2}, 1/\sqrt k)`. ``None``
        leaves it out.
      min_dim_size_to_factor: factor arrays whose two longest axes are at least this long.
      decay_rate: :math:`\gamma`; the average's decay at step :math:`k` is :math:`1 - k^{-\gamma}`.
      decay_offset: the step at which the average restarts.
      multiply_by_parameter_scale: whether steps are in proportion to the parameters' root mean square.
      clipping_threshold: bound on each array's update; ``None`` for none.
      momentum: decay of an average of updates; ``None`` for none, which saves its memory.
      dtype_momentum: its dtype; ``None`` for the parameters', at least float32, which complex parameters need.
      weight_decay_rate: weight decay per step; ``None`` for none.
      eps: added to squared gradients.
      factored: whether to factor at all; False keeps every second moment.
      weight_decay_mask: which parameters to decay.

    Reference: Shazeer and Stern, *Adafactor: Adaptive Learning Rates with Sublinear Memory Cost*, 2018, algorithm 4.
    """
    stages = [scale_by_factored_rms(factored, decay_rate, decay_offset, min_dim_size_to_factor, eps)]
    if clipping_threshold is not None:
        stages.append(clip_by_block_rms(clipping_threshold))
    if learning_rate is not None:
        stages.append(scale_by_learning_rate(learning_rate, flip_sign=False))
    if multiply_by_parameter_scale:
        stages.append(scale_by_param_block_rms())
    if momentum is not None:
        stages.append(ema(momentum, False, dtype_momentum))
    return chain(*stages, *optional_decay(weight_decay_rate, weight_decay_mask), scale(-1.0))

"""Preconditioners with a factor for each side of a matrix: Shampoo and PSGD-Kron; AdamW for what is no matrix.

Evidence: Shampoo won the external-tuning track of AlgoPerf (Kasimbeg et al., 2025), in 28 % less time than NAdamW. In
Wen et al. (2025) a language model of 130M parameters ends at a loss of 3.492 with Kron and 3.529 with AdamW (3.464 with
Muon); the gain shrinks as models grow.
"""

from typing import Literal

from gradchain.core.hyper import Count, Decay, DType, Fraction, Key, Mask, NonNegative, Positive
from gradchain.core.transform import Transform
from gradchain.matrices.frames import FrameNumbers, Sides
from gradchain.optimizers._matrices import beside_adam
from gradchain.optimizers.adam import adamw
from gradchain.signatures import public
from gradchain.transforms.decay import add_decayed_weights
from gradchain.transforms.kron import RARER, scale_by_kron
from gradchain.transforms.shampoo import scale_by_shampoo


@public
def shampoo(
    learning_rate: NonNegative,
    b1: Decay = 0.9,
    b2: Decay = 0.95,
    shampoo_beta: Decay = 0.95,
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    weight_decay_mask: Mask | None = None,
    mu_dtype: DType | None = None,
    *,
    ridge: NonNegative = 1e-6,
    update_interval: Count = 10,
    stagger: bool = False,
    start_preconditioning_step: Count = 1,
    exponent: Positive | None = None,
    block_size: int = 1024,
    sides: Sides = "both",
    method: Literal["eigh", "newton"] = "eigh",
    nesterov: bool = False,
    adam_b1: Decay = 0.9,
    adam_b2: Decay = 0.999,
    adam_weight_decay: NonNegative = 0.0,
    adam_learning_rate: NonNegative | None = None,
    weight_dimension_numbers: FrameNumbers | None = None,
) -> Transform:
    r"""Shampoo with Adam's norms: momentum preconditioned by :func:`~gradchain.scale_by_shampoo`; AdamW for the rest.

    By default :func:`~gradchain.hidden_matrices` decides which arrays are matrices; embeddings, output layers and
    vectors are left to AdamW.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule; about what you would give AdamW.
      b1: decay of the momentum.
      b2: decay of the second moments that give each block Adam's norm.
      shampoo_beta: decay of the factors; 0.9 to 0.99.
      eps: added outside Adam's square roots.
      weight_decay: :math:`\lambda \ge 0`, or a schedule; of the matrices.
      weight_decay_mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.
      mu_dtype: dtype of the stored momenta.
      ridge: added to a factor's eigenvalues, relative to the largest.
      update_interval: updates from one computation of the roots to the next: 10 to 100 where it costs much.
      stagger: compute the roots of different arrays at different updates.
      start_preconditioning_step: the first update with preconditioning; those before are NAdam's or Adam's.
      exponent: of the factors' inverses; by default 1/4, and 1/2 with one side.
      block_size: the most rows and columns of a block.
      sides: which factors a matrix has.
      method: how roots are computed.
      nesterov: Nesterov's form of both momenta.
      adam_b1: AdamW's decay of the first moment.
      adam_b2: AdamW's decay of the second moment.
      adam_weight_decay: weight decay of the other parameters.
      adam_learning_rate: learning rate for AdamW; ``None`` for the same as for the matrices.
      weight_dimension_numbers: which parameters are matrices, and how: a tree of :class:`MuonDimensionNumbers` like the
        parameters (or a prefix), with ``"axes"`` for a factor of each axis and ``None`` for what goes to AdamW; a
        function from parameters to such a tree; or :func:`~gradchain.hidden_matrices` with patterns.

    References:
      Gupta, Koren and Singer, *Shampoo: Preconditioned Stochastic Tensor Optimization*, 2018.
      Anil et al., *Scalable Second Order Optimization for Deep Learning*, 2020.
    """
    direction = scale_by_shampoo(
        *(b1, b2, shampoo_beta, eps, ridge, 0.0, exponent, update_interval, start_preconditioning_step, mu_dtype),
        nesterov=nesterov,
        block_size=block_size,
        sides=sides,
        method=method,
        stagger=stagger,
    )
    rate = learning_rate if adam_learning_rate is None else adam_learning_rate
    rest = adamw(rate, adam_b1, adam_b2, eps, 0.0, mu_dtype, adam_weight_decay, nesterov=nesterov)
    stages = direction, add_decayed_weights(weight_decay, weight_decay_mask)
    return beside_adam("shampoo", stages, learning_rate, rest, weight_dimension_numbers)


@public
def kron(
    learning_rate: NonNegative,
    b1: Decay = 0.9,
    preconditioner_rate: Fraction = 0.1,
    update_probability: Fraction = RARER,
    weight_decay: NonNegative = 0.0,
    weight_decay_mask: Mask | None = None,
    mu_dtype: DType | None = None,
    *,
    balance_probability: Fraction = 0.01,
    max_rms: Positive = 1.1,
    damping: NonNegative | None = None,
    init_scale: Positive = 1.0,
    key: Key = 0,
    max_size_triangular: int = 8192,
    memory_save_mode: Literal["one_diagonal", "smart_one_diagonal", "all_diagonal"] | None = None,
    adam_b1: Decay = 0.9,
    adam_b2: Decay = 0.999,
    adam_eps: NonNegative = 1e-8,
    adam_weight_decay: NonNegative = 0.0,
    adam_learning_rate: NonNegative | None = None,
    weight_dimension_numbers: FrameNumbers | None = None,
) -> Transform:
    r"""PSGD with Kronecker factors: momentum whitened by :func:`~gradchain.scale_by_kron`; AdamW for the rest.

    By default :func:`~gradchain.hidden_matrices` decides which arrays are matrices; embeddings, output layers and
    vectors are left to AdamW. The reference implementations use diagonal factors for vectors instead, which
    :func:`~gradchain.scale_by_kron` does, too.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule; typically 3e-4 to 1e-3, about a third of AdamW's.
      b1: decay of the momentum.
      preconditioner_rate: the rate of the factors' own descent.
      update_probability: the probability that an array's factors are updated; by default 1 for 500 updates, then
        falling to 0.03.
      weight_decay: :math:`\lambda \ge 0`, or a schedule; of the matrices.
      weight_decay_mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.
      mu_dtype: dtype of the stored momenta.
      balance_probability: the probability that factors are scaled to equal size when they are updated.
      max_rms: the largest root mean square of a matrix's update before the rate.
      damping: of the noise that the factors see added to the momentum.
      init_scale: the size of the preconditioner's root at first.
      key: a seed or PRNG key.
      max_size_triangular: longer axes have diagonal factors.
      memory_save_mode: which more have.
      adam_b1: AdamW's decay of the first moment.
      adam_b2: AdamW's decay of the second moment.
      adam_eps: added outside Adam's square root.
      adam_weight_decay: weight decay of the other parameters.
      adam_learning_rate: learning rate for AdamW; ``None`` for the same as for the matrices.
      weight_dimension_numbers: which parameters are matrices, and how: a tree of :class:`MuonDimensionNumbers` like the
        parameters (or a prefix), with ``"axes"`` for a factor of each axis and ``None`` for what goes to AdamW; a
        function from parameters to such a tree; or :func:`~gradchain.hidden_matrices` with patterns.

    References:
      Li, *Preconditioned Stochastic Gradient Descent*, 2018.
      Pooladzandi and Li, *Curvature-Informed SGD via General Purpose Lie-Group Preconditioners*, 2024.
    """
    direction = scale_by_kron(
        *(b1, preconditioner_rate, update_probability, balance_probability, max_rms, damping, init_scale, key),
        mu_dtype=mu_dtype,
        max_size_triangular=max_size_triangular,
        memory_save_mode=memory_save_mode,
    )
    rate = learning_rate if adam_learning_rate is None else adam_learning_rate
    rest = adamw(rate, adam_b1, adam_b2, adam_eps, 0.0, mu_dtype, adam_weight_decay)
    stages = direction, add_decayed_weights(weight_decay, weight_decay_mask)
    return beside_adam("kron", stages, learning_rate, rest, weight_dimension_numbers)

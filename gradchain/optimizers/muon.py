"""Muon: orthogonalised momentum for matrices, Adam for the rest.

Evidence: Jordan et al. (2024) report that it set the NanoGPT speed record 1.35 times faster than AdamW had; Liu et al.
(2025) that in scaling runs it needed about half of AdamW's compute, and trained a 16 B mixture of experts with it. Both
leave embeddings, output layers and vectors to AdamW.
"""

from gradchain.core.hyper import Decay, DType, Fraction, Mask, NonNegative
from gradchain.core.transform import Transform
from gradchain.matrices.orthogonal import Coefficients
from gradchain.matrices.views import DimensionNumbers
from gradchain.optimizers._matrices import beside_adam
from gradchain.optimizers.adam import adamw
from gradchain.signatures import public
from gradchain.transforms.constraints import add_cautious_decayed_weights
from gradchain.transforms.decay import add_decayed_weights
from gradchain.transforms.dion import scale_by_dion2
from gradchain.transforms.orthogonal import scale_by_muon, scale_by_normuon, scale_by_shape


@public
def muon(
    learning_rate: NonNegative,
    ns_coeffs: Coefficients = "standard",
    ns_steps: int | None = None,
    beta: Decay = 0.95,
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    weight_decay_mask: Mask | None = None,
    mu_dtype: DType | None = None,
    *,
    nesterov: bool = True,
    momentum: str = "debiased",
    adaptive: bool = False,
    preconditioning: str | None = None,
    adam_b1: Decay = 0.9,
    adam_b2: Decay = 0.999,
    adam_eps_root: NonNegative = 0.0,
    adam_weight_decay: NonNegative = 0.0,
    adam_learning_rate: NonNegative | None = None,
    muon_weight_dimension_numbers: DimensionNumbers | None = None,
    consistent_rms: NonNegative | None = None,
    scale: str = "original",
    cautious_decay: bool = False,
) -> Transform:
    r"""Muon: momentum orthogonalised by :func:`~gradchain.scale_by_muon` for matrices, AdamW for the rest.

    By default :func:`~gradchain.hidden_matrices` decides which arrays are matrices. Embeddings, output layers and
    vectors are left to AdamW, as its authors do it; in Optax every array with two axes is a matrix, and no other.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule; typically 0.02, or, with ``consistent_rms=0.2``, the rate you
        would give AdamW.
      ns_coeffs: coefficients of the Newton-Schulz iteration, or the name of a set such as ``"polar_express"``; see
        :func:`gradchain.matrices.orthogonalize`.
      ns_steps: number of Newton-Schulz steps; ``None`` for one for each row of coefficients, five for a single one.
      beta: decay of the momentum.
      eps: added to the norms of matrices, and outside the square root in Adam.
      weight_decay: :math:`\lambda \ge 0`, or a schedule; applied to the matrices, after the scaling.
      weight_decay_mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.
      mu_dtype: dtype of the stored momenta.
      nesterov: Nesterov's form of both momenta.
      momentum: how gradients are added up; see :func:`~gradchain.scale_by_muon`. PyTorch's is ``"average"``.
      adaptive: multiply by the dual norm of the momentum.
      preconditioning: how matrices are scaled before the iteration.
      adam_b1: Adam's decay of the first moment.
      adam_b2: Adam's decay of the second moment.
      adam_eps_root: added inside Adam's square root.
      adam_weight_decay: weight decay of the other parameters.
      adam_learning_rate: learning rate for Adam; ``None`` for the same as for the matrices.
      muon_weight_dimension_numbers: which parameters are matrices, and how: a tree of :class:`MuonDimensionNumbers`
        like the parameters (or a prefix), with ``None`` for what goes to Adam; a function from parameters to such a
        tree; or :func:`~gradchain.hidden_matrices` with patterns, which is the default. Layers stacked along an axis
        are batches: ``MuonDimensionNumbers(1, 2)``.
      consistent_rms: root mean square of the matrices' updates before the rate, in the place of ``scale``.
      scale: the factor for a matrix's shape, ``"original"``, ``"spectral"`` or ``"none"``; see
        :func:`~gradchain.scale_by_shape`.
      cautious_decay: decay only where the update agrees; see :func:`~gradchain.add_cautious_decayed_weights`.

    ``torch.optim.Muon`` with its defaults, which takes matrices only, is ``muon(1e-3, momentum="average",
    weight_decay=0.1)``. Its ``adjust_lr_fn="match_rms_adamw"`` is ``consistent_rms=0.2``.

    References:
      Jordan et al., *Muon: An optimizer for hidden layers in neural networks*, 2024.
      Liu et al., *Muon is Scalable for LLM Training*, 2025 (``consistent_rms``, weight decay).
    """
    direction = scale_by_muon(
        *(ns_coeffs, ns_steps, beta, eps, mu_dtype),
        nesterov=nesterov,
        momentum=momentum,
        adaptive=adaptive,
        preconditioning=preconditioning,
    )
    decay = add_cautious_decayed_weights if cautious_decay else add_decayed_weights
    shape = scale_by_shape(None, consistent_rms, scale=scale)
    stages = direction, shape, decay(weight_decay, weight_decay_mask)
    rate = learning_rate if adam_learning_rate is None else adam_learning_rate
    rest = adamw(rate, adam_b1, adam_b2, eps, adam_eps_root, mu_dtype, adam_weight_decay, nesterov=nesterov)
    return beside_adam("muon", stages, learning_rate, rest, muon_weight_dimension_numbers)


@public
def normuon(
    learning_rate: NonNegative,
    axis: str | None = "longer",
    ns_coeffs: Coefficients = "polar_express_5",
    ns_steps: int | None = None,
    beta: Decay = 0.95,
    b2: Decay = 0.95,
    eps: NonNegative = 1e-8,
    moment_eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    weight_decay_mask: Mask | None = None,
    mu_dtype: DType | None = None,
    *,
    norm: str = "kept",
    nesterov: bool = True,
    momentum: str = "debiased",
    preconditioning: str | None = None,
    adam_b1: Decay = 0.9,
    adam_b2: Decay = 0.95,
    adam_weight_decay: NonNegative = 0.0,
    adam_learning_rate: NonNegative = 1e-3,
    weight_dimension_numbers: DimensionNumbers | None = None,
    consistent_rms: NonNegative | None = None,
    scale: str = "original",
    cautious_decay: bool = False,
) -> Transform:
    r"""NorMuon: Muon with updates of equal size for all units, by :func:`~gradchain.scale_by_normuon`; AdamW beside it.

    With ``axis="elements"``, ``norm="exact"`` and ``consistent_rms=0.2`` it is AdaMuon, with ``axis="all"`` NAMO. By
    default hidden weight matrices are recognised by :func:`~gradchain.hidden_matrices`, so that embeddings, output
    layers and vectors go to AdamW.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule, for matrices; 0.035 in the NanoGPT benchmark, with a weight
        decay of 0.025.
      axis: which elements share a second moment; see :func:`~gradchain.scale_by_normuon`.
      ns_coeffs: coefficients of the Newton-Schulz iteration, or the name of a set; see
        :func:`gradchain.matrices.orthogonalize`.
      ns_steps: number of Newton-Schulz steps; ``None`` for one for each row of coefficients, five for a single one.
      beta: decay of the momentum.
      b2: decay of the second moments.
      eps: added to the norms of matrices, and outside the square root in Adam.
      moment_eps: added to root mean squares of matrices.
      weight_decay: :math:`\lambda \ge 0`, or a schedule; applied to the matrices, after the scaling.
      weight_decay_mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.
      mu_dtype: dtype of the stored momenta.
      norm: the norm of the result; see :func:`~gradchain.scale_by_normuon`.
      nesterov: Nesterov's form of both momenta.
      momentum: how gradients are added up; see :func:`~gradchain.scale_by_muon`.
      preconditioning: how matrices are scaled before the iteration.
      adam_b1: Adam's decay of the first moment.
      adam_b2: Adam's decay of the second moment.
      adam_weight_decay: weight decay of the other parameters.
      adam_learning_rate: learning rate of the other parameters.
      weight_dimension_numbers: which parameters are matrices, and how: a tree of :class:`MuonDimensionNumbers`
        like the parameters (or a prefix), with ``None`` for what goes to Adam; a function from parameters to such a
        tree; or :func:`~gradchain.hidden_matrices` with patterns, which is the default. Layers stacked along an axis
        are batches: ``MuonDimensionNumbers(1, 2)``.
      consistent_rms: root mean square of the matrices' updates before the rate, in the place of ``scale``.
      scale: the factor for a matrix's shape; see :func:`~gradchain.scale_by_shape`.
      cautious_decay: decay only where the update agrees; see :func:`~gradchain.add_cautious_decayed_weights`.

    Reference: Li et al., *NorMuon: Making Muon more efficient and scalable*, 2025.
    """
    direction = scale_by_normuon(
        *(axis, ns_coeffs, ns_steps, beta, b2, eps, moment_eps, mu_dtype),
        norm=norm,
        nesterov=nesterov,
        momentum=momentum,
        preconditioning=preconditioning,
    )
    decay = add_cautious_decayed_weights if cautious_decay else add_decayed_weights
    shape = scale_by_shape(None, consistent_rms, scale=scale)
    stages = direction, shape, decay(weight_decay, weight_decay_mask)
    rest = adamw(
        *(adam_learning_rate, adam_b1, adam_b2, eps, 0.0, mu_dtype, adam_weight_decay),
        nesterov=nesterov,
    )
    return beside_adam("normuon", stages, learning_rate, rest, weight_dimension_numbers)


@public
def dion2(
    learning_rate: NonNegative,
    fraction: float = 0.25,
    decay: Fraction = 0.95,
    moment_decay: Decay | None = None,
    ns_coeffs: Coefficients = "polar_express_5",
    ns_steps: int | None = None,
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.01,
    weight_decay_mask: Mask | None = None,
    mu_dtype: DType | None = None,
    *,
    adam_b1: Decay = 0.9,
    adam_b2: Decay = 0.95,
    adam_weight_decay: NonNegative = 0.0,
    adam_learning_rate: NonNegative = 1e-3,
    weight_dimension_numbers: DimensionNumbers | None = None,
    consistent_rms: NonNegative | None = None,
    scale: str = "spectral",
) -> Transform:
    r"""Dion2: in each step a fraction of a matrix moves, by :func:`~gradchain.scale_by_dion2`; AdamW beside it.

    All weights decay in each step. With ``moment_decay`` it is NorDion2. By default hidden weight matrices are
    recognised by :func:`~gradchain.hidden_matrices`, so that embeddings, output layers and vectors go to AdamW.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule, for matrices; typically 0.02.
      fraction: the share of outputs (or inputs, where these are fewer) that moves, in (0, 1].
      decay: how much of what was moved remains in the momentum.
      moment_decay: decay of the outputs' second moments, ``None`` for none.
      ns_coeffs: coefficients of the Newton-Schulz iteration; see :func:`gradchain.matrices.orthogonalize`.
      ns_steps: number of its steps.
      eps: added to the norms of matrices, and outside the square root in Adam.
      weight_decay: :math:`\lambda \ge 0`, or a schedule; applied to the matrices, after the scaling.
      weight_decay_mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.
      mu_dtype: dtype of the stored momenta.
      adam_b1: Adam's decay of the first moment.
      adam_b2: Adam's decay of the second moment.
      adam_weight_decay: weight decay of the other parameters.
      adam_learning_rate: learning rate of the other parameters.
      weight_dimension_numbers: which parameters are matrices, and how: a tree of :class:`MuonDimensionNumbers`
        like the parameters (or a prefix), with ``None`` for what goes to Adam; a function from parameters to such a
        tree; or :func:`~gradchain.hidden_matrices` with patterns, which is the default. Layers stacked along an axis
        are batches: ``MuonDimensionNumbers(1, 2)``.
      consistent_rms: root mean square of the matrices' updates before the rate, were all to move; in the place of
        ``scale``.
      scale: the factor for a matrix's shape; see :func:`~gradchain.scale_by_shape`.

    Reference: Ahn et al., *Dion2: A Simple Method to Shrink Matrix in Muon*, 2025.
    """
    direction = scale_by_dion2(fraction, decay, moment_decay, ns_coeffs, ns_steps, eps, mu_dtype)
    shape = scale_by_shape(None, consistent_rms, scale=scale)
    stages = direction, shape, add_decayed_weights(weight_decay, weight_decay_mask)
    rest = adamw(adam_learning_rate, adam_b1, adam_b2, eps, 0.0, mu_dtype, adam_weight_decay)
    return beside_adam("dion2", stages, learning_rate, rest, weight_dimension_numbers)

"""Muon: orthogonalised momentum for matrices, Adam for the rest.

Evidence: Jordan et al. (2024) report that it set the NanoGPT speed record 1.35 times faster than AdamW had; Liu et al.
(2025) that in scaling runs it needed about half of AdamW's compute, and trained a 16 B mixture of experts with it. Both
leave embeddings, output layers and vectors to AdamW.
"""

from gradchain.combinators.chain import chain
from gradchain.combinators.hidden_matrices import for_hidden_matrices
from gradchain.core.hyper import Decay, DType, Mask, NonNegative
from gradchain.core.transform import Transform
from gradchain.matrices.orthogonal import PRESETS, Coefficients
from gradchain.matrices.views import DimensionNumbers
from gradchain.optimizers.adam import adamw
from gradchain.signatures import public
from gradchain.transforms.decay import add_decayed_weights
from gradchain.transforms.orthogonal import scale_by_muon, scale_by_shape
from gradchain.transforms.scaling import scale_by_learning_rate


@public
def muon(
    learning_rate: NonNegative,
    ns_coeffs: Coefficients = PRESETS["standard"],
    ns_steps: int = 5,
    beta: Decay = 0.95,
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    weight_decay_mask: Mask | None = None,
    mu_dtype: DType | None = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: str = "frobenius",
    adam_b1: Decay = 0.9,
    adam_b2: Decay = 0.999,
    adam_eps_root: NonNegative = 0.0,
    adam_weight_decay: NonNegative = 0.0,
    adam_learning_rate: NonNegative | None = None,
    muon_weight_dimension_numbers: DimensionNumbers | None = None,
    consistent_rms: NonNegative | None = None,
) -> Transform:
    r"""Muon: momentum orthogonalised by :func:`~gradchain.scale_by_muon` for matrices, AdamW for the rest.

    By default :func:`~gradchain.hidden_matrices` decides which arrays are matrices. Embeddings, output layers and
    vectors are left to AdamW, as its authors do it; in Optax every array with two axes is a matrix, and no other.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule; typically 0.02, or, with ``consistent_rms=0.2``, the rate you
        would give AdamW.
      ns_coeffs: coefficients of the Newton-Schulz iteration, or a preset: ``"standard"``, ``"dion"``.
      ns_steps: number of Newton-Schulz steps, if a single row of coefficients is given.
      beta: decay of the momentum.
      eps: added to the norms of matrices, and outside the square root in Adam.
      weight_decay: :math:`\lambda \ge 0`, or a schedule; applied to the matrices, after the scaling.
      weight_decay_mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.
      mu_dtype: dtype of the stored momenta.
      nesterov: Nesterov's form of both momenta.
      adaptive: multiply by the dual norm of the momentum.
      preconditioning: how matrices are scaled before the iteration.
      adam_b1: Adam's decay of the first moment.
      adam_b2: Adam's decay of the second moment.
      adam_eps_root: added inside Adam's square root.
      adam_weight_decay: weight decay of the other parameters.
      adam_learning_rate: learning rate for Adam; ``None`` for the same as for the matrices.
      muon_weight_dimension_numbers: which parameters are matrices, and how: a tree of :class:`MuonDimensionNumbers`
        like the parameters (or a prefix), with ``None`` for what goes to Adam; a function from parameters to such a
        tree; or :func:`~gradchain.hidden_matrices` with patterns. Layers stacked along an axis are batches:
        ``MuonDimensionNumbers(1, 2)``.
      consistent_rms: root mean square of the matrices' updates before the rate; ``None`` for
        :math:`\sqrt{\max(1, \mathrm{columns} / \mathrm{rows})}` in place of it.

    References:
      Jordan et al., *Muon: An optimizer for hidden layers in neural networks*, 2024.
      Liu et al., *Muon is Scalable for LLM Training*, 2025 (``consistent_rms``, weight decay).
    """
    momentum = scale_by_muon(
        *(ns_coeffs, ns_steps, beta, eps, mu_dtype),
        nesterov=nesterov,
        adaptive=adaptive,
        preconditioning=preconditioning,
    )
    matrices = chain(
        momentum,
        scale_by_shape(None, consistent_rms),
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_learning_rate(learning_rate),
    )
    rate = learning_rate if adam_learning_rate is None else adam_learning_rate
    rest = adamw(rate, adam_b1, adam_b2, eps, adam_eps_root, mu_dtype, adam_weight_decay, nesterov=nesterov)
    return for_hidden_matrices(matrices, rest, muon_weight_dimension_numbers, labels=("muon", "adam"))

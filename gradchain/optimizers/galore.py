"""GaLore: Adam on gradients projected to few dimensions.

Evidence: Zhao et al. (2024) pre-train models of 60 M to 7 B parameters with up to 65 % less memory for the optimizer's
state than Adam, at about the same perplexity.
"""

from gradchain.combinators.chain import chain
from gradchain.combinators.hidden_matrices import hidden_matrices
from gradchain.core.foreign import Child
from gradchain.core.hyper import Count, Hyper, Mask, NonNegative
from gradchain.core.transform import Transform
from gradchain.matrices.views import DimensionNumbers
from gradchain.signatures import public
from gradchain.transforms.decay import add_decayed_weights
from gradchain.transforms.low_rank import scale_by_galore
from gradchain.transforms.scaling import scale_by_learning_rate


@public
def galore(
    learning_rate: NonNegative,
    rank: int = 128,
    update_proj_gap: Count = 200,
    scale: Hyper = 1.0,
    base_optimizer: Child | None = None,
    weight_decay: NonNegative = 0.0,
    mask: Mask | None = None,
    weight_dimension_numbers: DimensionNumbers | None = None,
) -> Transform:
    r"""GaLore: :func:`~gradchain.scale_by_galore`, weight decay, then the learning rate.

    A matrix of :math:`m \ge n` takes :math:`2 r n + m r` values of state in place of Adam's :math:`2 m n`.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule; typically 0.01 with ``scale=0.25``.
      rank: how many dimensions are kept; typically a quarter of the model's width.
      update_proj_gap: number of updates between two choices of the subspace; each takes a singular value decomposition.
      scale: factor that multiplies the projected updates only.
      base_optimizer: the transform applied to projected gradients; ``None`` for :func:`~gradchain.scale_by_adam`.
      weight_decay: :math:`\lambda \ge 0`, or a schedule; applied to the parameters themselves, not to a projection.
      mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.
      weight_dimension_numbers: how arrays are seen as matrices, see :func:`~gradchain.scale_by_galore`; by default
        :func:`~gradchain.hidden_matrices` decides, and embeddings and output layers aren't projected, as in the paper.

    Reference: Zhao et al., *GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection*, 2024.
    """
    dims = hidden_matrices() if weight_dimension_numbers is None else weight_dimension_numbers
    return chain(
        scale_by_galore(rank, update_proj_gap, scale, base_optimizer, dims),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )

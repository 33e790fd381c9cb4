"""Scion: steps to the boundary of a norm's ball, with a norm for each kind of layer.

Evidence: Pethick et al. (2025) train NanoGPT models from 124M to 3B parameters, at rates that carry over from one width
to another, and without Adam for any array. Wen et al. (2025) find its best rates less stable.
"""

from typing import Any

from gradchain.combinators.chain import chain
from gradchain.combinators.hidden_matrices import for_hidden_matrices, hidden_matrices
from gradchain.combinators.routing import partition
from gradchain.core.hyper import Decay, DType, NonNegative
from gradchain.core.transform import Transform
from gradchain.matrices.orthogonal import Coefficients
from gradchain.signatures import public
from gradchain.transforms.clipping import clip_by_block_rms
from gradchain.transforms.decay import add_decayed_weights
from gradchain.transforms.lmo import OptionalDimensions, scale_by_lmo
from gradchain.transforms.momentum import ema
from gradchain.transforms.scaling import scale_by_learning_rate
from gradchain.tree import Tree


@public
def scion(
    learning_rate: NonNegative,
    radius: NonNegative = 50.0,
    head_radius: NonNegative = 3000.0,
    vector_radius: NonNegative = 1.0,
    beta: Decay = 0.9,
    eps: NonNegative = 1e-8,
    mu_dtype: DType | None = None,
    *,
    constrained: bool = True,
    ns_coeffs: Coefficients = "standard",
    ns_steps: int | None = None,
    weight_dimension_numbers: OptionalDimensions | None = None,
) -> Transform:
    r"""Scion: an average of gradients, then the point of a ball that lies furthest along it, for every array.

    .. math::
        w \leftarrow (1 - \eta)\,w - \eta\,u, \qquad
        u = \arg\max_{\|x\| \le \rho} \langle m, x \rangle, \qquad m \leftarrow \beta\,m + (1 - \beta)\,g

    by :func:`~gradchain.scale_by_lmo`, with the spectral norm for hidden matrices and convolutions, signs for
    embeddings and output layers, and the root mean square for the rest. Which is which is decided by
    :func:`~gradchain.hidden_matrices`. It is a conditional gradient method: weights that start in the balls stay
    there. :func:`scion_init` puts initial weights into them.

    Args:
      learning_rate: :math:`\eta` in [0, 1], or a schedule; 2^-12 in the source's language models, falling to 0.
      radius: :math:`\rho` of hidden layers: 50 for language models, 1 for an MLP, 8 for a convolutional network in the
        source.
      head_radius: :math:`\rho` of embeddings and output layers: 3000 for language models, 1024 for an MLP, 128 for a
        convolutional network.
      vector_radius: :math:`\rho` of biases and gains, as a root mean square. The source's language models have none.
      beta: :math:`\beta` in [0, 1); one minus the source's momentum.
      eps: added to norms.
      mu_dtype: dtype of the stored average.
      constrained: whether weights shrink, :math:`(1 - \eta)\,w`. Without, it is unconstrained Scion:
        :math:`w \leftarrow w - \eta\,u`.
      ns_coeffs: coefficients of the Newton-Schulz iteration; see :func:`gradchain.matrices.orthogonalize`.
      ns_steps: number of its steps.
      weight_dimension_numbers: which parameters are hidden matrices, and how: a tree of :class:`MuonDimensionNumbers`
        like the parameters (or a prefix), with ``None`` for the others; a function from parameters to such a tree; or
        :func:`~gradchain.hidden_matrices` with patterns, which is the default.

    Reference: Pethick et al., *Training Deep Learning Models with Norm-Constrained LMOs*, 2025.
    """
    direction = _routed(
        scale_by_lmo("auto", radius, ns_coeffs, ns_steps, eps),
        scale_by_lmo("sign", head_radius, eps=eps),
        scale_by_lmo("rms", vector_radius, eps=eps),
        weight_dimension_numbers,
    )
    shrink = [add_decayed_weights(1.0)] if constrained else []
    average = ema(beta, debias=False, accumulator_dtype=mu_dtype)
    return chain(average, direction, *shrink, scale_by_learning_rate(learning_rate))


def _routed(hidden: Transform, head: Transform, vectors: Transform, dims: Any) -> Transform:
    """Return one transform for hidden matrices, one for embeddings and other matrices, and one for all else."""
    labels = hidden_matrices(matrices="head", rest="vectors", embeddings="head")
    rest = partition({"head": head, "vectors": vectors}, labels)
    return for_hidden_matrices(hidden, rest, dims, labels=("hidden", "rest"))


@public
def scion_init(
    params: Tree,
    radius: NonNegative = 50.0,
    head_radius: NonNegative = 3000.0,
    vector_radius: NonNegative = 1.0,
    *,
    weight_dimension_numbers: OptionalDimensions | None = None,
) -> Tree:
    r"""Return initial weights moved to the boundary of the balls that :func:`scion` keeps them in.

    Hidden matrices keep their singular vectors and get equal singular values: of normal numbers it makes what
    orthogonal initialisation does, at the ball's size. Embeddings and output layers keep their signs. Arrays of zeros
    stay zero, and vectors are scaled down only where they lie outside.

    Args:
      params: the weights as the model initialised them: random, as usual.
      radius: :math:`\rho` of hidden layers, as in :func:`scion`.
      head_radius: that of embeddings and output layers.
      vector_radius: that of biases and gains.
      weight_dimension_numbers: how hidden arrays are seen as matrices, as in :func:`scion`.

    Returns:
      A tree like ``params``.

    Example:
      >>> params = scion_init({"hidden": {"kernel": jnp.diag(jnp.array([3.0, 1.0]))}}, radius=2.0)
      >>> print(params["hidden"]["kernel"].round(3))
      [[2. 0.]
       [0. 2.]]

    Reference: Pethick et al., *Training Deep Learning Models with Norm-Constrained LMOs*, 2025, section 5.
    """
    boundary = _routed(
        scale_by_lmo("auto", radius, "polar_express", 16, 0.0),
        scale_by_lmo("sign", head_radius),
        clip_by_block_rms(vector_radius),
        weight_dimension_numbers,
    )
    return boundary.update(params, boundary.init(params), params)[0]

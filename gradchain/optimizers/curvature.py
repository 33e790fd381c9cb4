"""Sophia."""

from typing import Any

from gradchain.combinators.chain import chain
from gradchain.core.hyper import Count, Decay, DType, Mask, NonNegative
from gradchain.core.transform import Transform
from gradchain.signatures import public
from gradchain.transforms.curvature import HUTCHINSON, scale_by_sophia
from gradchain.transforms.decay import add_decayed_weights
from gradchain.transforms.scaling import scale_by_learning_rate


@public
def sophia(
    learning_rate: NonNegative,
    b1: Decay = 0.965,
    b2: Decay = 0.99,
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 1e-4,
    weight_decay_mask: Mask | None = None,
    gamma: NonNegative = 0.01,
    clip_threshold: NonNegative | None = 1.0,
    update_interval: Count = 10,
    hessian_diagonal_fn: Any = HUTCHINSON,
    mu_dtype: DType | None = None,
    verbose: bool = False,
    print_win_rate_every_n_steps: int = 0,
) -> Transform:
    r"""Sophia: momentum divided by the Hessian's diagonal, clipped, :func:`~gradchain.scale_by_sophia`.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule; with ``clip_threshold=1``, the longest step that a parameter
        element takes.
      b1: decay of the momentum.
      b2: decay of the average of curvature estimates.
      eps: lower bound on the scaled curvatures.
      weight_decay: :math:`\lambda \ge 0`, or a schedule; decoupled, multiplied by the learning rate.
      weight_decay_mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.
      gamma: scale of the curvatures.
      clip_threshold: bound on each element of the update, before the learning rate.
      update_interval: number of updates between two curvature estimates.
      hessian_diagonal_fn: the estimator, a transform.
      mu_dtype: dtype of the stored momentum.
      verbose: print the fraction of elements that were not clipped.
      print_win_rate_every_n_steps: how often to print it; 0 means never.

    Example:
      >>> tx = sophia(1e-3)
      >>> objective = lambda p: loss_fn(p, batch)
      >>> updates, state = tx.update(jax.grad(objective)(params), state, params, value_fn=objective)

    Reference: Liu et al., *Sophia: A Scalable Stochastic Second-order Optimizer for Language Model Pre-training*, 2024.
    """
    return chain(
        scale_by_sophia(
            b1,
            b2,
            eps,
            gamma,
            clip_threshold,
            update_interval,
            hessian_diagonal_fn,
            mu_dtype,
            verbose,
            print_win_rate_every_n_steps,
        ),
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_learning_rate(learning_rate),
    )

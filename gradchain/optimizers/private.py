"""Differentially private gradient descent."""

from gradchain.combinators.chain import chain
from gradchain.core.hyper import Fraction, Key, NonNegative
from gradchain.core.transform import Transform
from gradchain.signatures import public
from gradchain.transforms.momentum import trace
from gradchain.transforms.per_example import differentially_private_aggregate
from gradchain.transforms.scaling import identity, scale_by_learning_rate


@public
def dpsgd(
    learning_rate: NonNegative,
    l2_norm_clip: NonNegative,
    noise_multiplier: NonNegative,
    seed: Key,
    momentum: Fraction | None = None,
    nesterov: bool = False,
) -> Transform:
    r"""Differentially private SGD: clip the gradient of each example, and add noise to their sum.

    It takes one gradient per example, see :func:`~gradchain.differentially_private_aggregate`. The privacy guarantee of
    a run depends on the noise, the fraction of the data in a batch and the number of steps; compute it with an
    accountant such as Google's ``dp-accounting``.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule.
      l2_norm_clip: bound on the norm of each example's gradient.
      noise_multiplier: standard deviation of the noise on the sum, in units of that bound.
      seed: an integer seed or a PRNG key; an array of them makes a batch of transforms.
      momentum: decay of a :func:`~gradchain.trace`; ``None`` means none.
      nesterov: use Nesterov's form of it.

    Example:
      >>> tx = dpsgd(0.1, l2_norm_clip=1.0, noise_multiplier=1.1, seed=0)
      >>> grads = jax.vmap(jax.grad(loss_fn), in_axes=(None, 0))(params, batch)
      >>> updates, state = tx.update(grads, state, params)

    Reference: Abadi et al., *Deep Learning with Differential Privacy*, 2016, algorithm 1.
    """
    return chain(
        differentially_private_aggregate(l2_norm_clip, noise_multiplier, seed),
        identity() if momentum is None else trace(momentum, nesterov),
        scale_by_learning_rate(learning_rate),
    )

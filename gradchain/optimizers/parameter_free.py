"""Optimizers that estimate their step size: from the loss, from distances or from bets."""

from collections.abc import Sequence
from typing import Any

from gradchain.combinators.chain import chain
from gradchain.core.hyper import Decay, Hyper, Mask, NonNegative, Positive
from gradchain.core.transform import Transform
from gradchain.signatures import public
from gradchain.transforms.coin_betting import scale_by_cocob
from gradchain.transforms.d_adaptation import scale_by_dadapt_adam, scale_by_prodigy
from gradchain.transforms.decay import add_decayed_weights, optional_decay
from gradchain.transforms.distance import scale_by_dog, scale_by_dowg
from gradchain.transforms.polyak import scale_by_momo, scale_by_momo_adam, scale_by_polyak
from gradchain.transforms.scaling import scale, scale_by_learning_rate


@public
def polyak_sgd(
    max_learning_rate: NonNegative = 1.0,
    scaling: NonNegative = 1.0,
    f_min: Hyper = 0.0,
    eps: NonNegative = 0.0,
    variant: str = "sps",
) -> Transform:
    r"""Gradient descent with Polyak's step size, :func:`~gradchain.scale_by_polyak`, times a factor.

    .. math:: w \leftarrow w - s \min\left(\frac{f(w) - f^*}{\|g\|_2^2 + \epsilon}, \gamma\right) g

    Pass the loss: ``update(grads, state, params, value=loss)``. For models that can fit all data, so that :math:`f^* =
    0` is a good estimate. In Optax the step size is computed from gradients that were already multiplied by :math:`s`,
    so halving :math:`s` there doubles the step.

    Args:
      max_learning_rate: :math:`\gamma \ge 0`.
      scaling: :math:`s \ge 0`, or a schedule.
      f_min: :math:`f^*`, a lower bound on the loss. If the loss can be negative, 0 is not a valid bound.
      eps: :math:`\epsilon \ge 0`.
      variant: what happens where the loss is below :math:`f^*`: "sps" steps uphill, with no bound on the step, and
        "sps+" takes no step.

    Example:
      >>> tx, w = polyak_sgd(), jnp.array([3.0, 4.0])
      >>> value, grads = jax.value_and_grad(lambda w: jnp.sum(w**2))(w)
      >>> tx.update(grads, tx.init(w), w, value=value)[0]
      Array([-1.5, -2. ], dtype=float32)

    Reference: Loizou et al., *Stochastic Polyak Step-size for SGD: An Adaptive Learning Rate for Fast Convergence*,
    2021.
    """
    return chain(scale_by_polyak(f_min, max_learning_rate, eps, variant), scale_by_learning_rate(scaling))


@public
def momo(
    learning_rate: NonNegative = 1.0,
    beta: Decay = 0.9,
    lower_bound: Hyper = 0.0,
    weight_decay: NonNegative = 0.0,
    adapt_lower_bound: bool = False,
    mask: Mask | None = None,
) -> Transform:
    r"""Gradient descent with momentum and Polyak's step size, :func:`~gradchain.scale_by_momo`.

    Pass the loss: ``update(grads, state, params, value=loss)``. A learning rate that is too large does no harm.

    Args:
      learning_rate: a bound on the step size, or a schedule.
      beta: decay of the averages.
      lower_bound: lower bound on the loss; where the loss is below it, no step is taken. If the loss can be negative, 0
        is not a valid bound.
      weight_decay: :math:`\lambda \ge 0`, in proximal form.
      adapt_lower_bound: estimate the bound during training.
      mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.

    Reference: Schaipp et al., *MoMo: Momentum Models for Adaptive Learning Rates*, 2024, algorithm 1.
    """
    return chain(scale_by_momo(learning_rate, beta, lower_bound, weight_decay, adapt_lower_bound, mask), scale(-1.0))


@public
def momo_adam(
    learning_rate: NonNegative = 1e-2,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    lower_bound: Hyper = 0.0,
    weight_decay: NonNegative = 0.0,
    adapt_lower_bound: bool = False,
    mask: Mask | None = None,
) -> Transform:
    r"""Adam with a step size that is bounded by Polyak's, :func:`~gradchain.scale_by_momo_adam`.

    Pass the loss: ``update(grads, state, params, value=loss)``.

    Args:
      learning_rate: Adam's rate as a bound, or a schedule.
      b1: decay of the first moment, the loss and the model.
      b2: decay of the second moment.
      eps: added to the denominator, outside the square root.
      lower_bound: lower bound on the loss; where the loss is below it, no step is taken. If the loss can be negative, 0
        is not a valid bound.
      weight_decay: :math:`\lambda \ge 0`, in proximal form.
      adapt_lower_bound: estimate the bound during training.
      mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.

    Reference: Schaipp et al., *MoMo: Momentum Models for Adaptive Learning Rates*, 2024, algorithm 2.
    """
    rule = scale_by_momo_adam(learning_rate, b1, b2, eps, lower_bound, weight_decay, adapt_lower_bound, mask)
    return chain(rule, scale(-1.0))


def _pair(where: str, value: Any) -> tuple[Any, Any]:
    """Return a pair as it is; ``where`` names optimizer and argument in the error for anything else."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise TypeError(f"{where} must be a pair, got {value!r}")
    first, second = value
    return first, second


@public
def dog(
    learning_rate: NonNegative = 1.0,
    init_step: tuple[str, Positive] = ("heuristic", 1e-6),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative | None = None,
    mask: Mask | None = None,
) -> Transform:
    r"""DoG, distance over gradients: gradient descent without a learning rate to tune, :func:`~gradchain.scale_by_dog`.

    Meant to be used with an average of the parameters, see :func:`~gradchain.average_params`. Call ``init`` with the
    actual initial parameters, not with shapes or zeros.

    Args:
      learning_rate: a factor that multiplies the step size, or a schedule.
      init_step: how the first step is chosen, and its value: ``("heuristic", x)``, ``("distance", x)`` or
        ``("learning_rate", x)``; see :func:`~gradchain.scale_by_dog`. With batch normalisation use ``("heuristic",
        1e-4)``.
      eps: added inside the square root.
      weight_decay: added to the gradient; ``None`` for none.
      mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.

    Reference: Ivgi et al., *DoG is SGD's Best Friend: A Parameter-Free Dynamic Step Size Schedule*, 2023.
    """
    kind, value = _pair("dog: init_step", init_step)
    rule = scale_by_dog(value, eps, init_kind=kind)
    return chain(*optional_decay(weight_decay, mask), rule, scale_by_learning_rate(learning_rate))


@public
def dowg(
    learning_rate: NonNegative = 1.0,
    init_estim_sq_dist: Positive | None = None,
    eps: NonNegative = 1e-4,
    weight_decay: NonNegative | None = None,
    mask: Mask | None = None,
) -> Transform:
    r"""DoWG, distance over weighted gradients: :func:`dog` with longer steps, :func:`~gradchain.scale_by_dowg`.

    Args:
      learning_rate: a factor that multiplies the step size, or a schedule.
      init_estim_sq_dist: initial guess of the squared distance to the solution; ``None`` for ``eps``.
      eps: added to the denominator, outside the square root.
      weight_decay: added to the gradient; ``None`` for none.
      mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.

    Reference: Khaled et al., *DoWG Unleashed: An Efficient Universal Parameter-Free Gradient Descent Method*, 2023.
    """
    rule = scale_by_dowg(init_estim_sq_dist, eps)
    return chain(*optional_decay(weight_decay, mask), rule, scale_by_learning_rate(learning_rate))


@public
def dadapt_adamw(
    learning_rate: NonNegative = 1.0,
    betas: tuple[Decay, Decay] = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    estim_lr0: Positive = 1e-6,
    weight_decay: NonNegative = 0.0,
    mask: Mask | None = None,
) -> Transform:
    r"""AdamW whose learning rate is estimated by D-Adaptation, :func:`~gradchain.scale_by_dadapt_adam`.

    Args:
      learning_rate: a factor that multiplies the estimated rate, or a schedule that starts at 1 and falls to 0.
      betas: decays of the first and of the second moment.
      eps: added to the denominator, outside the square root.
      estim_lr0: initial estimate of the rate; choose it too small rather than too large.
      weight_decay: :math:`\omega \ge 0`, decoupled.
      mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.

    Reference: Defazio and Mishchenko, *Learning-Rate-Free Learning by D-Adaptation*, 2023.
    """
    b1, b2 = _pair("dadapt_adamw: betas", betas)
    return chain(scale_by_dadapt_adam(learning_rate, b1, b2, eps, estim_lr0, weight_decay, mask), scale(-1.0))


@public
def prodigy(
    learning_rate: NonNegative = 1.0,
    betas: tuple[Decay, Decay] = (0.9, 0.999),
    beta3: Decay | None = None,
    eps: NonNegative = 1e-8,
    estim_lr0: Positive = 1e-6,
    estim_lr_coef: Positive = 1.0,
    weight_decay: NonNegative = 0.0,
    safeguard_warmup: bool = False,
    weight_decay_mask: Mask | None = None,
) -> Transform:
    r"""AdamW whose learning rate is estimated by Prodigy, :func:`~gradchain.scale_by_prodigy`.

    Args:
      learning_rate: a factor that multiplies the estimated rate, or a schedule that starts at 1 and falls to 0.
      betas: decays of the first and of the second moment.
      beta3: decay of the sums in the estimate; ``None`` for the square root of the second moment's decay.
      eps: added to the denominator, outside the square root.
      estim_lr0: initial estimate of the rate; choose it too small rather than too large.
      estim_lr_coef: factor that multiplies the estimate.
      weight_decay: :math:`\omega \ge 0`, decoupled.
      safeguard_warmup: leave the learning rate out of the estimate's denominator.
      weight_decay_mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.

    Reference: Mishchenko and Defazio, *Prodigy: An Expeditiously Adaptive Parameter-Free Learner*, 2024.
    """
    b1, b2 = _pair("prodigy: betas", betas)
    rule = scale_by_prodigy(
        learning_rate, b1, b2, beta3, eps, estim_lr0, estim_lr_coef, weight_decay, safeguard_warmup, weight_decay_mask
    )
    return chain(rule, scale(-1.0))


@public
def cocob(
    learning_rate: NonNegative = 1.0,
    alpha: Positive = 100.0,
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    mask: Mask | None = None,
) -> Transform:
    r"""COCOB, continuous coin betting: no learning rate at all, :func:`~gradchain.scale_by_cocob`.

    Args:
      learning_rate: a factor that multiplies the gradients, or a schedule. A constant factor changes nothing, since the
        bets don't depend on the scale of the gradients.
      alpha: the first steps have length :math:`1/\alpha`.
      eps: initial guess of the largest absolute gradient.
      weight_decay: added to the gradient.
      mask: which parameters to decay, see :func:`~gradchain.add_decayed_weights`.

    Reference: Orabona and Tommasi, *Training Deep Networks without Learning Rates Through Coin Betting*, 2017.
    """
    return chain(
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate, flip_sign=False),
        scale_by_cocob(alpha, eps),
    )

"""Running sums and averages of gradients."""

import functools
import itertools
from collections.abc import Sequence
from typing import Annotated, Any

import jax.numpy as jnp
from jax import Array

from gradchain import numerics
from gradchain.core.hyper import Decay, DType, Fraction, Hyper, Number, Numbers
from gradchain.core.rule import elementwise
from gradchain.core.spec import At, Slot, Slots
from gradchain.core.value import Kind
from gradchain.signatures import public


@elementwise(slots={"trace": Slot(dtype="accumulator_dtype")})
def trace(
    g: Array, slot: Slots, at: At, decay: Fraction, nesterov: bool = False, accumulator_dtype: DType | None = None
):
    r"""Accumulate gradients with geometric weights: momentum.

    .. math::
        t_k = g_k + \mu\,t_{k-1}, \qquad
        u_k = \begin{cases} t_k & \text{heavy ball}\\ g_k + \mu\,t_k & \text{Nesterov}\end{cases}

    The trace is a sum, not an average: for a constant gradient it grows to :math:`g / (1 - \mu)`. For an average use
    :func:`ema`. PyTorch's ``SGD(dampening=0)`` is the same.

    Args:
      decay: :math:`\mu` in [0, 1]; typically 0.9.
      nesterov: look ahead along the trace.
      accumulator_dtype: dtype of the stored trace; by default the parameter's, and at least float32.

    References:
      Polyak, *Some methods of speeding up the convergence of iteration methods*, 1964 (heavy ball).
      Sutskever et al., *On the importance of initialization and momentum in deep learning*, 2013, equations 1-4.
    """
    t = g + decay * slot.trace
    return g + decay * t if nesterov else t, slot(trace=t)


@elementwise(slots={"ema": Slot(dtype="accumulator_dtype")}, debiased=("decay",))
def ema(g: Array, slot: Slots, at: At, decay: Decay, debias: bool = True, accumulator_dtype: DType | None = None):
    r"""Replace gradients by their exponential moving average.

    .. math::
        m_k = \beta\,m_{k-1} + (1 - \beta)\,g_k, \qquad u_k = m_k / (1 - \beta^k) \text{ or } m_k

    Args:
      decay: :math:`\beta` in [0, 1).
      debias: divide by :math:`1 - \beta^k`, so that the first update is the first gradient.
      accumulator_dtype: dtype of the stored average; by default the parameter's, and at least float32.
    """
    m = numerics.ema(slot.ema, g, decay)
    return m / at.weight_sum("decay") if debias else m, slot(ema=m)


@elementwise(slots={"previous_gradient": Slot(counted=True)})
def scale_by_optimistic_gradient(g: Array, slot: Slots, at: At, alpha: Hyper = 1.0, beta: Hyper = 1.0):
    r"""Extrapolate from the last two gradients to the next: :math:`u_k = (\alpha + \beta)\,g_k - \beta\,g_{k-1}`.

    :math:`g_0 = g_1`, so that the first update is :math:`\alpha g_1`. It converges in games where plain gradient
    descent cycles.

    Args:
      alpha: :math:`\alpha`, the weight of the gradient.
      beta: :math:`\beta`, how far to extrapolate.

    Reference: Mokhtari et al., *A Unified Analysis of Extra-gradient and Optimistic Gradient Methods for Saddle Point
    Problems*, 2020, section 3.2.
    """
    previous = jnp.where(at.t == 1, g, slot.previous_gradient)
    return alpha * g + beta * (g - previous), slot(previous_gradient=jnp.array(g, copy=True))


class Decays(Kind):
    """Decays of several averages; static, since their corrections for the start are those of constants."""

    label = "Sequence[Decay]"

    def normalize(self, where: str, value: Any) -> Any:
        decays = Numbers(Number("Decay", "[0, 1)")).normalize(where, value)
        for i, decay in enumerate(decays):
            if not isinstance(decay, float):
                raise TypeError(f"{where}[{i}] must be a Python number, the same for the whole run, got {decay!r}")
        if not decays:
            raise ValueError(f"{where} must have at least one decay, got {value!r}")
        return decays


DECAYS = Decays()
AGE = Number("Positive", "(0, inf)")


def _shares(decays: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean ages of the mixture with the least and the largest mean, and the step of the former's weights.

    At the least age the weights are proportional to 1, 2, ..., and the slowest average has none.
    """
    *ages, slowest = (decay / (1 - decay) for decay in decays)
    ranks = range(1, len(decays))
    return sum(i * tau for i, tau in zip(ranks, ages, strict=True)) / sum(ranks), slowest, 1 / sum(ranks)


def _check_mixture(where: str, decays: Sequence[float], mean_age: Any) -> None:
    if len(decays) < 2 or any(a >= b for a, b in itertools.pairwise(decays)):
        raise ValueError(f"{where}: for a mean age there must be two decays or more that increase, got {decays}")
    least, most, _ = _shares(decays)
    if isinstance(mean_age, float) and not least < mean_age < most:
        raise ValueError(
            f"{where}: with these decays mean_age must be between {least:.4g} and {most:.4g}, got {mean_age}"
        )


def _weights(decays: Sequence[float], mean_age: Any) -> tuple[Any, ...]:
    least, most, step = _shares(decays)
    fast = (most - mean_age) / (most - least)
    return *(i * step * fast for i in range(1, len(decays))), 1 - fast


@public
def weights_of_mean_age(decays: Sequence[float], mean_age: Hyper) -> tuple[Any, ...]:
    r"""Return the weights that :func:`ema_mixture` gives its averages for a mean age.

    The mean age of gradients in an average is :math:`\tau = \beta / (1 - \beta)` updates. The faster averages get
    weights that grow linearly, the slowest one the rest:

    .. math::
        w_i = i\,c \;\text{ for } i < K, \qquad w_K = 1 - \tfrac12 K (K - 1)\,c, \qquad
        c = \frac{\tau_K - A}{\sum_{i < K} i\,(\tau_K - \tau_i)}

    They are linear in :math:`A`: where that moves linearly, so does each weight.

    Args:
      decays: :math:`\beta_1 < \dots < \beta_K`, at least two Python numbers in [0, 1).
      mean_age: :math:`A`, in updates.

    Returns:
      :math:`K` weights that add up to 1.

    Raises:
      ValueError: if decays don't increase, or if a Python number :math:`A` is so small or so large that a weight would
        not be positive.

    Example:
      >>> [round(w, 4) for w in weights_of_mean_age([0.85, 0.98], 30.0)]
      [0.4385, 0.5615]

    Reference: Jordan et al., *modded-nanogpt*, track 3, 2026.
    """
    where = "weights_of_mean_age"
    betas = DECAYS.normalize(f"{where}: decays", decays)
    age = AGE.normalize(f"{where}: mean_age", mean_age)
    _check_mixture(where, betas, age)
    return _weights(betas, age)


@elementwise(slots={"averages": Slot(dtype="accumulator_dtype", each="decays")})
def ema_mixture(
    g: Array,
    slot: Slots,
    at: At,
    decays: Annotated[Any, DECAYS],
    weights: Annotated[Any, Numbers(Number("Hyper"))] | None = None,
    *,
    mean_age: Annotated[Any, AGE] | None = None,
    share: Fraction = 1.0,
    accumulator_dtype: DType | None = None,
):
    r"""Replace gradients by a weighted sum of exponential moving averages with different decays.

    .. math::
        m^{(i)}_k = \beta_i m^{(i)}_{k-1} + (1 - \beta_i)\,g_k, \qquad
        m_k = \sum_i w_i \frac{m^{(i)}_k}{1 - \beta_i^k}, \qquad
        u_k = (1 - \mu)\,g_k + \mu\,m_k

    Gradients are then forgotten on several time scales at once: what they count with can fall steeply with their age at
    first, and slowly later. It takes the place of momentum in any chain, as before :func:`orthogonalize_updates`:

      >>> hidden = chain(
      ...     ema_mixture([0.85, 0.98], mean_age=linear_schedule(40.0, 20.0, 2000, 1000), share=0.95),
      ...     orthogonalize_updates(),
      ...     scale_by_learning_rate(0.02),
      ... )
      >>> tx = partition({"matrices": hidden, "rest": adamw(1e-3)}, matrices_and_rest())

    Args:
      decays: :math:`\beta_i` in [0, 1), one or more Python numbers. Static.
      weights: as many numbers or schedules :math:`w_i`, which should add up to 1.
      mean_age: in place of weights, the mean age of gradients in :math:`m`, in updates: a number or a schedule. The
        weights are then those of :func:`weights_of_mean_age`. (The range of a schedule isn't checked.)
      share: :math:`\mu` in [0, 1], the share of the averages beside the current gradient; below 1 the momentum is
        Nesterov's.
      accumulator_dtype: dtype of the stored averages; by default the parameter's, and at least float32. All of them
        together take as many numbers for each parameter as there are decays.

    Raises:
      ValueError: unless there is either one weight for each decay or a mean age that a mixture can have.

    Reference: Jordan et al., *modded-nanogpt*, track 3, 2026: with Muon, two decays of mean age 30 or eight of mean
    ages from 3 to 64, mixed to 58 and later to 26.
    """
    averages = tuple(numerics.ema(m, g, decay) for m, decay in zip(slot.averages, decays, strict=True))
    parts = zip(_weights(decays, mean_age) if weights is None else weights, averages, decays, strict=True)
    mixed = functools.reduce(jnp.add, (w / numerics.one_minus_power(decay, at.t) * m for w, m, decay in parts))
    return numerics.ema(mixed, g, share), slot(averages=averages)


def _checked(self: Any) -> Any:
    if (self.weights is None) == (self.mean_age is None):
        raise ValueError("ema_mixture: give either weights, one for each decay, or mean_age")
    if self.weights is None:
        _check_mixture("ema_mixture", self.decays, self.mean_age)
    elif len(self.weights) != len(self.decays):
        raise ValueError(
            f"ema_mixture: there must be one weight for each decay, got {len(self.weights)} weights for "
            f"{len(self.decays)} decays"
        )
    return self


ema_mixture.Value.checked = _checked

"""Optax's transforms, with its names, arguments and states."""

from typing import Any

from gradchain.optax import _states as _s
from gradchain.optax._base import identity
from gradchain.optax._shown import shown
from gradchain.transforms import adaptive, momentum, scaling


def scale_by_adam(
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_adam`."""
    numbers = {"b1": b1, "b2": b2, "eps": eps, "eps_root": eps_root}
    return shown(adaptive.scale_by_adam, _s.ScaleByAdamState, **numbers, mu_dtype=mu_dtype, nesterov=nesterov)


def trace(decay: Any, nesterov: bool = False, accumulator_dtype: Any = None) -> Any:
    """Optax's signature of :func:`gradchain.trace`."""
    return shown(momentum.trace, _s.TraceState, decay=decay, nesterov=nesterov, accumulator_dtype=accumulator_dtype)


def scale_by_learning_rate(learning_rate: Any = None, *, flip_sign: bool = True) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_learning_rate`; ``None`` leaves updates as they are."""
    if learning_rate is None:
        return identity()
    cls = _s.ScaleByScheduleState if callable(learning_rate) else _s.EmptyState
    return shown(scaling.scale_by_learning_rate, cls, learning_rate=learning_rate, flip_sign=flip_sign)

"""Optimizers of contrib whose rules are gradchain's own: Optax's signatures, and its states."""

from collections.abc import Callable
from typing import Any

from gradchain.optax import _states as _s
from gradchain.optax._combining import chain
from gradchain.optax._shown import shown
from gradchain.optax._transforms import add_decayed_weights, scale_by_learning_rate
from gradchain.transforms import coin_betting, delayed, dual_averaging, mixed_momentum


def scale_by_acprop(b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-16, eps_root: Any = 1e-16) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_acprop`."""
    return shown(delayed.scale_by_acprop, _s.ScaleByBeliefState, b1=b1, b2=b2, eps=eps, eps_root=eps_root)


def acprop(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-16,
    eps_root: Any = 1e-16,
    weight_decay: Any = 0.0,
    mask: Any = None,
) -> Any:
    """Optax's signature of :func:`gradchain.acprop`."""
    return chain(
        scale_by_acprop(b1, b2, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


def scale_by_ademamix(
    b1: Any = 0.9,
    b2: Any = 0.999,
    b3: Any = 0.9999,
    alpha: Any = 6.0,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_ademamix`."""
    values = {"b1": b1, "b2": b2, "b3": b3, "alpha": alpha, "eps": eps, "eps_root": eps_root, "mu_dtype": mu_dtype}
    return shown(mixed_momentum.scale_by_ademamix, _s.ScaleByAdemamixState, **values)


def ademamix(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    b3: Any = 0.9999,
    alpha: Any = 5.0,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    weight_decay: Any = 0.0,
    mask: Any = None,
) -> Any:
    """Optax's signature of :func:`gradchain.ademamix`."""
    return chain(
        scale_by_ademamix(b1, b2, b3, alpha, eps, eps_root, mu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


def scale_by_simplified_ademamix(
    b1: Any = 0.99, b2: Any = 0.95, alpha: Any = 0.0, eps: Any = 1e-8, eps_root: Any = 0.0
) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_simplified_ademamix`."""
    values = {"b1": b1, "b2": b2, "alpha": alpha, "eps": eps, "eps_root": eps_root}
    return shown(mixed_momentum.scale_by_simplified_ademamix, _s.ScaleBySimplifiedAdEMAMixState, **values)


def simplified_ademamix(
    learning_rate: Any,
    b1: Any = 0.99,
    b2: Any = 0.95,
    alpha: Any = 0.0,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    weight_decay: Any = 0.0,
    mask: Any = None,
) -> Any:
    """Optax's signature of :func:`gradchain.simplified_ademamix`."""
    return chain(
        scale_by_simplified_ademamix(b1, b2, alpha, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


def _fourth_root(count: Any) -> Any:
    """Return ADOPT's bound after ``count`` updates."""
    return count**0.25


def scale_by_adopt(
    b1: Any = 0.9,
    b2: Any = 0.9999,
    eps: Any = 1e-6,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    use_clipping: bool = True,
    clip_value_fn: Callable[[Any], Any] = _fourth_root,
) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_adopt`."""
    values = {"b1": b1, "b2": b2, "eps": eps, "mu_dtype": mu_dtype, "nesterov": nesterov}
    bound: dict[str, Any] = {"use_clipping": use_clipping, "clip_value_fn": clip_value_fn}
    return shown(delayed.scale_by_adopt, _s.ScaleByAdamState, **values, **bound)


def adopt(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.9999,
    eps: Any = 1e-6,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    use_clipping: bool = True,
    clip_value_fn: Callable[[Any], Any] = _fourth_root,
) -> Any:
    """Optax's signature of :func:`gradchain.adopt`."""
    options = {"nesterov": nesterov, "use_clipping": use_clipping}
    direction = scale_by_adopt(b1, b2, eps, mu_dtype, clip_value_fn=clip_value_fn, **options)
    return chain(direction, scale_by_learning_rate(learning_rate))


def scale_by_cocob(alpha: Any = 100.0, eps: Any = 1e-8) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_cocob`."""
    return shown(coin_betting.scale_by_cocob, _s.COCOBState, alpha=alpha, eps=eps)


def cocob(
    learning_rate: Any = 1.0, alpha: Any = 100.0, eps: Any = 1e-8, weight_decay: Any = 0.0, mask: Any = None
) -> Any:
    """Optax's signature of :func:`gradchain.cocob`."""
    return chain(
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate, flip_sign=False),
        scale_by_cocob(alpha, eps),
    )


def scale_by_madgrad(learning_rate: Any, momentum: Any = 0.9, eps: Any = 1e-6) -> Any:
    """Optax's signature of :func:`gradchain.scale_by_madgrad`."""
    values = {"learning_rate": learning_rate, "momentum": momentum, "eps": eps}
    return shown(dual_averaging.scale_by_madgrad, _s.MadgradState, **values)


def madgrad(learning_rate: Any, momentum: Any = 0.9, weight_decay: Any = 0.0, eps: Any = 1e-6) -> Any:
    """Optax's signature of :func:`gradchain.madgrad`."""
    return chain(add_decayed_weights(weight_decay), scale_by_madgrad(learning_rate, momentum, eps))

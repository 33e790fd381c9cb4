"""Differentially private gradient descent with Optax's random numbers."""

import warnings
from typing import Any

import jax

from gradchain.core.value import register
from gradchain.optax import _states as _s
from gradchain.optax._base import Functions, Pair, identity
from gradchain.optax._clipping import per_example_global_norm_clip
from gradchain.optax._combining import chain
from gradchain.optax._transforms import scale_by_learning_rate, trace
from gradchain.tree import Tree


@register
class PerExample(Pair):
    """A pair of functions that takes gradients with a leading axis of examples."""

    @property
    def per_example(self) -> bool:
        return True


def differentially_private_aggregate(
    l2_norm_clip: Any, noise_multiplier: Any, key: Any = None, *, seed: int | None = None
) -> Any:
    """Optax's signature of :func:`gradchain.differentially_private_aggregate`."""
    if seed is not None:
        warnings.warn("seed is deprecated; pass it as key", DeprecationWarning, stacklevel=2)
        if key is not None:
            raise ValueError("Only one of seed or key can be specified.")
        key = jax.random.key(seed)
    if key is None:
        warnings.warn("differentially_private_aggregate: a key will be required; key=0 is used", stacklevel=2)
        key = jax.random.key(0)
    first = jax.random.key(key) if isinstance(key, int) else key
    deviation = l2_norm_clip * noise_multiplier

    def init(params: Tree) -> _s.DifferentiallyPrivateAggregateState:
        return _s.DifferentiallyPrivateAggregateState(first)

    def update(updates: Tree, state: Any, params: Tree | None = None) -> tuple[Tree, Any]:
        leaves, treedef = jax.tree.flatten(updates)
        size = leaves[0].shape[0]
        sums, _ = per_example_global_norm_clip(leaves, l2_norm_clip)
        following, *keys = jax.random.split(state.rng_key, len(leaves) + 1)
        noise = [jax.random.normal(k, g.shape, g.dtype) for k, g in zip(keys, sums, strict=True)]
        noisy = [(g + deviation * e) / size for g, e in zip(sums, noise, strict=True)]
        return treedef.unflatten(noisy), _s.DifferentiallyPrivateAggregateState(following)

    return PerExample(Functions(init, update))


def dpsgd(
    learning_rate: Any,
    l2_norm_clip: Any,
    noise_multiplier: Any,
    key: Any = None,
    momentum: Any = None,
    nesterov: bool = False,
    *,
    seed: int | None = None,
) -> Any:
    """Optax's signature of :func:`gradchain.dpsgd`."""
    return chain(
        differentially_private_aggregate(l2_norm_clip, noise_multiplier, key, seed=seed),
        identity() if momentum is None else trace(momentum, nesterov),
        scale_by_learning_rate(learning_rate),
    )

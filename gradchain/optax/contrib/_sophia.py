"""Sophia, and the estimator of the Hessian's diagonal that it uses."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gradchain.combinators._weights import stored, widened
from gradchain.core.foreign import Child
from gradchain.core.hyper import DType, Hyper
from gradchain.core.value import register
from gradchain.matrices.refreshing import refresh
from gradchain.numerics import safe_increment
from gradchain.optax import _states as _s
from gradchain.optax import tree as optax_tree
from gradchain.optax._around import Inner
from gradchain.optax._base import GradientTransformationExtraArgs, identity
from gradchain.optax._combining import chain
from gradchain.optax._parts import wide_zeros
from gradchain.optax._shown import loose
from gradchain.optax._transforms import add_decayed_weights, scale_by_learning_rate
from gradchain.tree import Tree


def hutchinson_estimator_diag_hessian(random_seed: Any = None) -> Any:
    """Optax's signature of :func:`gradchain.hutchinson_estimator_diag_hessian`; ``random_seed`` is a key."""

    def init(params: Tree) -> _s.HutchinsonState:
        return _s.HutchinsonState(jax.random.PRNGKey(0) if random_seed is None else random_seed)

    def update(
        updates: Tree, state: Any, params: Tree | None = None, obj_fn: Any = None, **extra_args: Any
    ) -> tuple[Tree, Any]:
        objective: Any = extra_args.get("value_fn") if obj_fn is None else obj_fn
        for name, given in (("params", params), ("obj_fn", objective)):
            if given is None:
                raise ValueError(f"{name} must be provided to hutchinson update function.")
        key, own = jax.random.split(state.key)
        signs = optax_tree.random_like(own, params, jax.random.rademacher, dtype=jnp.float32)
        signs = jax.tree.map(lambda s, w: s.astype(w.dtype), signs, params)
        _, product = jax.jvp(jax.grad(objective), (params,), (signs,))
        return jax.tree.map(lambda h, s: h * s, product, signs), _s.HutchinsonState(key)

    return GradientTransformationExtraArgs(init, update)


_HUTCHINSON = hutchinson_estimator_diag_hessian()


@register
class ScaleBySophia(Inner):
    """Sophia's scaling: see :func:`gradchain.scale_by_sophia`."""

    name = "scale_by_sophia"
    child = "hessian_diagonal_fn"
    state_field = "hessian_fn_state"

    b1: Hyper = 0.965
    b2: Hyper = 0.99
    eps: Hyper = 1e-8
    gamma: Hyper = 0.01
    clip_threshold: Hyper | None = 1.0
    update_interval: Hyper = 10
    hessian_diagonal_fn: Child = identity()
    mu_dtype: DType | None = None
    print_every: int = 0

    def init(self, params: Tree) -> _s.SophiaState:
        mu = jax.tree.map(lambda x: x if self.mu_dtype is None else x.astype(self.mu_dtype), wide_zeros(params))
        estimator = self.hessian_diagonal_fn.init(params)
        return _s.SophiaState(jnp.zeros((), jnp.int32), mu, wide_zeros(params), estimator)

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        if params is None:
            raise ValueError("sophia: params must be provided to update")
        count, limit = safe_increment(state.count), self.clip_threshold
        mu = optax_tree.update_moment(widened(updates), state.mu, self.b1, 1)
        mean = optax_tree.bias_correction(mu, self.b1, count)
        new = jax.tree.map(lambda m, h: m / jnp.maximum(self.gamma * h, self.eps), mean, state.nu)
        if limit is not None:
            self._report(new, count)
            new = jax.tree.map(lambda u: jnp.clip(u, -limit, limit), new)

        def estimate() -> tuple[Tree, Any]:
            diagonal, inner = self.hessian_diagonal_fn.step(updates, state.hessian_fn_state, params, extra)
            return stored(optax_tree.update_moment(diagonal, state.nu, self.b2, 1), state.nu), inner

        nu, inner = refresh(state.count % self.update_interval == 0, estimate, (state.nu, state.hessian_fn_state))
        return new, _s.SophiaState(count, stored(mu, state.mu), nu, inner)

    def _report(self, scaled: Tree, count: Array) -> None:
        if not self.print_every:
            return
        limit: Any = self.clip_threshold
        inside = sum(jnp.sum(jnp.abs(u) < limit) for u in jax.tree.leaves(scaled))
        rate = inside / optax_tree.size(scaled)
        jax.lax.cond(
            count % self.print_every == 0,
            lambda: jax.debug.print("Sophia optimizer win rate: {}", rate),
            lambda: None,
        )


def sophia(
    learning_rate: Any,
    b1: Any = 0.965,
    b2: Any = 0.99,
    eps: Any = 1e-8,
    weight_decay: Any = 1e-4,
    weight_decay_mask: Any = None,
    gamma: Any = 0.01,
    clip_threshold: Any = 1.0,
    update_interval: Any = 10,
    hessian_diagonal_fn: Any = _HUTCHINSON,
    mu_dtype: Any = None,
    verbose: bool = False,
    print_win_rate_every_n_steps: int = 0,
) -> Any:
    """Optax's signature of :func:`gradchain.sophia`."""
    direction = loose(
        ScaleBySophia,
        b1=b1,
        b2=b2,
        eps=eps,
        gamma=gamma,
        clip_threshold=clip_threshold,
        update_interval=update_interval,
        hessian_diagonal_fn=hessian_diagonal_fn,
        mu_dtype=mu_dtype,
        print_every=print_win_rate_every_n_steps if verbose else 0,
    )
    decay = add_decayed_weights(weight_decay, mask=weight_decay_mask)
    return chain(direction, decay, scale_by_learning_rate(learning_rate))

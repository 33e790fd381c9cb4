"""Adam's later relatives, in Optax's contrib: mixed momentum, lagging denominators, dual averaging, curvature."""

from typing import Any

import jax.numpy as jnp
import optax

import gradchain as gc
from tests import oracles
from tests.registry.row import Row, descent, ramp, ramp_traced, ramp_value, twin


def growing(count: Any) -> Any:
    """Return a weight that grows from 0, as AdEMAMix's alpha does."""
    return 5.0 * (0.1 - ramp_value(count))


def growing_schedule() -> Any:
    """Return the same as a schedule."""
    return 5.0 * (0.1 - ramp())


def squares(g: Any, param: Any = None) -> Any:
    """Return the squares of the real and imaginary parts of g: a stand-in for an estimate of the curvature."""
    return g.real**2 + 1j * g.imag**2 if jnp.iscomplexobj(g) else g**2


SOPHIA = {"b1": 0.8, "b2": 0.5, "eps": 1.0, "gamma": 1.0, "clip_threshold": 0.5, "update_interval": 2}

VARIANT_TRANSFORMS = [
    twin("scale_by_ademamix", oracles.ademamix, theirs=optax.contrib),
    twin(
        "scale_by_simplified_ademamix",
        lambda: oracles.simplified_ademamix(0.9),
        *("", 0.9),
        theirs=optax.contrib,
        optax_complex=False,
    ),
    Row(
        "scale_by_adopt",
        gc.scale_by_adopt,
        lambda: oracles.adopt(clip=oracles.fourth_root),
        optax.contrib.scale_by_adopt,
        optax_complex=False,
    ),
    twin(
        "scale_by_adopt",
        lambda: oracles.adopt(0.8, 0.99, 1e-3, nesterov=True),
        *("nesterov_unclipped", 0.8, 0.99, 1e-3),
        kwargs={"nesterov": True, "use_clipping": False},
        theirs=optax.contrib,
    ),
    twin("scale_by_acprop", oracles.acprop, theirs=optax.contrib),
    Row("scale_by_madgrad", lambda: gc.scale_by_madgrad(0.01), oracles.madgrad, needs_params=True),
    Row(
        "scale_by_sophia",
        lambda: gc.scale_by_sophia(hessian_diagonal_fn=gc.stateless_with_tree_map(squares), **SOPHIA),
        lambda: oracles.sophia(squares, 0.8, 0.5, 1.0, 1.0, 0.5, every=2),
        rebuilds=False,
    ),
    Row(
        "scale_by_sophia_unclipped",
        lambda: gc.scale_by_sophia(
            eps=0.1, gamma=1.0, clip_threshold=None, hessian_diagonal_fn=gc.add_noise(0.1, 0.0, 7)
        ),
    ),
]

VARIANT_OPTIMIZERS = [
    Row(
        "ademamix",
        lambda: gc.ademamix(0.01, alpha=growing_schedule(), eps_root=1e-8, weight_decay=0.1),
        lambda: descent(oracles.ademamix(alpha=growing, eps_root=1e-8), oracles.weight_decay(0.1)),
        lambda: optax.contrib.ademamix(
            0.01, alpha=lambda count: 5.0 * (0.1 - ramp_traced(count)), eps_root=1e-8, weight_decay=0.1
        ),
        needs_params=True,
    ),
    twin(
        "simplified_ademamix",
        lambda: descent(oracles.simplified_ademamix(0.9, alpha=2.0), oracles.weight_decay(0.1), rate=0.001),
        *("", 0.001, 0.9, 0.95, 2.0),
        kwargs={"weight_decay": 0.1},
        theirs=optax.contrib,
        optax_complex=False,
        needs_params=True,
    ),
    twin(
        "adopt",
        lambda: descent(oracles.adopt(clip=oracles.fourth_root)),
        *("", 0.01),
        theirs=optax.contrib,
        optax_complex=False,
    ),
    twin(
        "acprop",
        lambda: descent(oracles.acprop(), oracles.weight_decay(0.1)),
        *("", 0.01),
        kwargs={"weight_decay": 0.1},
        theirs=optax.contrib,
        needs_params=True,
    ),
    Row(
        "madgrad",
        lambda: gc.madgrad(ramp(), 0.8, 0.1),
        lambda: oracles.chain(oracles.weight_decay(0.1), oracles.madgrad(ramp_value, 0.8)),
        needs_params=True,
    ),
    Row(
        "sophia",
        lambda: gc.sophia(0.01, weight_decay=0.1, hessian_diagonal_fn=gc.stateless_with_tree_map(squares), **SOPHIA),
        lambda: descent(oracles.sophia(squares, 0.8, 0.5, 1.0, 1.0, 0.5, every=2), oracles.weight_decay(0.1)),
        lambda: optax.contrib.sophia(
            0.01, weight_decay=0.1, hessian_diagonal_fn=optax.stateless_with_tree_map(squares), **SOPHIA
        ),
        optax_complex=False,
        needs_params=True,
        rebuilds=False,
    ),
]

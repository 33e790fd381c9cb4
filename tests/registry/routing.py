"""Transforms of some parameters only, and transforms side by side."""

import jax
import jax.numpy as jnp
import optax

import gradchain as gc
from tests import oracles
from tests.registry.row import Row, descent

NOT_SCALE = {"bias": True, "kernel": True, "scale": False}


def by_shape(params):
    """Return the labels that ``matrices_and_rest()`` gives to trees without telling names."""
    return jax.tree.map(lambda x: "matrices" if x.ndim == 2 else "rest", params)


def has_axes(path, leaf):
    """Return whether an array is no scalar."""
    return leaf.ndim > 0


def no_axes(path, leaf):
    """Return whether an array is a scalar."""
    return leaf.ndim == 0


def two_axes(name, w):
    """Return whether an oracle's array is a matrix."""
    return w.ndim == 2


def other(name, w):
    """Return whether it isn't."""
    return w.ndim != 2


ROUTING = [
    Row(
        "masked",
        lambda: gc.masked(gc.sgd(0.01, momentum=0.9), NOT_SCALE),
        lambda: oracles.routed(descent(oracles.trace(0.9)), lambda name, w: name != "scale"),
        lambda: optax.masked(optax.sgd(0.01, momentum=0.9), NOT_SCALE),
        any_tree=False,
    ),
    Row(
        "masked_by_leaf",
        lambda: gc.masked(gc.add_decayed_weights(0.1), gc.by_leaf(has_axes)),
        lambda: oracles.routed(oracles.weight_decay(0.1), has_axes),
        lambda: optax.masked(optax.add_decayed_weights(0.1), lambda params: jax.tree.map(jnp.ndim, params)),
        needs_params=True,
        rebuilds=False,
    ),
    Row(
        "partition",
        lambda: gc.partition({"rest": gc.sgd(0.1, momentum=0.9), "matrices": gc.adam(0.01)}, gc.matrices_and_rest()),
        lambda: oracles.chain(
            oracles.routed(descent(oracles.trace(0.9), rate=0.1), other),
            oracles.routed(descent(oracles.adam()), two_axes),
        ),
        lambda: optax.partition({"rest": optax.sgd(0.1, momentum=0.9), "matrices": optax.adam(0.01)}, by_shape),
    ),
    Row(
        "selective_transform",
        lambda: gc.selective_transform(gc.adafactor(0.01, 2, eps=1e-8), freeze_mask=gc.by_leaf(no_axes)),
        lambda: oracles.chain(
            oracles.routed(
                descent(
                    oracles.factored_rms(least=2, eps=1e-8), oracles.clip_by_block_rms(1.0), oracles.param_block_rms()
                ),
                has_axes,
            ),
            oracles.routed(oracles.set_to_zero(), no_axes),
        ),
        needs_params=True,
        rebuilds=False,
        smooth=False,
    ),
    Row(
        "parallel_graft",
        lambda: gc.parallel(gc.sgd(0.1, momentum=0.9), gc.scale_by_adam(), merge=gc.graft),
        lambda: oracles.grafted(descent(oracles.trace(0.9), rate=0.1), oracles.adam()),
        rebuilds=False,
    ),
    Row(
        "parallel_graft_global",
        lambda: gc.parallel(gc.trace(0.9), gc.scale_by_sign(), merge=gc.graft_global),
        lambda: oracles.grafted(oracles.trace(0.9), oracles.sign(), together=True),
        rebuilds=False,
    ),
]

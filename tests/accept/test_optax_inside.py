"""optax's transformations as stages of a gradchain ``chain``, and under gradchain's wrappers."""

from types import SimpleNamespace

import jax.numpy as jnp
import optax
import pytest

import gradchain as gc
from tests.accept.problem import TOLERANCE, assert_close, assert_dtype, each_dtype, mlp, train_mlp, with_float32_state

pytestmark = pytest.mark.accept

FLOAT32_OPTAX = SimpleNamespace(
    chain=optax.chain,
    named_chain=optax.named_chain,
    scale=lambda factor: with_float32_state(optax.scale(factor)),
    clip=lambda bound: with_float32_state(optax.clip(bound)),
    sgd=lambda rate, **options: with_float32_state(optax.sgd(rate, **options)),
)
"""optax, computing in float32 where the mixes below take gradchain's own stages."""

MIXES = {
    "scale_by_adam": lambda library: library.chain(optax.scale_by_adam(), library.scale(-0.03)),
    "clip": lambda library: library.chain(optax.clip(0.1), library.sgd(0.1, momentum=0.9)),
    "clip_by_global_norm": lambda library: library.chain(optax.clip_by_global_norm(0.5), library.sgd(0.1)),
    "between": lambda library: library.chain(library.clip(0.3), optax.normalize_by_update_norm(), library.scale(-0.05)),
    "needs_params": lambda library: library.chain(optax.scale_by_trust_ratio(), library.scale(-0.03)),
    "MultiSteps": lambda library: library.chain(
        optax.MultiSteps(optax.scale_by_adam(), every_k_schedule=3).gradient_transformation(), library.scale(-0.03)
    ),
    "reduce_on_plateau": lambda library: library.chain(
        library.sgd(0.3), optax.contrib.reduce_on_plateau(factor=0.5, patience=1, rtol=0.05, accumulation_size=3)
    ),
    "polyak": lambda library: library.chain(library.scale(0.5), optax.polyak_sgd(max_learning_rate=0.1)),
    "line_search": lambda library: library.chain(
        library.scale(-1.0), optax.scale_by_backtracking_linesearch(max_backtracking_steps=10)
    ),
    "named": lambda library: library.named_chain(("adam", optax.scale_by_adam()), ("rate", library.scale(-0.03))),
}


@each_dtype
@pytest.mark.parametrize("name", MIXES)
def test_chain_with_optax_stages_trains_like_all_optax(name, dtype):
    params, losses = train_mlp(MIXES[name](gc), dtype)
    want, want_losses = train_mlp(MIXES[name](FLOAT32_OPTAX), dtype)
    assert_dtype(params, dtype)
    assert losses[-1] < losses[0]
    assert_close(losses, want_losses, TOLERANCE[dtype])
    assert_close(params, want, TOLERANCE[dtype])


@each_dtype
def test_gradchain_chain_hands_value_to_optax_stages(dtype):
    plateau = optax.contrib.reduce_on_plateau(factor=0.5, patience=1, rtol=1.0, accumulation_size=1)
    tx, params = gc.chain(gc.sgd(1.0), plateau), mlp(dtype)
    state = tx.init(params)
    for _ in range(4):
        _, state = tx.update(params, state, params, value=jnp.float32(1.0))
    assert state[1].scale < 1.0


@each_dtype
def test_to_optax_and_from_optax_undo_each_other_in_effect(dtype):
    tx = gc.adamw(0.03, weight_decay=0.01)
    params, _ = train_mlp(gc.from_optax(gc.to_optax(tx)), dtype)
    assert_close(params, train_mlp(tx, dtype)[0], 0)

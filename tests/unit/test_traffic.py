"""No compiled step moves more memory than Optax's: counted in the compiled program, so that no clock is needed."""

import jax
import jax.numpy as jnp
import optax
import pytest
from optax import contrib

import gradchain as gc
from tests import public
from tests.benchmarks.test_optimizers import CASES, EXTRA

SHAPES = {"kernel": (64, 64), "wide": (32, 128), "bias": (512,)}
MORE = {
    "dog(1.0)": "counts the branch of the first step, which needs the start's norm",
    "schedule_free_adamw(1e-3)": "keeps the step itself in memory, and doesn't subtract large numbers to get it back",
}
"""What moves more, and why."""


def words(library, tx, extra):
    """Return how many words a compiled step reads and writes for each parameter."""
    params = {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in SHAPES.items()}

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params, **extra)
        return library.apply_updates(params, updates), state

    arguments = (params, jax.eval_shape(tx.init, params), params)
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*arguments).compile()
    return compiled.cost_analysis()["bytes accessed"] / sum(4 * jnp.zeros(s).size for s in SHAPES.values())


@pytest.mark.slow
@pytest.mark.parametrize("call", CASES)
def test_a_step_moves_no_more_memory_than_optax(call):
    extra = EXTRA if call.startswith(("polyak", "momo")) else {}
    ours, theirs = (
        words(library, eval(call, dict(names)), extra)
        for library, names in ((gc, public.NAMES), (optax, vars(contrib) | vars(optax)))
    )
    assert (ours > 1.01 * theirs) == (call in MORE)

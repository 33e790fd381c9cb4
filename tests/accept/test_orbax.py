"""orbax: a training state saved and restored bit for bit, with PRNG keys, schedules' counts and steered numbers."""

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest

import gradchain as gc
from tests.accept.problem import each_dtype

pytestmark = pytest.mark.accept

TRANSFORMS = {
    "adamw": gc.adamw(lambda count: 0.1 / (1 + count)),
    "noise": gc.chain(gc.add_noise(0.01, 0.55, key=3), gc.scale_by_adam(mu_dtype="bfloat16"), gc.scale(-0.1)),
    "named": gc.named_chain(("clip", gc.clip_by_global_norm(1.0)), ("rms", gc.rmsprop(0.1, momentum=0.9))),
    "steered": gc.hyperparams_in_state(gc.sgd(0.1, momentum=0.9)),
    "masked": gc.adamw(0.1, mask={"w": True, "frozen": {"b": False}}),
    "stateless": gc.sgd(0.1),
    "stored": gc.store(gc.adam(0.1), mu="int4", nu="float8", min_size=0),
    "half": gc.master_weights(gc.store(gc.adam(0.1), "bfloat16", min_size=0), bits=8),
}


def run(tx, params, state, steps):
    def body(carry, _):
        params, state = carry
        updates, state = tx.update(jax.tree.map(lambda p: p - 1, params), state, params)
        return (gc.apply_updates(params, updates), state), None

    return jax.jit(lambda carry: jax.lax.scan(body, carry, length=steps)[0])((params, state))


def assert_identical(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert x.dtype == y.dtype
        assert (x == y).all()


@each_dtype
@pytest.mark.parametrize("name", TRANSFORMS)
def test_restored_state_continues_bit_for_bit(name, dtype, tmp_path):
    tx = TRANSFORMS[name]
    params = {"w": jnp.linspace(-1, 1, 6, dtype=dtype).reshape(2, 3), "frozen": {"b": jnp.zeros(3, dtype)}}
    params, state = run(tx, params, tx.init(params), 3)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", {"params": params, "state": state})
        checkpointer.wait_until_finished()
        abstract = {"params": params, "state": jax.eval_shape(tx.init, params)}
        restored = checkpointer.restore(tmp_path / "state", abstract)
    assert_identical(restored, {"params": params, "state": state})
    assert_identical(run(tx, restored["params"], restored["state"], 3), run(tx, params, state, 3))


def test_a_typed_key_in_the_transform_leaves_plain_arrays_in_the_state():
    tx = gc.add_noise(0.01, 0.55, key=jax.random.key(7, impl="rbg"))
    assert tx.init(jnp.zeros(3)).key.dtype == jnp.uint32

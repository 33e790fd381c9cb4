"""Slices of a large batch give what the whole batch gives, in the memory of a slice; early stopping under jit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradchain.training import EarlyStopping, microbatch
from tests import trees

RNG = np.random.default_rng(0)
PARAMS = {"w": jnp.asarray(RNG.standard_normal((4, 64)), "float32"), "v": jnp.ones(64)}


def data(n, seed=1):
    rng = np.random.default_rng(seed)
    return {
        "x": jnp.asarray(rng.standard_normal((n, 4)), "float32"),
        "y": jnp.asarray(rng.standard_normal(n), "float32"),
    }


def loss_fn(params, batch, scale=1.0):
    """Return the mean loss, and each example's residual."""
    residual = jnp.tanh(batch["x"] @ params["w"]) @ params["v"] - batch["y"]
    return scale * jnp.mean(residual**2), {"residual": residual, "worst": jnp.sum(residual > 1)}


FUNCTION = jax.value_and_grad(loss_fn, has_aux=True)
COMBINE = (("mean", {"residual": "concatenate", "worst": "sum"}), "mean")


@pytest.mark.parametrize(("n", "size"), [(12, 4), (14, 4), (5, 1), (7, 9)])
def test_slices_equal_the_full_batch(n, size):
    batch = data(n)
    sliced = microbatch(FUNCTION, size, combine=COMBINE)(PARAMS, batch, 2.0)
    full = FUNCTION(PARAMS, batch, 2.0)
    trees.assert_close(sliced, full, 1e-5)
    trees.assert_same_kind(sliced, full)


def test_rows_come_in_the_order_of_the_examples():
    rows = microbatch(lambda _, x: x, 3, combine="concatenate")(None, jnp.arange(14))
    np.testing.assert_array_equal(rows, np.arange(14))


def test_it_takes_the_memory_of_a_slice():
    batch = data(4096)

    def temporary(function):
        return jax.jit(function).lower(PARAMS, batch).compile().memory_analysis().temp_size_in_bytes

    full = temporary(FUNCTION)
    sliced = temporary(
        microbatch(FUNCTION, 64, combine=(("mean", {"residual": "concatenate", "worst": "sum"}), "mean"))
    )
    assert full > 4096 * 64 * 4
    assert sliced < full / 8


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_summed_in_single(dtype):
    """255 ones and one 257 sum to 512, and in bfloat16 from 256 on a 1 is lost."""
    values = jnp.ones(512, dtype)
    total = microbatch(lambda _, x: jnp.sum(x), 1, combine="sum")(None, values)
    assert total.dtype == dtype
    assert total == 512


def test_batches_in_several_arguments_and_keys_for_each_example():
    def noisy(x, scale, keys):
        return jnp.mean(scale * x * jax.vmap(jax.random.normal)(keys))

    x, keys = jnp.arange(6.0), jax.random.split(jax.random.key(0), 6)
    sliced = microbatch(noisy, 4, batch_argnums=(0, 2))(x, 3.0, jax.random.key_data(keys))
    np.testing.assert_allclose(sliced, noisy(x, 3.0, keys), rtol=1e-5)


def test_whole_numbers_are_averaged_as_numbers_and_summed_as_they_are():
    counts = jnp.array([1, 2, 4, 8])
    mean = microbatch(lambda _, x: jnp.sum(x), 2)(None, counts)
    total = microbatch(lambda _, x: jnp.sum(x), 2, combine="sum")(None, counts)
    assert (mean.dtype, total.dtype) == ("float32", "int32")
    assert (mean, total) == (7.5, 15)


def test_under_vmap_and_jit():
    batches = jax.tree.map(lambda *xs: jnp.stack(xs), data(10, 1), data(10, 2))
    sliced = jax.jit(jax.vmap(microbatch(FUNCTION, 4, combine=COMBINE), in_axes=(None, 0)))(PARAMS, batches)
    trees.assert_close(sliced, jax.vmap(FUNCTION, in_axes=(None, 0))(PARAMS, batches), 1e-5)


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="microbatch: size must be a whole number, at least 1, got 0"):
        microbatch(FUNCTION, 0)
    with pytest.raises(ValueError, match="combine must be made of mean, sum, concatenate, got 'max'"):
        microbatch(FUNCTION, 2, combine=("mean", "max"))
    with pytest.raises(
        ValueError, match=r"shape \(2,\) for 2 examples and \(8,\) for all 8 can't be combined by 'mean'"
    ):
        microbatch(FUNCTION, 2)(PARAMS, data(8))
    with pytest.raises(ValueError, match=r"shape \(\) for 2 examples and \(\) for all 8 .* 'concatenate'"):
        microbatch(FUNCTION, 2, combine="concatenate")(PARAMS, data(8))
    with pytest.raises(ValueError, match="microbatch: the arrays differ in their number of examples"):
        microbatch(FUNCTION, 2)(PARAMS, {"x": jnp.ones((3, 4)), "y": jnp.ones(2)})


def test_early_stopping_inside_a_scan():
    losses = jnp.array([3.0, 2.0, 1.95, 1.5, 1.49, 1.48, 1.47, 1.46, jnp.nan])
    stopping = EarlyStopping(patience=3, tolerance=0.1)

    def step(state, loss):
        state = stopping.update(loss, state)
        return state, state

    end, states = jax.jit(lambda xs: jax.lax.scan(step, stopping.init(), xs))(losses)
    assert states.improved.tolist() == [True, True, False, True, False, False, False, False, False]
    assert states.should_stop.tolist() == [False] * 6 + [True] * 3
    assert states.waited.tolist() == [0, 0, 1, 0, 1, 2, 3, 4, 5]
    assert end.best == 1.5
    trees.assert_same_kind(end, stopping.init())

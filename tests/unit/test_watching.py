"""Watching: measurements in a state of fixed structure, and everything to log in one dict."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradchain as gc
from tests import trees
from tests.unit.test_accumulation import NAN, run, stream

ONES = jnp.ones(2)


def norm_is_large(updates):
    return gc.global_norm(updates) > 0.5


def both(lib, first):
    return lib.chain(
        lib.snapshot("before", first),
        lib.clip_by_global_norm(1.0),
        lib.monitor({"average": lib.measure_with_ema(norm_is_large, 0.9), "momentum": lib.trace(0.5), "after": first}),
    )


def test_measurements_agree_with_optax():
    gradients, params = stream(5, 0), trees.standard()
    (_, ours), (_, theirs) = (run(both(lib, gc.global_norm), gradients, params) for lib in (gc, optax))
    assert 0 < ours[2].measurements["average"] < 1
    trees.assert_close(
        (ours[0].measurements, ours[2].measurements), (theirs[0].measurement, theirs[2].measurements), 1e-6
    )


def test_the_state_can_be_carried_here_and_not_there():
    gradients, params = trees.stream(3), trees.standard()

    def scan(lib):
        tx = both(lib, gc.global_norm)
        return jax.lax.scan(lambda s, g: tx.update(g, s, params)[::-1], tx.init(params), gradients)[0]

    assert scan(gc)[2].measurements.keys() == {"average", "momentum", "after"}
    with pytest.raises(TypeError, match="structure"):
        scan(optax)


def test_measurements_start_at_zero_here_and_at_that_of_the_parameters_there():
    params = trees.standard()
    assert gc.snapshot("norm", gc.global_norm).init(params).measurements["norm"] == 0
    assert optax.snapshot("norm", gc.global_norm).init(params).measurement["norm"] == gc.global_norm(params)


def test_the_state_is_fixed_whatever_the_dtype():
    for dtype in ("float32", "bfloat16", "complex64"):
        params = trees.standard(dtype)
        tx = both(gc, lambda u: {"largest": jnp.max(jnp.abs(u["kernel"])), "sign": jnp.sign(u["bias"])})
        state = tx.init(params)
        trees.assert_same_kind(tx.update(params, state, params)[1], state)


def test_a_measurement_must_keep_its_structure():
    seen = []

    def changing(updates):
        seen.append(1)
        return {str(len(seen)): jnp.zeros(())}

    tx = gc.monitor({"bad": changing})
    with pytest.raises(ValueError, match="monitor: measurements must keep their structure"):
        tx.update(ONES, tx.init(ONES))
    with pytest.raises(TypeError, match="monitor: norm must be a function of the updates or a transform, got 3"):
        gc.monitor({"norm": 3})


def test_measures_have_names_and_numbers():
    tx = gc.monitor({"average": gc.measure_with_ema(gc.global_norm, 0.9), "norm": gc.global_norm})
    assert gc.hyperparams(tx) == {"average.ema.decay": 0.9}
    assert tx.replace(decay=0.5) == gc.monitor(
        {"average": gc.measure_with_ema(gc.global_norm, 0.5), "norm": gc.global_norm}
    )
    assert repr(tx).startswith("monitor({'average': measure_with_ema(<function global_norm")


def everything():
    clipped = gc.watch(gc.clip_by_global_norm(1.0), "clip")
    inner = gc.chain(clipped, gc.adam(gc.linear_schedule(0.1, 0.0, 10)), gc.monitor({"norm": gc.global_norm}))
    return gc.watch(gc.accumulate(gc.apply_if_finite(inner, 3), 2, should_skip_update_fn=gc.skip_not_finite))


def test_metrics_are_one_flat_dict_of_numbers():
    tx = everything()
    gradients = [0.1 * ONES, 0.1 * ONES, NAN, 5 * ONES, 5 * ONES, ONES]
    found = jax.jit(gc.metrics)(tx, run(tx, gradients, ONES)[1])
    assert all(x.shape == () for x in found.values())
    expected = {
        "scale_by_learning_rate.learning_rate": 0.08,
        "gradient_norm": 2**0.5,
        "update_norm": 0.0,
        "changed": 6,
        "rounded_away": 0.0,
        "accumulate.skipped": 1,
        "accumulate.emitted": 2,
        "apply_if_finite.not_finite": 0,
        "clip.changed": 1,
        "clip.update_norm": 1.0,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)
    assert float(found["norm"]) > 0


def test_metrics_have_the_same_names_from_init_on_and_batch():
    tx = everything()
    start, later = gc.metrics(tx, tx.init(ONES)), gc.metrics(tx, run(tx, [ONES] * 3, ONES)[1])
    assert list(start) == list(later)
    batch = gc.watch(gc.sgd(jnp.array([0.1, 0.2])))

    def measured(tx):
        return gc.metrics(tx, run(tx, [ONES], ONES)[1])

    found = jax.vmap(measured, in_axes=(gc.batch_axes(batch),))(batch)
    np.testing.assert_allclose(found["update_norm"], np.array([0.1, 0.2]) * 2**0.5, rtol=1e-6)
    np.testing.assert_allclose(found["scale_by_learning_rate.learning_rate"], [0.1, 0.2])


def test_equal_names_are_numbered_and_labels_come_first():
    tx = gc.named_chain(
        ("a", gc.watch(gc.sgd(0.1), "x")), ("b", gc.chain(gc.watch(gc.clip(1.0)), gc.watch(gc.clip(2.0))))
    )
    names = gc.metrics(tx, tx.init(ONES)).keys()
    assert {"a.x.update_norm", "b.update_norm", "b.update_norm_2", "a.scale_by_learning_rate.learning_rate"} <= names


def test_what_is_no_single_number_is_left_out():
    tx = gc.monitor({"sign": jnp.sign, "both": lambda u: {"min": u.min(), "max": u.max()}})
    state = run(tx, [jnp.array([1.0, 2.0])], ONES)[1]
    assert gc.metrics(tx, state) == {"both.max": 2.0, "both.min": 1.0}


def test_updates_that_round_away_are_noticed():
    params = {"half": jnp.array([1, 1, 1, 0], "bfloat16"), "single": jnp.ones(4), "none": jnp.ones(3)}
    updates = {"half": jnp.array([1e-3, 1e-2, 0, 1e-9]), "single": jnp.full(4, 1e-9), "none": None}
    assert gc.share_rounded_away(params, updates) == 5 / 7
    assert gc.share_rounded_away(params, {"half": jnp.zeros(4), "single": jnp.zeros(4), "none": None}) == 0


def test_a_learning_rate_too_small_for_bfloat16_shows_in_the_metrics():
    for dtype, expected in (("bfloat16", 1.0), ("float32", 0.0)):
        params = jnp.ones(16, dtype)
        tx = gc.watch(gc.adam(1e-3))
        assert gc.metrics(tx, run(tx, [params], params)[1])["rounded_away"] == expected

"""Steps by loops in C++ against XLA's programs, which they stand for."""

import os
import re
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from gradchain import training
from gradchain.native import in_place, library
from gradchain.native.steps import LEAST
from tests.trees import assert_close

CACHE = Path(__file__).parents[2] / ".cache" / "native"
SHAPE = (3, LEAST // 2 + 7)
"""More than a kernel asks for: some shares and a rest."""


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(CACHE))
    monkeypatch.setenv(library.SWITCH, "1")
    if not library.location().exists():
        library.build()
    assert library.available()


def arrays(dtype=jnp.float32, shape=SHAPE):
    """Return parameters and two gradients, of a large array and a small one."""
    params, *grads = (
        {"small": jnp.ones(3, dtype), "w": scale * jax.random.normal(key, shape, dtype)}
        for scale, key in zip((1, 10, 10), jax.random.split(jax.random.key(0), 3), strict=True)
    )
    return params, *grads


def step(tx, grads, state, params):
    return gc.update_params(tx, grads, state, params)


def plain(tx, grads, state, params):
    updates, state = tx.update(grads, state, params)
    return gc.apply_updates(params, updates), state


def uses_kernel(function, *arguments):
    return kernels_of(function, *arguments) > 0


def kernels_of(function, *arguments):
    """Return how many kernels a compiled function calls."""
    return jax.jit(lambda *x: function(*x)).lower(*arguments).as_text().count(f"@{library.TARGET}")


def both(function, *arguments):
    """Return what a compiled function gives with the kernel, and without it."""
    results = []
    for switch in "10":
        os.environ[library.SWITCH] = switch
        results.append(jax.jit(lambda *x: function(*x))(*arguments))
    os.environ[library.SWITCH] = "1"
    return results


def of(slot, state):
    return np.asarray(gc.tree.get(state, slot)["w"], np.float64)


CHAINS = {
    "adamw": gc.adamw(1e-2, weight_decay=0.3),
    "adam": gc.adam(gc.linear_schedule(1e-2, 1e-3, 10), b1=0.8, eps=0.1, eps_root=0.2),
    "clip_adamw": gc.chain(gc.clip_by_global_norm(2.0), gc.adamw(1e-2, weight_decay=0.3)),
    "traced": gc.adamw(jnp.float32(1e-2), b2=jnp.float32(0.99), weight_decay=jnp.float32(0.1)),
    "no_eps": gc.adamw(1e-2, eps=0.0, weight_decay=0.3),
    "masked": gc.adamw(1e-2, weight_decay=0.3, mask={"small": True, "w": False}),
    "sgd": gc.sgd(1e-3, momentum=0.9),
    "nesterov": gc.sgd(1e-3, momentum=0.9, nesterov=True),
    "clip_sgd": gc.chain(gc.clip_by_global_norm(50.0), gc.sgd(0.05, momentum=0.9)),
    "lion": gc.lion(1e-2, weight_decay=0.3),
    "clip_lion": gc.chain(gc.clip_by_global_norm(2.0), gc.lion(1e-2, b1=0.8)),
}
CASES = [
    pytest.param(tx, dtype, id=f"{name}-{dtype}", marks=() if ordinary else pytest.mark.slow)
    for name, tx in CHAINS.items()
    for dtype, ordinary in (("float32", True), ("bfloat16", name in ("lion", "nesterov")))
]


@pytest.mark.parametrize(("tx", "dtype"), CASES)
def test_it_gives_what_xla_gives_up_to_one_rounding(tx, dtype):
    params, first, grads = arrays(dtype)
    _, state = jax.jit(tx.update)(first, tx.init(params), params)
    assert uses_kernel(step, tx, grads, state, params)
    (new, fast), (expected, slow) = both(step, tx, grads, state, params)
    eps, old, g, got, wanted = 2.0**-23, *(np.asarray(x["w"], np.float64) for x in (params, grads, new, expected))
    average, *square = [name for name in ("mu", "trace", "nu") if gc.tree.get(state, name, None) is not None]
    assert np.all(np.abs(of(average, fast) - of(average, slow)) <= eps * (np.abs(of(average, state)) + np.abs(g)))
    for name in square:
        assert np.all(np.abs(of(name, fast) - of(name, slow)) <= 2 * eps * of(name, slow))
    if dtype == "float32":
        assert np.all(np.abs(got - wanted) <= eps * (np.abs(old) + 0.1))
    else:
        assert np.mean(got != wanted) < 1e-3
        assert np.all(np.abs(got - wanted) <= 2.0**-7 * (np.abs(old) + 0.1))
    assert np.median(np.abs(wanted - old)) > 1e-3
    assert jax.tree.map(lambda x: (x.shape, x.dtype), (new, fast)) == jax.tree.map(
        lambda x: (x.shape, x.dtype), (params, state)
    )
    assert jnp.array_equal(new["small"], expected["small"])


def test_it_is_what_update_and_apply_updates_give():
    tx, (params, grads, _) = CHAINS["adamw"], arrays(jnp.bfloat16)
    params["middle"], grads["middle"] = (x["w"][0, :5000] for x in (params, grads))
    new, fast = jax.jit(step)(tx, grads, tx.init(params), params)
    expected, slow = jax.jit(plain)(tx, grads, tx.init(params), params)
    assert np.mean(np.asarray(new["w"] != expected["w"])) < 1e-3
    assert jnp.array_equal(new["middle"], expected["middle"])
    assert_close(fast, slow, 1e-6)


@pytest.mark.parametrize(("name", "slots"), [("adamw", 2), ("sgd", 1), ("lion", 1)])
def test_it_reads_and_writes_each_array_once_in_place(name, slots):
    tx, (params, grads, _) = CHAINS[name], arrays()
    state = tx.init(params)
    compiled = jax.jit(lambda p, s, g: step(tx, g, s, p), donate_argnums=(0, 1)).lower(params, state, grads).compile()
    shape = re.escape(f"f32[{SHAPE[0]},{SHAPE[1]}]")
    (operands,) = re.findall(rf"custom-call\(([^)]*)\), custom_call_target=\"{library.TARGET}", compiled.as_text())
    made = set(re.findall(rf"= {shape}\S* ([\w-]+)\(", compiled.as_text()))
    assert len(operands.split(",")) == 3 + slots  # the numbers, gradient, parameter, and slots
    assert made == {"parameter", "get-tuple-element"}  # the results; nothing else is as large, and none is copied
    assert compiled.memory_analysis().temp_size_in_bytes < params["w"].nbytes / 10


@pytest.mark.parametrize(("dtype", "rtol"), [(jnp.float32, 1e-6), (jnp.bfloat16, 2.0**-7)])
def test_huge_gradients_are_clipped_zeros_give_zero_and_nan_stays(dtype, rtol):
    tx, (params, grads, _) = CHAINS["no_eps"], arrays(dtype)
    grads["w"] = grads["w"].at[0, :5].set(jnp.array([jnp.inf, -jnp.inf, jnp.nan, 3e38, 0], dtype))
    (new, fast), (expected, slow) = both(step, tx, grads, tx.init(params), params)
    assert jnp.isnan(new["w"][0]).tolist()[:5] == [False, False, True, False, False]
    np.testing.assert_allclose(*(x["w"].astype(jnp.float32) for x in (new, expected)), rtol=rtol, atol=1e-8)
    np.testing.assert_allclose(of("nu", fast), of("nu", slow), rtol=1e-6)


def test_without_decay_an_infinite_parameter_stays_infinite():
    tx, (params, grads, _) = CHAINS["adam"], arrays()
    params["w"] = params["w"].at[0, 0].set(jnp.inf)
    for new, _ in both(step, tx, grads, tx.init(params), params):
        assert new["w"][0, 0] == jnp.inf


def test_steps_in_a_scan_are_steps_in_a_loop():
    tx, (params, *_) = CHAINS["adamw"], arrays()
    jitted = jax.jit(lambda p, s: step(tx, jax.tree.map(jnp.sin, p), s, p))

    @jax.jit
    def scanned(p, s):
        return jax.lax.scan(lambda carry, _: (jitted(*carry), None), (p, s), length=3)[0]

    assert uses_kernel(scanned, params, tx.init(params))
    looped = params, tx.init(params)
    for _ in range(3):
        looped = jitted(*looped)
    assert_close(scanned(params, tx.init(params)), looped, 1e-6)


def test_batches_and_derivatives_are_those_of_xlas_program():
    params, grads, _ = arrays()

    def after(rate, params):
        tx = gc.adamw(rate, weight_decay=0.1)
        return step(tx, grads, tx.init(params), params)[0]["w"]

    def mapped(rates):
        return jax.vmap(after, in_axes=(0, None))(rates, params)

    def slope(rate):
        return jax.grad(lambda rate: jnp.sum(jnp.square(after(rate, params))))(rate)

    def tangent(params):
        return jax.jvp(lambda params: after(0.5, params), (params,), (params,))[1]

    rates = jnp.array([1e-3, 1e-1])
    assert not uses_kernel(mapped, rates)
    for function, argument in ((mapped, rates), (slope, rates[0]), (tangent, params)):
        fast, slow = both(function, argument)
        assert jnp.any(slow != 0)
        assert_close(fast, slow, 1e-6)
    np.testing.assert_allclose(tangent(params), 0.95 * params["w"], rtol=1e-5)


@gc.elementwise(slots={"peak": gc.Slot()})
def scale_by_peak(g, slot, at, decay: gc.Hyper = 0.9):
    """Divide by the largest gradient so far, which is forgotten slowly: a rule of one's own."""
    peak = jnp.where(jnp.abs(g) >= decay * slot.peak, jnp.abs(g), decay * slot.peak)
    return jnp.where(peak == 0, 0, g / peak), slot(peak=peak)


ELEMENTWISE = {
    "adagrad": gc.adagrad(1e-2),
    "adamax": gc.adamax(1e-2),
    "adan": gc.adan(1e-2),
    "amsgrad": gc.amsgrad(1e-2),
    "another_order": gc.chain(gc.add_decayed_weights(0.1), gc.scale_by_adam(), gc.scale_by_learning_rate(1e-2)),
    "another_rule": gc.chain(gc.adam(1e-2), gc.clip(1e-4)),
    "ascent": gc.chain(gc.scale_by_adam(), gc.scale_by_learning_rate(1e-2, flip_sign=False)),
    "nadamw": gc.nadamw(1e-2),
    "narrow_slot": gc.adam(1e-2, mu_dtype="bfloat16"),
    "one's own": gc.chain(scale_by_peak(), gc.scale_by_learning_rate(1e-2)),
    "radam": gc.radam(1e-3),
    "rmsprop": gc.rmsprop(1e-2),
    "sgd_with_decay": gc.sgd(1e-3, momentum=0.9, weight_decay=0.3),
    "yogi": gc.yogi(1e-2),
}


@pytest.mark.slow
def test_every_elementwise_optimizer_has_a_kernel_in_one_program():
    w, g = arrays(shape=(LEAST,))[:2]
    w, g = w["w"], g["w"]
    states = {name: tx.init(w) for name, tx in ELEMENTWISE.items()}

    def steps(states):
        return {name: gc.update_params(tx, g, states[name], w) for name, tx in ELEMENTWISE.items()}

    assert kernels_of(steps, states) == len(ELEMENTWISE)
    fast, slow = both(lambda states: steps({name: state for name, (_, state) in steps(states).items()}), states)
    for name, (new, _) in fast.items():
        assert jnp.all(jnp.abs(new - slow[name][0]) <= 2.0**-23 * (jnp.abs(w) + 0.1)), name
        assert jnp.median(jnp.abs(slow[name][0] - w)) > 1e-5, name
    assert_close(fast, slow, 1e-6)


OTHERS = {
    "clip_behind": gc.chain(gc.scale_by_adam(), gc.clip_by_global_norm(1.0), gc.scale_by_learning_rate(0.1)),
    "factors": gc.scale_hyperparams(gc.adam(1e-3), {"learning_rate": {"small": 1.0, "w": 0.5}}),
    "hyperbolic_tangent": gc.chain(gc.scale_by_lion(mode="smooth"), gc.scale_by_learning_rate(1e-2)),
    "layers": gc.chain(gc.per_layer(gc.clip_by_block_rms(1.0), {"small": None, "w": 0}), gc.adam(1e-3)),
    "narrower_slot": gc.adam(1e-3, mu_dtype="float16"),
    "no_chain_of_rules": gc.schedule_free_adamw(1e-3),
    "no_slots": gc.sgd(1e-3),
    "norms_of_arrays": gc.lamb(1e-3),
    "random": gc.chain(gc.add_noise(0.1, 0.5, 0), gc.adam(1e-3)),
}


@pytest.mark.parametrize("tx", OTHERS.values(), ids=OTHERS)
def test_what_isnt_elementwise_is_xlas(tx):
    params, grads, _ = arrays(shape=(LEAST,))
    assert not uses_kernel(step, tx, grads, tx.init(params), params)
    assert_close(
        jax.jit(step)(tx, grads, tx.init(params), params), jax.jit(plain)(tx, grads, tx.init(params), params), 1e-6
    )


def test_small_arrays_other_dtypes_several_devices_and_a_turned_off_switch_are_xlas(monkeypatch):
    tx = CHAINS["adamw"]

    def used(params, grads):
        return uses_kernel(step, tx, grads, tx.init(params), params)

    w, half = jnp.ones(LEAST), jnp.ones(LEAST, jnp.float16)
    assert used(w, w)
    assert not used(w[1:], w[1:])
    assert not used(half, half)
    assert not used(w, w.astype(jnp.bfloat16))
    assert not used([w, None], [w, None])
    with monkeypatch.context() as patch:
        patch.setattr(jax, "device_count", lambda: 2)
        assert not used(w, w)
    with monkeypatch.context() as patch:
        patch.setenv(library.SWITCH, "0")
        assert not used(w, w)
    assert used(w, w)


def test_train_step_uses_it():
    tx, params = CHAINS["adamw"], jnp.ones(LEAST)

    def train(params, state):
        return training.train_step(lambda p, batch: jnp.sum(p * batch), params, tx, state, jnp.float32(2.0))

    assert uses_kernel(train, params, tx.init(params))
    fast, slow = both(train, params, tx.init(params))
    assert_close(fast, slow, 1e-6)
    assert jnp.all(slow[0] != params)


def test_a_step_that_can_be_compiled_no_more_is_xlas(monkeypatch):
    tx, (params, grads, _) = CHAINS["lion"], arrays()
    state = tx.init(params)
    expected = jax.jit(plain)(tx, grads, state, params)
    with pytest.warns(UserWarning, match="(?s)XLA computes a step.*failed:.*error"):
        assert library.loaded("no loop") is None
    monkeypatch.setattr(in_place, "loaded", lambda text: None)
    assert not uses_kernel(step, tx, grads, state, params)
    assert_close(jax.jit(lambda *x: step(tx, *x))(grads, state, params), expected, 1e-6)


def test_exported_programs_have_no_kernel():
    tx, (params, grads, _) = CHAINS["lion"], arrays()
    arguments = grads, tx.init(params), params
    jitted = jax.jit(lambda *x: step(tx, *x))
    assert uses_kernel(jitted, *arguments)
    exported = jax.export.export(jitted)(*arguments)
    assert library.TARGET not in exported.mlir_module()
    assert_close(exported.call(*arguments), jitted(*arguments), 1e-6)


def test_a_program_of_another_process_says_what_is_missing():
    w = jnp.ones(3)
    call = jax.ffi.ffi_call(library.TARGET, jax.ShapeDtypeStruct(w.shape, w.dtype))
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"traced by another process.*GRADCHAIN_NATIVE=0"):
        jax.block_until_ready(call(w, w, loop="unknown"))

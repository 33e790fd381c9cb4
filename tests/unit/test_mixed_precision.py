"""Mixed precision: what is cast, what comes back, in own loops, in ``fit``, with state, adapters and a loss scale."""

import inspect

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gradchain as gc
from gradchain import training
from gradchain.training import evaluate, fit, make_step, mixed_precision
from gradchain.training.variables import Variables

RNG = np.random.default_rng(0)
PARAMS = {"dense": {"kernel": jnp.asarray(RNG.normal(size=(3, 2)), "float32")}, "norm": {"scale": jnp.ones(2)}}
DATA = {
    "x": RNG.normal(size=(16, 3)).astype(np.float32),
    "y": RNG.normal(size=(16, 2)).astype(np.float32),
    "label": np.arange(16),
}


def dtypes(tree):
    return jax.tree.map(lambda x: str(x.dtype), tree)


def loss_fn(params, batch):
    hidden = batch["x"] @ params["dense"]["kernel"] * params["norm"]["scale"][None]
    return jnp.mean((hidden - batch["y"]) ** 2)


def seen_by(*, dtype="bfloat16", **options):
    """Return the dtypes in which a loss sees parameters and batch."""
    seen = []

    def noting(params, batch):
        seen.append((dtypes(params), dtypes(batch)))
        return loss_fn(params, batch)

    mixed_precision(noting, dtype, **options)(PARAMS, DATA)
    return seen[0]


@pytest.mark.parametrize("dtype", ["bfloat16", jnp.float16])
def test_parameters_and_batch_are_cast_but_for_whole_numbers(dtype):
    name = jnp.dtype(dtype).name
    params, batch = seen_by(dtype=dtype)
    assert params == {"dense": {"kernel": name}, "norm": {"scale": name}}
    assert batch == {"x": name, "y": name, "label": str(DATA["label"].dtype)}


def test_kept_arrays_stay_as_they_are():
    params, batch = seen_by(keep=["norm"], keep_in_batch=["y"])
    assert params == {"dense": {"kernel": "bfloat16"}, "norm": {"scale": "float32"}}
    assert (batch["x"], batch["y"]) == ("bfloat16", "float32")


def test_loss_and_gradients_are_float32_and_those_of_the_cast_arrays():
    loss, grads = jax.value_and_grad(mixed_precision(loss_fn))(PARAMS, DATA)
    half = jax.tree.map(lambda x: jnp.asarray(x, "bfloat16") if x.dtype == "float32" else x, (PARAMS, DATA))
    expected, half_grads = jax.value_and_grad(loss_fn)(*half)
    assert loss.dtype == "float32"
    assert loss == expected.astype("float32") != loss_fn(PARAMS, DATA)
    assert dtypes(grads) == dtypes(PARAMS)
    jax.tree.map(lambda g, h: np.testing.assert_array_equal(g, h.astype("float32")), grads, half_grads)


def test_around_a_models_function_the_loss_is_computed_in_float32():
    def predict(params, x):
        return x @ params["dense"]["kernel"]

    outputs = mixed_precision(predict)(PARAMS, DATA["x"])
    half = jnp.asarray(DATA["x"], "bfloat16") @ PARAMS["dense"]["kernel"].astype("bfloat16")
    assert outputs.dtype == "float32"
    np.testing.assert_array_equal(outputs, half.astype("float32"))


def test_small_updates_are_not_lost():
    """A weight of 1 moves by 1e-4 a step, less than half the spacing of bfloat16."""

    def slope(params, batch):
        return jnp.mean(batch) * params

    step, tx = make_step(mixed_precision(slope), gc.sgd(1e-4)), gc.sgd(1e-4)
    w, state = jnp.ones(()), tx.init(jnp.ones(()))
    for _ in range(10):
        w, state, _ = step(w, state, jnp.ones(4))
    np.testing.assert_allclose(w, 1 - 10e-4, rtol=1e-6)


def with_state(params, model_state, batch, key=None, *, training):
    """Return the loss and a running mean; what was seen goes to aux."""
    mean = jnp.mean(batch["x"], 0)
    new = {"mean": 0.999 * model_state["mean"] + 0.001 * mean, "key": model_state["key"], "steps": model_state["steps"]}
    return loss_fn(params, batch), (new if training else model_state, {"mean": mean})


STATE = {"mean": jnp.full(3, 1.003), "key": jax.random.key(0), "steps": jnp.zeros((), jnp.int32)}


@pytest.mark.parametrize(
    "keys", [(), (None,), (jax.random.key(1),), (jax.random.PRNGKey(1),)], ids=["no key", "None", "typed", "raw"]
)
def test_the_models_state_is_neither_rounded_nor_cast(keys):
    loss, (state, aux) = mixed_precision(with_state)(PARAMS, STATE, DATA, *keys, training=True)
    assert dtypes(state) == dtypes(STATE)
    assert (loss.dtype, aux["mean"].dtype) == ("float32", "float32")
    half_mean = jnp.mean(jnp.asarray(DATA["x"], "bfloat16"), 0).astype("float32")
    np.testing.assert_array_equal(aux["mean"], half_mean)
    np.testing.assert_allclose(state["mean"], 0.999 * 1.003 + 0.001 * half_mean, rtol=1e-5)


def test_a_state_in_16_bits_comes_back_in_16_bits():
    def counting(params, model_state, batch):
        return loss_fn(params, batch), model_state + 1

    def with_aux(params, model_state, batch):
        return loss_fn(params, batch), (model_state + 1, batch["x"])

    _, state = mixed_precision(counting)(PARAMS, jnp.ones(3, "float16"), DATA)
    assert state.dtype == "float16"
    _, (state, aux) = mixed_precision(with_aux)(PARAMS, jnp.ones(3, "float16"), DATA)
    assert (state.dtype, aux.dtype) == ("float16", "float32")
    _, state = mixed_precision(lambda p, s, b: (loss_fn(p, b), s + 0.5))(PARAMS, jnp.ones(3, int), DATA)
    assert state.dtype == "float32"  # which the loops refuse, where a cast would hide it


def test_keys_reach_the_loss_untouched():
    def noisy(params, batch, key):
        return loss_fn(params, batch) + jax.random.uniform(key)

    key = jax.random.key(3)
    half = mixed_precision(loss_fn)(PARAMS, DATA)
    assert mixed_precision(noisy)(PARAMS, DATA, key) == half + jax.random.uniform(key)


def test_fit_trains_model_state_and_evaluates_in_the_same_precision():
    variables = Variables(PARAMS, STATE)
    half = mixed_precision(with_state)
    options = {"epochs": 2, "batch_size": 8, "has_aux": True, "validation": DATA, "shuffle": False}
    result = fit(lambda p, s, b, *, training: _only(half, p, s, b, training), variables, gc.adam(0.01), DATA, **options)
    again = fit(mixed_precision(_plain), variables, gc.adam(0.01), DATA, **options)
    np.testing.assert_array_equal(again.history["val_loss"], result.history["val_loss"])
    assert dtypes(again.params.params) == dtypes(PARAMS)
    np.testing.assert_array_equal(again.params.model_state["mean"], result.params.model_state["mean"])
    assert np.abs(again.params.model_state["mean"] - 1.003).max() > 1e-4


def _plain(params, model_state, batch, *, training):
    loss, (state, _) = with_state(params, model_state, batch, training=training)
    return loss, (state, {})


def _only(function, params, model_state, batch, training):
    loss, (state, _) = function(params, model_state, batch, training=training)
    return loss, (state, {})


def test_the_loops_see_the_losss_own_signature():
    assert inspect.signature(mixed_precision(with_state)) == inspect.signature(with_state)


def test_an_equal_policy_does_not_compile_again():
    traces = []

    def counted(params, batch):
        traces.append(1)
        return loss_fn(params, batch)

    for rate in (0.1, 0.2):
        tx = gc.sgd(rate)
        make_step(mixed_precision(counted), tx)(jax.tree.map(jnp.copy, PARAMS), tx.init(PARAMS), DATA)
    assert len(traces) == 1


class Doubled:
    """An adapter of models that are pairs of parameters and state."""

    def split(self, model):
        return Variables(model[0], model[1])

    def merge(self, variables):
        return tuple(variables)

    def settle(self, variables):
        return variables._replace(model_state={"settled": variables.params})

    def measure(self, function, variables, batch):
        return function(self.merge(variables), batch)

    def __call__(self, params, model_state, batch, key=None, *, training=False):
        return loss_fn(params, batch), {"mean": model_state["mean"] + 1e-3 * training}


def test_an_adapter_stays_one():
    adapter = mixed_precision(Doubled(), keep_in_batch=["y"])
    model = (PARAMS, {"mean": jnp.ones(3)})

    def accuracy(model, batch):
        assert dtypes(model) == ({"dense": {"kernel": "bfloat16"}, "norm": {"scale": "bfloat16"}}, {"mean": "float32"})
        assert (batch["x"].dtype, batch["y"].dtype) == ("bfloat16", "float32")
        return {"half": batch["x"][0, 0]}

    assert adapter.settle(Variables(1.0)) == Variables(1.0, {"settled": 1.0})
    result = fit(adapter, model, gc.sgd(0.1), DATA, epochs=1, batch_size=8, validation=DATA, metrics=accuracy)
    params, state = result.params
    assert dtypes(params) == dtypes(PARAMS)
    np.testing.assert_allclose(state["mean"], 1.002, rtol=1e-6)
    np.testing.assert_array_equal(result.history["val_half"], float(jnp.bfloat16(DATA["x"][0, 0])))
    np.testing.assert_array_equal(
        result.history["val_loss"], evaluate(mixed_precision(loss_fn, keep_in_batch=["y"]), params, DATA).loss
    )


def linen_model():
    class Net(linen.Module):
        @linen.compact
        def __call__(self, x, training):
            x = linen.BatchNorm(use_running_average=not training)(linen.Dense(4)(x))
            return linen.Dense(2)(linen.Dropout(0.5, deterministic=not training)(linen.relu(x)))

    def network_loss(model, batch, *, training):
        return compared(model(batch["x"], training), batch)

    variables = Net().init(jax.random.key(0), DATA["x"], training=False)
    return training.linen(Net(), network_loss), variables, lambda model: model["batch_stats"]["BatchNorm_0"]["mean"]


def nnx_model():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first, self.last = nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)
            self.norm, self.drop = nnx.BatchNorm(4, dtype="bfloat16", rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return self.last(self.drop(nnx.relu(self.norm(self.first(x)))))

    return (
        training.nnx(lambda model, batch: compared(model(batch["x"]), batch)),
        Net(nnx.Rngs(0)),
        (lambda model: model.norm.mean[...]),
    )


def compared(outputs, batch):
    """Return the loss of a network's outputs, after checking that they were computed in 16 bits."""
    assert (outputs.dtype, batch["y"].dtype) == ("bfloat16", "float32")
    return jnp.mean((outputs - batch["y"]) ** 2)


@pytest.mark.slow
@pytest.mark.parametrize("make", [linen_model, nnx_model])
def test_frameworks_models_compute_in_16_bits_and_keep_float32(make):
    adapter, model, mean = make()
    half, tx = mixed_precision(adapter, keep_in_batch=["y"]), gc.adam(0.01)
    state = tx.init(adapter.split(model).params)
    new, _, metrics = training.train_step(half, model, tx, state, DATA, jax.random.key(1), takes_key=True)
    assert {str(x.dtype) for x in jax.tree.leaves(adapter.split(new).params)} == {"float32"}
    assert metrics.loss.dtype == mean(new).dtype == "float32"
    assert np.abs(mean(new) - mean(model)).min() > 1e-4
    assert np.isfinite(evaluate(half, new, DATA).loss)


def test_float16_needs_a_loss_scale_which_fit_applies():
    """Gradients of about 1e-8 vanish in float16, unless the loss is scaled."""

    def small(params, batch):
        return 1e-8 * jnp.mean((batch @ params).astype("float32"))

    data, w = np.ones((8, 3), np.float32), jnp.zeros(3)
    options = {"epochs": 1, "batch_size": 4}
    lost = fit(mixed_precision(small, "float16"), w, gc.sgd(1e7), data, **options)
    kept = fit(mixed_precision(small, "float16"), w, gc.loss_scale(gc.sgd(1e7), init_scale=2.0**20), data, **options)
    np.testing.assert_array_equal(lost.params, 0)
    np.testing.assert_allclose(kept.params, -0.2, rtol=1e-2)
    assert kept.params.dtype == "float32"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mixed_precision(PARAMS), TypeError, "function must be a loss function or an adapter, got a dict"),
        (lambda: mixed_precision(loss_fn, "bf16"), TypeError, "dtype must be a dtype such as 'bfloat16', got 'bf16'"),
        (lambda: mixed_precision(loss_fn, "int8"), TypeError, "dtype must be a floating-point dtype, got int8"),
        (lambda: mixed_precision(loss_fn, keep="norm"), TypeError, r"keep takes a list of patterns.*write \['norm'\]"),
        (lambda: mixed_precision(loss_fn, keep=[1]), TypeError, "keep: a pattern is a string, got 1"),
        (
            lambda: mixed_precision(loss_fn, keep_in_batch=["target"])(PARAMS, DATA),
            ValueError,
            "pattern 'target' matches nothing in the batch; there are: label, x, y",
        ),
        (
            lambda: mixed_precision(loss_fn, keep=["bias"])(PARAMS, DATA),
            ValueError,
            "pattern 'bias' matches nothing in the parameters; there are: dense/kernel, norm/scale",
        ),
    ],
)
def test_mistakes_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()

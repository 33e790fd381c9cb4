"""Models of Flax, Equinox and Haiku: without an adapter they are refused, and with one both modes are as they should.

``make accept`` trains convolutional networks with them, beside loops of each framework.
"""

import equinox as eqx
import flax
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import gradchain as gc
from gradchain import training
from gradchain.training import Variables
from tests import trees

X = jnp.arange(24.0).reshape(8, 3) / 8
KEY = jax.random.key(0)
DECAY = 0.5
KEPT = 0.8
"""The share that dropout leaves."""


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x, training):
        x = nn.BatchNorm(use_running_average=not training, momentum=DECAY)(x)
        return nn.Dropout(1 - KEPT, deterministic=not training)(x)


class NNX(nnx.Module):
    def __init__(self):
        self.norm = nnx.BatchNorm(3, momentum=DECAY, rngs=nnx.Rngs(0))
        self.dropout = nnx.Dropout(1 - KEPT, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.dropout(self.norm(x))


class Equinox(eqx.Module):
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    function: object

    def __init__(self):
        self.norm = eqx.nn.BatchNorm(3, "batch", momentum=DECAY, mode="batch")
        self.dropout = eqx.nn.Dropout(1 - KEPT)
        self.function = jnp.sin

    def __call__(self, x, state, key):
        x, state = self.norm(x, state)
        return self.dropout(x, key=key), state


def haiku_net(x, is_training):
    x = hk.BatchNorm(True, True, DECAY)(x, is_training)
    return hk.dropout(hk.next_rng_key(), 1 - KEPT, x) if is_training else x


HAIKU = hk.transform_with_state(haiku_net)


def run_equinox(model, state, batch, key):
    keys = None if key is None else jax.random.split(key, len(batch))
    outputs, state = jax.vmap(model, axis_name="batch", in_axes=(0, None, 0), out_axes=(0, None))(batch, state, keys)
    return jnp.mean(outputs), (state, outputs)


def of_outputs(outputs):
    return jnp.mean(outputs), outputs


def linen_loss(net, batch, training):
    return of_outputs(net(batch, training=training))


def nnx_loss(net, batch):
    return of_outputs(net(batch))


def haiku_loss(apply, batch, training):
    return of_outputs(apply(batch, is_training=training))


def statistics_of(name, model_state):
    """Return the mean and variance with which a model normalises in evaluation."""
    if name == "linen":
        found = model_state["batch_stats"]["BatchNorm_0"]
        return [found["mean"], found["var"]]
    if name == "nnx":
        return [model_state.arrays["norm"][x] for x in ("mean", "var")]
    if name == "haiku":
        return [model_state[f"batch_norm/~/{x}_ema"]["average"][0] for x in ("mean", "var")]
    count, (mean, var) = jax.tree.leaves(model_state.arrays)[0], jax.tree.leaves(model_state.arrays)[1:]
    return [x / (1 - DECAY**count) for x in (mean, var)]


CASES = {
    "linen": (training.linen(Linen(), linen_loss), lambda: Linen().init(KEY, X, training=False)),
    "nnx": (training.nnx(nnx_loss), NNX),
    "equinox": (training.equinox(run_equinox), eqx.nn.make_with_state(Equinox)),
    "haiku": (training.haiku(HAIKU, haiku_loss), lambda: HAIKU.init(KEY, X, is_training=True)),
}
each_framework = pytest.mark.parametrize("name", CASES)


def split(name):
    adapter, init = CASES[name]
    return adapter, adapter.split(init())


@each_framework
def test_in_a_step_a_model_normalises_by_the_batch_and_drops_and_its_state_moves(name):
    adapter, variables = split(name)
    loss, (state, outputs) = adapter(*variables, X, KEY, training=True)
    assert loss.shape == ()
    kept = outputs != 0
    assert 0 < kept.sum() < kept.size
    whole = (X - X.mean(0)[None]) / jnp.sqrt(X.var(0)[None] + 1e-5) / KEPT
    trees.assert_close(outputs, jnp.where(kept, whole, 0), 1e-4)
    assert jax.tree.structure(state) == jax.tree.structure(variables.model_state)
    again, _ = adapter(variables.params, state, X, jax.random.key(1), training=True)
    assert again != loss


@each_framework
def test_in_evaluation_a_model_normalises_by_its_statistics_and_nothing_moves(name):
    adapter, variables = split(name)
    variables = training.renew_state(adapter, variables, X, batch_size=4, key=0, has_aux=True, takes_key=True)
    mean = X.mean(0)[None]
    var = (X[:4].var(0) + X[4:].var(0))[None] / 2
    trees.assert_close(statistics_of(name, variables.model_state), [mean[0], var[0]], 1e-5)
    _, (state, outputs) = adapter(*variables, X, None, training=False)
    trees.assert_close(outputs, (X - mean) / jnp.sqrt(var + 1e-5), 1e-4)
    numbers = [[x for x in jax.tree.leaves(t) if x.dtype == "float32"] for t in (state, variables.model_state)]
    trees.assert_close(*numbers, 0)


@each_framework
def test_a_model_comes_out_as_it_went_in(name):
    adapter, init = CASES[name]
    model = init()
    again = adapter.merge(adapter.split(model))
    assert type(again) is type(model)
    first, second = adapter.split(model), adapter.split(again)
    assert jax.tree.structure(first) == jax.tree.structure(second)
    assert all(x is y for x, y in zip(jax.tree.leaves(first.params), jax.tree.leaves(second.params), strict=True))


@each_framework
def test_metrics_are_given_the_model_in_evaluation(name):
    adapter, variables = split(name)
    seen = []

    def metrics(*arguments):
        seen.append(arguments)
        return {"batch": arguments[-1]}

    found = adapter.measure(metrics, variables, X)
    assert found["batch"] is X
    model = seen[0][0]
    if name == "nnx":
        assert model.norm.use_running_average
    if name == "equinox":
        assert model.norm.inference


@each_framework
def test_a_padded_batch_needs_a_loss_that_is_told_the_weights(name):
    adapter, variables = split(name)
    with pytest.raises(TypeError, match="remainder='pad' needs a loss_fn with a parameter called weights"):
        adapter(*variables, X, KEY, training=True, weights=jnp.ones(8))


def test_nnx_trains_what_it_is_told_to():
    linear = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
    variables = training.nnx(nnx_loss, wrt=nnx.PathContains("bias")).split(linear)
    assert list(variables.params) == ["bias"]
    assert list(variables.model_state.arrays) == ["kernel"]


def test_every_call_of_a_haiku_function_has_a_key_of_its_own():
    def twice(apply, batch, training):
        first, second = (apply(batch, is_training=training) for _ in range(2))
        return jnp.mean(first), (first == 0) == (second == 0)

    _, variables = split("haiku")
    _, (state, alike) = training.haiku(HAIKU, twice)(*variables, X, KEY, training=True)
    assert not alike.all()
    assert state["batch_norm/~/mean_ema"]["counter"] == 2


def plain_loss(params, batch):
    return jnp.mean(batch)


REFUSED = {
    "linen's variables": (lambda: Linen().init(KEY, X, training=False), r"\(batch_stats, params\).*training\.linen\("),
    "linen's module": (Linen, r"a module of Flax linen \(Linen\).*training\.linen\("),
    "nnx's module": (NNX, r"a module of Flax NNX \(NNX\), .*training\.nnx\(loss_fn\)"),
    "nnx's state": (lambda: nnx.state(NNX()), r"other variables than nnx.Param.*training\.nnx\(loss_fn\)"),
    "equinox's module": (
        lambda: eqx.nn.MLP(3, 1, 4, 1, key=KEY),
        r"a module of Equinox \(MLP\), .*training\.equinox\(loss_fn\) .*loss_fn\(model, batch\)",
    ),
    "equinox's module and state": (
        lambda: eqx.nn.make_with_state(Equinox)(),
        r"Equinox model with its state.*training\.equinox\(loss_fn\) .*-> \(loss, state\)",
    ),
    "haiku's pair": (lambda: HAIKU.init(KEY, X, is_training=True), r"pair \(params, state\).*training\.haiku\("),
    "haiku's function": (lambda: HAIKU, r"a transformed function of Haiku.*training\.haiku\("),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_model_without_an_adapter_is_refused_and_the_adapter_is_named(what):
    make, message = REFUSED[what]
    tx = gc.sgd(jnp.array([0.1, 0.2]))
    with pytest.raises(TypeError, match=message):
        training.fit(plain_loss, make(), gc.sgd(0.1), X, epochs=1, batch_size=4)
    with pytest.raises(TypeError, match=message):
        training.sweep(plain_loss, make(), tx, X, epochs=1, batch_size=4)
    with pytest.raises(TypeError, match=message):
        training.make_step(plain_loss, gc.sgd(0.1))(make(), None, X)


@pytest.mark.parametrize(
    "params",
    [
        {"params": {"w": jnp.ones(2)}, "scale": jnp.ones(2)},
        ({"mlp/~/linear_0": {"w": jnp.ones(2)}}, {"mlp/~/linear_0": {"w": jnp.ones(2)}}),
        nnx.state(nnx.Linear(3, 1, rngs=nnx.Rngs(0)), nnx.Param),
        eqx.filter(eqx.nn.MLP(3, 1, 4, 1, key=KEY), eqx.is_inexact_array),
    ],
)
def test_parameters_alone_need_no_adapter(params):
    loss = training.evaluate(lambda params, batch: jnp.mean(batch), params, X).loss
    trees.assert_close(loss, jnp.mean(X), 1e-6)


@pytest.mark.parametrize(
    ("adapter", "model", "message"),
    [
        (CASES["linen"][0], {"kernel": X}, r"training\.linen: .* module\.init\(key, x\) .*'params', got a dict"),
        (CASES["nnx"][0], {"kernel": X}, r"training\.nnx: .* an nnx\.Module, got a dict"),
        (CASES["haiku"][0], {"kernel": X}, r"training\.haiku: .* pair \(params, state\) .* got a dict"),
    ],
)
def test_an_adapter_says_what_it_takes(adapter, model, message):
    with pytest.raises(TypeError, match=message):
        training.fit(adapter, model, gc.sgd(0.1), X, epochs=1, batch_size=4)


def test_what_an_equinox_loss_with_state_must_return_is_said():
    model = eqx.nn.make_with_state(Equinox)()
    adapter = training.equinox(lambda model, state, batch: jnp.mean(batch))
    with pytest.raises(TypeError, match=r"training\.equinox: loss_fn must return \(loss, state\)"):
        training.evaluate(adapter, model, X)


def test_variables_go_in_and_come_out_of_an_adapters_loss():
    adapter, variables = split("linen")
    result = training.train_step(adapter, variables, gc.sgd(0.1), gc.sgd(0.1).init(variables.params), X, KEY,
                                 has_aux=True, takes_key=True)  # fmt: skip
    assert isinstance(result[0], Variables)


def test_frozen_variables_of_linen_are_trained_too():
    adapter, init = CASES["linen"]
    frozen = flax.core.freeze(init())
    variables = adapter.split(frozen)
    _, (state, _) = adapter(*variables, X, KEY, training=True)
    assert jax.tree.structure(state) == jax.tree.structure(variables.model_state)
    assert type(variables.params) is dict
    assert "params" in frozen


class Sows(nnx.Module):
    def __init__(self):
        self.linear = nnx.Linear(3, 1, rngs=nnx.Rngs(0))

    def __call__(self, x):
        self.seen = nnx.Intermediate(x)
        return self.linear(x)


def test_intermediates_that_a_module_sows_are_no_state():
    called, adapter = Sows(), training.nnx(nnx_loss)
    called(X)
    for module in (Sows(), called):
        variables = adapter.split(module)
        _, (state, _) = adapter(*variables, X, training=True)
        assert jax.tree.structure(state) == jax.tree.structure(variables.model_state)
        assert not state.arrays
    assert called.seen[...] is X


def several_parts():
    norm, linear = hk.BatchNorm(True, True, DECAY), hk.Linear(1)
    return lambda x: linear(norm(x, True)), {"norm": norm, "linear": linear}


def test_a_haiku_function_of_several_parts_is_called_part_by_part():
    net = hk.multi_transform_with_state(several_parts)
    adapter = training.haiku(net, lambda apply, x: jnp.mean(apply["linear"](apply["norm"](x, True))))
    params, state = net.init(KEY, X)
    loss, after = adapter(params, state, X, training=True)
    normed, want = net.apply["norm"](params, state, None, X, True)
    assert loss == jnp.mean(net.apply["linear"](params, want, None, normed)[0])
    trees.assert_close(after, want, 0)


def test_a_haiku_function_may_take_no_key():
    net = hk.without_apply_rng(hk.transform(lambda x: hk.Linear(1)(x)))
    params = net.init(KEY, X)
    adapter = training.haiku(net, lambda apply, x: jnp.mean(apply(x)))
    assert adapter(params, {}, X, KEY, training=True)[0] == jnp.mean(net.apply(params, X))


MISUSED = {
    "linen's class": (
        lambda: training.linen(Linen, linen_loss),
        r"the module, got the class Linen; write Linen\(\.\.\.\)",
    ),
    "linen's arguments": (
        lambda: training.linen(linen_loss, Linen()),
        r"training\.linen: the first argument is the mo",
    ),
    "nnx's module": (lambda: training.nnx(NNX()), r"training\.nnx: loss_fn must be a function that returns the loss"),
    "equinox's module": (lambda: training.equinox(eqx.nn.Identity()), r"training\.equinox: loss_fn must be a function"),
    "haiku's function": (lambda: training.haiku(haiku_net, haiku_loss), r"hk\.transform\(function\) returns, got the"),
    "a slice": (lambda: training.microbatch(CASES["nnx"][0], 4), r"no mean over slices.*accumulate\(tx, k\)"),
    "nothing to train": (
        lambda: training.nnx(nnx_loss, wrt=nnx.LoRAParam).split(NNX()),
        "LoRAParam.* selects none of the module's variables",
    ),
}


@pytest.mark.parametrize("what", MISUSED)
def test_what_an_adapter_can_not_be_made_of_is_said(what):
    call, message = MISUSED[what]
    with pytest.raises(TypeError, match=message):
        call()


@each_framework
def test_a_loss_that_takes_other_arguments_is_told_its_own(name):
    adapter, variables = split(name)

    def pair_loss(x, y, z, u):
        return 0.0

    with pytest.raises(TypeError, match=r"^pair_loss is called as pair_loss\(\w+, .*batch\), but takes \(x, y, z, u\)"):
        adapter._replace(loss_fn=pair_loss)(*variables, X, KEY, training=True)


@pytest.mark.parametrize("name", ["linen", "haiku"])
def test_a_model_without_the_key_that_it_needs_is_sent_to_takes_key(name):
    adapter, variables = split(name)
    with pytest.raises(Exception, match="PRNG") as error:
        adapter(*variables, X, None, training=True)
    assert "takes_key=True" in error.value.__notes__[-1]


def test_a_loss_without_the_key_that_it_needs_is_sent_to_takes_key():
    _, variables = split("nnx")

    def needs_key(net, batch, key):
        return jnp.mean(net(batch))

    with pytest.raises(TypeError, match="a parameter called key, but there is no key; hand one in by takes_key=True"):
        training.nnx(needs_key)(*variables, X, training=True)
    may_take_key = training.nnx(lambda net, batch, key=None: jnp.mean(net(batch)))
    assert may_take_key(*variables, X, training=True)[0].shape == ()

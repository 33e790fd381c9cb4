"""Masks, labels and frozen parameters with the trees of Equinox, Flax NNX and Flax linen."""

import equinox as eqx
import flax.core
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import gradchain as gc
from tests.accept.problem import assert_close, train_mlp
from tests.nests import COMBINATORS, EXTRA, around

pytestmark = pytest.mark.accept

RATES = {"a": gc.scale(2.0), "b": gc.scale(3.0)}


def model():
    return eqx.nn.MLP(3, 1, 8, depth=1, activation=jax.nn.tanh, key=jax.random.key(0))


def gradients(net):
    return eqx.filter_grad(lambda net: jnp.sum(jax.vmap(net)(jnp.ones((4, 3)))))(net)


def arrays(net):
    return eqx.filter(net, eqx.is_inexact_array)


def biases(net):
    """Return the mask, itself a model that can be called, that is true for biases and false for all else."""
    none = jax.tree.map(lambda _: False, net)
    return eqx.tree_at(lambda n: [layer.bias for layer in n.layers], none, [True] * len(net.layers))


def is_bias(path, leaf):
    return path.endswith("bias")


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("way", ["tree", "prefix", "function", "path", "leaf"])
def test_equinox_models_with_callable_leaves(way, whole):
    net = model()
    mask = {
        "tree": biases(net),
        "prefix": biases(arrays(net)),
        "function": biases,
        "path": gc.by_path([("bias", True)], default=False),
        "leaf": gc.by_leaf(is_bias),
    }[way]
    grads = gradients(net)
    tx = gc.masked(gc.scale(2.0), mask)
    updates, _ = tx.update(grads, tx.init(arrays(net)), net if whole else arrays(net))
    factor = jax.tree.map(lambda on: 2.0 if on else 1.0, biases(arrays(net)))
    assert_close(arrays(updates), jax.tree.map(lambda f, g: f * g, factor, grads), 0)
    assert updates.activation is None


def test_equinox_labels_are_a_tree_also_where_every_leaf_can_be_called():
    net = model()
    labels = jax.tree.map(lambda on: "b" if on else "a", biases(net))
    grads = gradients(net)
    tx = gc.partition(RATES, labels)
    updates, _ = tx.update(grads, tx.init(arrays(net)), net)
    assert_close(updates.layers[0].weight, 2 * grads.layers[0].weight, 0)
    assert_close(updates.layers[0].bias, 3 * grads.layers[0].bias, 0)
    with pytest.raises(TypeError):  # optax calls the tree of labels, since an Equinox module can be called
        optax.partition({"a": optax.scale(2.0), "b": optax.scale(3.0)}, labels).init(arrays(net))


def test_an_equinox_model_trains_with_a_frozen_layer():
    net = model()
    tx = gc.selective_transform(gc.adam(0.1), freeze_mask=gc.by_path([("layers/0", True)], default=False))
    state = tx.init(arrays(net))

    @eqx.filter_jit
    def step(net, state):
        updates, state = tx.update(gradients(net), state, net)
        return eqx.apply_updates(net, updates), state

    trained, _ = step(*step(net, state))
    assert eqx.tree_equal(trained.layers[0], net.layers[0])
    assert not jnp.array_equal(trained.layers[1].weight, net.layers[1].weight)
    assert all(row.state_bytes == 0 for row in gc.describe(tx, arrays(net)).rows if row.path.startswith("layers/0"))


class MLP(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.hidden = nnx.Linear(3, 8, rngs=rngs)
        self.head = nnx.Linear(8, 1, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.tanh(self.hidden(x)))


@pytest.mark.parametrize("way", ["state", "path", "leaf", "names"])
def test_nnx_states(way):
    net = MLP()
    params = nnx.state(net, nnx.Param)
    labels = {
        "state": jax.tree_util.tree_map_with_path(lambda path, _: "a" if "hidden" in str(path) else "b", params),
        "path": gc.by_path([("hidden", "a")], default="b"),
        "leaf": gc.by_leaf(lambda path, leaf: "a" if path.startswith("hidden") else "b"),
        "names": gc.matrices_and_rest(["head"], ndims=(1, 2), matrices="a", rest="b"),
    }[way]
    grads = jax.tree.map(jnp.ones_like, params)
    tx = gc.partition(RATES, labels)
    updates, _ = tx.update(grads, tx.init(params), params)
    assert {float(x.min()) for x in jax.tree.leaves(updates["hidden"])} == {2.0}
    assert {float(x.max()) for x in jax.tree.leaves(updates["head"])} == {3.0}


def test_nnx_optimizer_with_a_frozen_layer():
    net = MLP()
    before = nnx.to_pure_dict(nnx.state(net, nnx.Param))
    tx = gc.selective_transform(gc.adam(0.1), freeze_mask=gc.by_path([("hidden", True)], default=False))
    optimizer = nnx.Optimizer(net, tx, wrt=nnx.Param)

    @nnx.jit
    def step(net, optimizer):
        optimizer.update(net, nnx.grad(lambda net: jnp.sum(net(jnp.ones((4, 3)))))(net))

    step(net, optimizer)
    after = nnx.to_pure_dict(nnx.state(net, nnx.Param))
    assert_close(after["hidden"], before["hidden"], 0)
    assert jnp.all(after["head"]["bias"] != before["head"]["bias"])


@pytest.mark.parametrize("freeze", [flax.core.freeze, dict])
def test_frozen_dicts(freeze):
    params = freeze({"dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "head": {"kernel": jnp.ones((2, 1))}})
    grads = jax.tree.map(jnp.ones_like, params)
    for labels in (freeze({"dense": "a", "head": "b"}), gc.by_path([("dense", "a")], default="b")):
        tx = gc.partition(RATES, labels)
        updates, _ = tx.update(grads, tx.init(params), params)
        assert type(updates) is type(params)
        assert_close(updates["head"]["kernel"], jnp.full((2, 1), 3.0), 0)
    tx = gc.masked(gc.scale(2.0), freeze({"dense": {"kernel": True, "bias": False}, "head": False}))
    updates, _ = tx.update(grads, tx.init(params), params)
    assert_close(updates["dense"]["bias"], jnp.ones(2), 0)
    assert_close(updates["dense"]["kernel"], jnp.full((2, 2), 2.0), 0)


def test_a_training_run_inside_scan_equals_optax():
    labels = {"kernel_1": "fast", "bias_1": "slow", "kernel_2": "fast", "bias_2": "slow"}
    ours = gc.partition({"fast": gc.adam(0.03), "slow": gc.sgd(0.01, momentum=0.9)}, labels)
    theirs = optax.partition({"fast": optax.adam(0.03), "slow": optax.sgd(0.01, momentum=0.9)}, labels)
    params, losses = train_mlp(ours, "float32")
    expected, expected_losses = train_mlp(theirs, "float32")
    assert losses[-1] < 0.5 * losses[0]
    assert_close((params, losses), (expected, expected_losses), 3e-5)


@pytest.mark.parametrize("name", sorted(COMBINATORS.keys() - {"masked", "selective_transform", "partition"}))
def test_a_model_with_callable_leaves_is_filtered_or_refused_with_the_leaf_s_path(name):
    net = model()
    tx = around(name, gc.adam(0.1))
    masked = gc.masked(tx, gc.by_leaf(lambda path, leaf: eqx.is_inexact_array(leaf)))
    with pytest.raises(TypeError, match=r"parameter \.activation is .*filter the tree"):
        tx.init(net)
    for whole in (arrays(net), net):
        updates, _ = masked.update(gradients(net), masked.init(whole), whole, **EXTRA)
        assert updates.activation is None

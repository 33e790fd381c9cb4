"""PyTorch's states: recorded runs (tests/recorded/record_torch.py) that go on here from their middle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from tests import states, trees
from tests.unit.test_against_torch import RECORDED, arrays, loss

NAMES = ["bias", "kernel"]
"""The order of the parameters that PyTorch's optimizers were given."""


def root(decay):
    """Return what corrects the root of a second moment for its start at zero."""
    return lambda count: jnp.sqrt(1 - decay ** (count + 1.0))


def amsgrad(*behind):
    """Return PyTorch's Adam(amsgrad=True): the maximum is of second moments as they are, and is corrected itself."""
    moments = gc.scale_by_amsgrad(0.5, 0.9, eps=lambda count: 1e-8 * root(0.9)(count), bias_correction_nu=False)
    return gc.chain(moments, gc.scale(root(0.9)), *behind, gc.scale_by_learning_rate(0.1))


def inverse_time(count):
    return 0.1 / (1 + 0.1 * count)


def decayed(tx):
    return gc.chain(gc.add_decayed_weights(0.1), tx)


OPTIMIZERS = {
    "sgd": gc.sgd(0.01),
    "sgd_momentum": gc.sgd(0.01, 0.9),
    "sgd_nesterov": gc.sgd(0.01, 0.9, nesterov=True),
    "sgd_weight_decay": decayed(gc.sgd(0.01, 0.9)),
    "sgd_dampening": gc.chain(gc.scale(0.5), gc.sgd(0.01, 0.9)),
    "rmsprop": gc.rmsprop_torch(0.01),
    "rmsprop_momentum": gc.rmsprop_torch(0.01, momentum=0.9, weight_decay=0.1),
    "rmsprop_centered": gc.rmsprop_torch(0.01, centered=True),
    "rmsprop_centered_momentum": gc.rmsprop_torch(0.01, centered=True, momentum=0.9),
    "adagrad": gc.adagrad(0.1, eps=0.0),
    "adagrad_defaults": gc.adagrad(0.1, eps=0.0),
    "adagrad_decay": decayed(gc.adagrad(inverse_time, eps=0.0)),
    "adam": gc.adam(0.01),
    "adam_weight_decay": decayed(gc.adam(0.01)),
    "adam_amsgrad": amsgrad(),
    "adamw": gc.adamw(0.01, weight_decay=0.1),
    "adamw_amsgrad": amsgrad(gc.add_decayed_weights(0.01)),
}
FAST = ("sgd_nesterov", "sgd_dampening", "rmsprop_centered_momentum", "adagrad_decay", "adam_amsgrad", "adamw")
COUNTS = {name: 50 for name in OPTIMIZERS if name.startswith("sgd")}


def tensors(node):
    """Return a recorded state_dict with arrays for lists of numbers."""
    if isinstance(node, dict):
        return {int(key) if key.isdigit() else key: tensors(x) for key, x in node.items()}
    return np.asarray(node) if isinstance(node, list) and not isinstance(node[0], dict) else node


def halfway(name):
    recorded = RECORDED["continued"][name]
    params = arrays(recorded["halfway"])
    return params, recorded["state_dict"]


def go_on(tx, params, state):
    """Return the weights 50 steps later."""

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (gc.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, state), length=50)[0][0]


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in OPTIMIZERS]
)
def test_a_run_goes_on_as_it_would_have_in_pytorch(name, x64):
    tx, (params, saved) = OPTIMIZERS[name], halfway(name)
    state = gc.from_torch_state(tx, params, saved, NAMES, count=COUNTS.get(name))
    end = RECORDED["continued"][name]["end"]
    expected = jax.tree.map(jnp.asarray, end, is_leaf=lambda x: isinstance(x, list))
    trees.assert_close(go_on(tx, params, state), expected, 1e-9)


def test_every_recorded_state_is_used():
    assert OPTIMIZERS.keys() == RECORDED["continued"].keys()


def adamw():
    params, saved = halfway("adamw")
    return gc.adamw(0.01), params, saved


def test_it_goes_into_any_composition():
    _, params, saved = adamw()
    both = {"a": gc.adamw(0.01), "b": gc.adam(0.1)}
    tx = gc.apply_if_finite(gc.partition(both, gc.by_path([("bias", "b")], "a")), 3)
    state = gc.to_state_dict(tx, gc.from_torch_state(tx, params, saved, NAMES, missing="init"))
    own = saved["state"]
    np.testing.assert_allclose(state["b.scale_by_adam/mu/bias"], own["0"]["exp_avg"], rtol=1e-6)
    np.testing.assert_allclose(state["a.scale_by_adam/nu/kernel"], own["1"]["exp_avg_sq"], rtol=1e-6)
    assert {int(x) for name, x in state.items() if name.endswith("/count")} == {50}


def test_keys_may_be_numbers_and_lists_arrays():
    tx, params, saved = adamw()
    plain = gc.from_torch_state(tx, params, saved, NAMES)
    states.assert_same(gc.from_torch_state(tx, params, tensors(saved), NAMES), plain)


class Tensor:
    """What the import needs of a tensor: in another layout, on another device, in a dtype that NumPy lacks."""

    def __init__(self, values, dtype="torch.bfloat16", ready=False):
        self.values, self.dtype, self.ready = np.asarray(values), dtype, ready

    def detach(self):
        return self

    def cpu(self):
        return Tensor(self.values, self.dtype, ready=True)

    def float(self):
        return Tensor(self.values, "torch.float32", self.ready)

    def __array__(self, *args, **kwargs):
        assert self.ready
        assert self.dtype != "torch.bfloat16"
        return self.values


def test_tensors_are_fetched_and_converted():
    tx, params, saved = adamw()
    params = {"bias": params["bias"], "kernel": params["kernel"].T}
    saved = saved | {
        "state": {int(key): {name: Tensor(x) for name, x in own.items()} for key, own in saved["state"].items()}
    }
    state = gc.from_torch_state(tx, params, saved, NAMES, convert=lambda path, x: x.T)
    recorded = RECORDED["continued"]["adamw"]["state_dict"]
    np.testing.assert_allclose(state[0].mu["kernel"], np.transpose(recorded["state"]["1"]["exp_avg"]), rtol=1e-6)
    with pytest.raises(ValueError, match=r"scale_by_adam/mu/kernel: expected float32\[2, 3\], got float64\[3, 2\]"):
        gc.from_torch_state(tx, params, recorded, NAMES)


def test_names_of_pytorch():
    tx, params, saved = adamw()
    groups = [saved["param_groups"][0] | {"params": [i], "param_names": [name]} for i, name in enumerate("bk")]
    named = {"state": saved["state"], "param_groups": groups}
    state = gc.from_torch_state(tx, params, named, {"k": "kernel", "b": "bias"})
    states.assert_same(state, gc.from_torch_state(tx, params, saved, NAMES))


def changed(saved, key, **slots):
    return saved | {"state": saved["state"] | {key: saved["state"][key] | slots}}


def test_errors_say_what_is_wrong():
    tx, params, saved = adamw()

    def error(saved=saved, names=NAMES, tx=tx, **options):
        with pytest.raises(ValueError, match="from_torch_state: ") as caught:
            gc.from_torch_state(tx, params, saved, names, **options)
        return str(caught.value)

    assert "isn't the state_dict of an optimizer" in error({"weight": np.ones(2)})
    assert "isn't the state_dict of an optimizer" in error(None)
    assert "has 2 parameters, but names has 1" in error(names=["bias"])
    assert "no parameter is called 'weight'; there are bias, kernel" in error(names=["bias", "weight"])
    assert "names has 'bias' twice" in error(names=["bias", "bias"])
    assert "has no names; give the paths in PyTorch's order" in error(names={"w": "kernel"})
    named = {"state": saved["state"], "param_groups": [saved["param_groups"][0] | {"param_names": ["b", "k"]}]}
    assert "names has no path for PyTorch's b" in error(named, {"k": "kernel"})
    assert "different numbers of updates: bias: 7, kernel: 50" in error(changed(saved, "0", step=7.0))
    assert "mu/bias: expected float32[2], got float64[3, 2]" in error(names=NAMES[::-1])
    assert "scale_by_adam/mu/bias: expected float32[2], got nothing" in error({**saved, "state": {}})
    assert "PyTorch's max_exp_avg_sq of bias: unexpected" in error(changed(saved, "0", max_exp_avg_sq=[1.0, 2.0]))
    assert "trace/trace/bias: expected float32[2], got nothing" in error(tx=gc.sgd(0.1, 0.9))
    sgd = RECORDED["continued"]["sgd_momentum"]["state_dict"]
    assert "give count=" in error(sgd, tx=gc.sgd(gc.linear_schedule(0.1, 0.2, 3), 0.9))


def test_without_a_step_the_count_is_given():
    params, saved = halfway("sgd_momentum")
    tx = gc.sgd(gc.linear_schedule(0.1, 0.2, 3), 0.9)
    assert int(gc.from_torch_state(tx, params, saved, NAMES, count=50)[1].count) == 50
    assert int(gc.from_torch_state(gc.sgd(0.1, 0.9), params, saved, NAMES)[1].count) == 0

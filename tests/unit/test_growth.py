"""What ten times as many parameters cost: ten times the work, and not more. Calls of functions are counted."""

import cProfile
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import gradchain as gc
from gradchain import eager

KERNELS = gc.by_path([("*kernel*", "kernels")], default="rest")
REPRESENTATIVE = {
    "adamw": gc.adamw(1e-3),
    "partition": gc.partition({"kernels": gc.muon(1e-3), "rest": gc.adam(1e-3)}, KERNELS),
}
OTHERS = {
    "accumulate": gc.accumulate(gc.adamw(1e-3), 4),
    "adafactor": gc.adafactor(1e-3),
    "apply_if_finite": gc.apply_if_finite(gc.adamw(1e-3), 3),
    "average_params": gc.average_params(gc.chain(gc.clip_by_global_norm(1.0), gc.adamw(1e-3)), 0.9),
    "lamb": gc.lamb(1e-3),
    "masked": gc.masked(gc.sgd(0.1), lambda params: jax.tree.map(lambda x: x.ndim > 1, params)),
    "muon": gc.muon(1e-3),
    "scale_by_path": gc.chain(gc.adam(1e-3), gc.scale_by_path([("*kernel*", 0.5)])),
    "schedule_free_adamw": gc.schedule_free_adamw(1e-3),
    "soap": gc.soap(1e-3),
    "store": gc.store(gc.adamw(1e-3), "int8", min_size=0),
}


def calls(function):
    """Return how many calls of functions a call makes, the second time."""
    function()
    profile = cProfile.Profile()
    profile.runcall(function)
    return sum(entry.callcount for entry in profile.getstats())


def uses(tx, layers):
    """Return what people do with an optimizer and the parameters of so many layers, by name."""
    params = {f"layer{i:03d}": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)} for i in range(layers)}
    everywhere = NamedSharding(Mesh(np.array(jax.devices()[:1]), ("data",)), P())
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), params)
    state = jax.eval_shape(tx.init, params)
    concrete = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state)
    return {
        "init": lambda: jax.eval_shape(tx.init, params),
        "update": lambda: jax.eval_shape(lambda g, s, p: tx.update(g, s, p), params, state, params),
        "describe": lambda: tx.describe(params).table(by="parameter"),
        "state_shardings": lambda: gc.state_shardings(tx, shapes),
        "to_state_dict": lambda: gc.to_state_dict(tx, concrete),
        "eval_params": lambda: tx.eval_params(concrete, params),
    }


def assert_grows_with_the_parameters(tx):
    few, many = uses(tx, 12), uses(tx, 120)
    for name in few:
        ratio = calls(many[name]) / calls(few[name])
        assert ratio < 10.3, f"{name}: {ratio:.1f} times the calls for ten times the parameters"


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_the_work_grows_with_the_number_of_parameters(name):
    assert_grows_with_the_parameters(REPRESENTATIVE[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_the_work_of_any_optimizer_grows_with_the_number_of_parameters(name):
    assert_grows_with_the_parameters(OTHERS[name])


@pytest.mark.slow
def test_the_work_grows_with_the_number_of_stages_and_of_labels():
    def nested(number):
        tx = gc.sgd(0.1)
        for _ in range(number):
            tx = gc.chain(tx, gc.scale(0.5))
        return tx

    def labelled(number):
        labels = [(f"*layer{i:03d}*", str(i)) for i in range(number)]
        return gc.partition({str(i): gc.sgd(0.1 * (i + 1), momentum=0.9) for i in range(number)}, gc.by_path(labels))

    def flat(number):
        return gc.chain(*[gc.scale(0.5)] * number)

    for make, layers, most in ((flat, (3, 3), 12), (nested, (3, 3), 16), (labelled, (4, 40), 30)):
        few, many = uses(make(4), layers[0]), uses(make(40), layers[1])
        for name in few:
            ratio = calls(many[name]) / calls(few[name])
            assert ratio < most, f"{name} of {make.__name__}: {ratio:.1f} times the calls for ten times as many"


def equal_stages(number):
    return gc.chain(*[gc.scale(0.5)] * number)


def test_the_work_for_names_grows_with_the_number_of_stages_of_one_name():
    few, many = equal_stages(20), equal_stages(200)
    assert list(gc.hyperparams(many))[-1] == "scale_200.step_size"
    ratio = calls(lambda: gc.hyperparams(many)) / calls(lambda: gc.hyperparams(few))
    assert ratio < 11, f"{ratio:.1f} times the calls for ten times as many stages"


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_first_values_are_traced_once_for_arrays_that_are_alike(name):
    tx = (REPRESENTATIVE | OTHERS)[name]
    params = {f"layer{i}": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)} for i in range(8)}
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    few = calls(lambda: tx.init({"layer0": shapes["layer0"]}))
    assert calls(lambda: tx.init(shapes)) < 3.5 * few, "eight times the arrays, of the same two shapes"
    state = jax.jit(tx.init)(params)
    places = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(state)]
    assert len({*places}) == len(places), "values that a trace shares have memory of their own"


def test_operations_that_are_fused_outside_of_programs_compile_once_for_all_numbers():
    traces = []

    def multiple(x, factor):
        traces.append(factor)
        return factor * x

    fused = eager.fused(multiple)
    results = [fused(jnp.arange(3.0), factor) for factor in (2.0, 0.5)]
    assert [x.tolist() for x in results] == [[0, 2, 4], [0, 0.5, 1]]
    assert len(traces) == 1
    jaxpr = jax.make_jaxpr(lambda x: fused(x, 2.0))(jnp.arange(3.0))
    assert [eqn.primitive.name for eqn in jaxpr.eqns] == ["mul"], "a program has the operations themselves"


@pytest.fixture(scope="module")
def report():
    """The script that says what the results of ``make growth`` are."""
    path = Path(__file__).parents[2] / "docs" / "growth" / "report.py"
    spec = importlib.util.spec_from_file_location("growth_report", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_and_its_pictures_say_what_was_measured(report):
    for name, text in report.files(report.read()).items():
        assert (report.FOLDER / name).read_text() == text, f"{name}: run docs/growth --report"


def test_exponents_are_those_of_power_laws(report):
    curve = {str(n): 2.0 * n**1.5 for n in (100, 300, 1000)}
    assert report.exponent(curve | {"10": 1e6}) == pytest.approx(1.5)
    assert np.isnan(report.exponent({"10": 1.0, "100": 2.0}))


def test_what_is_slower_than_its_counterpart_is_named(report):
    host = {
        "AdamW": {"init": {"gradchain": 2.0, "optax": 1.0}, "update": {"gradchain": 2.0, "optax": 3.0}},
        "LAMB": {"describe": {"gradchain": 1.5}, "init": {"gradchain": 0.5, "optax": 0.1}},
    }
    assert report.slower_on_the_host({"host": host}) == ["`init` of AdamW", "`describe` of LAMB"]

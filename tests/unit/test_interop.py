"""``to_optax``, ``from_optax`` and foreign stages in a chain."""

import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradchain as gc
from tests import trees


@gc.elementwise(extra=("value",))
def scale_by_value(g, slot, at):
    return g * at.value


class Halve(NamedTuple):
    """A transformation of neither library; its ``update`` takes no extra arguments."""

    def init(self, params):
        return {"steps": jnp.zeros((), jnp.int32)}

    def update(self, updates, state, params=None):
        return jax.tree.map(lambda g: g / 2, updates), {"steps": state["steps"] + 1}


def one_update(tx, dtype="float32", **extra):
    params = trees.standard(dtype)
    updates, state = tx.update(trees.standard(dtype, seed=1), tx.init(params), params, **extra)
    return updates, state


def assert_equal(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert jnp.result_type(x) == jnp.result_type(y)
        np.testing.assert_array_equal(np.asarray(x, float), np.asarray(y, float))


def test_to_optax_is_of_optax_class_and_gives_the_same_updates():
    tx = gc.adamw(0.1)
    converted = gc.to_optax(tx)
    assert isinstance(converted, optax.GradientTransformationExtraArgs)
    assert_equal(one_update(converted), one_update(tx))


def test_to_optax_lets_extra_arguments_through_an_optax_chain():
    tx = optax.chain(optax.scale(2.0), gc.to_optax(scale_by_value()))
    updates, _ = one_update(tx, value=3.0)
    assert_equal(updates, jax.tree.map(lambda g: g * 2.0 * 3.0, trees.standard(seed=1)))


def test_to_optax_takes_optax_transformations_too():
    assert_equal(one_update(gc.to_optax(optax.adam(0.1))), one_update(optax.adam(0.1)))


def test_to_optax_refuses_what_is_no_transform():
    with pytest.raises(TypeError, match="expected a transform"):
        gc.to_optax(lambda params: params)


def test_a_constructor_in_place_of_a_transform_is_an_error_that_says_so():
    with pytest.raises(TypeError, match="call it to get one"):
        gc.chain(gc.scale_by_adam, gc.scale(-0.1))


def test_from_optax_is_a_transform_and_leaves_gradchains_alone():
    tx = gc.adam(0.1)
    assert gc.from_optax(tx) is tx
    foreign = gc.from_optax(optax.adam(0.1))
    assert isinstance(foreign, gc.Transform)
    assert_equal(one_update(foreign), one_update(optax.adam(0.1)))


def test_a_foreign_transform_is_a_value_without_leaves():
    inner = optax.adam(0.1)
    assert gc.from_optax(inner) == gc.from_optax(inner)
    assert hash(gc.from_optax(inner)) == hash(gc.from_optax(inner))
    assert gc.from_optax(inner) != gc.from_optax(optax.adam(0.1))
    assert jax.tree.leaves(gc.from_optax(inner)) == []
    assert gc.hyperparams(gc.chain(inner, gc.scale(2.0))) == {"scale.step_size": 2.0}


def test_a_foreign_transform_unpacks_and_goes_through_jit():
    tx = gc.chain(optax.scale_by_adam(), gc.scale(-0.1))
    init, update = tx
    params = trees.standard()
    jitted = jax.jit(lambda tx, g, s, p: tx.update(g, s, p))
    got, _ = jitted(tx, params, init(params), params)
    want, _ = update(params, init(params), params)
    np.testing.assert_allclose(got["kernel"], want["kernel"], rtol=1e-6)


def test_extra_arguments_reach_an_update_that_names_them_and_no_other():
    plateau = optax.contrib.reduce_on_plateau(patience=1)
    updates, state = one_update(gc.chain(Halve(), plateau, scale_by_value()), value=2.0, unknown=1)
    assert_equal(updates, trees.standard(seed=1))
    assert state[0] == {"steps": 1}
    assert state[1].best_value == 2.0


def test_an_argument_that_a_foreign_update_needs_and_lacks_is_an_error():
    with pytest.raises(TypeError, match="value"):
        one_update(gc.chain(optax.contrib.reduce_on_plateau()))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_foreign_stage_gets_updates_in_the_dtype_of_its_parameters(dtype):
    seen = []

    def update(updates, state, params=None):
        seen.extend(x.dtype.name for x in jax.tree.leaves(updates))
        return updates, state

    foreign = optax.GradientTransformation(lambda params: (), update)
    updates, _ = one_update(gc.chain(gc.scale_by_adam(), foreign, gc.scale(-0.1)), dtype)
    assert set(seen) == {dtype}
    assert {x.dtype.name for x in jax.tree.leaves(updates)} == {dtype}


@pytest.mark.parametrize("build", [lambda: optax.scale_by_adam(), lambda: optax.trace(0.9), lambda: optax.ema(0.9)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_state_of_a_foreign_stage_is_a_carry(build, dtype):
    tx, params = gc.chain(gc.clip(1.0), build()), trees.standard(dtype)
    before = jax.eval_shape(tx.init, params)
    after = jax.eval_shape(lambda p: tx.update(p, tx.init(p), p)[1], params)
    assert before == after


def test_optax_around_gradchain_around_optax():
    def nest(library):
        return optax.chain(optax.clip(0.5), library.chain(optax.scale_by_adam(), library.scale(-0.1)), optax.scale(2.0))

    (got, _), (want, _) = one_update(nest(gc)), one_update(nest(optax))
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-6)


def run_without_optax(code):
    """Run code in a process where optax can't be imported."""
    blocked = f"import sys; sys.modules['optax'] = None\n{code}"
    return subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, timeout=120)


def test_gradchain_needs_no_optax_until_to_optax_is_called():
    result = run_without_optax("import gradchain as gc\nprint(gc.adam(0.1))\ngc.to_optax(gc.adam(0.1))")
    assert result.stdout.startswith("chain(scale_by_adam(")
    assert "ImportError: to_optax needs optax: pip install optax" in result.stderr


def test_importing_gradchain_imports_no_optional_library():
    code = "import gradchain, sys; print(sorted({'flax', 'optax', 'matplotlib', 'tqdm', 'torch'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr

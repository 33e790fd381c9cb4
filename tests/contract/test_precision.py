"""Promise 6: rules compute in float32 at least, stages stay there, and only the outermost update rounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from tests import quick, trees
from tests.contract.cases import STEPS, each, secondary
from tests.registry import ROWS


def updates_of(row, tx, params, gradients):
    """Return all updates of a run with the parameters at rest."""
    state, results = tx.init(params), []
    for k in range(STEPS):
        updates, state = row.update(tx, trees.at(gradients, k), state, params)
        results.append(updates)
    return results


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
@each([row for row in ROWS if not row.rounds], slow=secondary)
def test_half_precision_is_single_precision_rounded_once_at_the_end(row, dtype):
    params, gradients = trees.standard(dtype), trees.stream(STEPS, dtype)
    wide_params, wide_gradients = gc.tree.cast((params, gradients), "float32")
    for tx in (row.build(), gc.chain(row.build(), gc.scale(1 / 3), gc.identity())):
        rounded = gc.tree.cast(updates_of(row, tx, wide_params, wide_gradients), dtype)
        narrow = updates_of(row, tx, params, gradients)
        for x, y in zip(jax.tree.leaves(narrow), jax.tree.leaves(rounded), strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(np.asarray(x, np.float32), np.asarray(y, np.float32))


@pytest.mark.parametrize(("row", "dtype"), [(row, dtype) for row in ROWS for dtype in row.excludes], ids=str)
def test_excluded_dtypes_are_an_error(row, dtype):
    params, gradient = trees.standard(dtype), trees.at(trees.stream(1, dtype), 0)
    tx = row.build()
    with pytest.raises(TypeError, match=row.excludes[dtype]):
        row.update(tx, gradient, tx.init(params), params)


@pytest.mark.parametrize("compiled", [False, True])
def test_the_first_update_of_mixed_precision_parameters_is_in_each_ones_dtype(compiled):
    params = {"half": jnp.ones(3, "bfloat16"), "single": jnp.ones(3, "float32")}
    gradient = {"half": jnp.ones(3, "float32"), "single": jnp.ones(3, "bfloat16")}
    tx = gc.adamw(0.1)
    update = quick.jit(tx.update) if compiled else tx.update
    with_params, _ = update(gradient, tx.init(params), params)
    trees.assert_same_kind(with_params, params)
    without, _ = gc.adam(0.1).update(gradient, gc.adam(0.1).init(params))
    trees.assert_same_kind(without, gradient)

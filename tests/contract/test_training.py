"""Every transform runs in the training loops: these hand on what its rules ask for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradchain import training
from tests import trees
from tests.contract.cases import each, secondary
from tests.registry import ROWS
from tests.registry.row import loss

TRAINING = [row for row in ROWS if row.trains]

DATA = {"x": np.linspace(0.5, 1.5, 6).astype("float32")}


def weighted(params, batch):
    return jnp.mean(batch["x"]) * loss(params)


@pytest.mark.slow
@each(TRAINING)
def test_two_steps_of_training_are_finite(row):
    tx, params = row.build(), trees.standard("bfloat16" if "bfloat16" not in row.excludes else "float32")
    state = tx.init(params)
    for _ in range(2):
        params, state, _ = training.train_step(weighted, params, tx, state, DATA)
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(params))


@each(rows=[row for row in TRAINING if row.extra(trees.standard())], slow=secondary)
def test_what_asks_for_extra_arguments_trains_in_fit(row):
    result = training.fit(weighted, trees.standard(), row.build(), DATA, epochs=2, batch_size=4, remainder="keep")
    assert np.isfinite(result.history["loss"]).all()

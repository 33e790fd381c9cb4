"""One of several processes that train, save and resume together; run by test_checkpoints.py.

``python -m tests.accept.checkpoint_process ADDRESS PROCESSES NUMBER FOLDER``
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import gradchain as gc
from gradchain.training import fit


def loss_fn(params, batch):
    return jnp.mean((batch["x"] @ params["w"] + params["v"].sum() - 1) ** 2)


def problem(processes, number):
    """Return parameters and data as global arrays, of which each process holds a part."""
    mesh = jax.make_mesh((processes,), ("data",), axis_types=(AxisType.Auto,))
    place = jax.make_array_from_process_local_data
    rows, everywhere = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    x = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    own = slice(number * 32 // processes, (number + 1) * 32 // processes)
    params = {"w": place(everywhere, np.zeros(4, np.float32)), "v": place(rows, np.ones(2, np.float32))}
    return params, {"x": place(rows, x[own])}


def main(address, processes, number, folder):
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, processes, number)
    params, data = problem(processes, number)
    tx = gc.adam(0.1)

    def train(**options):
        state = jax.jit(tx.init)(params)
        return fit(loss_fn, params, tx, data, batch_size=8, seed=3, state=state, **options)

    whole = train(epochs=4)
    train(epochs=2, checkpoint=folder)
    resumed = train(epochs=4, checkpoint=folder)
    for got, want in zip(jax.tree.leaves(resumed[:3]), jax.tree.leaves(whole[:3]), strict=True):
        assert np.array_equal(got.addressable_data(0), want.addressable_data(0))
    assert np.array_equal(resumed.history.step_loss, whole.history.step_loss)
    print(f"process {number}: the same")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])

"""A run on the digits that saves checkpoints, in processes that may be killed.

``python -m tests.accept.checkpointed_run`` reads a line of JSON for each run, forks, and prints the child's number, a
line for each epoch that the child finishes, and at last its exit status. What is imported is imported once, for all.
"""

import json
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint  # noqa: F401 (imported before the forks)
from sklearn.datasets import load_digits

import gradchain as gc
from gradchain import training
from gradchain.losses import softmax_cross_entropy_with_integer_labels

EPOCHS = 10
TX = gc.average_params(
    gc.chain(gc.add_noise(0.01, 0.55, key=3), gc.adamw(gc.cosine_decay_schedule(0.01, 8 * 18))), decay=0.9
)


def digits():
    images, labels = load_digits(return_X_y=True)
    data = {"x": np.float32(images / 16), "y": labels}
    return tuple({name: x[start:stop] for name, x in data.items()} for start, stop in ((0, 600), (600, 900)))


def loss_fn(params, batch, key):
    hidden = jax.nn.relu(batch["x"] @ params["hidden"])
    if key is not None:
        hidden = jnp.where(jax.random.bernoulli(key, 0.8, hidden.shape), hidden / 0.8, 0)
    return jnp.mean(softmax_cross_entropy_with_integer_labels(hidden @ params["out"], batch["y"]))


def start():
    first, second = jax.random.split(jax.random.key(0))
    return {"hidden": 0.1 * jax.random.normal(first, (64, 16)), "out": 0.1 * jax.random.normal(second, (16, 10))}


def streamed(epoch):
    """Return an epoch's batches, one by one, in an order of its own."""
    train, _ = digits()
    for rows in np.random.default_rng(epoch).permutation(600)[:576].reshape(18, 32):
        yield {name: x[rows] for name, x in train.items()}


STREAMED = {"data": streamed, "steps_per_call": 4, "checkpoint_every": training.Steps(25)}
"""Checkpoints within epochs, and within and between blocks."""


def run(checkpoint=None, **changes):
    train, held_out = digits()
    stopping = training.EarlyStopping(patience=2, tolerance=0.05)
    options = {"data": train, "epochs": EPOCHS, "batch_size": 32, "seed": 5, "early_stopping": stopping} | changes
    return training.fit(loss_fn, start(), TX, **options, takes_key=True, validation=held_out, checkpoint=checkpoint)


def flat(result):
    """Return all that a result holds, as arrays by path."""
    result = result._asdict()
    history = result.pop("history")
    tree = {**result, "columns": dict(history.columns), "step_loss": history.step_loss}
    pairs = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in pairs}


def child(order):
    def say(epoch, row, params, state):
        print("epoch", epoch, flush=True)

    result = run(order["folder"], on_epoch=say, **STREAMED if order["streamed"] else {})
    np.savez(order["result"], **flat(result))


def main():
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            child(json.loads(line))
            os._exit(0)
        print("child", pid, flush=True)
        print("ended", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()

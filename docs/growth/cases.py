"""What is measured: optimizers of both libraries, models of any number of arrays, chains and partitions of any size."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib

import gradchain as gc

SIZES = 10, 30, 100, 300, 1000, 3000
SHORT = 1, 3, 10, 30, 100, 300
HOST = 3000
ARRAYS = 100
"""How many arrays the models of chains and partitions have."""
WIDTHS = 16, 32, 48, 64


def model(arrays):
    """Return kernels and biases of layers, in turn, of four widths."""
    rng = np.random.default_rng(0)
    made = {}
    for i in range(arrays):
        width, layer = WIDTHS[i // 2 % 4], made.setdefault(f"layer{i // 2:04d}", {})
        name, shape = ("bias", (width,)) if i % 2 else ("kernel", (width, width))
        layer[name] = jnp.asarray(rng.standard_normal(shape, dtype=np.float32))
    return made


def by_name(choose):
    """Return a function from parameters to labels, as Optax takes it, that chooses by the path."""

    def labels(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: choose(jax.tree_util.keystr(path)), params
        )

    return labels


KERNELS = gc.by_path([("kernel", "kernels")], default="rest")
KERNELS_OPTAX = by_name(lambda path: "kernels" if "kernel" in path else "rest")
OPTIMIZERS = {
    "AdamW": (lambda: gc.adamw(1e-3), lambda: optax.adamw(1e-3)),
    "LAMB": (lambda: gc.lamb(1e-3), lambda: optax.lamb(1e-3)),
    "Adafactor": (lambda: gc.adafactor(1e-3), lambda: optax.adafactor(1e-3)),
    "schedule-free AdamW": (
        lambda: gc.schedule_free_adamw(1e-3),
        lambda: contrib.schedule_free_adamw(1e-3),
    ),
    "SAM around AdamW": (
        lambda: gc.sam(gc.adamw(1e-3), gc.sgd(0.05)),
        lambda: contrib.sam(optax.adamw(1e-3), optax.sgd(0.05)),
    ),
    "accumulation around AdamW": (
        lambda: gc.accumulate(gc.adamw(1e-3), 4),
        lambda: optax.MultiSteps(optax.adamw(1e-3), 4).gradient_transformation(),
    ),
    "partition by path, two AdamW": (
        lambda: gc.partition(
            {"kernels": gc.adamw(1e-3), "rest": gc.adamw(1e-3, weight_decay=0.0)},
            KERNELS,
        ),
        lambda: optax.partition(
            {"kernels": optax.adamw(1e-3), "rest": optax.adamw(1e-3, weight_decay=0.0)},
            KERNELS_OPTAX,
        ),
    ),
    "Muon": (lambda: gc.muon(1e-3), lambda: contrib.muon(1e-3)),
}
"""Ours, and Optax's."""
COMPILING = {"accumulation around AdamW", "Muon"}
"""Whose ``update`` in Optax compiles in every call outside of programs, for minutes."""


def chain(library, number):
    return library.chain(*[library.trace(0.9)] * number)


def nest(library, number):
    tx = library.trace(0.9)
    for _ in range(number - 1):
        tx = library.chain(tx, library.trace(0.9))
    return tx


def labelled(library, number):
    """Return a partition of momentum with as many labels, by layers' numbers; as far as there are layers."""
    names = [f"layer{i:04d}" for i in range(number)]
    transforms = {name: library.sgd(0.1, momentum=0.9) for name in [*names, "rest"]}
    if library is gc:
        used = names[: ARRAYS // 2]
        return gc.partition(
            transforms, gc.by_path([(name, name) for name in used], default="rest")
        )

    def choose(path):
        name = path.split("'")[1]
        return name if name in transforms else "rest"

    return optax.partition(transforms, by_name(choose))


STRUCTURES = {
    "stages of a chain": chain,
    "chains in chains": nest,
    "labels of a partition": labelled,
}

"""Parameter trees that tests share: a small standard one in any dtype, streams of gradients, and unusual nests."""

import dataclasses
from typing import Any, NamedTuple

import flax.core
import jax
import jax.numpy as jnp
import numpy as np

SHAPES = {"bias": (2,), "kernel": (3, 2), "scale": ()}


def normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return standard normal numbers, of both parts for a complex dtype."""
    values = rng.standard_normal(shape)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        values = values + 1j * rng.standard_normal(shape)
    return np.asarray(values).astype(dtype)


def standard(dtype: Any = "float32", seed: int = 0) -> dict[str, jax.Array]:
    """Return the standard tree: a matrix, a vector and a scalar, filled with normal numbers."""
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(normal(rng, shape, jnp.dtype(dtype))) for name, shape in SHAPES.items()}


def stream(steps: int, dtype: Any = "float32", seed: int = 1) -> dict[str, jax.Array]:
    """Return ``steps`` gradients for the standard tree, stacked along a new first axis.

    Their size changes a hundredfold along the way and differs between numbers, as real gradients' do.
    """
    rng = np.random.default_rng(seed)
    sizes = 10.0 ** np.linspace(1, -1, steps)

    def leaf(shape: tuple[int, ...]) -> jax.Array:
        values = normal(rng, (steps, *shape), np.complex128 if jnp.issubdtype(dtype, jnp.complexfloating) else float)
        scales = 10.0 ** rng.uniform(-1, 0, shape)
        return jnp.asarray((values * sizes.reshape(-1, *[1] * len(shape)) * scales[None]).astype(jnp.dtype(dtype)))

    return {name: leaf(shape) for name, shape in SHAPES.items()}


def at(stacked: Any, index: int) -> Any:
    """Return one item of a stacked tree."""
    return jax.tree.map(lambda x: x[index], stacked)


def as_numpy(tree: Any) -> Any:
    """Return the tree in NumPy's float64 or complex128."""

    def leaf(x: Any) -> np.ndarray:
        return np.asarray(x, np.complex128 if jnp.iscomplexobj(x) else np.float64)

    return jax.tree.map(leaf, tree)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Layer:
    """A dataclass of parameters."""

    kernel: Any
    bias: Any


class Pair(NamedTuple):
    """A NamedTuple of parameters."""

    first: Any
    second: Any


def nests(dtype: Any = "float32") -> dict[str, Any]:
    """Return trees of unusual structure by name."""

    def array(*shape: int) -> jax.Array:
        return jnp.asarray(normal(np.random.default_rng(len(shape)), shape, jnp.dtype(dtype)))

    return {
        "empty": {},
        "only_none": {"a": None},
        "none": {"a": array(2), "b": None, "c": (None, array(2, 2))},
        "array": array(2, 2),
        "scalar": array(),
        "zero_size": {"a": array(0), "b": array(2, 0), "c": array(2)},
        "tuple": (array(2), [array(2, 2), ()]),
        "namedtuple": Pair(array(2), Pair(array(), None)),
        "dataclass": Layer(array(2, 2), array(2)),
        "frozen_dict": flax.core.freeze({"dense": {"kernel": array(2, 2), "bias": array(2)}}),
        "high_rank": {"conv": array(2, 1, 2, 2)},
    }


def disturbed(tree: Any, by: float, signs: np.random.Generator) -> Any:
    """Return a tree whose numbers are changed by a share of each: up or down, or to a side where they are complex."""

    def leaf(x: np.ndarray) -> np.ndarray:
        ways = [1, -1, 1j, -1j] if np.iscomplexobj(x) else [1.0, -1.0]
        return x * (1 + by * signs.choice(ways, x.shape))

    return jax.tree.map(leaf, tree)


def assert_same_kind(tree: Any, other: Any) -> None:
    """Assert equal structure, shapes, dtypes and weak types."""
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    assert [jax.typeof(x) for x in jax.tree.leaves(tree)] == [jax.typeof(x) for x in jax.tree.leaves(other)]


def relative_error(tree: Any, reference: Any) -> float:
    """Return max|tree - reference| / max|reference| over all arrays; with a reference of zeros, max|tree|.

    Equal infinities are no error. A NaN anywhere, in either tree, makes the result NaN, which no tolerance admits.
    """
    pairs = list(zip(jax.tree.leaves(as_numpy(tree)), jax.tree.leaves(as_numpy(reference)), strict=True))
    with np.errstate(invalid="ignore"):
        errors = [np.where(x == y, 0.0, np.abs(x - y)) for x, y in pairs]
    error = _largest(errors)
    size = _largest([np.where(np.isinf(y), 0.0, np.abs(y)) for _, y in pairs])
    return float(error if size == 0 else error / size)


def _largest(arrays: Any) -> Any:
    """Return the largest number in all arrays, NaN if one is NaN (which Python's ``max`` would pass over)."""
    return np.max([np.max(x, initial=0.0) for x in arrays], initial=0.0)


def assert_close(tree: Any, reference: Any, tolerance: float) -> None:
    """Assert equal structure and a relative error (see ``relative_error``) of at most ``tolerance``."""
    assert jax.tree.structure(tree) == jax.tree.structure(reference)
    error = relative_error(tree, reference)
    assert error <= tolerance, f"max|err|/max|ref| is {error:.2e}, allowed is {tolerance:.0e}"

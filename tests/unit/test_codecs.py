"""Codecs against a search through their tables in NumPy; rounding at random against its probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from gradchain.codecs import FORMATS, decode, encode
from gradchain.rounding import seeds, uniform

BITS = {"float32": 32, "bfloat16": 16, "float16": 16, "float8_e4m3": 8, "float8_e5m2": 8, "int8": 8, "int4": 4}
SHAPES = [(), (5,), (7, 3), (300,), (3, 256), (2, 3, 512), (37, 300)]
DRAWS = 4000


def numbers(shape, signed=True, seed=0):
    """Return numbers whose magnitudes spread over some decades."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape) * 10.0 ** rng.uniform(-3, 0, shape)
    return np.asarray(x if signed else x * x, np.float32)


def levels(bits, signed, kind):
    """Return all numbers that codes stand for, in units of the block's largest."""
    bits = bits - signed
    if kind == "linear":
        positive = np.linspace(0, 1, 2**bits)
    else:
        decades = [10.0 ** (j - bits) * (1 + 9 * np.arange(1, 2**j + 1) / 2**j) for j in range(1, bits)]
        positive = np.concatenate([[0, 10.0 ** (1 - bits)], *decades])
    assert len(positive) == 2**bits
    return np.unique(np.concatenate([-positive, positive])) if signed else positive


def blocks(x, size):
    """Return an array's blocks as the documentation tells: of rows where these divide, else of the flat array."""
    if x.ndim and x.shape[-1] % size == 0:
        return [x.reshape(-1)[i : i + size] for i in range(0, x.size, size)]
    return [x.reshape(-1)[i : i + size] for i in range(0, x.size, size)]


def nearest(x, codec, size):
    """Return what is decoded after rounding to nearest, by search through the table."""
    table = levels(BITS[codec.format], codec.signed, codec.map)
    result = []
    for block in blocks(x.astype(np.float64), size):
        scale = np.max(np.abs(block))
        places = np.argmin(np.abs(block[:, None] / scale - table), axis=1)
        if not codec.signed:
            places = np.where(block > 0, np.maximum(places, 1), places)
        result.append(scale * table[places])
    return np.concatenate(result).reshape(x.shape)


@pytest.mark.parametrize("kind", ["dynamic", "linear"])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("name", ["int8", "int4"])
@pytest.mark.parametrize("shape", [(300,), (3, 256)])
def test_codes_are_the_nearest_in_the_table(name, signed, kind, shape):
    codec = gc.codec(name, block_size=64, map=kind, signed=signed)
    x = numbers(shape, signed)
    got = decode(encode(codec, jnp.asarray(x), None))
    np.testing.assert_allclose(got, nearest(x, codec, 64), rtol=2e-6, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", FORMATS)
def test_bytes_are_exact(name, shape):
    codec = gc.codec(name, signed=True)
    size = int(np.prod(shape))
    block = {"float32": None, "bfloat16": None, "int4": 128}.get(name, 256)
    expected = -(-size * BITS[name] // 8) + (0 if block is None else 4 * -(-size // block))
    stored = encode(codec, jnp.asarray(numbers(shape)), None)
    assert codec.nbytes(shape) == expected == sum(x.nbytes for x in jax.tree.leaves(stored))
    assert stored.scales is None if block is None else stored.scales.dtype == jnp.float32
    assert stored.codes.dtype == (jnp.uint8 if name.startswith("int") else FORMATS[name].dtype)
    assert decode(stored).shape == shape


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("name", [name for name in FORMATS if name != "float32"])
def test_what_was_decoded_is_encoded_to_the_same_codes_with_any_rounding(name, signed):
    codec = gc.codec(name, signed=signed)
    first = encode(codec, jnp.asarray(numbers((3, 256), signed)), None)
    again = encode(codec, decode(first), jnp.array([1, 2], jnp.uint32))
    np.testing.assert_allclose(decode(again), decode(first), rtol=3e-7)


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float8_e5m2", "int8", "int4"])
def test_rounding_at_random_takes_the_neighbours_and_keeps_mean_and_variance(name):
    codec = gc.codec(name, signed=True)
    x = jnp.asarray(numbers((2, 256)))
    draw = jax.jit(jax.vmap(lambda seed: decode(encode(codec, x, seed))))
    draws = np.asarray(draw(seeds(jax.random.key(0), DRAWS)), np.float64)
    low, high = draws.min(axis=0), draws.max(axis=0)
    assert np.all((draws == low) | (draws == high))
    x, random = np.asarray(x, np.float64), high > low
    assert random.mean() > 0.9
    assert np.all((low <= x + 1e-6 * np.abs(x)) & (x - 1e-6 * np.abs(x) <= high) | ~random)
    variance, error = (x - low) * (high - x), draws.mean(axis=0) - x
    z = error[random] / np.sqrt(np.maximum(variance[random], 1e-30) / DRAWS)
    rare = variance[random] < (high - low)[random] ** 2 * 0.01
    assert np.abs(z[~rare]).max() < 5
    assert abs(np.mean(z[~rare] ** 2) - 1) < 0.3
    np.testing.assert_allclose(draws.var(axis=0)[random].sum(), variance[random].sum(), rtol=0.02)


@pytest.mark.parametrize("name", ["float16", "float8_e4m3", "float8_e5m2", "int8", "int4"])
def test_the_largest_of_a_block_is_exact_and_no_positive_number_of_a_nonnegative_slot_becomes_zero(name):
    x = np.asarray([3.0, 1e-12, 0.0, 1e-30, *[0.5] * 60], np.float32)
    for seed in (None, jnp.array([5, 6], jnp.uint32)):
        got = np.asarray(decode(encode(gc.codec(name, block_size=64, signed=False), jnp.asarray(x), seed)))
        assert got[0] == pytest.approx(3.0, rel=3e-7)
        assert np.array_equal(got == 0, x == 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["int8", "int4", "float8", "bfloat16"])
def test_what_isnt_finite_stays_visible(name, bad):
    x = jnp.ones(256).at[3].set(bad)
    got = decode(encode(gc.codec(name, signed=True), x, jnp.array([1, 2], jnp.uint32)))
    assert not jnp.isfinite(got[3])


def test_zeros_stay_zeros_and_numbers_beyond_the_smallest_scale_become_zeros():
    for name in FORMATS:
        codec = gc.codec(name, signed=True)
        assert not np.any(decode(encode(codec, jnp.zeros(300), jnp.array([1, 2], jnp.uint32))))
    assert not np.any(decode(encode(gc.codec("int8", signed=True), jnp.full(300, 1e-40), None)))


def test_complex_numbers_are_stored_in_parts():
    x = numbers((300,)) + 1j * numbers((300,), seed=1)
    for name in ("bfloat16", "int8", "int4"):
        stored = encode(gc.codec(name, signed=True), jnp.asarray(x, "complex64"), None)
        got = decode(stored)
        assert got.dtype == jnp.complex64
        assert got.shape == x.shape
        assert np.max(np.abs(got - x)) < 0.15 * np.max(np.abs(x))


def test_codec_prints_as_it_is_made_and_says_what_is_wrong():
    for codec in (
        gc.codec("int8"),
        gc.codec("int4", 64, "linear", signed=False),
        gc.codec("float8", rounding="nearest"),
    ):
        assert eval(repr(codec), {"codec": gc.codec}) == codec
    assert gc.codec(jnp.bfloat16) == gc.codec("bfloat16")
    assert gc.codec("float8") == gc.codec(jnp.float8_e4m3fn)
    for arguments, message in {
        ("int7",): "format must be one of float32, bfloat16",
        ("int8", 31): "block_size must be an even number",
        ("bfloat16", 64): "block_size must be an even number, and bfloat16 has None",
        ("float8", 64, "linear"): "map must be one of dynamic, linear, for int8 and int4",
        ("int8", None, "cubic"): "map must be one of dynamic, linear",
        ("int8", None, None, None, "up"): "rounding must be one of stochastic, nearest",
    }.items():
        with pytest.raises(ValueError, match=message):
            gc.codec(*arguments)


def test_random_shares_are_uniform_and_unrelated_between_places_and_seeds():
    u = np.asarray(jax.vmap(lambda s: uniform((64, 64), s))(seeds(jax.random.key(0), 200)), np.float64).reshape(200, -1)
    n = u.size
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.mean() - 0.5) < 5 * np.sqrt(1 / 12 / n)
    assert abs(u.var() - 1 / 12) < 5 * np.sqrt(1 / 180 / n)
    v = (u - 0.5) * np.sqrt(12)
    neighbours = [(v[:, :-k] * v[:, k:]).mean() for k in (1, 2, 64, 65)]
    in_time = [(v[:-k] * v[k:]).mean() for k in (1, 2)]
    assert max(map(abs, [*neighbours, *in_time])) < 5 / np.sqrt(n / 2)
    counts = np.histogram(u, 256, (0, 1))[0]
    assert ((counts - n / 256) ** 2 / (n / 256)).sum() < 256 + 5 * np.sqrt(2 * 256)


def all_numbers(dtype):
    """Return the finite numbers of a dtype that aren't negative, in order."""
    dtype = jnp.dtype(dtype)
    values = np.arange(2 ** (8 * dtype.itemsize - 1)).astype(f"uint{8 * dtype.itemsize}").view(dtype)
    return np.sort(values[np.isfinite(values.astype(np.float32))].astype(np.float32))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"])
def test_stochastic_round_takes_the_neighbours_of_any_size(dtype):
    table = all_numbers(dtype)
    least = max(float(jnp.finfo(dtype).smallest_normal) / 8, 2e-36)  # XLA's float32 has no subnormal numbers
    x = np.geomspace(least, 0.99 * table[-1], 300).astype(np.float32)
    place = np.searchsorted(table, x)
    draws = [gc.stochastic_round(s * x, dtype, jax.random.key(i)) for i in range(15) for s in (1, -1)]
    seen = np.abs(np.asarray(draws, np.float32))
    assert np.all((seen == table[place - 1]) | (seen == table[place]))
    assert np.mean(np.ptp(seen, axis=0) > 0) > 0.9


def test_stochastic_round_leaves_what_needs_no_rounding():
    key = jax.random.key(0)
    x = jnp.array([1.0, 0.0, -2.5, jnp.inf, -jnp.inf, jnp.nan])
    for dtype in ("bfloat16", "float16"):
        np.testing.assert_array_equal(np.float32(gc.stochastic_round(x, dtype, key)), np.float32(x))
    assert gc.stochastic_round(x.astype("bfloat16"), "float32", key).dtype == jnp.float32
    assert gc.stochastic_round(jnp.ones(2, "complex64"), "bfloat16", key).dtype == jnp.complex64


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("name", FORMATS)
def test_what_isnt_finite_spoils_only_its_own_number(name, signed, bad):
    codec = gc.codec(name, signed=signed, rounding="nearest")
    x = jnp.asarray(numbers((300,), signed))
    got = np.asarray(decode(encode(codec, x.at[7].set(bad), None)))
    others = np.arange(300) != 7
    np.testing.assert_array_equal(got[others], decode(encode(codec, x.at[7].set(0), None))[others])


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("largest", [5e-37, 1e-30, 1e38, 3e38, float(np.finfo(np.float32).max)])
def test_a_block_of_any_size_is_stored_as_it_is(name, largest):
    for signed in (True, False):
        x = jnp.array([1, 0.5, 0.25, 0], jnp.float32) * largest
        got = decode(encode(gc.codec(name, signed=signed, rounding="nearest"), x, None))
        np.testing.assert_allclose(
            np.float64(got) / largest, [1, 0.5, 0.25, 0], atol={4: 0.12, 8: 0.04}.get(BITS[name], 0.004)
        )
        assert float(got[0]) == pytest.approx(largest, rel=0.004 if name == "bfloat16" else 3e-7)


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_without_a_sign_negative_numbers_are_zero_and_what_isnt_finite_is_the_largest(name):
    x = jnp.array([2.0, -1.0, jnp.inf, -jnp.inf, jnp.nan])
    for seed in (None, jnp.array([1, 2], jnp.uint32)):
        got = decode(encode(gc.codec(name, signed=False), x, seed))
        np.testing.assert_allclose(got, [2, 0, 2, 2, 2], rtol=3e-7)

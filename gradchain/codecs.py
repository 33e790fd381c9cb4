"""Codecs: how an array of an optimizer's state is stored in 32, 16, 8 or 4 bits a number.

``codec("int8")`` names one; ``encode`` and ``decode`` are what :func:`gradchain.store` calls on each array.
"""

import dataclasses
import functools
import itertools
import math
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from gradchain.rounding import is_half, random_bits, round_at, uniform
from gradchain.signatures import public

Rounding = Literal["stochastic", "nearest"]
Map = Literal["dynamic", "linear"]
WHOLE = 4.0
"""What a block's largest number is scaled to. The inverse of one above 2^126, which scales to 1, is flushed to zero."""
LEAST = 2.0**-125
"""The smallest scale: ``WHOLE`` divided by it is a number."""


class Format(NamedTuple):
    """What a codec's name stands for."""

    bits: int
    dtype: Any
    """Of the codes."""
    block_size: int | None
    """By default; ``None`` where numbers have a range wide enough for no scale."""


FORMATS = {
    "float32": Format(32, jnp.float32, None),
    "bfloat16": Format(16, jnp.bfloat16, None),
    "float16": Format(16, jnp.float16, 256),
    "float8_e4m3": Format(8, jnp.float8_e4m3fn, 256),
    "float8_e5m2": Format(8, jnp.float8_e5m2, 256),
    "int8": Format(8, jnp.uint8, 256),
    "int4": Format(4, jnp.uint8, 128),
}
ALIASES = {"float8": "float8_e4m3", "float8_e4m3fn": "float8_e4m3"}


@public
@dataclasses.dataclass(frozen=True)
class Codec:
    """See :func:`codec`."""

    format: str
    block_size: int | None
    map: str | None
    signed: bool | None
    rounding: str

    @property
    def _spec(self) -> Format:
        return FORMATS[self.format]

    @property
    def random(self) -> bool:
        """Whether encoding draws random numbers."""
        return self.rounding == "stochastic" and self.format != "float32"

    def for_slot(self, nonnegative: bool) -> "Codec":
        """Return the codec with the question answered whether there are negative numbers."""
        return self if self.signed is not None else dataclasses.replace(self, signed=not nonnegative)

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Return how many bytes a real array of this shape takes: codes, and four bytes a block."""
        size = math.prod(shape)
        scales = 0 if self.block_size is None else 4 * -(-size // self.block_size)
        return -(-size * self._spec.bits // 8) + scales

    def quantize(self, x: Array, seed: Array | None) -> tuple[Array, Array | None]:
        """Return (codes, scales) of a real array, rounded at random from a seed, or else to nearest."""
        if self.block_size is None:
            most = float(jnp.finfo(self._spec.dtype).max)
            return self._cast(_within(x, -most, most), seed), None
        blocks = into_blocks(x, self.block_size)
        scales = _largest(blocks)
        scales = jnp.where(scales < LEAST, 0, scales)
        y = blocks * (WHOLE / jnp.where(scales == 0, 1, scales))[..., None]
        codes = self._codes(y, seed) if self._spec.dtype == jnp.uint8 else self._floats(y, seed)
        return (pack if self._spec.bits == 4 else from_blocks)(codes, x.shape), scales

    def dequantize(self, codes: Array, scales: Array | None, shape: tuple[int, ...]) -> Array:
        """Return the float32 array that codes and scales stand for."""
        if self.block_size is None or scales is None:
            return codes.astype(jnp.float32)
        codes = unpack(codes, shape, self.block_size) if self._spec.bits == 4 else into_blocks(codes, self.block_size)
        scales = scales[..., None]
        if self._spec.dtype == jnp.uint8:
            return from_blocks(self._values(codes) * scales, shape)
        y = codes.astype(jnp.float32) * (1 / float(jnp.finfo(self._spec.dtype).max))
        # The compiler may multiply constant and scales first; of small scales that would be flushed to zero.
        lift = jnp.where(scales < 2.0**-100, 2.0**20, 1)
        return from_blocks(y * (scales * lift) * (1 / lift), shape)

    def _cast(self, x: Array, seed: Array | None) -> Array:
        dtype = jnp.dtype(self._spec.dtype)
        return x.astype(dtype) if seed is None or not is_half(dtype) else round_at(x, dtype, uniform(x.shape, seed))

    def _floats(self, y: Array, seed: Array | None) -> Array:
        info = jnp.finfo(self._spec.dtype)
        most, least = float(info.max), float(info.smallest_subnormal)
        low = -most if self.signed else jnp.where(y > 0, least, 0)
        return self._cast(_within(y * (most / WHOLE), low, most), seed)

    def _codes(self, y: Array, seed: Array | None) -> Array:
        """Return codes of numbers up to ``WHOLE``: their place on the map, and a bit for the sign if there is one.

        The code of a negative zero stands for what isn't a finite number; without a sign that is stored as the largest.
        A place is the first bits after the point of a float32 in [1, 2). Rounding adds random bits to the others.
        """
        places, values = self._places()
        bits = self._spec.bits - bool(self.signed)
        magnitude, count = jnp.abs(y), 2**bits
        finite = magnitude < jnp.inf
        lines = _lines([WHOLE * value for value in values], [1 + place / count for place in places])
        place = functools.reduce(_least, (a * magnitude + b for a, b in lines), 2 - 1 / count)
        share = np.uint32(1 << (22 - bits)) if seed is None else random_bits(y.shape, seed) >> np.uint32(9 + bits)
        code = (_words(place) + share) >> np.uint32(23 - bits) & np.uint32(count - 1)
        if not self.signed:
            return jnp.where((y <= 0) & finite, 0, jnp.maximum(code, 1)).astype(jnp.uint8)
        sign = _words(y) >> 31 << bits
        return jnp.where(finite, jnp.where(code > 0, code | sign, 0), self._not_finite).astype(jnp.uint8)

    @property
    def _not_finite(self) -> Any:
        return np.uint8(1 << (self._spec.bits - 1))

    def _values(self, codes: Array) -> Array:
        sign = self._not_finite
        place = (codes & (sign - np.uint8(1)) if self.signed else codes).astype(jnp.float32)
        value = functools.reduce(_most, (a * place + b for a, b in _lines(*self._places())))
        if not self.signed:
            return value
        return jnp.where(codes == sign, math.nan, jnp.where(codes > sign, -value, value))

    def _places(self) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Return the corners of the map from codes to [0, 1], which is convex and straight between them."""
        bits = self._spec.bits - bool(self.signed)
        if self.map == "linear":
            return (0, 2**bits - 1), (0.0, 1.0)
        decades = range(1, bits + 1)
        return (0, *(2**j - 1 for j in decades)), (0.0, *(10.0 ** (j - bits) for j in decades))

    def __repr__(self) -> str:
        default = codec(self.format)
        changed = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)[1:]}
        shown = "".join(f", {k}={v!r}" for k, v in changed.items() if v != getattr(default, k))
        return f"codec({self.format!r}{shown})"


def _lines(xs: Any, ys: Any) -> list[tuple[float, float]]:
    """Return (slope, offset) of the lines through neighbouring points."""
    points = list(zip(xs, ys, strict=True))
    slopes = [(y1 - y0) / (x1 - x0) for (x0, y0), (x1, y1) in itertools.pairwise(points)]
    return [(slope, y - slope * x) for slope, (x, y) in zip(slopes, points, strict=False)]


def _largest(blocks: Array) -> Array:
    """Return the largest finite magnitude of each block."""
    sizes = jnp.abs(blocks)
    return jnp.max(jnp.where(sizes < jnp.inf, sizes, 0), axis=-1)


def _words(x: Array) -> Array:
    """Return the bits of float32 numbers."""
    return lax.bitcast_convert_type(x, jnp.uint32)


def _within(x: Array, low: Any, high: Any) -> Array:
    """Return ``x`` with finite numbers clipped to a range."""
    return jnp.where(jnp.isfinite(x), jnp.clip(x, low, high), x)


def _least(x: Array, y: Array) -> Array:
    return jnp.where(y < x, y, x)  # jnp.minimum's care for NaN takes three times as long on a CPU


def _most(x: Array, y: Array) -> Array:
    return jnp.where(y > x, y, x)


@public
def codec(
    format: Any,
    block_size: int | None = None,
    map: Map | None = None,
    signed: bool | None = None,
    rounding: Rounding = "stochastic",
) -> Codec:
    r"""Describe how an array of numbers is stored: what :func:`store` takes in the place of a format's name.

    ==================  =======  =========  ================================================================
    format              bytes    spacing    codes
    ==================  =======  =========  ================================================================
    ``"float32"``       4        1.2e-7     as they are
    ``"bfloat16"``      2        0.8 %      bfloat16
    ``"float16"``       2.016    0.1 %      float16, and a scale for each block
    ``"float8_e4m3"``   1.016    7 %        float8, and a scale for each block; ``"float8"`` is the same
    ``"float8_e5m2"``   1.016    14 %       float8, and a scale for each block
    ``"int8"``          1.016    1.4 %      8 bits on a map, and a scale for each block
    ``"int4"``          0.531    23 %       4 bits on a map, two in a byte, and a scale for each block
    ==================  =======  =========  ================================================================

    Bytes are those of one number with the default block size; spacing is that of neighbours at the block's largest
    number, half of that on a map without a sign.

    A *block* is a run of numbers along the last axis, or of the flattened array if ``block_size`` doesn't divide that
    axis. Its scale is its largest magnitude :math:`s`, so that all :math:`x / s` are in [-1, 1], and :math:`\pm s` are
    stored exactly. The *dynamic* map spends half of its :math:`2^b` codes on the uppermost decade of magnitudes, half
    of the rest on the next one, and so on, evenly spaced within: 7 decades with a sign, 8 without (3 and 4 in four
    bits). It is convex and straight between its corners, so that both directions are a maximum of a few lines and no
    search. Numbers of a slot that is never negative have no sign bit, and none above zero is stored as zero:
    a second moment that vanishes beside a first one that doesn't would be a step without bounds.

    A number that isn't finite has no part in the scale, so that it spoils itself alone. It comes back so, or as NaN; in
    ``"int8"`` and ``"int4"`` without a sign, which have no code to spare, as the block's largest number.

    Args:
      format: one of the names above, or a dtype.
      block_size: numbers that share a scale, a whole number, at least 2 and even; 256 by default, 128 for ``"int4"``.
        Smaller blocks follow the magnitudes more closely; four bytes each.
      map: for ``"int8"`` and ``"int4"``: ``"dynamic"`` (default) or ``"linear"``, evenly spaced codes.
      signed: whether there are negative numbers. By default the slot's declaration answers that.
      rounding: ``"stochastic"`` keeps the mean: a moving average that moves by less than half of the distance to the
        next code would stand still with ``"nearest"``.

    Raises:
      ValueError: for an unknown format, map or rounding, or a block size or map where there is none.

    Example:
      >>> tx = store(adam(1e-3), mu=codec("int8", block_size=64), nu="bfloat16")

    References:
      Dettmers et al., *8-bit Optimizers via Block-wise Quantization*, 2022, sections 2 and 3: blocks and the dynamic
      map (theirs has its codes in the middle of its intervals, and one more).
      Li et al., *Memory Efficient Optimizers with 4-bit States*, 2023: maps without a zero for second moments.
    """
    name = format if isinstance(format, str) else getattr(jnp.dtype(format), "name", format)
    name = ALIASES.get(name, name)
    if name not in FORMATS:
        raise ValueError(f"codec: format must be one of {', '.join(FORMATS)}, got {format!r}")
    spec = FORMATS[name]
    if rounding not in get_args(Rounding):
        raise ValueError(f"codec: rounding must be one of {', '.join(get_args(Rounding))}, got {rounding!r}")
    if map is not None and (spec.dtype != jnp.uint8 or map not in get_args(Map)):
        raise ValueError(f"codec: map must be one of {', '.join(get_args(Map))}, for int8 and int4; got {map!r}")
    if block_size is not None and (spec.block_size is None or not _is_even(block_size)):
        raise ValueError(
            f"codec: block_size must be an even number, and {name} has {spec.block_size}; got {block_size}"
        )
    if spec.dtype == jnp.uint8:
        map = map or "dynamic"
    return Codec(name, block_size or spec.block_size, map, signed, rounding)


def _is_even(x: Any) -> bool:
    return isinstance(x, int) and not isinstance(x, bool) and x >= 2 and x % 2 == 0


def _aligned(shape: tuple[int, ...], size: int) -> bool:
    return bool(shape) and shape[-1] % size == 0


def into_blocks(x: Array, size: int) -> Array:
    """Return an array as blocks of ``size`` along the last axis, or of the flattened array, filled up with zeros."""
    if _aligned(x.shape, size):
        return x.reshape(*x.shape[:-1], -1, size)
    return jnp.pad(x.reshape(-1), (0, -x.size % size)).reshape(-1, size)


def from_blocks(blocks: Array, shape: tuple[int, ...]) -> Array:
    """Return the array of a given shape that ``into_blocks`` was given."""
    if math.prod(blocks.shape) == math.prod(shape):
        return blocks.reshape(shape)
    return blocks.reshape(-1)[: math.prod(shape)].reshape(shape)


def pack(blocks: Array, shape: tuple[int, ...]) -> Array:
    """Return 4-bit codes two in a byte: each block's second half over its first; unaligned ones', the array's."""
    if _aligned(shape, blocks.shape[-1]):
        low, high = jnp.split(blocks, 2, axis=-1)
        return low | (high << 4)  # as blocks: XLA's kernel for the flat array takes five times as long on a CPU
    size = math.prod(shape)
    half = -(-size // 2)
    codes = jnp.pad(blocks.reshape(-1)[:size], (0, 2 * half - size))
    return codes[:half] | (codes[half:] << 4)


def unpack(codes: Array, shape: tuple[int, ...], size: int) -> Array:
    """Return the blocks that ``pack`` was given."""
    low, high = codes & np.uint8(15), codes >> np.uint8(4)
    if _aligned(shape, size):
        return jnp.concatenate([low, high], axis=-1)
    return into_blocks(jnp.concatenate([low, high])[: math.prod(shape)], size)


@public
@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["codes", "scales"], meta_fields=["codec", "shape", "is_complex"]
)
@dataclasses.dataclass(frozen=True)
class Stored:
    """An array as a codec stores it: in the place of a slot in the state of :func:`gradchain.store`."""

    codes: Any
    scales: Any
    """One for each block, or ``None``."""
    codec: Codec
    shape: tuple[int, ...]
    is_complex: bool


def is_stored(x: Any) -> bool:
    """Return whether ``x`` is an array in stored form."""
    return isinstance(x, Stored)


@functools.partial(jax.jit, static_argnums=0)
def encode(codec: Codec, x: Array, seed: Array | None) -> Stored:
    """Return a real or complex array in stored form.

    Args:
      codec: a codec whose ``signed`` is known.
      x: the array.
      seed: two random words; ``None`` to round to nearest.
    """
    parts = jnp.stack([x.real, x.imag]) if jnp.iscomplexobj(x) else x
    codes, scales = codec.quantize(parts.astype(jnp.float32), seed if codec.random else None)
    return Stored(codes, scales, codec, x.shape, jnp.iscomplexobj(x))


@jax.jit
def decode(stored: Stored) -> Array:
    """Return the float32 or complex64 array that is stored."""
    shape = (2, *stored.shape) if stored.is_complex else stored.shape
    x = stored.codec.dequantize(stored.codes, stored.scales, shape)
    return lax.complex(x[0], x[1]) if stored.is_complex else x

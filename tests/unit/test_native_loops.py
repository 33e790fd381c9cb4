"""Loops in C++, operation by operation: each gives XLA's bits."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from gradchain.native.code import FORMS, OPERATIONS
from gradchain.native.in_place import in_place
from tests.unit.test_native import kernels, uses_kernel

__all__ = ["kernels"]

SPECIAL = (0.0, -0.0, 1.0, 1.00390625, -1.01171875, 1e-3, -3e38, 3e38, np.inf, -np.inf, np.nan)
PAIRS = np.array(list(itertools.product(SPECIAL, SPECIAL)), np.float32)
X, Y = np.concatenate([PAIRS, np.random.default_rng(0).standard_normal((500, 2), np.float32)]).T
"""Each pair of special numbers, two of them halfway between neighbours in bfloat16, and some hundred ordinary ones."""


def narrow(x):
    return lax.reduce_precision(x, 8, 7)


BINARY = {
    "add": lax.add,
    "sub": lax.sub,
    "mul": lax.mul,
    "div": lax.div,
    "max": lax.max,
    "min": lax.min,
    "eq": lambda x, y: jnp.where(x == y, x, y),
    "ne": lambda x, y: jnp.where(x != y, 1.0, y),
    "lt": lambda x, y: (x < y).astype(x.dtype),
    "le": lambda x, y: jnp.where(x <= y, 2.0, 3.0),
    "gt": lambda x, y: (x > y).astype(x.dtype),
    "ge": lambda x, y: (x >= y).astype(x.dtype),
    "and": lambda x, y: jnp.where((x > 0) & (y > 0), x, y),
    "or": lambda x, y: jnp.where((x > 0) | (y > 0), x, y),
    "not": lambda x, y: jnp.where(~(x > y), x, y),
    "select_n": lambda x, y: jnp.where(x > y, x, 4.0),
    "clamp": lambda x, y: lax.clamp(jnp.full_like(x, -1.0), x, y),
}
UNARY = {
    "neg": lax.neg,
    "abs": lax.abs,
    "sign": lax.sign,
    "sqrt": lax.sqrt,
    "square": lax.square,
    "copy": lambda x: jnp.array(x, copy=True),
    "integer_pow": lambda x: x**3,
    "reduce_precision": lambda x: lax.reduce_precision(x, 8, 7),
    "convert_element_type": lambda x: x.astype(jnp.bfloat16).astype(jnp.float32),
}
NAMES = [*UNARY, *(f"{name}{kind}" for name in BINARY for kind in ("", " a number", " to a number"))]


def operations(kept, x, y):
    """Return a result for each operation; numbers are powers of two, as XLA multiplies by reciprocals of constants."""
    wide, other = x.astype(jnp.float32), y.astype(jnp.float32)
    results = {name: function(wide) for name, function in UNARY.items()}
    for name, function in BINARY.items():
        results |= {name: function(wide, other), f"{name} a number": function(wide, jnp.full_like(wide, 0.5))}
        results |= {f"{name} to a number": function(jnp.full_like(wide, -2.0), other)}
    return {name: result.astype(x.dtype) for name, result in results.items()}


def same(results, expected):
    for name, result in results.items():
        got, wanted = np.asarray(result, np.float32), np.asarray(expected[name], np.float32)
        np.testing.assert_array_equal(got, wanted, err_msg=name)
        if name.split()[0] not in ("max", "min", "clamp"):  # of 0 and -0 each is the larger
            np.testing.assert_array_equal(np.signbit(got[wanted == 0]), np.signbit(wanted[wanted == 0]), err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_each_operation_gives_xlas_bits(dtype):
    x, y = jnp.asarray(X, dtype), jnp.asarray(Y, dtype)
    kept = dict.fromkeys(NAMES, x)
    assert {name.split()[0] for name in NAMES} == {*OPERATIONS, *FORMS}
    assert uses_kernel(lambda *arrays: in_place(operations, *arrays), kept, x, y)
    same(jax.jit(lambda *arrays: in_place(operations, *arrays))(kept, x, y), jax.jit(operations)(kept, x, y))


def test_numbers_are_computed_outside():
    def program(x, y, a, flag):
        return jnp.where(flag, x * jnp.exp(a), y) + jnp.full_like(x, jnp.sqrt(a)) * jnp.ones_like(x) * 2.0

    x, y, a = jnp.asarray(X), jnp.asarray(Y), jnp.float32(np.log(2.0))
    for flag in (True, False):
        arguments = x, y, a, jnp.asarray(flag)
        assert uses_kernel(lambda *arguments: in_place(program, *arguments), *arguments)
        results = [jax.jit(lambda *arguments: in_place(program, *arguments))(*arguments), jax.jit(program)(*arguments)]
        np.testing.assert_allclose(*results, rtol=1e-6)


OTHER = {
    "exponential": lambda x, y: jnp.exp(x),
    "sum": lambda x, y: x - jnp.sum(x),
    "reversed": lambda x, y: x + y[::-1],
    "whole_numbers": lambda x, y: x.astype(jnp.int32).astype(x.dtype),
    "half_precision": lambda x, y: (x.astype(jnp.float16) + 1).astype(x.dtype),
    "third": lambda x, y: jnp.stack([x, y])[0],
    "constant_array": lambda x, y: x + jnp.arange(x.size, dtype=x.dtype),
    "three_cases": lambda x, y: lax.select_n((x > y).astype(jnp.int32), x, y, x),
    "root": lambda x, y: x**-1,
}


@pytest.mark.parametrize("name", OTHER)
def test_what_a_loop_cant_compute_is_xlas(name):
    x, y, program = jnp.linspace(0.1, 4.0, 6), jnp.ones(6), OTHER[name]
    jitted = jax.jit(lambda *arrays: in_place(program, *arrays))
    assert not uses_kernel(jitted, x, y)
    np.testing.assert_array_equal(jitted(x, y), jax.jit(program)(x, y))


def test_arrays_of_other_shapes_are_xlas():
    def program(kept, factor):
        return jax.tree.map(lambda x: factor * x, kept)

    kept, factor = (jnp.ones(6), jnp.ones(1)), jnp.float32(2.0)
    jitted = jax.jit(lambda *arrays: in_place(program, *arrays))
    assert not uses_kernel(jitted, kept, factor)
    np.testing.assert_array_equal(jitted(kept, factor)[1], [2.0])

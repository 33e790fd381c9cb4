"""From elementwise programs of JAX to loops in C++."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax.numpy as jnp
from jax import Array
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

STORED = {jnp.dtype(jnp.float32): "float", jnp.dtype(jnp.bfloat16): "uint16_t"}
"""The dtypes of a loop's arrays, and what C++ takes them for. It computes in float32."""
CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr"}
"""Primitives that stand for a program, and the parameter that holds it."""
OPERATIONS = {
    "add": "{} + {}",
    "sub": "{} - {}",
    "mul": "{} * {}",
    "div": "{} / {}",
    "max": "maximum({}, {})",
    "min": "minimum({}, {})",
    "neg": "-{}",
    "abs": "std::fabs({})",
    "sign": "sign({})",
    "sqrt": "std::sqrt({})",
    "square": "{0} * {0}",
    "clamp": "minimum(maximum({1}, {0}), {2})",
    "select_n": "{0} != 0 ? {2} : {1}",
    "copy": "{}",
    "eq": "{} == {}",
    "ne": "{} != {}",
    "lt": "{} < {}",
    "le": "{} <= {}",
    "gt": "{} > {}",
    "ge": "{} >= {}",
    "and": "{} * {}",
    "or": "maximum({}, {})",
    "not": "1.0f - {}",
}
"""Primitives whose results a loop can compute. Conditions are the numbers 0 and 1."""

ROUNDED = "rounded({})"


class Unknown(Exception):
    """A program has something that a loop can't compute."""


class Loop(NamedTuple):
    """What computes a program's results."""

    text: str
    """The function in C++."""
    numbers: Array
    """The numbers that it uses, in float32."""


def loop_of(program: ClosedJaxpr, operands: Sequence[Any], arrays: Sequence[int]) -> Loop | None:
    """Return a loop that computes a program's results, or ``None`` where one can't.

    What depends on numbers alone is computed now, by JAX, so that programs that differ in numbers alone have one text.

    Args:
      program: its results are arrays of one shape.
      operands: what it is called with.
      arrays: which of them the loop reads, all of that shape. Any of them may share its memory with a result.
    """
    shape = operands[arrays[0]].shape
    dtypes = [operands[i].dtype for i in arrays] + [x.dtype for x in program.out_avals]
    if not STORED.keys() >= set(dtypes) or any(x.shape != shape for x in program.out_avals):
        return None
    code = _Code(shape)
    values = list(operands)
    for place, i in enumerate(arrays):
        values[i] = code.value(f"widen(a{place}[i])")
    try:
        results = [code.operand(x) for x in code.run(program, values)]
    except Unknown:
        return None
    return Loop(_text(code, len(arrays), results, [STORED[x] for x in dtypes]), code.stacked())


def _text(code: "_Code", size: int, results: list[str], types: list[str]) -> str:
    names = [f"a{k}" if k < size else f"r{k - size}" for k in range(len(types))]
    stored = [
        f"narrow({code.wide.get(x, x)})" if kind == "uint16_t" else x
        for x, kind in zip(results, types[size:], strict=True)
    ]
    lines = [
        *(f"  auto {x} = ({kind}*)arrays[{k}];" for k, (x, kind) in enumerate(zip(names, types, strict=True))),
        *(f"  float n{k} = numbers[{k}];" for k in range(len(code.numbers))),
        *("  INDEPENDENT", "  for (int64_t i = begin; i < end; ++i) {"),
        *(f"    {line}" for line in code.lines),
        *(f"    r{k}[i] = {x};" for k, x in enumerate(stored)),
    ]
    head = "void loop(void** arrays, const float* numbers, int64_t begin, int64_t end)"
    return "\n".join(['#include "loop.h"\n', f'extern "C" FOR_EACH_PROCESSOR {head} {{', *lines, "  }", "}", ""])


class _Variable(str):
    """The name of a loop's variable, which takes the place of an array."""


class _Code:
    """The body of a loop in the making: a program is run with variables in the places of arrays."""

    def __init__(self, shape: tuple[int, ...]):
        self.shape = shape
        self.lines: list[str] = []
        self.numbers: list[Any] = []
        self.wide: dict[str, _Variable] = {}
        """What is rounded to bfloat16, by the name of the result: stored as that, it needs no rounding before."""

    def value(self, expression: str) -> _Variable:
        self.lines.append(f"float v{len(self.lines)} = {expression};")
        return _Variable(f"v{len(self.lines) - 1}")

    def run(self, program: ClosedJaxpr, operands: Sequence[Any]) -> list[Any]:
        """Return a program's results: variables, and numbers where all elements are equal."""
        jaxpr = program.jaxpr
        known: dict[Any, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*program.consts, *operands), strict=True))

        def read(x: Any) -> Any:
            return x.val if isinstance(x, Literal) else known[x]

        for equation in jaxpr.eqns:
            results = self.equation(equation, [read(x) for x in equation.invars])
            known.update(zip(equation.outvars, results, strict=True))
        return [read(x) for x in jaxpr.outvars]

    def equation(self, equation: JaxprEqn, operands: list[Any]) -> list[Any]:
        primitive, params = equation.primitive, equation.params
        if primitive.name in CALLS:
            return self.run(params[CALLS[primitive.name]], operands)
        if primitive.name == "broadcast_in_dim" and params["shape"] == self.shape and not jnp.ndim(operands[0]):
            return operands[:1]  # a number stands for an array of it
        if any(isinstance(x, _Variable) for x in operands):
            form = _form(primitive.name, params)
            result = self.value(form.format(*map(self.operand, operands)))
            if form == ROUNDED:
                self.wide[result] = operands[0]
            return [result]
        shapes = [cast(Any, var.aval).shape for var in equation.invars]
        whole = all(jnp.shape(x) == shape for x, shape in zip(operands, shapes, strict=True))
        if not (whole or primitive.name in OPERATIONS or primitive.name in FORMS):
            raise Unknown(primitive.name)
        results = primitive.bind(*operands, **params)
        return results if primitive.multiple_results else [results]

    def operand(self, x: Any) -> str:
        """Return what stands for a variable or a number in an expression."""
        if isinstance(x, _Variable):
            return x
        if jnp.ndim(x) or jnp.result_type(x) not in (*STORED, jnp.bool_):
            raise Unknown(x)
        self.numbers.append(x)
        return f"n{len(self.numbers) - 1}"

    def stacked(self) -> Array:
        return jnp.stack([jnp.asarray(x, jnp.float32) for x in self.numbers] or [jnp.float32(0)])


def _form(name: str, params: dict[str, Any]) -> str:
    """Return the expression for a primitive, with braces in the places of its operands."""
    form = FORMS[name](params) if name in FORMS else OPERATIONS.get(name)
    if form is None:
        raise Unknown(name)
    return form


def _converted(params: dict[str, Any]) -> str | None:
    return {"float32": "{}", "bfloat16": ROUNDED}.get(jnp.dtype(params["new_dtype"]).name)


def _reduced(params: dict[str, Any]) -> str | None:
    return {(8, 23): "{}", (8, 7): ROUNDED}.get((params["exponent_bits"], params["mantissa_bits"]))


def _power(params: dict[str, Any]) -> str | None:
    return {2: "{0} * {0}", 3: "{0} * {0} * {0}"}.get(params["y"])


FORMS: dict[str, Callable[[dict[str, Any]], str | None]] = {
    "convert_element_type": _converted,
    "reduce_precision": _reduced,
    "integer_pow": _power,
}
"""Those for which it depends on parameters."""

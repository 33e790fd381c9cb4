"""A program of JAX with a twin in C++, which does the same in one pass over memory."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

# The first operands, as many as ``size`` says, are the twin's, and the others the program's. Whatever isn't lowered
# for a CPU, every batch and every derivative is the program's, so a twin has no rules of its own.
_twin: Any = Primitive("gradchain_twin")
_twin.multiple_results = True


def with_twin(
    program: Callable[..., Any], arguments: Sequence[Any], twin: Callable[..., Any], own: Sequence[Any]
) -> Any:
    """Return ``program(*arguments)``, which on a CPU is computed as ``twin(*own)``.

    Args:
      program: a function of arrays, or trees of them.
      arguments: what it is called with.
      twin: returns the leaves of the program's result; of constants that are hashable, and compared, only.
      own: the twin's operands, arrays.
    """
    leaves, treedef = jax.tree.flatten(tuple(arguments))

    def flat(*leaves: Any) -> Any:
        return program(*treedef.unflatten(leaves))

    jaxpr, shapes = jax.make_jaxpr(flat, return_shape=True)(*leaves)
    results = _twin.bind(*own, *leaves, program=jaxpr, twin=twin, size=len(own))
    return jax.tree.unflatten(jax.tree.structure(shapes), results)


def _run(*operands: Any, program: ClosedJaxpr, twin: Any, size: int) -> Any:
    return jaxpr_as_fun(program)(*operands[size:])


def _run_twin(*operands: Any, program: ClosedJaxpr, twin: Any, size: int) -> Any:
    return twin(*operands[:size])


def _avals(*_: Any, program: ClosedJaxpr, twin: Any, size: int) -> Any:
    return program.out_avals


def _batch(operands: Any, axes: Any, *, program: ClosedJaxpr, twin: Any, size: int) -> Any:
    results = jax.vmap(jaxpr_as_fun(program), in_axes=tuple(axes[size:]))(*operands[size:])
    return results, [0] * len(results)


def _jvp(primals: Any, tangents: Any, *, program: ClosedJaxpr, twin: Any, size: int) -> Any:
    filled = [ad.instantiate_zeros(tangent) for tangent in tangents[size:]]
    return jax.jvp(jaxpr_as_fun(program), tuple(primals[size:]), tuple(filled))


_twin.def_impl(_run)
_twin.def_abstract_eval(_avals)
batching.primitive_batchers[_twin] = _batch
ad.primitive_jvps[_twin] = _jvp
mlir.register_lowering(_twin, mlir.lower_fun(_run, multiple_results=True))
mlir.register_lowering(_twin, mlir.lower_fun(_run_twin, multiple_results=True), platform="cpu")

"""Programs of JAX that are computed on a CPU by loops in C++, in the memory of their operands."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

from gradchain.native.code import STORED, loop_of
from gradchain.native.library import TARGET, loaded

# The first operands, as many as ``size`` says, are the loop's, and the others the program's. Whatever isn't lowered for
# a CPU, every batch and every derivative is the program's, so the primitive has no rules of its own.
_in_place: Any = Primitive("gradchain_in_place")
_in_place.multiple_results = True


def in_place(program: Callable[..., Any], kept: Any, *others: Any) -> Any:
    """Return ``program(kept, *others)``. On a CPU it is one loop over memory, if the program is elementwise.

    Args:
      program: returns a tree like ``kept``.
      kept: arrays of one shape, whose memory the results take where it is free.
      others: trees of arrays.
    """
    leaves, treedef = jax.tree.flatten((kept, *others))

    def flat(*leaves: Any) -> Any:
        return jax.tree.leaves(program(*treedef.unflatten(leaves)))

    jaxpr, size = jax.make_jaxpr(flat)(*leaves), len(jax.tree.leaves(kept))
    arrays = [i for i, x in enumerate(leaves) if i < size or (x.shape == leaves[0].shape and x.dtype in STORED)]
    if loop := loop_of(jaxpr, leaves, arrays):
        own = [loop.numbers, *(leaves[i] for i in arrays)]
        results = _in_place.bind(*own, *leaves, program=jaxpr, loop=loop.text, size=len(own))
    else:
        results = jaxpr_as_fun(jaxpr)(*leaves)
    return jax.tree.unflatten(jax.tree.structure(kept), results)


def _run(*operands: Any, program: ClosedJaxpr, loop: str, size: int) -> Any:
    return jaxpr_as_fun(program)(*operands[size:])


def _run_loop(*operands: Any, program: ClosedJaxpr, loop: str, size: int) -> Any:
    like = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in program.out_avals]
    aliases = {i + 1: i for i in range(len(like))}  # the numbers come first
    return jax.ffi.ffi_call(TARGET, like, input_output_aliases=aliases)(*operands[:size], loop=loaded(loop))


def _lower(context: Any, *operands: Any, **params: Any) -> Any:
    exported = context.module_context.lowering_parameters.for_export  # to where this process's loops aren't
    run = _run if exported or loaded(params["loop"]) is None else _run_loop
    return mlir.lower_fun(run, multiple_results=True)(context, *operands, **params)


def _avals(*_: Any, program: ClosedJaxpr, loop: str, size: int) -> Any:
    return program.out_avals


def _batch(operands: Any, axes: Any, *, program: ClosedJaxpr, loop: str, size: int) -> Any:
    results = jax.vmap(jaxpr_as_fun(program), in_axes=tuple(axes[size:]))(*operands[size:])
    return results, [0] * len(results)


def _jvp(primals: Any, tangents: Any, *, program: ClosedJaxpr, loop: str, size: int) -> Any:
    filled = [ad.instantiate_zeros(tangent) for tangent in tangents[size:]]
    return jax.jvp(jaxpr_as_fun(program), tuple(primals[size:]), tuple(filled))


_in_place.def_impl(_run)
_in_place.def_abstract_eval(_avals)
batching.primitive_batchers[_in_place] = _batch
ad.primitive_jvps[_in_place] = _jvp
mlir.register_lowering(_in_place, mlir.lower_fun(_run, multiple_results=True))
mlir.register_lowering(_in_place, _lower, platform="cpu")

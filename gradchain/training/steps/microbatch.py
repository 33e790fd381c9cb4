"""Computing one large batch in slices, with the memory of one slice."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, ParamSpec, get_args

import jax
import jax.numpy as jnp
from jax import Array, lax

from gradchain.arguments import check_whole
from gradchain.numerics import compute_dtype
from gradchain.signatures import public
from gradchain.training.data.examples import count_examples
from gradchain.training.variables import Adapter
from gradchain.tree import Tree

P = ParamSpec("P")
Combine = Literal["mean", "sum", "concatenate"]


@public
def microbatch(
    function: Callable[P, Any], size: int, *, batch_argnums: int | tuple[int, ...] = 1, combine: Any = "mean"
) -> Callable[P, Any]:
    """Return a function that computes ``function`` slice by slice: the same result with the memory of one slice.

    Wrapped around ``jax.value_and_grad(loss_fn)`` it gives the loss and gradient of a batch whose activations don't fit
    into memory at once. If the loss is a mean over examples, so is its gradient. So by default the results for the
    slices are averaged, weighted by their sizes, which gives the result for the full batch, up to rounding. Sums are
    accumulated in at least float32; outputs have the dtype that ``function`` gives them (means of integers are
    float32).

    Slices are strided, so that a batch sharded over devices stays sharded. The last slice may be smaller; ``function``
    is then traced for its shape too. Anything that isn't a mean, a sum or one row per example (batch normalisation, a
    contrastive loss) differs from the result for the full batch.

    Args:
      function: any function of arrays, such as ``jax.value_and_grad(loss_fn, has_aux=True)``.
      size: examples in a slice, at least 1.
      batch_argnums: which positional arguments are batches: trees of arrays with the examples on the leading axis.
        The others are the same for each slice. What must differ, such as a PRNG key, belongs in the batch, one per
        example.
      combine: ``"mean"``, ``"sum"`` or ``"concatenate"`` (rows of examples, in their order), or a tree of these like
        the output or its upper part: ``(("mean", "concatenate"), "mean")`` where aux is one row for each example.

    Returns:
      A function with the same arguments.

    Raises:
      TypeError: for an adapter of a framework's model.
      ValueError: for a bad size or ``combine``, and when called with bad data or with outputs that can't be combined in
        this way.

    Example:
      >>> loss, grads = microbatch(jax.value_and_grad(loss_fn), 32)(params, batch)
    """
    check_whole("microbatch: size", size)
    if isinstance(function, Adapter):
        raise TypeError(
            "microbatch: the state of an adapter's model, such as BatchNorm's statistics, has no mean over slices; "
            "hand the adapter itself to the loop, with smaller batches and accumulate(tx, k) as the transform"
        )
    call: Callable[..., Any] = function
    argnums = (batch_argnums,) if isinstance(batch_argnums, int) else batch_argnums
    for way in jax.tree.leaves(combine):
        if way not in get_args(Combine):
            raise ValueError(f"microbatch: combine must be made of {', '.join(get_args(Combine))}, got {way!r}")

    def sliced(*args: P.args, **kwargs: P.kwargs) -> Any:
        n = count_examples([args[i] for i in argnums], "microbatch")
        if n <= size:
            return call(*args, **kwargs)

        def on(batches: dict[int, Tree]) -> Any:
            return call(*(batches.get(i, x) for i, x in enumerate(args)), **kwargs)

        return _run(on, {i: jax.tree.map(jnp.asarray, args[i]) for i in argnums}, n, size, combine)

    return sliced


class _Output(NamedTuple):
    """One array of the function's output: how its slices are combined, and what the full batch would give."""

    combine: Combine
    full: jax.ShapeDtypeStruct

    def start(self) -> Array | None:
        if self.combine == "concatenate":
            return None
        exact = self.combine == "sum" and not jnp.issubdtype(self.full.dtype, jnp.inexact)
        return jnp.zeros(self.full.shape, self.full.dtype if exact else compute_dtype(self.full.dtype))

    def add(self, total: Array | None, x: Array, size: int, n: int) -> tuple[Array | None, Array | None]:
        """Return (total, rows) after one more slice of ``size`` examples of ``n``."""
        rows = total is None
        fits = x.shape[:1] == (size,) and self.full.shape[:1] == (n,) if rows else x.shape == self.full.shape
        if not fits:
            raise ValueError(
                f"microbatch: an output of shape {x.shape} for {size} examples and {self.full.shape} for all {n} "
                f"can't be combined by {self.combine!r}"
            )
        if rows:
            return None, x
        return total + (size / n if self.combine == "mean" else 1) * x.astype(total.dtype), None

    def finish(self, total: Array | None, rows: list[Array]) -> Array:
        if total is None:
            return jnp.concatenate(rows)
        return total.astype(self.full.dtype) if jnp.issubdtype(self.full.dtype, jnp.inexact) else total


Parts = list[Array | None]


def _run(on: Callable[[Tree], Any], batches: Tree, n: int, size: int, combine: Any) -> Any:
    """Call ``on`` with slices of ``batches`` and combine what it returns."""
    slices, whole = n // size, n - n % size
    strided = jax.tree.map(lambda x: x[:whole].reshape(size, slices, *x.shape[1:]), batches)
    outputs, treedef = _outputs(combine, jax.eval_shape(on, batches))

    def add(totals: Parts, batch: Tree, examples: int) -> tuple[Parts, Parts]:
        found = zip(outputs, totals, jax.tree.leaves(on(batch)), strict=True)
        pairs = [out.add(total, x, examples, n) for out, total, x in found]
        return [total for total, _ in pairs], [rows for _, rows in pairs]

    def body(totals: Parts, i: Array) -> tuple[Parts, Parts]:
        return add(totals, jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, i, 1, keepdims=False), strided), size)

    totals, stacked = lax.scan(body, [out.start() for out in outputs], jnp.arange(slices))
    parts = [[x if x is None else x.swapaxes(0, 1).reshape(whole, *x.shape[2:]) for x in stacked]]
    if whole < n:
        totals, rest = add(totals, jax.tree.map(lambda x: x[whole:], batches), n - whole)
        parts.append(rest)
    by_output = zip(outputs, totals, *parts, strict=True)
    return treedef.unflatten([out.finish(total, rows) for out, total, *rows in by_output])


def _outputs(combine: Any, full: Tree) -> tuple[list[_Output], Any]:
    """Return what is to be done with each array of the output, and the output's structure."""
    leaves, treedef = jax.tree.flatten(full)
    ways = jax.tree.map(lambda way, part: [way] * len(jax.tree.leaves(part)), combine, full)
    return [_Output(way, x) for way, x in zip(jax.tree.leaves(ways), leaves, strict=True)], treedef

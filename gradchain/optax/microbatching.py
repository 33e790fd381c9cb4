"""Optax's micro-batching: a function of a batch, computed in slices one after another and put together again.

:func:`gradchain.training.microbatch` does the same with a mean, takes batches that the size doesn't divide and needs no
choice of accumulators. Examples go to slices in strides, as there: of 6 in slices of 2, the first has those at 0 and 3.
"""

import dataclasses
import enum
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from gradchain.signatures import public

__all__ = ["AccumulationType", "Accumulator", "micro_grad", "micro_vmap", "microbatch", "reshape_batch_axis"]

Function = Callable[..., Any]


@public
@dataclasses.dataclass(frozen=True)
class Accumulator:
    """How the results of slices are put together, one after another.

    Args:
      init: the first value of what is carried along, from the shape and dtype of one slice's result.
      update: called with what is carried, a slice's result and its index; it returns what is carried on.
      finalize: the whole result, from what was carried to the end.
      aggregate: one result from those of several examples, stacked along the first axis; used by :func:`micro_vmap`.
    """

    init: Callable[[Any], Any]
    update: Callable[[Any, Any, Any], Any]
    finalize: Callable[[Any], Any]
    aggregate: Callable[[Any], Any]


class AccumulationType(enum.Enum):
    """Ways to put the results of slices together."""

    MEAN = enum.auto()
    """Their mean over all slices, whether or not the loop ends early."""
    SUM = enum.auto()
    """Their sum."""
    RUNNING_MEAN = enum.auto()
    """Their mean over the slices that were computed."""
    CONCAT = enum.auto()
    """All of them, in the order of the examples."""


Accumulators = Any
"""An :class:`Accumulator`, an :class:`AccumulationType`, or a tree of them that is a prefix of the result's."""


def _sum() -> Accumulator:
    return Accumulator(_zeros, lambda total, x, _: total + x, lambda total: total, lambda x: jnp.sum(x, 0))


def _mean(slices: int) -> Accumulator:
    return Accumulator(
        _floating_zeros, lambda total, x, _: total + x, lambda total: total / slices, lambda x: jnp.mean(x, 0)
    )


def _running_mean() -> Accumulator:
    def update(mean: Array, x: Array, index: Any) -> Array:
        before = index / (index + 1)
        return mean * before + x * (1 - before)

    return Accumulator(_floating_zeros, update, lambda mean: mean, lambda x: jnp.mean(x, 0))


def _concatenation(slices: int) -> Accumulator:
    def finalize(rows: Array) -> Array:
        shape = (rows.shape[0] * rows.shape[1], *rows.shape[2:])
        spec = None if (sharding := _explicit(rows)) is None else PartitionSpec(*sharding.spec[1:])
        return _reshaped(rows, shape, sharding, spec)

    return Accumulator(
        lambda x: jnp.broadcast_to(jnp.zeros_like(x), (slices, *x.shape)),
        lambda rows, x, index: rows.at[index].set(x),
        finalize,
        lambda x: x,
    )


def _zeros(x: Any) -> Array:
    return jnp.zeros_like(x)


def _floating_zeros(x: Any) -> Array:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"microbatch: a mean needs floating-point results, got {x.dtype}; use SUM or CONCAT")
    return jnp.zeros_like(x)


def _over_trees(one: Accumulator) -> Accumulator:
    """Return an accumulator of trees of arrays from that of an array."""
    return Accumulator(
        lambda x: jax.tree.map(one.init, x),
        lambda carry, x, index: jax.tree.map(lambda c, v: one.update(c, v, index), carry, x),
        lambda carry: jax.tree.map(one.finalize, carry),
        lambda x: jax.tree.map(one.aggregate, x),
    )


def _together(accumulators: Accumulators, slices: int) -> Accumulator:
    """Return one accumulator for the whole result."""

    def each(kind: Any) -> Accumulator:
        match kind:
            case Accumulator():
                return kind
            case AccumulationType.SUM:
                return _over_trees(_sum())
            case AccumulationType.MEAN:
                return _over_trees(_mean(slices))
            case AccumulationType.RUNNING_MEAN:
                return _over_trees(_running_mean())
            case AccumulationType.CONCAT:
                return _over_trees(_concatenation(slices))
            case _:
                raise ValueError(f"microbatch: accumulator must be an AccumulationType or an Accumulator, got {kind!r}")

    parts = jax.tree.map(each, accumulators)
    return Accumulator(
        lambda x: jax.tree.map(lambda a, v: a.init(v), parts, x),
        lambda carry, x, index: jax.tree.map(lambda a, c, v: a.update(c, v, index), parts, carry, x),
        lambda carry: jax.tree.map(lambda a, c: a.finalize(c), parts, carry),
        lambda x: jax.tree.map(lambda a, v: a.aggregate(v), parts, x),
    )


@public
def reshape_batch_axis(tree: Any, microbatch_size: int, axis: int = 0) -> Any:
    """Split the axis of examples into one of slices and one of the examples in a slice, which are apart by strides.

    Args:
      tree: arrays with equal numbers of examples.
      microbatch_size: the number of examples in a slice.
      axis: the axis of examples; that of slices takes its place.
    """

    def leaf(x: Array) -> Array:
        shape = (*x.shape[:axis], x.shape[axis] // microbatch_size, microbatch_size, *x.shape[axis + 1 :])
        sharding = _explicit(x)
        if sharding is None:
            return x.reshape(shape, order="F")
        spec = tuple(sharding.spec)
        if len(spec) > axis:
            shards = x.shape[axis] // sharding.shard_shape(x.shape)[axis]
            if microbatch_size % shards:
                raise ValueError(
                    f"reshape_batch_axis: microbatch_size must be a multiple of the {shards} parts that the axis is "
                    f"sharded into, got {microbatch_size}"
                )
            spec = (*spec[:axis], None, spec[axis], *spec[axis + 1 :])
        return _reshaped(x, shape, sharding, PartitionSpec(*spec))

    return jax.tree.map(leaf, tree)


def _explicit(x: Array) -> NamedSharding | None:
    """Return an array's sharding if it is part of its type."""
    sharding: Any = jax.typeof(x).sharding
    return sharding if sharding.mesh.are_all_axes_explicit else None


def _reshaped(x: Array, shape: tuple[int, ...], sharding: NamedSharding | None, spec: PartitionSpec | None) -> Array:
    if sharding is None or spec is None:
        return x.reshape(shape, order="F")
    return x.reshape(shape, order="F", out_sharding=NamedSharding(sharding.mesh, spec))


class _Batched(NamedTuple):
    """Which arguments have an axis of examples, and which axis it is."""

    positions: dict[int, int]
    names: dict[str, int]

    @classmethod
    def of(cls, signature: inspect.Signature, argnums: Any, argnames: Any, in_axes: Any) -> "_Batched":
        numbers = (argnums,) if isinstance(argnums, int) else tuple(argnums)
        names = (argnames,) if isinstance(argnames, str) else tuple(argnames)
        axes = [in_axes] * (len(numbers) + len(names)) if isinstance(in_axes, int) else [*in_axes]
        batched = cls(dict(zip(numbers, axes, strict=False)), {})
        order = [*signature.parameters]
        for name, axis in zip(names, axes[len(numbers) :], strict=True):
            parameter = signature.parameters.get(name)
            if parameter and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                batched.positions[order.index(name)] = axis
            else:
                batched.names[name] = axis
        return batched

    def size(self, args: Any, kwargs: Any) -> int:
        """Return the number of examples."""
        parts = [(args[i], axis) for i, axis in self.positions.items()]
        parts += [(kwargs[name], axis) for name, axis in self.names.items()]
        sizes = [jnp.shape(x)[axis] for part, axis in parts for x in jax.tree.leaves(part)]
        if len(set(sizes)) != 1:
            raise ValueError(f"microbatch: the arguments must have equally many examples, got {sizes}")
        return sizes[0]

    def map(self, function: Callable[[Any, int], Any], args: Any, kwargs: Any) -> tuple[list[Any], dict[str, Any]]:
        """Apply ``function(argument, axis)`` to what has examples."""
        args = [function(x, self.positions[i]) if i in self.positions else x for i, x in enumerate(args)]
        return args, {n: function(x, self.names[n]) if n in self.names else x for n, x in kwargs.items()}


def _bound(signature: inspect.Signature, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Return arguments by position wherever they can be."""
    bound = signature.bind(*args, **kwargs)
    return bound.args, bound.kwargs


@public
def microbatch(
    fun: Function,
    argnums: int | Sequence[int],
    microbatch_size: int | None,
    accumulator: Accumulators = AccumulationType.SUM,
    *,
    argnames: str | Sequence[str] = (),
    in_axes: int | Sequence[int] = 0,
    num_real_microbatches: int | Array | None = None,
) -> Function:
    """Return a function that calls ``fun`` with slices of a batch, one after another, and puts the results together.

    Args:
      fun: a function of batches; anything that JAX traces.
      argnums: which arguments by position have an axis of examples.
      microbatch_size: the number of examples in a slice, which must divide that of the batch; None for ``fun`` itself.
      accumulator: what to do with the results; the *sum* by default. A mean over slices is
        :attr:`AccumulationType.MEAN`.
      argnames: which arguments by name have an axis of examples.
      in_axes: the axis of examples: one for all, or one for each of ``argnums`` and then of ``argnames``.
      num_real_microbatches: stop after so many slices; it may be traced.

    Raises:
      ValueError: when called, if the numbers of examples differ or aren't multiples of ``microbatch_size``.
    """
    if microbatch_size is None:
        return fun
    signature = inspect.signature(fun)
    batched = _Batched.of(signature, argnums, argnames, in_axes)

    def in_slices(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = _bound(signature, args, kwargs)
        size = batched.size(args, kwargs)
        if size % microbatch_size:
            raise ValueError(
                f"microbatch: microbatch_size must divide the number of examples, got {microbatch_size} and {size}"
            )
        slices = size // microbatch_size
        whole = batched.map(lambda x, axis: reshape_batch_axis(x, microbatch_size, axis), args, kwargs)
        accumulated = _together(accumulator, slices)

        def on(index: Any) -> Any:
            some, named = batched.map(lambda x, axis: _slice_of(x, index, axis), *whole)
            return fun(*some, **named)

        carry = accumulated.init(jax.eval_shape(on, 0))
        if slices:
            steps = slices if num_real_microbatches is None else num_real_microbatches
            carry = jax.lax.fori_loop(0, steps, lambda i, carry: accumulated.update(carry, on(i), i), carry)
        return accumulated.finalize(carry)

    return in_slices


def _slice_of(tree: Any, index: Any, axis: int) -> Any:
    def leaf(x: Array) -> Array:
        if x.shape[axis] == 0:
            return jnp.empty_like(x, shape=(*x.shape[:axis], *x.shape[axis + 1 :]))
        return jnp.take(x, index, axis)

    return jax.tree.map(leaf, tree)


@public
def micro_vmap(
    fun: Function,
    in_axes: int | Sequence[int | None] = 0,
    out_axes: Any = 0,
    *,
    microbatch_size: int | None = None,
    vmap_fn: Callable[..., Function] = jax.vmap,
    accumulator: Accumulators = AccumulationType.CONCAT,
    num_real_microbatches: int | Array | None = None,
) -> Function:
    """Return ``jax.vmap(fun)``, computed in slices and put together as in :func:`microbatch`.

    Args:
      fun: a function of one example.
      in_axes: the axes of examples, as for ``jax.vmap``; arguments by name have theirs first.
      out_axes: 0, where the examples of the results are.
      microbatch_size: the number of examples in a slice; None for all at once.
      vmap_fn: what to call in place of ``jax.vmap``, with ``fun``, ``in_axes`` and ``out_axes``.
      accumulator: what to do with the results: all of them by default.
      num_real_microbatches: stop after so many slices.

    Raises:
      NotImplementedError: for another ``out_axes``.
    """
    if out_axes != 0:
        raise NotImplementedError(f"micro_vmap: out_axes must be 0, got {out_axes!r}")
    axes = (in_axes,) if isinstance(in_axes, int) else tuple(in_axes)
    signature = inspect.signature(fun)

    def on_slice(*args: Any, kwargs: Any) -> Any:
        results = vmap_fn(fun, axes, out_axes)(*args, **kwargs)
        return _together(accumulator, jax.tree.leaves(results)[0].shape[0]).aggregate(results)

    in_slices = microbatch(
        on_slice,
        [i for i, axis in enumerate(axes) if axis is not None],
        microbatch_size,
        accumulator,
        argnames="kwargs",
        in_axes=[*(axis for axis in axes if axis is not None), 0],
        num_real_microbatches=num_real_microbatches,
    )

    def mapped(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = _bound(signature, args, kwargs)
        return in_slices(*args, kwargs=kwargs)

    return mapped


class IndividualOutputs(NamedTuple):
    """What :func:`micro_grad` returns for each example."""

    values: Any
    metrics: Any
    aux: Any


@public
def micro_grad(
    fun: Function,
    has_aux: bool = False,
    argnums: int | Sequence[int] = 0,
    *,
    batch_argnums: int | Sequence[int] = 1,
    keep_batch_dim: bool = True,
    microbatch_size: int | None = None,
    accumulator: Accumulators = AccumulationType.SUM,
    transform_fn: Callable[[Any], Any] = lambda x: x,
    metrics_fn: Callable[[Any], Any] = lambda x: None,
    num_real_microbatches: int | Array | None = None,
) -> Function:
    """Return a function that computes each example's gradient, in slices, and puts them together.

    Args:
      fun: a loss, called with one example.
      has_aux: whether ``fun`` returns a pair of the loss and something else.
      argnums: with respect to what to differentiate.
      batch_argnums: which arguments have examples along their first axis.
      keep_batch_dim: call ``fun`` with a batch of one, not with a bare example.
      microbatch_size: the number of examples in a slice; None for all at once.
      accumulator: what to do with the gradients; the *sum* by default.
      transform_fn: applied to each example's gradient, such as clipping.
      metrics_fn: what to return of each example's gradient, as it is before ``transform_fn``.
      num_real_microbatches: stop after so many slices.

    Returns:
      A function of ``fun``'s arguments, which returns the gradients put together and the examples'
      :class:`IndividualOutputs`: losses, metrics, and what else ``fun`` returns.
    """
    positions = (batch_argnums,) if isinstance(batch_argnums, int) else tuple(batch_argnums)
    signature = inspect.signature(fun)
    pair = fun if has_aux else lambda *args, **kwargs: (fun(*args, **kwargs), None)
    value_and_grad = jax.value_and_grad(pair, argnums, has_aux=True)

    def on_example(*args: Any, **kwargs: Any) -> tuple[Any, IndividualOutputs]:
        (value, aux), grad = value_and_grad(*args, **kwargs)
        return transform_fn(grad), IndividualOutputs(value, metrics_fn(grad), aux)

    mapped = micro_vmap(
        on_example,
        [0 if i in positions else None for i in range(max(positions) + 1)],
        microbatch_size=microbatch_size,
        accumulator=(accumulator, AccumulationType.CONCAT),
        num_real_microbatches=num_real_microbatches,
    )

    def of_batch(*args: Any, **kwargs: Any) -> tuple[Any, IndividualOutputs]:
        args, kwargs = _bound(signature, args, kwargs)
        if keep_batch_dim:
            args = tuple(_in_batches_of_one(x) if i in positions else x for i, x in enumerate(args))
        return mapped(*args, **kwargs)

    return of_batch


def _in_batches_of_one(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.expand_dims(x, 1), tree)

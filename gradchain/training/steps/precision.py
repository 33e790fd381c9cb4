"""Mixed precision: weights in float32, computation in 16 bits, the loss in float32."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from gradchain.arguments import described
from gradchain.combinators.labels import check_pattern, listed, matches, path_name
from gradchain.numerics import compute_dtype
from gradchain.signatures import public
from gradchain.training.variables import Adapter, Variables
from gradchain.tree import Tree
from gradchain.tree.alignment import is_array, is_key

F = TypeVar("F", bound=Callable[..., Any])


@public
def mixed_precision(
    function: F, dtype: DTypeLike = "bfloat16", *, keep: Sequence[str] = (), keep_in_batch: Sequence[str] = ()
) -> F:
    r"""Return a loss function that computes in 16 bits, with parameters, gradients and loss in float32.

    The floating-point arrays of the parameters and of the batch are cast to ``dtype`` before the call, and what comes
    back in fewer than 32 bits is cast to float32. The casts belong to the function that is differentiated, so gradients
    come back in the parameters' own dtype: the optimizer, its state and the small updates stay in float32. Integers,
    complex arrays, PRNG keys and the model's state (running statistics) are passed on as they are.

    In your own loop it is called like the function itself; wherever the training loops take a loss function or an
    adapter, they take this one too. It may also be put around the model's function, ``predict(params, x)``: the loss is
    then computed in float32 from outputs in float32. To have that inside a loss, cast the outputs there:
    ``logits.astype("float32")``.

    Args:
      function: ``function(params, batch)``, ``function(params, batch, key)``, or either with the model's state after
        ``params``, as :func:`~gradchain.training.fit` calls a loss; an adapter; or ``predict(params, x)``.
      dtype: what to compute in. ``"bfloat16"`` has the range of float32 and 8 bits of precision. ``"float16"`` has 11
        bits, and gradients below :math:`6 \cdot 10^{-8}` vanish: it needs :func:`~gradchain.loss_scale` around the
        optimizer.
      keep: patterns, as for :func:`~gradchain.by_path`, of parameters that are passed on as they are. What is computed
        from them is float32 (JAX takes the wider dtype) until the model casts it.
      keep_in_batch: likewise for arrays of the batch, such as the targets of a regression, which 8 bits would round.

    Raises:
      TypeError: if ``function`` can't be called, ``dtype`` isn't a floating-point dtype, or a pattern isn't a string.
      ValueError: when it is called: if a pattern matches no array, listing the paths.

    Example:
      >>> result = fit(mixed_precision(loss_fn), params, adamw(1e-3), data, epochs=10, batch_size=32)
      >>> half = mixed_precision(loss_fn, "float16", keep_in_batch=["y"])
      >>> result = fit(half, params, loss_scale(adamw(1e-3)), data, epochs=10, batch_size=32)

    Reference: Micikevicius et al., *Mixed Precision Training*, 2018.
    """
    if not callable(function):
        raise TypeError(f"mixed_precision: function must be a loss function or an adapter, got {described(function)}")
    try:
        compute = jnp.dtype(dtype)
    except TypeError:
        raise TypeError(f"mixed_precision: dtype must be a dtype such as 'bfloat16', got {dtype!r}") from None
    if not jnp.issubdtype(compute, jnp.floating):
        raise TypeError(f"mixed_precision: dtype must be a floating-point dtype, got {compute}")
    kept = _patterns("keep", keep), _patterns("keep_in_batch", keep_in_batch)
    kind = MixedAdapter if isinstance(function, Adapter) else Mixed
    return cast(Any, kind(function, compute.name, *kept))


def _patterns(option: str, patterns: Sequence[str]) -> tuple[str, ...]:
    if isinstance(patterns, str):
        raise TypeError(f"mixed_precision: {option} takes a list of patterns, got {patterns!r}; write [{patterns!r}]")
    for pattern in patterns:
        check_pattern(f"mixed_precision: {option}", pattern)
    return tuple(patterns)


class Mixed(NamedTuple):
    """A function and how it is called: equal parts make equal values, so that compiled programs are found again."""

    function: Callable[..., Any]
    dtype: str
    keep: tuple[str, ...]
    keep_in_batch: tuple[str, ...]

    @property
    def __signature__(self) -> inspect.Signature:
        """What the loops read to find out what a loss wants to be told."""
        return inspect.signature(self.function)

    def __call__(self, params: Tree, *rest: Any, **told: Any) -> Any:
        """Call the function with ``(batch)``, ``(batch, key)``, ``(state, batch)`` or ``(state, batch, key)``."""
        states = len(rest) - (len(rest) > 1 and _is_for_key(rest[-1])) - 1
        batches = [_cast(batch, self.dtype, self.keep_in_batch, "batch") for batch in rest[states : states + 1]]
        params = _cast(params, self.dtype, self.keep, "parameters")
        state = [jax.tree.map(_strong, x) for x in rest[:states]]
        result = self.function(params, *state, *batches, *rest[states + 1 :], **told)
        return _returned(jax.tree.map(_widened, result), state[0] if state else None)


class MixedAdapter(NamedTuple):
    """The same for an adapter: its models are split and put together as before."""

    adapter: Any
    dtype: str
    keep: tuple[str, ...]
    keep_in_batch: tuple[str, ...]

    @property
    def __signature__(self) -> inspect.Signature:
        """What the loops read to find out what a loss wants to be told."""
        return inspect.signature(self.adapter)

    def split(self, model: Any) -> Variables[Any]:
        """Return what is trained, and what isn't, of a model as users have it."""
        return self.adapter.split(model)

    def merge(self, variables: Variables[Any]) -> Any:
        """Return the model again."""
        return self.adapter.merge(variables)

    def settle(self, variables: Variables[Any]) -> Variables[Any]:
        """Return variables with renewed means as the framework reads them."""
        return self.adapter.settle(variables)

    def measure(self, function: Any, variables: Variables[Any], batch: Any) -> Any:
        """Call ``function(model, batch)`` with the model in evaluation, in the same precision as the loss."""

        def measured(params: Tree, state: Any, batch: Tree) -> Any:
            return self.adapter.measure(function, Variables(params, state), batch)

        return Mixed(measured, *self[1:])(*variables, batch)

    def __call__(self, params: Tree, model_state: Any, batch: Any, key: Array | None = None, **told: Any) -> Any:
        """Return what the adapter does."""
        return Mixed(self.adapter, *self[1:])(params, model_state, batch, key, **told)


def _is_for_key(x: Any) -> bool:
    """Tell whether an argument is a PRNG key, typed or raw, or the ``None`` that stands for one in evaluation."""
    return x is None or is_key(x) or (is_array(x) and x.dtype == jnp.uint32 and x.shape in ((2,), (4,)))


def _cast(tree: Tree, dtype: str, keep: tuple[str, ...], what: str) -> Tree:
    """Return the tree with its real floating-point arrays in another dtype, but for those that a pattern keeps."""
    pairs, treedef = jax.tree_util.tree_flatten_with_path(tree)
    names = [path_name(path) for path, _ in pairs]
    for pattern in keep:
        if not any(matches(pattern, name) for name in names):
            raise ValueError(
                f"mixed_precision: pattern {pattern!r} matches nothing in the {what}; there are: {listed(names)}"
            )

    def leaf(name: str, x: Any) -> Any:
        return _strong(x, None if any(matches(pattern, name) for pattern in keep) else dtype)

    return treedef.unflatten([leaf(name, x) for name, (_, x) in zip(names, pairs, strict=True)])


def _strong(x: Any, dtype: str | None = None) -> Any:
    """Return a real array in ``dtype`` or its own; 16 bits of another one take precedence over a weak type's 32."""
    return jnp.asarray(x, dtype or x.dtype) if _is_real(x) else x


def _is_real(x: Any) -> bool:
    return is_array(x) and jnp.issubdtype(x.dtype, jnp.floating)


def _widened(x: Any) -> Any:
    return x.astype(compute_dtype(x.dtype)) if _is_real(x) else x


def _returned(result: Any, state: Tree) -> Any:
    """Return what a function returned, with the model's state in the dtypes of the one that it was given."""
    if state is None or not isinstance(result, tuple) or len(cast(tuple[Any, ...], result)) != 2:
        return result

    def restored(new: Tree) -> Tree:
        return jax.tree.map(lambda x, old: x.astype(old.dtype) if _is_real(x) and _is_real(old) else x, new, state)

    loss, rest = cast(tuple[Any, Any], result)
    structure = jax.tree.structure(state)
    if jax.tree.structure(rest) == structure:
        return loss, restored(rest)
    if isinstance(rest, tuple) and len(rest) == 2 and jax.tree.structure(rest[0]) == structure:
        return loss, (restored(rest[0]), rest[1])
    return result

"""Complex parameters for rules that are made for real ones."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gradchain.combinators._weights import check_arrays
from gradchain.core.combinator import combinator
from gradchain.core.extra import functions_of
from gradchain.core.foreign import Child
from gradchain.core.transform import Part, Transform, check_state
from gradchain.numerics import real_dtype
from gradchain.tree import Tree
from gradchain.tree.alignment import same_leaves


class ComplexParts(NamedTuple):
    """What stands for a complex array inside :func:`split_real_and_imaginary`."""

    real: Any
    imag: Any


class SplitRealAndImaginaryState(NamedTuple):
    """State of :func:`split_real_and_imaginary`."""

    inner_state: Any


def _is_parts(x: Any) -> bool:
    return isinstance(x, ComplexParts)


def split_parts(tree: Tree) -> Tree:
    """Return the tree with the real and the imaginary part in place of each complex array."""

    def leaf(x: Any) -> Any:
        dtype = jnp.result_type(x)
        if not jnp.issubdtype(dtype, jnp.complexfloating):
            return x
        if isinstance(x, jax.ShapeDtypeStruct):
            return ComplexParts(*[jax.ShapeDtypeStruct(x.shape, real_dtype(dtype))] * 2)
        return ComplexParts(jnp.real(x), jnp.imag(x))

    return jax.tree.map(leaf, tree)


def join_parts(tree: Tree) -> Tree:
    """Return the tree that :func:`split_parts` was given."""
    return jax.tree.map(lambda x: lax.complex(*x) if _is_parts(x) else x, tree, is_leaf=_is_parts)


@combinator
class split_real_and_imaginary(Transform):
    r"""Let a transform see each complex array as two real ones: its real and its imaginary part.

    A rule for complex numbers treats :math:`z` as one number: Adam's second moment averages :math:`|g|^2`, and
    both parts are divided by the same root. Inside this combinator each part has moments of its own, as if the
    parameter had been stored as two. Real arrays pass unchanged. PyTorch's optimizers treat complex parameters in
    this way.

    Args:
      inner: any transform. Masks and labels in it that are trees would have to name the parts, fields ``real`` and
        ``imag``; functions and path patterns needn't.

    Example:
      >>> tx = split_real_and_imaginary(adam(1e-3))
    """

    inner: Child

    def init(self, params: Tree) -> SplitRealAndImaginaryState:
        check_arrays(self.name, params)
        return SplitRealAndImaginaryState(self.inner.init(split_parts(params)))

    def step(self, updates: Tree, state: Any, params: Tree | None, extra: dict[str, Any]) -> tuple[Tree, Any]:
        check_state(self.name, state, SplitRealAndImaginaryState._fields)
        updates, inner_state = self.inner.step(
            split_parts(updates), state.inner_state, split_parts(params), functions_of(extra, join_parts, split_parts)
        )
        return join_parts(updates), SplitRealAndImaginaryState(inner_state)

    def parts(self, state: Any = None, params: Tree | None = None) -> list[Part]:
        return super().parts(state, split_parts(params))

    def eval_params(self, state: Any, params: Tree) -> Tree:
        split = split_parts(params)
        weights = self.inner.eval_params(state.inner_state, split)
        return params if same_leaves(weights, split) else join_parts(weights)

    def constrained(self, weights: Tree, state: Any, params: Tree, relying: str = "") -> Tree:
        if same_leaves(weights, params):
            return weights
        return join_parts(self.inner.constrained(split_parts(weights), state.inner_state, split_parts(params), relying))

"""What is minimised, as the loop sees it: one function from parameters to value, gradient and auxiliary output."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gradchain import tree
from gradchain.arguments import described, is_numeric
from gradchain.core.transform import scalar_dtype
from gradchain.tree import Tree


class Point(NamedTuple):
    """Parameters, and what the function is there."""

    params: Tree
    value: Array
    grad: Tree
    """Uphill: for complex parameters the conjugate of JAX's gradient."""
    aux: Any


class Objective(NamedTuple):
    """A function of parameters and further arguments."""

    fun: Callable[..., Any]
    args: tuple[Any, ...]
    has_aux: bool
    shapes: Any
    """The shapes of a point, the value in the dtype that the function computes in."""
    dtype: Any
    """The dtype of values, slopes and step lengths."""

    @property
    def eps(self) -> float:
        """The resolution of values."""
        return float(max(jnp.finfo(self.shapes.value.dtype).eps, jnp.finfo(self.dtype).eps))

    @property
    def gtol(self) -> float:
        """The tolerance on the gradient, relative to the first one, where none is given."""
        return 1e-6 if self.eps < 1e-10 else 1e-4

    def __call__(self, params: Tree) -> Point:
        point = evaluate(self.fun, params, self.args, self.has_aux)
        return point._replace(value=point.value.astype(self.dtype))

    def value(self, params: Tree) -> Array:
        """Return the value alone."""
        return pair_of(self.fun(params, *self.args), self.has_aux)[0]

    def blank(self, params: Tree) -> Point:
        """Return a point of the right shapes that nothing was evaluated at."""
        point = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self.shapes)
        return point._replace(params=params, value=point.value.astype(self.dtype))

    def size(self, point: Point, project: Callable[[Tree], Tree] | None) -> Array:
        """Return the largest component of the gradient, or of the move to where it leads inside the set."""
        if project is None:
            return tree.norm(point.grad, jnp.inf).astype(self.dtype)
        there = project(jax.tree.map(lambda w, g: (w - g).astype(w.dtype), point.params, point.grad))
        return tree.norm(tree.sub(there, point.params), jnp.inf).astype(self.dtype)


def objective_of(fun: Callable[..., Any], params: Tree, args: tuple[Any, ...], has_aux: bool) -> Objective:
    """Return the objective of a function, which is traced once to see what it returns."""
    shapes = jax.eval_shape(lambda params, args: evaluate(fun, params, args, has_aux), params, args)
    return Objective(fun, args, has_aux, shapes, scalar_dtype(params))


def evaluate(fun: Callable[..., Any], params: Tree, args: tuple[Any, ...], has_aux: bool) -> Point:
    """Evaluate value and gradient together."""
    pair = jax.value_and_grad(lambda params: pair_of(fun(params, *args), has_aux), has_aux=True)
    (value, aux), grad = pair(params)
    return Point(params, value, jax.tree.map(jnp.conj, grad), aux)


def pair_of(result: Any, has_aux: bool) -> tuple[Array, Any]:
    """Return (value, aux) from what the function returned, after checking that the value is one real number."""
    pair = isinstance(result, tuple) and len(cast(tuple[Any, ...], result)) == 2
    if has_aux and not pair:
        raise TypeError(f"minimize: with has_aux=True fun must return a pair (value, aux), got {described(result)}")
    if pair and not has_aux:
        raise TypeError("minimize: fun must return one real number, got a pair; has_aux=True allows (value, aux)")
    value, aux = result if has_aux else (result, None)
    if not is_numeric(value) or np.ndim(value) or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        several = is_numeric(value) and np.ndim(value)
        hint = "; reduce it first: its sum, or its mean" if several else ""
        raise TypeError(f"minimize: fun must return one real number, got {described(value)}{hint}")
    return jnp.asarray(value), jax.tree.map(jnp.asarray, aux)

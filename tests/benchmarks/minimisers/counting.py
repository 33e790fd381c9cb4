"""One JAX function for all problems, whose values and gradients the host computes and counts.

So a solver compiles once for each size and dtype, a gradient that is never asked for isn't counted, and it doesn't
matter what a solver counts as an evaluation. A value with its gradient is work of 1, a value alone a third, and a
product with the Hessian (``jax.jvp`` of the gradient) 2.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class OutOfBudgetError(Exception):
    """Raised on the host after far too many values, for solvers that can't be told a maximum."""


@functools.cache
def compiled(fun):
    return jax.jit(jax.value_and_grad(fun))


class Host:
    """The problem at hand in one dtype, and how often it was evaluated."""

    def begin(self, problem, dtype, max_evals):
        self.dtype, self.limit = np.dtype(dtype), 3 * max_evals + 100
        self.both = compiled(problem.fun)
        self.products_with = jax.jit(lambda x, v: jax.jvp(jax.grad(problem.fun), (x,), (v,))[1])
        self.values = self.gradients = self.products = 0
        self.lowest: list[tuple[float, float]] = []
        self._at, self._known = None, None

    @property
    def work(self):
        return (self.values + 2 * self.gradients) / 3 + 2 * self.products

    def value(self, x):
        if self.values > self.limit:
            raise OutOfBudgetError
        value = self._evaluate(x)[0]
        self.values += 1
        if not self.lowest or value < self.lowest[-1][1]:
            self.lowest.append((self.work, float(value)))
        return value

    def gradient(self, x):
        self.gradients += 1
        return self._evaluate(x)[1]

    def product(self, x, v):
        self.products += 1
        return np.asarray(self.products_with(np.asarray(x), np.asarray(v)))

    def _evaluate(self, x):
        x = np.asarray(x)
        assert x.dtype == self.dtype, (x.dtype, self.dtype)
        if self._at != x.tobytes():
            self._at, self._known = x.tobytes(), jax.tree.map(np.asarray, self.both(x))
        assert self._known is not None
        return self._known


HOST = Host()


def _ask(what, shape, dtype, *args):
    def call(*args):
        return np.asarray(getattr(HOST, what)(*args), dtype)

    return jax.pure_callback(call, jax.ShapeDtypeStruct(shape, dtype), *args, vmap_method="sequential")


@jax.custom_jvp
def _gradient(x):
    return _ask("gradient", x.shape, x.dtype, x)


@_gradient.defjvp
def _(primals, tangents):
    (x,), (v,) = primals, tangents
    return _gradient(x), _ask("product", x.shape, x.dtype, x, v)


@jax.custom_jvp
def first_order(x):
    """Return the value; the gradient is asked for where its transpose is called, and ``jax.linearize`` doesn't."""
    return _ask("value", (), x.dtype, x)


@first_order.defjvp
def _(primals, tangents):
    (x,), (v,) = primals, tangents
    slope = jax.custom_derivatives.linear_call(
        lambda x, v: jnp.vdot(_gradient(x), v), lambda x, c: _gradient(x) * c, x, v
    )
    return first_order(x), slope


@jax.custom_jvp
def second_order(x):
    """Return the value; the gradient has a derivative, too."""
    return _ask("value", (), x.dtype, x)


@second_order.defjvp
def _(primals, tangents):
    (x,), (v,) = primals, tangents
    return second_order(x), jnp.vdot(_gradient(x), v)


class End(NamedTuple):
    """Where a solver stopped."""

    x: Any
    converged: bool
    """As the solver says."""
    precision: bool = False
    """Whether it says that the value can't fall any further in its dtype."""


class Run(NamedTuple):
    """What one solver did on one problem; judged later, so that other tolerances need no new runs."""

    solver: str
    problem: str
    dtype: str
    start: float
    """f at the start, in float64, as ``value`` and ``gradient`` below."""
    value: float
    """f at the end."""
    gradient: float
    """The gradient's largest component at the end, over that at the start."""
    lowest: list[tuple[float, float]]
    """(work, value) of each evaluation below all before it, as the solver saw it."""
    work: float
    converged: bool
    precision: bool
    error: str


def run(name, solver, problem, dtype, max_evals):
    """Run a solver on a problem. ``jax_enable_x64`` must fit the dtype."""
    HOST.begin(problem, dtype, max_evals)
    end, error = End(problem.x0, False), ""
    try:
        end = solver(np.asarray(problem.x0, dtype), max_evals)
    except Exception as e:  # any library's
        error = f"{type(e).__name__}: {e}".replace("\n", " ")[:90] if HOST.values <= HOST.limit else "over budget"
    lowest, work = HOST.lowest, HOST.work
    with jax.enable_x64(True):
        start, value = (compiled(problem.fun)(np.asarray(x, np.float64)) for x in (problem.x0, end.x))
    ratio = float(np.max(np.abs(value[1])) / np.max(np.abs(start[1])))
    return Run(
        name, problem.name, np.dtype(dtype).name, float(start[0]), float(value[0]), ratio, lowest, work,
        bool(end.converged), bool(end.precision), error,
    )  # fmt: skip

"""Minimisers by name: ``solver(x0, max_evals)`` returns an ``End``. Those that aren't installed are left out.

All that take a tolerance on the gradient's largest component get the same one, absolute, and none stops for the value
alone unless it can't be told otherwise. SciPy's arithmetic is always that of float64; in float32 it is given values and
gradients that are computed in float32.
"""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np

import gradchain as gc
from tests.benchmarks.minimisers.counting import HOST, End, first_order, second_order

TOLERANCE = {"float64": 1e-9, "float32": 1e-5}


def minimize(tx=None, fun=first_order):
    def solve(x0, max_evals):
        gtol = TOLERANCE[x0.dtype.name]
        found = gc.minimize(fun, x0, tx, max_evals=max_evals, max_steps=max_evals, gtol=gtol)
        return End(found.params, found.converged, found.reason == gc.Reason.precision)

    return solve


@functools.partial(jax.jit, static_argnums=(1, 2))
def _loop(x0, library, max_evals, tol):
    """Run a library's ``lbfgs()`` as its documentation does, with a test of the gradient."""
    get = library.tree.get
    tx, value_and_grad = library.lbfgs(), library.value_and_grad_from_state(first_order)

    def body(carry):
        x, state, evals = carry
        value, grad = value_and_grad(x, state=state)
        updates, state = tx.update(grad, state, x, value=value, grad=grad, value_fn=first_order)
        return library.apply_updates(x, updates), state, evals + jnp.asarray(get(state, "num_linesearch_steps"), int)

    def unfinished(carry):
        _, state, evals = carry
        return (evals == 0) | ((evals < max_evals) & (jnp.max(jnp.abs(get(state, "grad"))) > tol))

    x, state, _ = jax.lax.while_loop(unfinished, body, (x0, tx.init(x0), jnp.zeros((), int)))
    return x, jnp.max(jnp.abs(get(state, "grad"))) <= tol


def transform(library):
    def solve(x0, max_evals):
        x, converged = _loop(jnp.asarray(x0), library, max_evals, TOLERANCE[x0.dtype.name])
        return End(x, converged)

    return solve


def scipy(method, **options):
    def solve(x0, max_evals):
        from scipy.optimize import minimize

        def cast(x):
            return np.asarray(x, x0.dtype)

        limits = {"maxiter": max_evals} | ({"maxfun": max_evals} if method == "L-BFGS-B" else {})
        products = {"hessp": lambda x, v: HOST.product(cast(x), cast(v)).astype(float)} if "trust" in method else {}
        end = minimize(
            lambda x: float(HOST.value(cast(x))), np.asarray(x0, float),
            jac=lambda x: HOST.gradient(cast(x)).astype(float), method=method, options=options | limits, **products,
        )  # fmt: skip
        return End(end.x, end.success)

    return solve


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _optimistix(x0, name, tol, max_evals):
    import optimistix

    method = getattr(optimistix, name)(rtol=tol, atol=tol)
    found = optimistix.minimise(lambda x, _: first_order(x), method, x0, max_steps=max_evals, throw=False)
    return found.value, found.result == optimistix.RESULTS.successful


def optimistix(name):
    def solve(x0, max_evals):
        return End(*_optimistix(jnp.asarray(x0), name, TOLERANCE[x0.dtype.name], max_evals))

    return solve


@functools.partial(jax.jit, static_argnums=(1, 2))
def _jaxopt(x0, tol, max_evals):
    import jaxopt

    found = jaxopt.LBFGS(first_order, maxiter=max_evals, tol=tol, implicit_diff=False).run(x0)
    return found.params, found.state.error <= tol


def jaxopt(x0, max_evals):
    return End(*_jaxopt(jnp.asarray(x0), TOLERANCE[x0.dtype.name], max_evals))


def torch(x0, max_evals):
    import torch

    x = torch.tensor(np.array(x0), requires_grad=True)
    tol = TOLERANCE[x0.dtype.name]
    method = torch.optim.LBFGS(
        [x], max_iter=max_evals, max_eval=max_evals, history_size=10, tolerance_grad=tol,
        tolerance_change=1e-14 if x0.dtype == np.float64 else 1e-9, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure():
        at = x.detach().numpy()
        value = HOST.value(at)
        x.grad = torch.tensor(np.array(HOST.gradient(at)))
        return torch.tensor(np.array(value))

    method.step(closure)
    return End(x.detach().numpy(), bool(x.grad.abs().max() <= tol))


SOLVERS = {
    "gradchain minimize": minimize(),
    "gradchain lbfgs": transform(gc),
    "gradchain minimize, Newton-CG": minimize(gc.scale_by_newton_cg(), second_order),
    "gradchain minimize, nonlinear CG": minimize(
        gc.chain(gc.scale_by_nonlinear_cg(), gc.negate(), gc.scale_by_zoom_linesearch(20, curv_rtol=0.1))
    ),
    "SciPy L-BFGS-B": scipy("L-BFGS-B", maxcor=10, gtol=1e-9, ftol=1e-15, maxls=20),
    "SciPy BFGS": scipy("BFGS", gtol=1e-9),
    "SciPy trust-ncg": scipy("trust-ncg", gtol=1e-9),
}
if importlib.util.find_spec("optax"):
    import optax

    SOLVERS["Optax lbfgs"] = transform(optax)
if importlib.util.find_spec("optimistix"):
    SOLVERS |= {f"optimistix {name}": optimistix(name) for name in ("LBFGS", "BFGS")}
if importlib.util.find_spec("jaxopt"):
    SOLVERS["jaxopt LBFGS"] = jaxopt
if importlib.util.find_spec("torch"):
    SOLVERS["PyTorch LBFGS"] = torch

"""NIST's nonlinear regressions from both starts, by solvers of least squares: ``solver(residuals, start)``.

The score of a fit is NIST's: the fewest correct digits of any parameter. Five in float64 and three in float32 count as
solved (NIST's own digits of ENSO end at five in SciPy's solvers).
"""

import functools
import importlib.util
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gradchain as gc
from tests.benchmarks.minimisers import nist

TOLERANCE = {"float64": 1e-12, "float32": 1e-6}
"""Of gradient, value and step, for the solvers of other libraries; gradchain's are its defaults."""
ENOUGH = {"float64": 5, "float32": 3}
MAX_STEPS = 1000
functions = {name: nist.residuals(name) for name in nist.DATA}
evaluate = {name: (jax.jit(r), jax.jit(jax.jacfwd(r))) for name, r in functions.items()}


class Fit(NamedTuple):
    """What one solver made of one set from one start."""

    solver: str
    data: str
    start: int
    dtype: str
    digits: float
    steps: int
    converged: bool
    """As the solver says."""
    error: str


def least_squares(name, start):
    found = gc.least_squares(functions[name], jnp.asarray(start), max_steps=MAX_STEPS)
    return found.params, found.steps, found.converged


def scipy(method):
    def solve(name, start):
        from scipy.optimize import least_squares

        tol = TOLERANCE[start.dtype.name]
        residuals, jacobian = ((lambda b, f=f: np.asarray(f(b.astype(start.dtype)), float)) for f in evaluate[name])
        end = least_squares(
            residuals, np.asarray(start, float), jacobian, method=method, x_scale="jac",
            ftol=tol, xtol=tol, gtol=tol, max_nfev=MAX_STEPS,
        )  # fmt: skip
        return end.x, end.nfev, end.status > 0

    return solve


@functools.partial(jax.jit, static_argnums=(0, 2))
def _optimistix(name, start, tol):
    import optimistix

    method = optimistix.LevenbergMarquardt(rtol=tol, atol=tol)
    found = optimistix.least_squares(
        lambda b, _: functions[name](b), method, start, max_steps=MAX_STEPS, throw=False
    )  # fmt: skip
    return found.value, found.stats["num_steps"], found.result == optimistix.RESULTS.successful


def optimistix(name, start):
    return _optimistix(name, jnp.asarray(start), TOLERANCE[start.dtype.name])


@functools.partial(jax.jit, static_argnums=(0, 2))
def _jaxopt(name, start, tol):
    import jaxopt

    options: dict[str, Any] = {"maxiter": MAX_STEPS, "tol": tol, "xtol": tol, "gtol": tol, "implicit_diff": False}
    found = jaxopt.LevenbergMarquardt(functions[name], **options).run(start)
    return found.params, found.state.iter_num, found.state.iter_num < MAX_STEPS


def jaxopt(name, start):
    return _jaxopt(name, jnp.asarray(start), TOLERANCE[start.dtype.name])


FITTERS = {"gradchain least_squares": least_squares, "SciPy lm (MINPACK)": scipy("lm"), "SciPy trf": scipy("trf")}
if importlib.util.find_spec("optimistix"):
    FITTERS["optimistix LevenbergMarquardt"] = optimistix
if importlib.util.find_spec("jaxopt"):
    FITTERS["jaxopt LevenbergMarquardt"] = jaxopt


def digits(found, certified):
    """Return the fewest correct digits of any parameter; -99 where one isn't finite."""
    with np.errstate(all="ignore"):
        each = -np.log10(np.maximum(np.abs(np.asarray(found, float) / certified - 1), 1e-16))
    return float(np.min(each)) if np.all(np.isfinite(each)) else -99.0


def fit(solver, data, which, dtype):
    """Run a solver on a set from a start. ``jax_enable_x64`` must fit the dtype."""
    start, error = np.asarray(nist.DATA[data][f"start{which}"], dtype), ""
    try:
        b, steps, converged = FITTERS[solver](data, start)
    except Exception as e:  # any library's
        b, steps, converged = np.full(len(start), np.nan), 0, False
        error = f"{type(e).__name__}: {e}".replace("\n", " ")[:90]
    right = digits(b, np.asarray(nist.DATA[data]["certified"]))
    return Fit(solver, data, which, dtype, right, int(steps), bool(converged), error)


HEAD = "solver", "dtype", "solved", "start 1", "start 2", "converged, but isn't solved", "median steps", "errors"


def table(fits):
    """Return the table in Markdown."""
    rows = [HEAD, ("---",) * len(HEAD)]
    for dtype, solver in sorted({(f.dtype, f.solver) for f in fits}, reverse=True):
        mine = [f for f in fits if (f.solver, f.dtype) == (solver, dtype)]
        good = [f for f in mine if f.digits >= ENOUGH[dtype]]
        counts = [sum(f.start == k for f in good) for k in (1, 2)]
        wrong = sum(f.converged and f not in good for f in mine)
        steps = f"{np.median([f.steps for f in good]):.0f}" if good else "-"
        row = (f"{len(good)}/{len(mine)}", *counts, wrong, steps, sum(bool(f.error) for f in mine))
        rows.append((solver, dtype, *map(str, row)))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)

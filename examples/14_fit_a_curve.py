"""Fit a curve to data by least squares, and compare with the values that NIST certifies.

The data are pasture yields over time, the set Rat42 of NIST's Statistical Reference Datasets; the model is an S-shaped
curve of three parameters.
"""

import jax
import jax.numpy as jnp
import numpy as np

import gradchain as gc

DAYS = np.array([9.0, 14, 21, 28, 42, 57, 63, 70, 79])
YIELDS = np.array([8.93, 10.8, 18.59, 22.33, 39.35, 56.11, 61.73, 64.62, 67.08])
CERTIFIED = {"final": 72.462237576, "shift": 2.6180768402, "rate": 0.067359200066}


def curve(params, t):
    return params["final"] / (1 + jnp.exp(params["shift"] - params["rate"] * t))


def residuals(params, t, y):
    return curve(params, t) - y


def main(start=(100.0, 1.0, 0.1)):
    with jax.enable_x64(True):
        fit = gc.least_squares(residuals, dict(zip(CERTIFIED, start, strict=True)), args=(DAYS, YIELDS)).check()
    print(fit.summary())
    errors = {}
    for name, value in CERTIFIED.items():
        errors[name] = abs(float(fit.params[name]) / value - 1)
        print(f"{name:6s} {fit.params[name]:13.8f}, certified {value:13.8f}, off by {errors[name]:.0e} of it")
    return {"errors": errors, "sum_of_squares": 2 * float(fit.value), "evaluations": int(fit.evals)}


if __name__ == "__main__":
    main()

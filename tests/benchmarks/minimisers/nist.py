"""NIST's nonlinear regressions: models here, data, starts and certified values in ``tests/recorded/nist.json``.

The source is https://www.itl.nist.gov/div898/strd/nls/nls_main.shtml; the numbers are reference data for the public.
"""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np

DATA = json.loads((Path(__file__).parents[2] / "recorded" / "nist.json").read_text())
PI = float(np.pi)
exp = jnp.exp


def _gauss(b, x):
    first = b[2] * exp(-((x - b[3]) ** 2) / b[4] ** 2)
    return b[0] * exp(-b[1] * x) + first + b[5] * exp(-((x - b[6]) ** 2) / b[7] ** 2)


def _lanczos(b, x):
    return b[0] * exp(-b[1] * x) + b[2] * exp(-b[3] * x) + b[4] * exp(-b[5] * x)


def _wave(cosine, sine, period, x):
    return cosine * jnp.cos(2 * PI * x / period) + sine * jnp.sin(2 * PI * x / period)


def _enso(b, x):
    return b[0] + _wave(b[1], b[2], 12.0, x) + _wave(b[4], b[5], b[3], x) + _wave(b[7], b[8], b[6], x)


MODELS = {
    "BoxBOD": lambda b, x: b[0] * (1 - exp(-b[1] * x)),
    "Chwirut1": lambda b, x: exp(-b[0] * x) / (b[1] + b[2] * x),
    "Chwirut2": lambda b, x: exp(-b[0] * x) / (b[1] + b[2] * x),
    "DanWood": lambda b, x: b[0] * x ** b[1],
    "ENSO": _enso,
    "Gauss1": _gauss,
    "Gauss2": _gauss,
    "Gauss3": _gauss,
    "Kirby2": lambda b, x: (b[0] + b[1] * x + b[2] * x**2) / (1 + b[3] * x + b[4] * x**2),
    "Lanczos2": _lanczos,
    "Lanczos3": _lanczos,
    "MGH09": lambda b, x: b[0] * (x**2 + x * b[1]) / (x**2 + x * b[2] + b[3]),
    "MGH17": lambda b, x: b[0] + b[1] * exp(-x * b[3]) + b[2] * exp(-x * b[4]),
    "Misra1a": lambda b, x: b[0] * (1 - exp(-b[1] * x)),
    "Misra1b": lambda b, x: b[0] * (1 - (1 + b[1] * x / 2) ** (-2)),
    "Misra1c": lambda b, x: b[0] * (1 - (1 + 2 * b[1] * x) ** (-0.5)),
    "Misra1d": lambda b, x: b[0] * b[1] * x / (1 + b[1] * x),
    "Rat42": lambda b, x: b[0] / (1 + exp(b[1] - b[2] * x)),
    "Roszman1": lambda b, x: b[0] - b[1] * x - jnp.arctan(b[2] / (x - b[3])) / PI,
}


def residuals(name):
    """Return the function from parameters to model minus data, in the parameters' dtype."""
    x, y = np.asarray(DATA[name]["x"]), np.asarray(DATA[name]["y"])
    return lambda b: MODELS[name](b, jnp.asarray(x, b.dtype)) - jnp.asarray(y, b.dtype)

"""Minimise a two-dimensional quadratic by gradient descent, momentum and Adam, and look at what each one needs to know.

The valley f(w) = w0² + 100 w1² is a hundred times steeper across than along. Gradient descent must take the short
steps that the steep direction allows, and crawls along the flat one. Momentum adds up what successive gradients
agree on; with rates made for this valley it is the fastest here. Adam divides each coordinate's step by the size of
its gradients: it needs to know neither the curvature nor the units of f. The second table shows it: there f is
measured in units a thousand times smaller, and no rate has been changed.

Run ``python examples/01_quadratic.py``, or with ``--picture paths.png`` to draw the three paths.
"""

import argparse

import jax.numpy as jnp

import gradchain as gc

OPTIMIZERS = {
    "gradient descent": gc.sgd(0.009),
    "momentum": gc.sgd(0.009, momentum=0.8),
    "Adam": gc.adam(0.2),
}
START = jnp.array([-4.0, 1.5])


def valley(w):
    return w[0] ** 2 + 100 * w[1] ** 2


def in_smaller_units(w):
    return 1000 * valley(w)


def main(steps=100, picture=None):
    tables = {}
    for function in (valley, in_smaller_units):
        print(f"{function.__name__}: {steps} steps from f = {function(START):.0f}")
        paths = {name: gc.training.trace_path(function, START, tx, steps) for name, tx in OPTIMIZERS.items()}
        tables[function.__name__] = {name: float(path.values[-1]) for name, path in paths.items()}
        for name, path in paths.items():
            w0, w1 = path.points[-1]
            print(f"  {name:18s} w = ({w0:+.1e}, {w1:+.1e})   f(w) = {path.values[-1]:.1e}")
        if picture and function is valley:
            gc.plots.plot_path(valley, paths).figure.savefig(picture)
    return tables


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--picture")
    main(picture=parser.parse_args().picture)

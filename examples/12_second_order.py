"""Compare second-order methods with tuned Adam at equal numbers of gradient evaluations, on all data at each step.

    python examples/12_second_order.py                        # prints the table
    python examples/12_second_order.py --plot second.png      # and draws loss against evaluations
    python examples/12_second_order.py --mini-batches         # what noise does to them, on logistic regression

A value with its gradient counts 1, a product with the Hessian or the Gauss-Newton matrix 2. Adam gets seven learning
rates with a cosine decay, each over the whole budget, and the best final loss counts; the others get nothing to tune.
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.preprocessing import StandardScaler

import gradchain as gc

PRODUCTS = 10
"""With the Gauss-Newton matrix in a step, besides two for its scale and what the step promises."""
RATES = jnp.asarray([1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0])


class Problem(NamedTuple):
    """A loss in two parts: what the parameters make of the data, and what that is worth, a convex function."""

    model: Callable
    outer: Callable
    params: dict

    def loss(self, params):
        return self.outer(self.model(params))


def penalty(params):
    return sum(jnp.sum(w**2) for w in jax.tree.leaves(params))


def logistic():
    """Logistic regression on 569 tumours, 31 parameters, with a weak L2 penalty."""
    x, y = tumours()

    def model(params):
        return x @ params["w"] + params["b"], params["w"]

    def outer(outputs):
        logits, w = outputs
        return jnp.mean(gc.losses.sigmoid_binary_cross_entropy(logits, y)) + 5e-4 * penalty(w)

    return Problem(model, outer, {"w": jnp.zeros(30), "b": jnp.zeros(())})


def tumours():
    x, y = load_breast_cancer(return_X_y=True)
    return jnp.asarray(StandardScaler().fit_transform(x), jnp.float32), jnp.asarray(y, jnp.float32)


def network():
    """A network of one hidden layer, 2,410 parameters, on 1,797 images of digits."""
    images, labels = load_digits(return_X_y=True)
    x, y = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels)
    first, second = jax.random.split(jax.random.key(0))

    def model(params):
        return jnp.tanh(x @ params["in"] + params["shift"]) @ params["out"] + params["bias"], params

    def outer(outputs):
        logits, params = outputs
        each = gc.losses.softmax_cross_entropy_with_integer_labels(logits, y)
        return jnp.mean(each) + 5e-5 * penalty(params)

    start = {"in": jax.random.normal(first, (64, 32)) / 8, "out": jax.random.normal(second, (32, 10)) / 6}
    return Problem(model, outer, start | {"shift": jnp.zeros(32), "bias": jnp.zeros(10)})


def physics():
    """A network that solves u'' = -pi^2 sin(pi x), u(-1) = u(1) = 0, by its residuals at 64 points; 305 parameters."""
    points = jnp.linspace(-1.0, 1.0, 64)
    first, second, third = jax.random.split(jax.random.key(0), 3)

    def u(params, x):
        hidden = jnp.tanh(params["in"] * x + params["shift"])
        return jnp.tanh(params["middle"] @ hidden) @ params["out"] + params["bias"]

    def model(params):
        bend = jax.vmap(jax.grad(jax.grad(u, argnums=1), argnums=1), (None, 0))(params, points)
        return bend + jnp.pi**2 * jnp.sin(jnp.pi * points), jnp.stack([u(params, -1.0), u(params, 1.0)])

    def outer(residuals):
        inside, ends = residuals
        return jnp.mean(inside**2) + 10 * jnp.sum(ends**2)

    middle = jax.random.normal(third, (16, 16)) / 4
    layers = {"in": 2 * jax.random.normal(first, (16,)), "out": jax.random.normal(second, (16,)) / 4, "middle": middle}
    return Problem(model, outer, layers | {"shift": jnp.linspace(-1.0, 1.0, 16), "bias": jnp.zeros(())})


def evaluations(state):
    """Return what the last step of a second-order method cost, in gradients; for Gauss-Newton the most it may cost."""
    if (products := gc.tree.get(state, "num_cg_steps", None)) is not None:
        return 2 + 2 * products
    trials = gc.tree.get(state, "num_linesearch_steps")
    return trials if gc.tree.get(state, "predicted", None) is None else trials + 1 + 2 * (PRODUCTS + 2)


def descend(problem, tx, budget):
    """Return (evaluations so far, loss) after each step, until the budget is spent."""
    value_and_grad = gc.value_and_grad_from_state(problem.loss)
    parts = {"model_fn": problem.model, "outer": problem.outer}

    @jax.jit
    def step(params, state):
        value, grad = value_and_grad(params, state=state)
        updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=problem.loss, **parts)
        return gc.apply_updates(params, updates), state

    params, spent = problem.params, [1]
    state, values = tx.init(params), [float(problem.loss(params))]
    while spent[-1] < budget and len(spent) < budget:
        params, state = step(params, state)
        spent.append(spent[-1] + int(evaluations(state)))
        values.append(float(gc.tree.get(state, "value")))
    return np.asarray(spent), np.asarray(values)


def gauss_newton():
    """Return Gauss-Newton with a line search: its own steps would be far too long on the way from a random start."""
    search = gc.scale_by_zoom_linesearch(20, initial_guess_strategy="one")
    return gc.chain(gc.scale_by_gauss_newton(max_cg_steps=PRODUCTS), gc.negate(), search)


def tuned_adam(problem, budget):
    """Return the same for Adam at the best of ``RATES``, and that rate."""

    def run(rate):
        tx = gc.adam(gc.cosine_decay_schedule(1.0, budget) * rate)

        def body(carry, _):
            params, state = carry
            value, grad = jax.value_and_grad(problem.loss)(params)
            updates, state = tx.update(grad, state, params)
            return (gc.apply_updates(params, updates), state), value

        return jax.lax.scan(body, (problem.params, tx.init(problem.params)), length=budget)[1]

    values = np.asarray(jax.jit(jax.vmap(run))(RATES))
    best = np.nanargmin(values[:, -1])
    return np.arange(1, budget + 1), values[best], float(RATES[best])


PROBLEMS = {"logistic regression": logistic, "digits, a network": network, "a differential equation": physics}
METHODS = {"L-BFGS": gc.lbfgs, "Newton-CG": gc.scale_by_newton_cg, "Gauss-Newton": gauss_newton}


def main(budget=1000, problems=tuple(PROBLEMS), plot_to=None):
    """Return the curves by problem and method; print the loss at a tenth of the budget, a third, and all of it."""
    curves = {}
    for title in problems:
        problem = PROBLEMS[title]()
        *adam, rate = tuned_adam(problem, budget)
        curves[title] = {f"Adam, rate {rate:g}": adam}
        for name, make in METHODS.items():
            curves[title][name] = descend(problem, make(), budget)
        print(f"{title:26s}{'after':>8s} {budget // 10:9d} {budget // 3:9d} {budget:9d} evaluations")
        for name, (spent, values) in curves[title].items():
            at = [values[spent <= part].min() for part in (budget // 10, budget // 3, budget)]
            print(f"  {name:32s} " + " ".join(f"{x:9.2e}" for x in at), flush=True)
    if plot_to is not None:
        draw(curves, plot_to)
    return curves


def mini_batches(steps=300, size=32, seeds=5, last=100):
    """Print the median and the worst loss on all data in the last steps, over seeds, for batches of ``size``."""
    x, y = tumours()

    def loss(params, x, y):
        each = gc.losses.sigmoid_binary_cross_entropy(x @ params["w"] + params["b"], y)
        return jnp.mean(each) + 5e-4 * penalty(params["w"])

    def run(tx, seed):
        def body(carry, key):
            params, state = carry
            rows = jax.random.choice(key, len(x), (size,), replace=False)
            value_fn = lambda params: loss(params, x[rows], y[rows])  # noqa: E731
            value, grad = jax.value_and_grad(value_fn)(params)
            updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=value_fn)
            params = gc.apply_updates(params, updates)
            return (params, state), loss(params, x, y)

        start = {"w": jnp.zeros(30), "b": jnp.zeros(())}
        return jax.lax.scan(body, (start, tx.init(start)), jax.random.split(jax.random.key(seed), steps))[1]

    rows = [(f"Adam, rate {rate}", gc.adam(rate)) for rate in (0.01, 0.03, 0.1)]
    for rate in (0.01, 0.03, 0.1):
        same = gc.chain(gc.scale_by_lbfgs(same_batch=True), gc.scale_by_learning_rate(rate))
        rows.append((f"L-BFGS, same_batch, rate {rate}", same))
    rows += [(f"L-BFGS, no search, rate {rate}", gc.lbfgs(rate, linesearch=None)) for rate in (0.03, 0.1)]
    rows += [("L-BFGS, with its search", gc.lbfgs()), ("Newton-CG", gc.scale_by_newton_cg())]
    table = {}
    for name, tx in rows:
        losses = jax.jit(jax.vmap(run, (None, 0)))(tx, jnp.arange(seeds))[:, -last:]
        table[name] = float(jnp.median(losses)), float(jnp.max(losses))
        print(f"{name:32s} " + " ".join(f"{x:10.3g}" for x in table[name]), flush=True)
    return table


def draw(curves, path):
    """Draw loss against evaluations, a panel for each problem."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(curves), figsize=(4 * len(curves), 3.4), layout="constrained", squeeze=False)
    for ax, (problem, methods) in zip(axes[0], curves.items(), strict=True):
        for name, (spent, values) in methods.items():
            ax.plot(spent, np.minimum.accumulate(values), label=name)
        ax.set(title=problem, xscale="log", yscale="log", xlabel="gradient evaluations")
        ax.legend()
    axes[0, 0].set_ylabel("loss")
    figure.savefig(path, dpi=150, facecolor="white")
    plt.close(figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--budget", type=int, default=1000)
    parser.add_argument("--plot")
    parser.add_argument("--mini-batches", action="store_true")
    options = parser.parse_args()
    if options.mini_batches:
        mini_batches()
    else:
        main(options.budget, plot_to=options.plot)

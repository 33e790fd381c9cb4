"""Compare second-order methods with tuned Adam at equal numbers of gradient evaluations, on all data at each step.

    python examples/12_second_order.py                        # prints the table
    python examples/12_second_order.py --plot second.png      # and draws loss against evaluations

A value with its gradient counts 1, a product with the Hessian 2. Adam gets seven learning rates with a cosine decay,
each over the whole budget, and the best final loss counts; the others get nothing to tune.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.preprocessing import StandardScaler

import gradchain as gc

RATES = jnp.asarray([1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0])


def logistic():
    """Logistic regression on 569 tumours, 31 parameters, with a weak L2 penalty."""
    x, y = load_breast_cancer(return_X_y=True)
    x, y = jnp.asarray(StandardScaler().fit_transform(x), jnp.float32), jnp.asarray(y, jnp.float32)

    def loss(params):
        each = gc.losses.sigmoid_binary_cross_entropy(x @ params["w"] + params["b"], y)
        return jnp.mean(each) + 5e-4 * jnp.sum(params["w"] ** 2)

    return loss, {"w": jnp.zeros(30), "b": jnp.zeros(())}


def network():
    """A network of one hidden layer, 2,410 parameters, on 1,797 images of digits."""
    images, labels = load_digits(return_X_y=True)
    x, y = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels)
    first, second = jax.random.split(jax.random.key(0))

    def loss(params):
        logits = jnp.tanh(x @ params["in"] + params["shift"]) @ params["out"] + params["bias"]
        each = gc.losses.softmax_cross_entropy_with_integer_labels(logits, y)
        return jnp.mean(each) + 5e-5 * sum(jnp.sum(w**2) for w in jax.tree.leaves(params))

    start = {"in": jax.random.normal(first, (64, 32)) / 8, "out": jax.random.normal(second, (32, 10)) / 6}
    return loss, start | {"shift": jnp.zeros(32), "bias": jnp.zeros(10)}


def physics():
    """A network that solves u'' = -pi^2 sin(pi x), u(-1) = u(1) = 0, by its residuals at 64 points; 305 parameters."""
    points = jnp.linspace(-1.0, 1.0, 64)
    first, second, third = jax.random.split(jax.random.key(0), 3)

    def u(params, x):
        hidden = jnp.tanh(params["in"] * x + params["shift"])
        return jnp.tanh(params["middle"] @ hidden) @ params["out"] + params["bias"]

    def loss(params):
        bend = jax.vmap(jax.grad(jax.grad(u, argnums=1), argnums=1), (None, 0))(params, points)
        ends = jnp.stack([u(params, -1.0), u(params, 1.0)])
        return jnp.mean((bend + jnp.pi**2 * jnp.sin(jnp.pi * points)) ** 2) + 10 * jnp.sum(ends**2)

    middle = jax.random.normal(third, (16, 16)) / 4
    layers = {"in": 2 * jax.random.normal(first, (16,)), "out": jax.random.normal(second, (16,)) / 4, "middle": middle}
    return loss, layers | {"shift": jnp.linspace(-1.0, 1.0, 16), "bias": jnp.zeros(())}


def evaluations(state):
    """Return what the last step of a second-order method cost, in gradients."""
    products = gc.tree.get(state, "num_cg_steps", None)
    return gc.tree.get(state, "num_linesearch_steps") if products is None else 2 + 2 * products


def descend(loss, params, tx, budget):
    """Return (evaluations so far, loss) after each step, until the budget is spent."""
    value_and_grad = gc.value_and_grad_from_state(loss)

    @jax.jit
    def step(params, state):
        value, grad = value_and_grad(params, state=state)
        updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=loss)
        return gc.apply_updates(params, updates), state

    state, spent = tx.init(params), [1]
    values = [float(loss(params))]
    while spent[-1] < budget and len(spent) < budget:
        params, state = step(params, state)
        spent.append(spent[-1] + int(evaluations(state)))
        values.append(float(gc.tree.get(state, "value")))
    return np.asarray(spent), np.asarray(values)


def tuned_adam(loss, params, budget):
    """Return the same for Adam at the best of ``RATES``, and that rate."""

    def run(rate):
        tx = gc.adam(gc.cosine_decay_schedule(1.0, budget) * rate)

        def body(carry, _):
            params, state = carry
            value, grad = jax.value_and_grad(loss)(params)
            updates, state = tx.update(grad, state, params)
            return (gc.apply_updates(params, updates), state), value

        return jax.lax.scan(body, (params, tx.init(params)), length=budget)[1]

    values = np.asarray(jax.jit(jax.vmap(run))(RATES))
    best = np.nanargmin(values[:, -1])
    return np.arange(1, budget + 1), values[best], float(RATES[best])


PROBLEMS = {"logistic regression": logistic, "digits, a network": network, "a differential equation": physics}
METHODS = {"L-BFGS": gc.lbfgs, "Newton-CG": gc.scale_by_newton_cg}


def main(budget=1000, problems=tuple(PROBLEMS), plot_to=None):
    """Return the curves by problem and method; print the loss at a tenth of the budget, a third, and all of it."""
    curves = {}
    for problem in problems:
        loss, params = PROBLEMS[problem]()
        *adam, rate = tuned_adam(loss, params, budget)
        curves[problem] = {f"Adam, rate {rate:g}": adam}
        for name, make in METHODS.items():
            curves[problem][name] = descend(loss, params, make(), budget)
        print(f"{problem:26s}{'after':>8s} {budget // 10:9d} {budget // 3:9d} {budget:9d} evaluations")
        for name, (spent, values) in curves[problem].items():
            at = [values[spent <= part].min() for part in (budget // 10, budget // 3, budget)]
            print(f"  {name:32s} " + " ".join(f"{x:9.2e}" for x in at))
    if plot_to is not None:
        draw(curves, plot_to)
    return curves


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
    options = parser.parse_args()
    main(options.budget, plot_to=options.plot)

"""How many steps does a problem take, by its condition number and by its kind?

On a quadratic the ratio of the largest to the smallest curvature decides. Real problems are
measured with the same ruler: steps until 1 % of the loss above the minimum is left.
"""

import jax
import jax.numpy as jnp
import numpy as np
from common import (
    Report,
    command_line,
    cross_entropy,
    first,
    legend,
    log_scale,
    mnist,
    network,
    panels,
    style,
)
from sklearn import datasets

import gradchain as gc
from gradchain import losses
from gradchain.training import trace_path

SIZE = 20
TOLERANCE = 1e-3
SHARES = 0.01, 0.0001
SEARCHES = 300
"""How many steps L-BFGS gets, each of which costs one gradient, seldom two or more."""


def quadratics(conditions, seed):
    """Return Hessians with curvatures from 1/condition to 1: along the axes, and turned."""
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(SIZE, SIZE)))[0]
    curvatures = [np.geomspace(1 / condition, 1, SIZE) for condition in conditions]
    straight = jnp.asarray([np.diag(c) for c in curvatures], jnp.float32)
    turned = jnp.asarray([turn @ np.diag(c) @ turn.T for c in curvatures], jnp.float32)
    return {"straight": straight, "turned": turned}


def steps_to(hessian, tx, start, steps):
    """Return the steps until the distance to the minimum has fallen to the tolerance, for good."""
    points = trace_path(lambda w: 0.5 * w @ hessian @ w, start, tx, steps).points
    far = jnp.linalg.norm(points, axis=1) > TOLERANCE * jnp.linalg.norm(start)
    return steps + 1 - jnp.argmax(far[::-1])


def on_quadratics(conditions, steps, seed):
    """Return the steps needed for each condition number, by optimizer."""
    hessians = quadratics(conditions, seed)
    start = jnp.asarray(np.random.default_rng(seed).normal(size=SIZE), jnp.float32)
    root = np.sqrt(np.asarray(conditions))
    descent = gc.sgd(jnp.asarray(2 / (1 + 1 / root**2), jnp.float32))
    ball = gc.sgd(
        jnp.asarray((2 / (1 + 1 / root)) ** 2, jnp.float32),
        momentum=jnp.asarray(((root - 1) / (root + 1)) ** 2, jnp.float32),
    )
    adam = gc.adam(jnp.geomspace(0.003, 0.3, 5))

    def paired(tx):
        run = jax.vmap(
            lambda h, tx: steps_to(h, tx, start, steps), (0, gc.batch_axes(tx))
        )
        return np.asarray(jax.jit(run)(hessians["turned"], tx))

    def best_adam(many):
        run = jax.vmap(
            lambda h, tx: steps_to(h, tx, start, steps), (None, gc.batch_axes(adam))
        )
        return np.asarray(jax.jit(jax.vmap(run, (0, None)))(many, adam)).min(1)

    found = {"gradient descent": paired(descent), "momentum": paired(ball)}
    found |= {f"Adam, {axes} axes": best_adam(many) for axes, many in hessians.items()}
    few = min(steps, SEARCHES)

    @jax.jit
    @jax.vmap
    def searched(hessian):
        return steps_to(hessian, gc.lbfgs(), start, few)

    lbfgs = np.asarray(searched(hessians["turned"]))
    found["L-BFGS"] = np.where(lbfgs > few, steps + 1, lbfgs)
    return {name: np.where(k > steps, np.inf, k) for name, k in found.items()}


def real_problems(examples, seed):
    """Return losses of all weights, and starts, by name."""

    def scaled(load):
        x, y = load(return_X_y=True)
        return jnp.asarray((x - x.mean(0)) / x.std(0), jnp.float32), y

    x, y = scaled(datasets.load_diabetes)
    y = jnp.asarray((y - y.mean()) / y.std(), jnp.float32)
    tumours, labels = scaled(datasets.load_breast_cancer)
    labels = jnp.asarray(labels, jnp.float32)
    images = jax.tree.map(lambda a: a[:examples], mnist()[0])

    def penalised(per_example, w):
        return jnp.mean(per_example) + 5e-4 * w @ w

    def logistic(w):
        return penalised(losses.sigmoid_binary_cross_entropy(tumours @ w, labels), w)

    def machine(w):
        return penalised(losses.hinge_loss(tumours @ w, 2 * labels - 1), w)

    return {
        "linear regression, diabetes": (
            lambda w: 0.5 * jnp.mean((x @ w - y) ** 2),
            jnp.zeros(10),
        ),
        "logistic regression, tumours": (logistic, jnp.zeros(30)),
        "linear SVM, tumours": (machine, jnp.zeros(30)),
        "network, MNIST": (
            lambda params: cross_entropy(params, images),
            network(784, 32, 10)(jax.random.key(seed)),
        ),
    }


def on_real(loss, start, rates, steps):
    """Return the fewest steps over all rates to a share of the gap, by share and optimizer."""
    optimizers = {
        "gradient descent": gc.sgd(jnp.asarray(rates)),
        "momentum": gc.sgd(jnp.asarray(rates) / 10, momentum=0.9),
        "Adam": gc.adam(jnp.asarray(rates) / 30),
    }
    curves = {}
    for name, txs in optimizers.items():

        def run(tx):
            return trace_path(loss, start, tx, steps).values

        values = jax.jit(jax.vmap(run, (gc.batch_axes(txs),)))(txs)
        curves[name] = np.nan_to_num(np.asarray(values), nan=np.inf)
    values = jax.jit(
        lambda w: trace_path(loss, w, gc.lbfgs(), min(steps, SEARCHES)).values
    )(start)
    curves["L-BFGS"] = np.asarray(values)[None]
    lowest = min(np.nanmin(curve) for curve in curves.values())
    return {
        share: {
            k: first(c < lowest + share * (c[0, 0] - lowest)).min()
            for k, c in curves.items()
        }
        for share in SHARES
    }


def main(quick=False, seed=0):
    conditions = (10, 100) if quick else (3, 10, 30, 100, 300, 1000)
    steps = on_quadratics(conditions, 1000 if quick else 6000, seed)
    slopes = {
        name: round(np.polyfit(np.log(conditions), np.log(k), 1)[0], 3) + 0.0
        for name, k in steps.items()
    }
    rates = np.geomspace(0.03, 10, 4 if quick else 8)
    rows = [
        (f"quadratic, condition {condition}", *(k[i] for k in steps.values()))
        for i, condition in enumerate(conditions)
    ]
    rows.append(("slope in log-log", *slopes.values()))
    real = {}
    for name, (loss, start) in real_problems(200 if quick else 1000, seed).items():
        budget = 300 if quick else 400 if "network" in name else 3000
        real[name] = on_real(loss, start, rates, budget)
        for share, steps_by_name in real[name].items():
            rows.append(
                (f"{name}, to {100 * share:g} %", *without_turns(steps_by_name))
            )
    header = (
        "problem",
        "gradient descent",
        "momentum",
        "Adam",
        "Adam, turned axes",
        "L-BFGS",
    )
    return Report(
        header, rows, claims(slopes, steps, real), picture(conditions, steps, real)
    )


def without_turns(steps):
    """Return the steps in the table's order, with no number for Adam on turned axes."""
    *others, lbfgs = steps.values()
    return *others, np.inf, lbfgs


def claims(slopes, steps, real):
    descent, ball, straight, turned, lbfgs = slopes.values()
    network = real["network, MNIST"][0.01]
    return {
        f"Steps grow with the condition number to the power {descent:.2f} with gradient descent "
        f"(theory: 1) and {ball:.2f} with momentum (theory: 0.5).": bool(
            abs(descent - 1) < 0.15 and abs(ball - 0.5) < 0.15
        ),
        f"With Adam the power is {straight:.2f} where the curvatures lie along the axes and "
        f"{turned:.2f} where they don't.": straight < turned,
        f"With L-BFGS, which has no number to tune, the power is {lbfgs:.2f}.": lbfgs
        < descent,
        "Gradient descent needs the fewest steps of the first three to 1 % of the gap on "
        f"{won(real, 0.01)}; to 0.01 % on {won(real, 0.0001)}.": True,
        f"The network takes {network['gradient descent']:.0f} steps to 1 % by gradient descent and "
        f"{network['momentum']:.0f} with momentum.": network["momentum"]
        < network["gradient descent"],
    }


def won(real, share):
    """Return the problems on which neither momentum nor Adam is faster than gradient descent."""
    names = [
        k
        for k, by in real.items()
        if by[share]["gradient descent"]
        <= min(x for name, x in by[share].items() if name != "L-BFGS")
    ]
    return " and ".join(names) or "none"


def picture(conditions, steps, real):
    figure, (left, right) = panels(2, width=5)
    for i, (name, k) in enumerate(steps.items()):
        left.plot(conditions, k, label=name, **style(i, marker=True))
    left.set(xlabel="condition number", ylabel="steps", title="quadratics")
    log_scale(left)
    place = np.arange(len(real))
    for i, name in enumerate(("gradient descent", "momentum", "Adam", "L-BFGS")):
        look = {
            "color": style(list(steps).index(name) if name in steps else i)["color"],
            "height": 0.2,
        }
        near, nearer = (
            np.nan_to_num([by[share][name] for by in real.values()], posinf=0.0)
            for share in SHARES
        )
        right.barh(place + 0.21 * (1.5 - i), nearer, alpha=0.35, **look)
        right.barh(place + 0.21 * (1.5 - i), near, label=name, **look)
    right.set_yticks(place, [name.replace(", ", "\n") for name in real])
    right.set(xlabel="steps to 1 % (pale: 0.01 %) of the gap", title="real problems")
    log_scale(right, "x")
    legend(left)
    legend(right)
    return figure


if __name__ == "__main__":
    command_line(main, __file__)

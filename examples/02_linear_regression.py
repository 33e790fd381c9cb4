"""Fit a linear regression to the diabetes data by gradient descent, and compare it with the exact solution.

Data: 442 patients, 10 measurements each, a score of the disease a year later (in scikit-learn).
"""

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_diabetes

import gradchain as gc


def load():
    x, y = load_diabetes(return_X_y=True)
    x = (x - x.mean(0)) / x.std(0)
    return jnp.asarray(x, jnp.float32), jnp.asarray((y - y.mean()) / y.std(), jnp.float32)


def loss_fn(params, x, y):
    return jnp.mean(gc.losses.squared_error(x @ params["w"] + params["b"], y))


@jax.jit
def step(tx, params, state, x, y):
    loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
    updates, state = tx.update(grads, state, params)
    return gc.apply_updates(params, updates), state, loss


def main(steps=500):
    x, y = load()
    params = {"w": jnp.zeros(x.shape[1]), "b": jnp.zeros(())}
    tx = gc.sgd(0.05, momentum=0.9, nesterov=True)
    state = tx.init(params)
    for k in range(steps):
        params, state, loss = step(tx, params, state, x, y)
        if k % 100 == 0:
            print(f"step {k:4d}   loss {loss:.4f}")
    exact = np.linalg.lstsq(np.asarray(x), np.asarray(y), rcond=None)[0]
    best = float(loss_fn({"w": jnp.asarray(exact), "b": jnp.zeros(())}, x, y))
    loss = float(loss_fn(params, x, y))
    print(f"after {steps} steps: loss {loss:.5f}, least squares {best:.5f}")
    return {"loss": loss, "best": best}


if __name__ == "__main__":
    main()

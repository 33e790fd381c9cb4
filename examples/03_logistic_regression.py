"""Classify tumours by logistic regression, with a chain put together by hand.

Data: the Wisconsin breast cancer set, 569 tumours, 30 measurements each (in scikit-learn).
The L2 penalty is a stage of the chain, so the loss function is the data's alone.
"""

import jax
import jax.numpy as jnp
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

import gradchain as gc


def load():
    x, y = load_breast_cancer(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.25, random_state=0, stratify=y)
    scaler = StandardScaler().fit(x_train)
    return [jnp.asarray(a, jnp.float32) for a in (scaler.transform(x_train), y_train, scaler.transform(x_test), y_test)]


def logits(params, x):
    return x @ params["w"] + params["b"]


def loss_fn(params, x, y):
    return jnp.mean(gc.losses.sigmoid_binary_cross_entropy(logits(params, x), y))


def accuracy(params, x, y):
    return float(jnp.mean((logits(params, x) > 0) == y))


def main(steps=200):
    x_train, y_train, x_test, y_test = load()
    tx = gc.chain(
        gc.add_l2_penalty(1e-2, mask={"w": True, "b": False}),
        gc.clip_by_global_norm(1.0),
        gc.trace(0.9),
        gc.scale_by_learning_rate(0.1),
    )
    params = {"w": jnp.zeros(x_train.shape[1]), "b": jnp.zeros(())}

    def body(carry, _):
        params, state = carry
        loss, grads = jax.value_and_grad(loss_fn)(params, x_train, y_train)
        updates, state = tx.update(grads, state, params)
        return (gc.apply_updates(params, updates), state), loss

    (params, _), losses = jax.lax.scan(body, (params, tx.init(params)), length=steps)
    held_out = accuracy(params, x_test, y_test)
    print(tx)
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f} in {steps} steps, accuracy on held-out tumours {held_out:.3f}")
    return {"first_loss": float(losses[0]), "loss": float(losses[-1]), "accuracy": held_out}


if __name__ == "__main__":
    main()

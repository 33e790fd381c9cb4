"""Train the same model with 64 learning rates in one call.

A transform is a pytree whose leaves are its hyperparameters. Give one of them 64 values and the transform is a batch
of 64 optimizers; ``jax.vmap`` runs them side by side, and ``batch_axes(tx)`` tells it which leaves to map over.
"""

import jax
import jax.numpy as jnp
from sklearn.datasets import load_digits

import gradchain as gc


def load():
    images, labels = load_digits(return_X_y=True)
    return jnp.float32(images / 16), jnp.asarray(labels)


def loss_fn(params, x, y):
    logits = x @ params["w"] + params["b"]
    return jnp.mean(gc.losses.softmax_cross_entropy_with_integer_labels(logits, y))


def main(steps=100, rates=64):
    x, y = load()
    train, held_out = (x[:1000], y[:1000]), (x[1000:], y[1000:])
    params = {"w": jnp.zeros((64, 10)), "b": jnp.zeros(10)}

    def run(tx):
        def body(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(loss_fn)(params, *train), state, params)
            return (gc.apply_updates(params, updates), state), None

        (trained, _), _ = jax.lax.scan(body, (params, tx.init(params)), length=steps)
        return loss_fn(trained, *held_out)

    tx = gc.adam(jnp.logspace(-4, 1, rates))
    losses = jax.jit(jax.vmap(run, in_axes=(gc.batch_axes(tx),)))(tx)

    learning_rates = gc.hyperparams(tx)["scale_by_learning_rate.learning_rate"]
    for rate, loss in list(zip(learning_rates, losses, strict=True))[:: max(rates // 8, 1)]:
        print(f"learning rate {rate:8.5f}   held-out loss {loss:8.4f}")
    best = int(jnp.nanargmin(losses))
    winner = tx.replace(learning_rate=learning_rates[best])
    print(f"best: {winner}, held-out loss {losses[best]:.4f}")
    return {"losses": losses, "best_rate": float(learning_rates[best]), "alone": run(winner)}


if __name__ == "__main__":
    main()

"""Learn a learning rate and a momentum by differentiating through training.

``train(tx)`` is an ordinary function of the transform's numbers, so ``jax.grad(train)(tx)`` is a transform with the
derivatives in their place. The outer loop descends on them; its parameters are the logarithm of the rate and the
logit of the momentum, which keeps both in range.
"""

import jax
import jax.numpy as jnp

import gradchain as gc


def bowl(w):
    return w[0] ** 2 + 4 * w[1] ** 2


def train(tx, steps=20):
    """Return the loss after a short run."""

    def body(carry, _):
        w, state = carry
        updates, state = tx.update(jax.grad(bowl)(w), state, w)
        return (gc.apply_updates(w, updates), state), None

    start = jnp.array([-4.0, 1.5])
    (w, _), _ = jax.lax.scan(body, (start, tx.init(start)), length=steps)
    return bowl(w)


def build(theta):
    return gc.sgd(jnp.exp(theta["log_rate"]), momentum=jax.nn.sigmoid(theta["logit_momentum"]))


def outer_loss(theta):
    return jnp.log(train(build(theta)))


def main(steps=60):
    tx = gc.sgd(0.01, momentum=0.1)
    print("a gradient with respect to an optimizer:")
    print("  ", jax.grad(train)(tx))

    theta = {"log_rate": jnp.log(0.01), "logit_momentum": jnp.log(0.1 / 0.9)}
    outer = gc.adam(0.1)
    state = outer.init(theta)
    step = jax.jit(jax.value_and_grad(outer_loss))
    first = float(train(build(theta)))
    for k in range(steps):
        log_loss, grads = step(theta)
        updates, state = outer.update(grads, state, theta)
        theta = gc.apply_updates(theta, updates)
        if k % 10 == 0:
            print(f"outer step {k:3d}   loss of the inner run {jnp.exp(log_loss):.2e}")
    learned = build(theta)
    last = float(train(learned))
    print(f"loss after 20 inner steps: {first:.3f} before, {last:.2e} with {learned}")
    return {"first": first, "last": last}


if __name__ == "__main__":
    main()

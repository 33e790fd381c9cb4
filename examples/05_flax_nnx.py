"""Train a Flax NNX network on handwritten digits: gradchain's transforms go into ``nnx.Optimizer`` as they are.

Data: 1,797 images of 8 by 8 pixels (in scikit-learn).
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import gradchain as gc


class Net(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(64, 64, rngs=rngs)
        self.out = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.hidden(x)))


def loss_fn(model, x, y):
    return jnp.mean(gc.losses.softmax_cross_entropy_with_integer_labels(model(x), y))


@nnx.jit
def train_step(model, optimizer, x, y):
    loss, grads = nnx.value_and_grad(loss_fn)(model, x, y)
    optimizer.update(model, grads)
    return loss


def main(epochs=10):
    images, labels = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(images / 16, labels, test_size=0.2, random_state=0)
    x_train, x_test = np.float32(x_train), np.float32(x_test)
    model = Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, gc.nadamw(3e-3, weight_decay=1e-3), wrt=nnx.Param)
    rng = np.random.default_rng(0)
    for epoch in range(epochs):
        batches = rng.permutation(len(x_train))[: len(x_train) // 64 * 64].reshape(-1, 64)
        loss = np.mean([train_step(model, optimizer, x_train[i], y_train[i]) for i in batches])
        print(f"epoch {epoch + 1:2d}   loss {loss:.4f}")
    accuracy = float(jnp.mean(model(x_test).argmax(-1) == y_test))
    print(f"accuracy on held-out digits: {accuracy:.3f}")
    return {"accuracy": accuracy}


if __name__ == "__main__":
    main()

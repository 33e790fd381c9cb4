"""A training step in NumPy: the gradient and Adam by hand."""

import numpy as np
from problem import B1, B2, EPS, RATE, batches, load, start


def loss_and_gradient(params, x, y):
    hidden = np.tanh(x @ params["w1"] + params["b1"])
    logits = hidden @ params["w2"] + params["b2"]
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    rows = np.arange(len(y))
    loss = -log_p[rows, y].mean()

    d_logits = np.exp(log_p)
    d_logits[rows, y] -= 1
    d_logits /= len(y)
    d_hidden = d_logits @ params["w2"].T * (1 - hidden**2)
    gradient = {
        "w1": x.T @ d_hidden,
        "b1": d_hidden.sum(axis=0),
        "w2": hidden.T @ d_logits,
        "b2": d_logits.sum(axis=0),
    }
    return loss, gradient


def adam(params, mu, nu, t, gradient):
    for name, g in gradient.items():
        mu[name] = B1 * mu[name] + (1 - B1) * g
        nu[name] = B2 * nu[name] + (1 - B2) * g**2
        mu_hat = mu[name] / (1 - B1**t)
        nu_hat = nu[name] / (1 - B2**t)
        params[name] = params[name] - RATE * mu_hat / (np.sqrt(nu_hat) + EPS)


def train(dtype=np.float32):
    params = start(dtype)
    mu = {name: np.zeros_like(p) for name, p in params.items()}
    nu = {name: np.zeros_like(p) for name, p in params.items()}
    losses = []
    for t, (x, y) in enumerate(batches(*load(dtype)), start=1):
        loss, gradient = loss_and_gradient(params, x, y)
        adam(params, mu, nu, t, gradient)
        losses.append(float(loss))
    return losses

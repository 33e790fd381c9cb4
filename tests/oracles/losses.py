"""Each loss a second time, in plain NumPy double precision, written from its formula; and derivatives by hand."""

import numpy as np


def squared_error(p, t):
    return (p - t) ** 2


def squared_error_slope(p, t):
    return 2 * (p - t)


def l2_loss(p, t):
    return (p - t) ** 2 / 2


def l2_loss_slope(p, t):
    return p - t


def huber_loss(p, t, delta=1.0):
    e = np.abs(p - t)
    return np.where(e <= delta, e**2 / 2, delta * (e - delta / 2))


def huber_loss_slope(p, t, delta=1.0):
    return np.clip(p - t, -delta, delta)


def log_cosh(p, t):
    """log cosh e = |e| + log(1 + exp(-2|e|)) - log 2 = log(1 + 2 sinh(e / 2)^2), the second without cancellation."""
    e = np.abs(p - t)
    return np.where(e < 1, np.log1p(2 * np.sinh(np.minimum(e, 1) / 2) ** 2), e + np.log1p(np.exp(-2 * e)) - np.log(2))


def log_cosh_slope(p, t):
    return np.tanh(p - t)


def hinge_loss(f, y):
    return np.where(f * y < 1, 1 - f * y, 0)


def hinge_loss_slope(f, y):
    return np.where(f * y < 1, -y, 0)


def sigmoid_binary_cross_entropy(x, y):
    return y * np.logaddexp(0, -x) + (1 - y) * np.logaddexp(0, x)


def sigmoid_binary_cross_entropy_slope(x, y):
    """sigma(x) - y, as (1 - y) sigma(x) - y sigma(-x), with sigma(x) = exp(-log(1 + exp(-x)))."""
    return (1 - y) * np.exp(-np.logaddexp(0, -x)) - y * np.exp(-np.logaddexp(0, x))


def softmax(x, include):
    """Probabilities over the last axis's included elements."""
    with np.errstate(invalid="ignore", divide="ignore"):
        weights = np.where(include, np.exp(x - np.max(np.where(include, x, -np.inf), -1, keepdims=True)), 0)
        return np.nan_to_num(weights / weights.sum(-1, keepdims=True))


def softmax_cross_entropy(x, y, include=True):
    include = np.broadcast_to(include, x.shape)
    losses = np.zeros(x.shape[:-1])
    for i in np.ndindex(losses.shape):
        kept, labels = x[i][include[i]], y[i][include[i]]
        if kept.size:
            relative = kept - kept.max()
            losses[i] = np.sum(labels * (np.log(np.sum(np.exp(relative))) - relative))
    return losses


def softmax_cross_entropy_slope(x, y, include=True):
    include = np.broadcast_to(include, x.shape)
    y = np.where(include, y, 0)
    return softmax(x, include) * y.sum(-1, keepdims=True) - y

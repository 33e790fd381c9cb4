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


def perceptron_loss(f, y):
    return np.where(f * y < 0, -f * y, 0)


def sparsemax_loss(x, y):
    """Blondel et al. 2020, section 4.4: 0 for a margin of 1 and more, linear below -1, a parabola between."""
    margin = np.where(y > 0, x, -x)
    return np.where(margin >= 1, 0, np.where(margin <= -1, -margin, (1 - margin) ** 2 / 4))


def rows(function, *arrays):
    """Apply a function of vectors and labels to every row."""
    shape = arrays[0].shape[:-1]
    return np.array([function(*(a[i] for a in arrays)) for i in np.ndindex(shape)]).reshape(shape)


def multiclass_perceptron_loss(s, y):
    return rows(lambda s, y: s.max() - s[y], s, y)


def multiclass_hinge_loss(s, y):
    return rows(lambda s, y: max(max(s[j] + (j != y) for j in range(s.size)) - s[y], 0), s, y)


def multiclass_sparsemax_loss(s, y):
    """Martins and Astudillo 2016, equation 18, with the threshold found by bisection."""

    def one(s, y):
        low, high = s.max() - 1, s.max()
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if np.maximum(s - middle, 0).sum() > 1 else (low, middle)
        return -s[y] + np.sum(s[s > low] ** 2 - low**2) / 2 + 0.5

    return rows(one, s, y)


def poly_loss_cross_entropy(x, y, epsilon=2.0):
    p = softmax(x, np.ones(x.shape, bool))
    return softmax_cross_entropy(x, y) + epsilon * np.sum(y * (1 - p), -1)


def sigmoid_focal_loss(x, y, alpha=None, gamma=2.0):
    p = np.exp(-np.logaddexp(0, -x))
    weight = 1 if alpha is None else alpha * y + (1 - alpha) * (1 - y)
    return weight * (p * (1 - y) + (1 - p) * y) ** gamma * sigmoid_binary_cross_entropy(x, y)


def kl_divergence(log_q, t):
    return rows(lambda log_q, t: sum(b * (np.log(b) - a) for a, b in zip(log_q, t, strict=True) if b > 0), log_q, t)


def kl_divergence_with_log_targets(log_q, log_t):
    return kl_divergence(log_q, np.exp(log_t))


def generalized_kl_divergence(log_q, t):
    return kl_divergence(log_q, t) + np.sum(np.exp(log_q) - t, -1)


def cosine_similarity(p, t, epsilon=0.0):
    def norm(x):
        return np.sqrt(max(x @ x, epsilon))

    return rows(lambda p, t: p @ t / (norm(p) * norm(t)), p, t)


def cosine_distance(p, t, epsilon=0.0):
    return 1 - cosine_similarity(p, t, epsilon)


def smooth_labels(y, alpha):
    return y + alpha * (1 / y.shape[-1] - y)


def ranking_softmax_loss(s, y, include=True, weights=1.0):
    """The mean over the lists with at least one item."""
    include = np.broadcast_to(include, s.shape)
    return softmax_cross_entropy(s, y * weights, include).sum() / include.any(-1).sum()


def triplet_margin_loss(a, p, n, degree=2, margin=1.0, eps=1e-6):
    def distance(x, y):
        return (np.sum(np.abs(x - y) ** degree, -1) + eps) ** (1 / degree)

    return np.maximum(distance(a, p) - distance(a, n) + margin, 0)


def ntxent(z, labels, temperature=0.07):
    """Chen et al. 2020, equation 1, with all pairs of equal labels and only unequal ones to tell them from."""
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    s = unit @ unit.T / temperature
    n = len(z)
    terms = []
    for i, j in np.ndindex(n, n):
        if i != j and labels[i] == labels[j]:
            others = [np.exp(s[i, k] - s[i, j]) for k in range(n) if labels[k] != labels[i]]
            terms.append(np.log(1 + sum(others)))
    return np.mean(terms)


def dice_loss(x, t, smooth=1.0, alpha=0.5, beta=0.5):
    """One loss for each example and class of logits (batch, places, classes)."""
    p = softmax(x, np.ones(x.shape, bool))
    hits, false_positives, false_negatives = (np.sum(a, 1) for a in (p * t, p * (1 - t), (1 - p) * t))
    return 1 - (hits + smooth) / (hits + alpha * false_positives + beta * false_negatives + smooth)


def binary_dice_loss(x, t, smooth=1.0):
    p = np.exp(-np.logaddexp(0, -x))
    return 1 - (np.sum(p * t, 1) + smooth) / ((np.sum(p, 1) + np.sum(t, 1)) / 2 + smooth)


def multiclass_generalized_dice_loss(x, t, smooth=1.0):
    weights = 1 / (t.sum((0, 1)) ** 2 + 1e-7)
    return np.mean(dice_loss(x, t, smooth) * weights * weights.size / weights.sum())


def ctc_loss(x, labels, blank):
    """Graves et al. 2006, equation 3, by going through every alignment of one example."""
    p = softmax(x, np.ones(x.shape, bool))
    total = 0.0
    for path in np.ndindex(*(x.shape[1],) * x.shape[0]):
        merged = [k for i, k in enumerate(path) if i == 0 or path[i - 1] != k]
        if [k for k in merged if k != blank] == list(labels):
            total += np.prod(p[np.arange(len(path)), path])
    return -np.log(total) if total else np.inf


def slope(function, x, step=1e-6):
    """Return the derivative of a function's sum, by differences of the fourth order."""
    result = np.zeros(x.shape)
    for i in np.ndindex(x.shape):
        e = np.zeros(x.shape)
        e[i] = step * max(1, abs(x[i]))
        near, far = (np.sum(function(x + k * e) - function(x - k * e)) for k in (100, 200))
        result[i] = (8 * near - far) / (1200 * e[i])
    return result

"""The 70 problems: the classics, larger ones, quadratics, statistics, functions with an edge, fits as plain sums.

Minima without a closed form were found by Newton's method in float64, from the ends of several solvers, to a gradient
of 1e-6 of the first one or less, and with no negative curvature left.
"""

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits

from tests.benchmarks.minimisers import nist
from tests.benchmarks.minimisers.classics import CLASSICS
from tests.benchmarks.minimisers.suite import Suite, const, index

PROBLEMS = Suite(CLASSICS)
add = PROBLEMS.add
exp = jnp.exp


def product(matrix, x):
    return jnp.matmul(const(matrix, x), x, precision="highest")


# Larger problems, from CUTEst and from Andrei, An Unconstrained Optimization Test Functions Collection, 2008.


def chained_rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def dixon_price(x):
    return (x[0] - 1) ** 2 + jnp.sum(index(x)[1:] * (2 * x[1:] ** 2 - x[:-1]) ** 2)


def edensch(x):
    return 16 + jnp.sum((x[:-1] - 2) ** 4 + (x[:-1] * x[1:] - 2 * x[1:]) ** 2 + (x[1:] + 1) ** 2)


def nondquar(x):
    return (x[0] - x[1]) ** 2 + (x[-2] + x[-1]) ** 2 + jnp.sum((x[:-2] + x[1:-1] + x[-1]) ** 4)


def zakharov(x):
    s = jnp.sum(index(x) * x / 2)
    return jnp.sum(x**2) + s**2 + s**4


def cragglvy(x):
    a, b, c, d = x[:-3:2], x[1:-2:2], x[2:-1:2], x[3::2]
    return jnp.sum(
        (exp(a) - b) ** 4 + 100 * (b - c) ** 6 + (jnp.tan(c - d) + c - d) ** 4 + a**8 + (d - 1) ** 2
    )  # fmt: skip


for n, minima in ((5, 0), (30, [0, 3.986623854300933]), (300, 0), (1000, 0)):
    add(f"chained_rosenbrock_{n}", chained_rosenbrock, np.tile([-1.2, 1], (n + 1) // 2)[:n], minima)
add("arwhead_100", lambda x: jnp.sum((x[:-1] ** 2 + x[-1] ** 2) ** 2 - 4 * x[:-1] + 3), np.ones(100))
add("dqdrtic_100", lambda x: jnp.sum(x[:-2] ** 2 + 100 * x[1:-1] ** 2 + 100 * x[2:] ** 2), np.full(100, 3.0))
add("engval1_100", lambda x: jnp.sum((x[:-1] ** 2 + x[1:] ** 2) ** 2 - 4 * x[:-1] + 3), np.full(100, 2.0),
    109.08813614309214)  # fmt: skip
add("edensch_36", edensch, np.zeros(36), 219.28459202076465)
add("liarwhd_100", lambda x: jnp.sum(4 * (x**2 - x[0]) ** 2 + (x - 1) ** 2), np.full(100, 4.0))
add("tridia_50", lambda x: (x[0] - 1) ** 2 + jnp.sum(index(x)[1:] * (2 * x[1:] - x[:-1]) ** 2), np.ones(50))
add("nondquar_40", nondquar, np.tile([1.0, -1], 20))
add("raydan_100", lambda x: jnp.sum(index(x) / 10 * (exp(x) - x)), np.ones(100), np.sum(np.arange(1, 101) / 10))
add("hager_50", lambda x: jnp.sum(exp(x) - jnp.sqrt(index(x)) * x), np.ones(50),
    np.sum(np.sqrt(np.arange(1, 51)) * (1 - 0.5 * np.log(np.arange(1, 51)))))  # fmt: skip
add("quartc_50", lambda x: jnp.sum((x - index(x)) ** 4), np.full(50, 2.0))
add("dixon_price_20", dixon_price, np.ones(20), [0, 2 / 3])
add("zakharov_20", zakharov, np.ones(20))
add("cragglvy_50", cragglvy, np.r_[1.0, np.full(49, 2.0)], 15.372509465428696)

# Quadratics: well and badly conditioned, large, small, and far from 0.


def spread(n, condition, seed):
    """Return a symmetric matrix with eigenvalues from 1 to ``condition``, spread evenly in the logarithm."""
    q = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]
    return (q * np.logspace(0, np.log10(condition), n)) @ q.T


def add_quadratic(name, matrix, times=1.0, plus=0.0):
    """Add a quadratic with its minimum ``plus`` at 1."""

    def fun(x):
        return plus + times * jnp.vdot(x - 1, product(matrix, x - 1)) / 2

    add(name, fun, np.zeros(len(matrix)), plus)


add_quadratic("quadratic_cond_1e2", spread(50, 1e2, 0))
add_quadratic("quadratic_cond_1e4", spread(50, 1e4, 1))
add_quadratic("quadratic_cond_1e6", spread(20, 1e6, 2))
add_quadratic("diagonal_1e-4_to_1e4", np.diag(np.logspace(-4, 4, 17)))
add_quadratic("hilbert_8", 1 / (np.add.outer(np.arange(8), np.arange(8)) + 1.0))
add_quadratic("quadratic_times_1e6", spread(20, 1e2, 3), times=1e6)
add_quadratic("quadratic_times_1e-6", spread(20, 1e2, 4), times=1e-6)
add_quadratic("quadratic_plus_1e4", spread(20, 1e2, 5), plus=1e4)

# Statistics.

CANCER, BENIGN = load_breast_cancer(return_X_y=True)
STANDARDIZED = (CANCER - CANCER.mean(0)) / CANCER.std(0)
DIGITS, LABELS = load_digits(return_X_y=True)


def logistic(features, penalty):
    def fun(x):
        margin = const(2.0 * BENIGN - 1, x) * (product(features, x[:-1]) + x[-1])
        return jnp.mean(jax.nn.softplus(-margin)) + penalty / 2 * jnp.sum(x[:-1] ** 2)

    return fun


def softmax_digits(x):
    w = x.reshape(65, 10)
    logits = product(DIGITS / 16, w[:-1]) + w[-1]
    right = jnp.sum(const(np.eye(10)[LABELS], x) * logits, axis=1)
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - right) + 1e-3 / 2 * jnp.sum(w[:-1] ** 2)


def poisson(x):
    rng = np.random.default_rng(7)
    design = np.c_[np.ones(200), rng.normal(size=(200, 9))]
    counts = rng.poisson(np.exp(design @ np.r_[1.0, 0.3 * rng.normal(size=9)]))
    eta = product(design, x)
    return jnp.sum(exp(eta) - const(counts, x) * eta)


def gaussian_process(x):
    """Return a negative log marginal likelihood; the Cholesky factor of a matrix that isn't positive is NaN."""
    rng = np.random.default_rng(3)
    t = np.sort(rng.uniform(-3, 3, 40))
    y = np.sin(2 * t) + 0.1 * rng.normal(size=40)
    scale, length, noise = exp(x)
    k = scale * exp(-const((t[:, None] - t) ** 2, x) / (2 * length**2)) + noise * jnp.eye(40, dtype=x.dtype)
    root = jnp.linalg.cholesky(k)
    white = jax.scipy.linalg.solve_triangular(root, const(y, x), lower=True)
    return jnp.sum(white**2) / 2 + jnp.sum(jnp.log(jnp.diagonal(root)))


add("logistic_cancer", logistic(STANDARDIZED, 1e-2), np.zeros(31), 0.09959137548470547)
add("logistic_cancer_weak_penalty", logistic(STANDARDIZED, 1e-5), np.zeros(31), 0.03163690798497657)
add("logistic_cancer_unscaled", logistic(CANCER, 1e-3), np.zeros(31), 0.09088462950118112)
add("softmax_digits", softmax_digits, np.zeros(650), 0.26186454721717384)
add("poisson_regression", poisson, np.zeros(10), -626.5647408807977)
add("gaussian_process", gaussian_process, np.zeros(3), -47.83063941412713)

# Functions with an edge: trial points beyond it give NaN or infinity.


def log_barrier(x):
    rng = np.random.default_rng(11)
    normals = np.r_[rng.normal(size=(30, 8)), np.eye(8), -np.eye(8)]
    return -jnp.sum(jnp.log(1 - product(normals, x))) + 20 * jnp.sum(x)


add("log_barrier", log_barrier, np.zeros(8), -30.33318827123595)
add("log_and_line", lambda x: jnp.sum(100 * x - jnp.log(x)), np.ones(5), 5 * (1 + np.log(100)))
add("square_root_edge", lambda x: jnp.sum(x - 2 * jnp.sqrt(x)) + 50 * (x[0] - x[1]) ** 2, [9.0, 4.0, 25.0], -3)
add("overflowing_exponential", lambda x: jnp.sum(exp(10 * x) - 10 * x), np.full(4, 5.0), 4)

# Fits of NIST's as plain sums of squares.

for name, which in (("DanWood", 1), ("Rat42", 2), ("Chwirut2", 2), ("Gauss1", 1), ("ENSO", 2), ("Lanczos3", 2)):
    data = nist.DATA[name]
    PROBLEMS.least_squares(f"nist_{name}_{which}", nist.residuals(name), data[f"start{which}"], data["rss"])

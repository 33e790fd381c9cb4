"""Sums of squares from Moré, Garbow and Hillstrom, *Testing Unconstrained Optimization Software*, 1981."""

import jax.numpy as jnp
import numpy as np

from tests.benchmarks.minimisers.suite import Suite, const, index

CLASSICS = Suite()
add = CLASSICS.least_squares
stack, cat, exp = jnp.stack, jnp.concatenate, jnp.exp


def rosenbrock(x):
    return cat([10 * (x[1::2] - x[::2] ** 2), 1 - x[::2]])


def powell_singular(x):
    a, b, c, d = x[::4], x[1::4], x[2::4], x[3::4]
    return cat([a + 10 * b, 5**0.5 * (c - d), (b - 2 * c) ** 2, 10**0.5 * (a - d) ** 2])


def freudenstein_roth(x):
    return stack([-13 + x[0] + ((5 - x[1]) * x[1] - 2) * x[1], -29 + x[0] + ((x[1] + 1) * x[1] - 14) * x[1]])


def jennrich_sampson(x):
    i = const(np.arange(1, 11), x)
    return 2 + 2 * i - exp(i * x[0]) - exp(i * x[1])


def helical_valley(x):
    turn = jnp.arctan2(x[1], x[0]) / (2 * np.pi)
    turn = jnp.where(x[0] < 0, jnp.where(x[1] < 0, turn + 1, turn), turn)
    return stack([10 * (x[2] - 10 * turn), 10 * (jnp.sqrt(x[0] ** 2 + x[1] ** 2) - 1), x[2]])


BARD = [0.14, 0.18, 0.22, 0.25, 0.29, 0.32, 0.35, 0.39, 0.37, 0.58, 0.73, 0.96, 1.34, 2.10, 4.39]


def bard(x):
    u = np.arange(1, 16.0)
    v = 16 - u
    w = np.minimum(u, v)
    return const(BARD, x) - (x[0] + const(u, x) / (const(v, x) * x[1] + const(w, x) * x[2]))


GAUSSIAN = [0.0009, 0.0044, 0.0175, 0.0540, 0.1295, 0.2420, 0.3521, 0.3989]
GAUSSIAN = GAUSSIAN + GAUSSIAN[-2::-1]


def gaussian(x):
    t = const((8 - np.arange(1, 16.0)) / 2, x)
    return x[0] * exp(-x[1] * (t - x[2]) ** 2 / 2) - const(GAUSSIAN, x)


def box3d(x):
    t = const(0.1 * np.arange(1, 11), x)
    return exp(-t * x[0]) - exp(-t * x[1]) - x[2] * (exp(-t) - exp(-10 * t))


def wood(x):
    r = [10 * (x[1] - x[0] ** 2), 1 - x[0], 90**0.5 * (x[3] - x[2] ** 2), 1 - x[2]]
    return stack([*r, 10**0.5 * (x[1] + x[3] - 2), 10**-0.5 * (x[1] - x[3])])


KOWALIK = [0.1957, 0.1947, 0.1735, 0.1600, 0.0844, 0.0627, 0.0456, 0.0342, 0.0323, 0.0235, 0.0246]
KOWALIK_U = [4.0, 2.0, 1.0, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625]


def kowalik_osborne(x):
    u = const(KOWALIK_U, x)
    return const(KOWALIK, x) - x[0] * (u**2 + u * x[1]) / (u**2 + u * x[2] + x[3])


def brown_dennis(x):
    t = const(np.arange(1, 21) / 5, x)
    return (x[0] + t * x[1] - exp(t)) ** 2 + (x[2] + x[3] * jnp.sin(t) - jnp.cos(t)) ** 2


def biggs_exp6(x):
    t = const(0.1 * np.arange(1, 14), x)
    y = exp(-t) - 5 * exp(-10 * t) + 3 * exp(-4 * t)
    return x[2] * exp(-t * x[0]) - x[3] * exp(-t * x[1]) + x[5] * exp(-t * x[4]) - y


def watson(n):
    t = np.arange(1, 30) / 29
    j = np.arange(n)
    powers = t[:, None] ** j
    slopes = np.where(j > 0, j * t[:, None] ** np.maximum(j - 1, 0), 0.0)

    def residuals(x):
        first = const(slopes, x) @ x - (const(powers, x) @ x) ** 2 - 1
        return cat([first, stack([x[0], x[1] - x[0] ** 2 - 1])])

    return residuals


def penalty_1(x):
    return cat([1e-5**0.5 * (x - 1), (jnp.sum(x**2) - 0.25)[None]])


def penalty_2(x):
    n, a = x.shape[0], 1e-5**0.5
    e = exp(x / 10)
    i = np.arange(2, n + 1)
    y = const(np.exp(i / 10) + np.exp((i - 1) / 10), x)
    middle = a * (e[1:] + e[:-1] - y)
    last = jnp.sum(const(n - np.arange(n), x) * x**2) - 1
    return cat([(x[0] - 0.2)[None], middle, a * (e[1:] - float(np.exp(-0.1))), last[None]])


def variably_dimensioned(x):
    s = jnp.sum(index(x) * (x - 1))
    return cat([x - 1, stack([s, s**2])])


def trigonometric(x):
    n = x.shape[0]
    return n - jnp.sum(jnp.cos(x)) + index(x) * (1 - jnp.cos(x)) - jnp.sin(x)


def brown_almost_linear(x):
    return cat([x[:-1] + jnp.sum(x) - (x.shape[0] + 1), (jnp.prod(x) - 1)[None]])


def discrete_boundary(x):
    n = x.shape[0]
    h = 1 / (n + 1)
    p = jnp.pad(x, 1)
    return 2 * x - p[:-2] - p[2:] + h**2 * (x + index(x) * h + 1) ** 3 / 2


def discrete_integral(x):
    n = x.shape[0]
    t = index(x) / (n + 1)
    cube = (x + t + 1) ** 3
    low, high = jnp.cumsum(t * cube), jnp.cumsum(((1 - t) * cube)[::-1])[::-1]
    above = cat([high[1:], jnp.zeros(1, x.dtype)])
    return x + ((1 - t) * low + t * above) / (2 * (n + 1))


def broyden_tridiagonal(x):
    p = jnp.pad(x, 1)
    return (3 - 2 * x) * x - p[:-2] - 2 * p[2:] + 1


def broyden_banded(x):
    p = jnp.pad(x * (1 + x), (5, 1))
    n = x.shape[0]
    near = sum(p[k : k + n] for k in range(5)) + p[6 : 6 + n]
    return x * (2 + 5 * x**2) + 1 - near


def chebyquad(x):
    n = x.shape[0]
    t = 2 * x - 1
    before, now, rows = jnp.ones_like(t), t, []
    for i in range(1, n + 1):
        integral = 0.0 if i % 2 else -1 / (i * i - 1)
        rows.append(jnp.mean(now) - integral)
        before, now = now, 2 * t * now - before
    return stack(rows)


OSBORNE_1 = [
    *[0.844, 0.908, 0.932, 0.936, 0.925, 0.908, 0.881, 0.850, 0.818, 0.784, 0.751, 0.718, 0.685, 0.658, 0.628, 0.603],
    *[0.580, 0.558, 0.538, 0.522, 0.506, 0.490, 0.478, 0.467, 0.457, 0.448, 0.438, 0.431, 0.424, 0.420, 0.414, 0.411],
    0.406,
]


def osborne_1(x):
    t = const(10.0 * np.arange(33), x)
    return const(OSBORNE_1, x) - (x[0] + x[1] * exp(-t * x[3]) + x[2] * exp(-t * x[4]))


add("rosenbrock", rosenbrock, [-1.2, 1])
add("freudenstein_roth", freudenstein_roth, [0.5, -2], [0, 48.98425367924])
add("powell_badly_scaled", lambda x: stack([1e4 * x[0] * x[1] - 1, exp(-x[0]) + exp(-x[1]) - 1.0001]), [0, 1])
add("brown_badly_scaled", lambda x: stack([x[0] - 1e6, x[1] - 2e-6, x[0] * x[1] - 2]), [1, 1])
add("beale", lambda x: stack([c - x[0] * (1 - x[1] ** (k + 1)) for k, c in enumerate((1.5, 2.25, 2.625))]), [1, 1])
add("jennrich_sampson", jennrich_sampson, [0.3, 0.4], 124.36218235561)
add("helical_valley", helical_valley, [-1, 0, 0])
add("bard", bard, [1, 1, 1], [8.21487730657897e-3, 17.4286933333])
add("gaussian", gaussian, [0.4, 1, 0], 1.12793276961868e-8)
add("box_3d", box3d, [0, 10, 20])
add("powell_singular", powell_singular, [3, -1, 0, 1])
add("wood", wood, [-3, -1, -3, -1])
add("kowalik_osborne", kowalik_osborne, [0.25, 0.39, 0.415, 0.39], 3.07505603849237e-4)
add("brown_dennis", brown_dennis, [25, 5, -5, -1], 85822.2016263563)
add("osborne_1", osborne_1, [0.5, 1.5, -1, 0.01, 0.02], 5.46489469748325e-5)
add("biggs_exp6", biggs_exp6, [1, 2, 1, 1, 1, 1], [0, 5.65564992550e-3, 0.30636677262479])
add("watson_6", watson(6), np.zeros(6), 2.28767005355236e-3)
add("watson_9", watson(9), np.zeros(9), 1.39976013829e-6)
add("rosenbrock_ext_100", rosenbrock, np.tile([-1.2, 1], 50))
add("powell_singular_ext_100", powell_singular, np.tile([3.0, -1, 0, 1], 25))
add("penalty_1_10", penalty_1, np.arange(1, 11), 7.08765146709038e-5)
add("penalty_2_4", penalty_2, np.full(4, 0.5), 9.37629252999e-6)
add("variably_dimensioned_20", variably_dimensioned, 1 - np.arange(1, 21) / 20)
add("trigonometric_10", trigonometric, np.full(10, 0.1), [0, 2.79506e-5])
add("brown_almost_linear_10", brown_almost_linear, np.full(10, 0.5), [0, 1])
T = np.arange(1, 11) / 11
add("discrete_boundary_10", discrete_boundary, T * (T - 1))
add("discrete_integral_10", discrete_integral, T * (T - 1))
add("broyden_tridiagonal_100", broyden_tridiagonal, -np.ones(100))
add("chebyquad_8", chebyquad, np.arange(1, 9) / 9, 3.51687372567e-3)

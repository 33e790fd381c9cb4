"""``gradchain.optax.losses`` gives Optax's results, dtypes and errors, also where gradchain's losses refuse to."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradchain.optax.losses as ours
from tests.optax_cases import assert_same

X = jnp.array([[0.3, -1.2, 2.0, 0.1], [1.5, 0.2, -0.4, -2.0], [0.0, 0.7, 0.9, -0.3]])
Y = jnp.array([[0.1, 0.4, -2.0, 0.3], [0.5, -0.2, 1.4, 2.0], [1.0, 0.6, 0.2, -0.8]])
P = jax.nn.softmax(Y)
INCLUDED = Y > -0.5
CLASSES = jnp.array([0, 3, 1])
FLAGS = jnp.array([0, 1, 1, 0])
LAST = (-1, -4, 1)

CASES = {
    "huber_loss": [((X, Y[0]), {}), ((X,), {"delta": Y[0]}), ((X, Y), {"delta": -1.0}), ((X[0], FLAGS), {})],
    "log_cosh": [((X, Y[0]), {}), ((X.astype(jnp.bfloat16), 1.0), {}), ((FLAGS, FLAGS), {})],
    "cosine_similarity": [
        ((X, Y[0]), {}),
        ((X, Y), {"epsilon": -1.0}),
        ((X, Y), {"where": INCLUDED[0]}),
        ((X, Y[:2]), {}),
    ],
    "cosine_distance": [((X, Y[0]), {}), ((X, Y), {"where": INCLUDED[0], "axis": 0}), ((X, FLAGS), {})],
    "sigmoid_binary_cross_entropy": [
        ((X, FLAGS), {}),
        ((X.astype(jnp.bfloat16), P), {}),
        ((X, 0.25), {}),
        ((FLAGS, X), {}),
    ],
    "sigmoid_focal_loss": [
        ((X, FLAGS), {"alpha": 2.0}),
        ((X, P[0]), {"alpha": P[:1], "gamma": jnp.array([[1.0], [2.0], [3.0]])}),
    ],
    "hinge_loss": [((X, 2 * FLAGS - 1), {}), ((FLAGS, FLAGS), {}), ((X, 1.0), {})],
    "perceptron_loss": [((FLAGS, FLAGS), {}), ((X, Y[0]), {})],
    "sparsemax_loss": [((X, FLAGS), {})],
    "softmax_cross_entropy": [
        ((X, P[0]), {}),
        ((X[0], FLAGS), {}),
        ((X, P), {"where": INCLUDED[:, 0]}),
        ((FLAGS, P), {}),
    ],
    "safe_softmax_cross_entropy": [((X, P[0]), {}), ((X, P[:, :2]), {})],
    "softmax_cross_entropy_with_integer_labels": [
        ((X, jnp.array(LAST)), {}),
        ((X, jnp.array([4, -5, 0])), {}),
        ((X[:1], CLASSES), {}),
        ((X, CLASSES), {"where": INCLUDED}),
        ((X, jnp.array([2, 1, 3])), {"where": INCLUDED}),
        ((X, CLASSES), {"where": INCLUDED[:, 0]}),
        ((X, CLASSES), {"where": jnp.zeros((3, 4), bool)}),
        ((X, CLASSES), {"axis": None}),
        ((X, X[:, 0]), {}),
        ((X, CLASSES[:2]), {}),
    ],
    "poly_loss_cross_entropy": [
        ((X, P[0]), {"epsilon": jnp.arange(3.0)}),
        ((X, FLAGS), {}),
        ((X, P), {"where": INCLUDED}),
    ],
    "multiclass_hinge_loss": [((X, jnp.array([4, -1, 0])), {}), ((X.astype(jnp.bfloat16), CLASSES), {})],
    "multiclass_perceptron_loss": [((X, jnp.array([4, -1, 0])), {}), ((FLAGS[None], jnp.array([0.0])), {})],
    "multiclass_sparsemax_loss": [((X, jnp.array([4, -1, 0])), {})],
    "kl_divergence": [((X, P[0]), {}), ((X, P), {"where": INCLUDED[0]}), ((X, FLAGS), {})],
    "generalized_kl_divergence": [((X, P[0]), {}), ((X, P), {"axis": None, "where": INCLUDED})],
    "kl_divergence_with_log_targets": [((X, Y[0]), {}), ((X, FLAGS), {})],
    "smooth_labels": [((P, 1.5), {}), ((P, jnp.array([[0.1], [0.2], [0.3]])), {"where": INCLUDED}), ((FLAGS, 0.1), {})],
    "ranking_softmax_loss": [
        ((X, P[0]), {}),
        ((X, P), {"where": INCLUDED[0], "weights": Y[0]}),
        ((X, P), {"reduce_fn": None, "where": INCLUDED}),
    ],
    "triplet_margin_loss": [
        ((X, Y[0], Y), {}),
        ((X, Y, Y[::-1]), {"norm_degree": 1}),
        ((X, Y, Y[::-1]), {"margin": jnp.ones(3)}),
        ((FLAGS, X, Y), {}),
    ],
}
ROWS = [(name, i) for name, cases in CASES.items() for i in range(len(cases))]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "case"), ROWS, ids=[f"{name}-{i}" for name, i in ROWS])
def test_results_are_those_of_optax(name, case):
    args, kwargs = CASES[name][case]
    assert_same(getattr(ours, name), getattr(optax.losses, name), *args, **kwargs)


def test_the_divergences_old_name_warns():
    with pytest.warns(DeprecationWarning, match="generalized_kl_divergence"):
        found = ours.convex_kl_divergence(X, P)
    np.testing.assert_array_equal(found, ours.generalized_kl_divergence(X, P))


def test_a_fenchel_young_loss_broadcasts():
    makers = (library.make_fenchel_young_loss(jax.nn.logsumexp) for library in (ours, optax.losses))
    assert_same(*makers, X, P[0])


def test_what_is_nan_in_optax_is_right():
    impossible = jnp.array([[1.0, -jnp.inf], [2.0, -jnp.inf]])
    np.testing.assert_array_equal(ours.softmax_cross_entropy(impossible, jnp.array([1.0, 0.0])), [0.0, 0.0])
    assert np.isnan(optax.softmax_cross_entropy(impossible, jnp.array([[1.0, 0.0]]))).all()
    np.testing.assert_array_equal(ours.smooth_labels(P, 0.5, where=jnp.zeros((3, 4), bool)), 0.5 * P + 0.5)

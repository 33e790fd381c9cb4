"""Where losses differ from optax's on purpose (their docstrings say so), and the edges of single losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optax import losses as theirs

from gradchain import losses
from tests.oracles import losses as oracle

INF = np.inf
RNG = np.random.default_rng(0)
SCORES = ["multiclass_perceptron_loss", "multiclass_hinge_loss", "multiclass_sparsemax_loss"]
KL = ["kl_divergence", "generalized_kl_divergence"]
each_score = pytest.mark.parametrize("name", SCORES)


def value_and_slopes(function, *args):
    return jax.value_and_grad(lambda *a: jnp.sum(function(*a)), argnums=tuple(range(len(args))))(*args)


class TestMargins:
    @each_score
    @pytest.mark.parametrize("label", [3, -1])
    def test_a_label_that_names_no_class_is_nan_with_a_zero_derivative(self, name, label):
        s, labels, loss = jnp.ones((2, 3)), jnp.array([0, label]), getattr(losses, name)
        assert np.isnan(loss(s, labels)).tolist() == [False, True]
        assert np.all(jax.grad(lambda s: loss(s, labels).sum())(s)[1] == 0)

    @pytest.mark.slow
    @each_score
    def test_impossible_classes(self, name):
        loss = getattr(losses, name)
        s = jnp.array([1.0, -INF, 1.5])
        value, slope = jax.value_and_grad(loss)(s, 0)
        np.testing.assert_allclose(value, loss(s[::2], 0), rtol=1e-6)
        np.testing.assert_allclose(slope[::2], jax.grad(loss)(s[::2], 0), atol=1e-6)
        assert slope[1] == 0
        value, slope = jax.value_and_grad(loss)(s, 1)
        assert value == INF
        assert np.all(np.isfinite(slope))

    @each_score
    def test_any_leading_axes_and_large_shifts(self, name):
        loss, s, labels = getattr(losses, name), np.array([[[0.5, 0.25, 1.0]], [[0, -2, 3]]], np.float32), [[1], [2]]
        labels = np.array(labels)
        expected = getattr(oracle, name)(s.astype(float), labels)
        np.testing.assert_allclose(loss(s, labels), expected, rtol=1e-6)
        np.testing.assert_array_equal(loss(s + 2**14, labels), loss(s, labels))

    @each_score
    def test_errors(self, name):
        with pytest.raises(ValueError, match=r"got labels \(4,\) and scores without their last axis \(5,\)"):
            getattr(losses, name)(jnp.ones((5, 3)), jnp.zeros(4, int))
        with pytest.raises(TypeError, match="labels must be integers, got float32"):
            getattr(losses, name)(jnp.ones((5, 3)), jnp.zeros(5))

    def test_sparsemax_is_flat_beyond_a_margin_of_one(self):
        x = jnp.array([-2.0, -1.0, 0.0, 1.0, 2.0, 1e30])
        value, (slope,) = value_and_slopes(lambda x: losses.sparsemax_loss(x, np.zeros(6, bool)), x)
        np.testing.assert_allclose(slope, [0, 0, 0.5, 1, 1, 1])
        np.testing.assert_allclose(losses.sparsemax_loss(x, np.ones(6)), [2, 1, 0.25, 0, 0, 0])
        assert np.isfinite(value)


class TestDivergences:
    @pytest.mark.parametrize("name", KL)
    def test_targets_and_predictions_of_zero(self, name):
        log_q, t = jnp.log(jnp.array([0.5, 0.0, 0.5])), jnp.array([0.25, 0.0, 0.75])
        value, (slope_q, slope_t) = value_and_slopes(getattr(losses, name), log_q, t)
        expected = getattr(oracle, name)(np.log([[0.5, 0.5]]), np.array([[0.25, 0.75]]))[0]
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        assert np.all(np.isfinite(slope_q))
        assert np.all(np.isfinite(slope_t))
        assert np.isnan(getattr(theirs, name)(log_q, t))

    def test_log_targets_of_zero(self):
        log_q, log_t = jnp.log(jnp.array([[0.5, 0.5, 0.0], [0.5, 0.0, 0.5]])), jnp.log(jnp.array([[1.0, 0, 0]] * 2))
        value, slopes = value_and_slopes(losses.kl_divergence_with_log_targets, log_q, log_t)
        np.testing.assert_allclose(value, 2 * np.log(2), rtol=1e-6)
        assert all(np.all(np.isfinite(s)) for s in slopes)
        assert np.all(np.isnan(theirs.kl_divergence_with_log_targets(log_q, log_t)))

    @pytest.mark.parametrize("name", [*KL, "kl_divergence_with_log_targets"])
    def test_impossible_predictions_are_infinite_with_finite_derivatives(self, name):
        log_q, t = jnp.array([0.0, -INF]), jnp.array([0.5, 0.5])
        value, slopes = value_and_slopes(getattr(losses, name), log_q, jnp.log(t) if "log_t" in name else t)
        assert value == INF
        assert all(np.all(np.isfinite(s)) for s in slopes)

    def test_negative_and_nan_targets_are_nan(self):
        for t in (-0.5, np.nan):
            assert np.isnan(losses.kl_divergence(jnp.zeros(2), jnp.array([t, 1.0])))


class TestFocalAndPoly:
    @pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
    @pytest.mark.parametrize("label", [0.0, 1.0, 0.25])
    def test_focal_loss_of_huge_logits(self, gamma, label):
        for x in (1e4, -1e4, 80.0, -80.0):
            wrong = 1 - label if x > 0 else label
            value, slopes = value_and_slopes(lambda x, y: losses.sigmoid_focal_loss(x, y, gamma=gamma), x, label)
            np.testing.assert_allclose(value, wrong**gamma * wrong * abs(x), rtol=1e-5, atol=1e-6)
            assert all(np.isfinite(s) for s in slopes)

    def test_focal_without_focus_is_the_cross_entropy(self):
        x, y = jnp.linspace(-5, 5, 11), jnp.linspace(0, 1, 11)
        np.testing.assert_allclose(
            losses.sigmoid_focal_loss(x, y, gamma=0.0), losses.sigmoid_binary_cross_entropy(x, y), rtol=1e-6
        )

    def test_focal_slope_in_certain_labels(self, x64):
        """Optax leaves the term of weight 0 out of its derivative."""
        x, y = jnp.array([0.5, -1.0]), jnp.array([0.0, 1.0])
        expected = oracle.slope(lambda y: oracle.sigmoid_focal_loss(np.asarray(x), y), np.asarray(y))
        slope = jax.grad(lambda y: losses.sigmoid_focal_loss(x, y).sum())(y)
        np.testing.assert_allclose(slope, expected, rtol=1e-8)
        assert np.all(np.abs(jax.grad(lambda y: theirs.sigmoid_focal_loss(x, y).sum())(y) - expected) > 0.1)

    def test_focal_errors(self):
        for name, options in (("alpha", {"alpha": 1.5}), ("gamma", {"gamma": -1.0})):
            with pytest.raises(ValueError, match=f"sigmoid_focal_loss: {name} must be in"):
                losses.sigmoid_focal_loss(jnp.ones(3), jnp.ones(3), **options)
        with pytest.raises(ValueError, match=r"alpha must be a number or of shape \(2, 3\), got shape \(3,\)"):
            losses.sigmoid_focal_loss(jnp.ones((2, 3)), jnp.ones((2, 3)), alpha=jnp.ones(3))

    @pytest.mark.parametrize("loss", [losses.poly_loss_cross_entropy, losses.safe_softmax_cross_entropy])
    def test_impossible_classes(self, loss):
        x, y = jnp.array([1.0, -INF, 0.5]), jnp.array([0.3, 0.0, 0.7])
        value, slopes = value_and_slopes(loss, x, y)
        np.testing.assert_allclose(value, loss(x[::2], y[::2]), rtol=1e-6)
        assert all(np.all(np.isfinite(s)) for s in slopes)
        assert loss(x, jnp.array([0.0, 1.0, 0.0])) == INF

    def test_safe_cross_entropy_equals_optax(self, x64):
        x, y = jnp.asarray(RNG.normal(size=(4, 3))), jnp.asarray(RNG.dirichlet(np.ones(3), size=4))
        np.testing.assert_allclose(
            losses.safe_softmax_cross_entropy(x, y), theirs.safe_softmax_cross_entropy(x, y), rtol=1e-12
        )
        assert losses.safe_softmax_cross_entropy(jnp.float16(x), jnp.float16(y)).dtype == jnp.float16


class TestVectors:
    @pytest.mark.slow
    def test_cosines_of_zero_vectors(self):
        p, t = jnp.zeros((1, 3)), jnp.ones((1, 3))
        for args in ((p, t), (t, p), (p, p)):
            value, slopes = value_and_slopes(losses.cosine_similarity, *args)
            assert value == 0
            assert all(np.all(np.isfinite(s)) for s in slopes)
            assert losses.cosine_distance(*args) == 1
            assert np.isnan(theirs.cosine_similarity(*args)[0])

    @pytest.mark.parametrize("size", [1e-30, 1e30])
    def test_cosines_of_tiny_and_huge_vectors(self, size):
        p, t = jnp.array([3.0, 4.0]), jnp.array([4.0, 3.0])
        value, slopes = value_and_slopes(losses.cosine_similarity, size * p, t)
        np.testing.assert_allclose(value, 0.96, rtol=1e-6)
        assert all(np.all(np.isfinite(s)) for s in slopes)

    def test_cosine_errors(self):
        with pytest.raises(ValueError, match=r"cosine_similarity: epsilon must be in \[0, inf\), got -1"):
            losses.cosine_similarity(jnp.ones(3), jnp.ones(3), epsilon=-1.0)
        with pytest.raises(ValueError, match="cosine_distance: epsilon must be one number"):
            losses.cosine_distance(jnp.ones(3), jnp.ones(3), epsilon=jnp.ones(3))

    @pytest.mark.parametrize("degree", [1, 1.5, 3])
    def test_triplets_of_any_degree(self, x64, degree):
        a, p, n = (RNG.normal(size=(5, 3)) for _ in range(3))
        expected = oracle.triplet_margin_loss(a, p, n, degree)
        np.testing.assert_allclose(losses.triplet_margin_loss(a, p, n, norm_degree=degree), expected, rtol=1e-12)
        assert not np.allclose(theirs.triplet_margin_loss(*map(jnp.asarray, (a, p, n)), norm_degree=degree), expected)

    @pytest.mark.parametrize("eps", [0.0, 1e-6])
    @pytest.mark.parametrize("degree", [1, 2, 3])
    def test_triplets_of_equal_points(self, eps, degree):
        x = jnp.ones((2, 3))
        value, slopes = value_and_slopes(
            lambda *a: losses.triplet_margin_loss(*a, eps=eps, norm_degree=degree), x, x, x
        )
        np.testing.assert_allclose(value, 2)
        assert all(np.all(np.isfinite(s)) for s in slopes)
        assert np.all(slopes[1] == 0)

    def test_triplet_errors(self):
        x = jnp.ones((2, 3))
        for options, message in (({"norm_degree": 0.5}, "norm_degree must be in"), ({"eps": -1.0}, "eps must be in")):
            with pytest.raises(ValueError, match=message):
                losses.triplet_margin_loss(x, x, x, **options)
        with pytest.raises(ValueError, match=r"got anchors \(2, 3\) and negatives \(3,\)"):
            losses.triplet_margin_loss(x, x, x[0])

    @pytest.mark.parametrize("labels", [[0, 1, 2], [4, 4, 4]], ids=["no pairs", "one group"])
    def test_ntxent_without_contrast_is_zero(self, labels):
        z, labels = jnp.asarray(RNG.normal(size=(3, 2))), jnp.array(labels)
        value, slope = jax.jit(jax.value_and_grad(losses.ntxent))(z, labels)
        assert value == 0
        assert np.all(slope == 0)
        assert np.isnan(jax.jit(theirs.ntxent)(z, labels)) == (labels[0] != labels[1])

    @pytest.mark.slow
    def test_ntxent_at_a_low_temperature(self):
        z = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        value, slope = jax.value_and_grad(losses.ntxent)(z, jnp.array([0, 0, 1]), 1e-4)
        np.testing.assert_allclose(value, (1e4 + np.log(2)) / 2, rtol=1e-5)
        assert np.all(np.isfinite(slope))

    def test_ntxent_errors(self):
        with pytest.raises(ValueError, match=r"got labels \(2,\) and embeddings without features \(3,\)"):
            losses.ntxent(jnp.ones((3, 2)), jnp.zeros(2, int))
        with pytest.raises(ValueError, match=r"ntxent: temperature must be in \(0, inf\), got 0"):
            losses.ntxent(jnp.ones((3, 2)), jnp.zeros(3, int), 0.0)
        with pytest.raises(ValueError, match=r"embeddings must have shape \(batch, features\), got \(3,\)"):
            losses.ntxent(jnp.ones(3), jnp.zeros(3, int))


X, T = RNG.normal(size=(2, 5, 3)), np.eye(3)[RNG.integers(0, 3, size=(2, 5))]


class TestDice:
    @pytest.mark.parametrize("options", [
        {}, {"reduction": "sum"}, {"ignore_background": True}, {"class_weights": np.array([1.0, 2.0, 0.5])},
        {"axis": 0}, {"axis": (0, 1)}, {"axis": (), "reduction": "none"},
    ], ids=str)  # fmt: skip
    def test_options_as_in_optax(self, x64, options):
        with jax.numpy_rank_promotion("allow"):
            expected = theirs.dice_loss(jnp.asarray(X), jnp.asarray(T), **options)
        np.testing.assert_allclose(losses.dice_loss(X, T, **options), expected, rtol=1e-12)

    def test_probabilities_instead_of_logits(self):
        p = jax.nn.softmax(jnp.float32(X))
        expected = losses.dice_loss(np.float32(X), T)
        np.testing.assert_allclose(losses.dice_loss(p, T, apply_softmax=False), expected, rtol=1e-5)
        compiled = jax.jit(lambda p: losses.dice_loss(p, T, apply_softmax=False))
        np.testing.assert_allclose(compiled(p), expected, rtol=1e-5)
        with pytest.raises(ValueError, match="probabilities must add up to 1, got"):
            losses.dice_loss(np.float32(X), T, apply_softmax=False)

    def test_binary_probabilities(self):
        """Optax wants each of them to be 1."""
        x, t = np.float32(X[..., 0]), T[..., 0]
        p = jax.nn.sigmoid(x)
        np.testing.assert_allclose(
            losses.binary_dice_loss(p, t, apply_sigmoid=False), losses.binary_dice_loss(x, t), rtol=1e-5
        )
        with pytest.raises(ValueError, match="sum to 1"):
            theirs.binary_dice_loss(p, t, apply_sigmoid=False)

    def test_one_class_with_and_without_its_axis(self):
        x, t = np.float32(X[..., :1]), T[..., :1]
        expected = losses.dice_loss(x, t)
        for a, b in ((x, t[..., 0]), (x[..., 0], t)):
            np.testing.assert_array_equal(losses.dice_loss(a, b), expected)
        for a, b in ((x, t), (x[..., 0], t[..., 0])):
            np.testing.assert_array_equal(losses.binary_dice_loss(a, b), expected)

    def test_absent_classes_without_smoothing(self):
        p, t = jnp.array([[[1.0, 0.0], [1.0, 0.0]]]), jnp.array([[[1.0, 0.0], [1.0, 0.0]]])
        options = {"smooth": 0.0, "apply_softmax": False, "reduction": "none"}
        value, pull = jax.vjp(lambda p: losses.dice_loss(p, t, **options), p)
        np.testing.assert_array_equal(value, [[0.0, 0.0]])
        assert np.all(np.isfinite(pull(jnp.ones((1, 2)))[0]))
        assert np.isnan(theirs.dice_loss(p, t, **options)[0, 1])

    def test_generalized_dice_with_a_class_that_is_absent(self, x64):
        x, t = jnp.asarray(X), jnp.asarray(np.eye(3)[RNG.integers(0, 2, size=(2, 5))])
        for options in ({}, {"ignore_background": True}, {"smooth": 0.1}):
            with jax.numpy_rank_promotion("allow"):
                expected = theirs.multiclass_generalized_dice_loss(x, t, **options)
            np.testing.assert_allclose(losses.multiclass_generalized_dice_loss(x, t, **options), expected, rtol=1e-12)

    @pytest.mark.parametrize(("options", "message"), [
        ({"reduction": "max"}, 'reduction must be "mean", "sum" or "none"'),
        ({"axis": (1, 2)}, "axis must leave the last axis"),
        ({"smooth": -1.0}, "smooth must be in"),
        ({"class_weights": np.ones(2)}, r"class_weights must have shape \(3,\), got \(2,\)"),
    ])  # fmt: skip
    def test_errors(self, options, message):
        with pytest.raises(ValueError, match=message):
            losses.dice_loss(X, T, **options)


class TestSmoothing:
    def test_range(self):
        with pytest.raises(ValueError, match=r"smooth_labels: alpha must be in \[0, 1\], got 1.5"):
            losses.smooth_labels(jnp.eye(3), 1.5)

    def test_an_amount_for_each_example(self):
        amounts = np.array([[0.0], [0.5], [1.0]], np.float32)
        smooth = losses.smooth_labels(jnp.eye(3), amounts)
        np.testing.assert_allclose(smooth, (1 - amounts) * np.eye(3) + amounts / 3, rtol=1e-6)


@pytest.mark.slow
def test_values_keep_their_range_and_slopes_at_its_ends():
    x = jax.random.normal(jax.random.key(0), (2000, 8))
    assert losses.cosine_similarity(x, 3 * x).max() <= 1
    assert losses.cosine_similarity(x, -x).min() >= -1
    assert losses.cosine_distance(x, x).min() >= 0
    slope = jax.grad(lambda a: losses.cosine_similarity(a, jnp.array([1.0, 1e-4])))(jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(slope, [0, 1e-4], atol=1e-8)
    log_q = jax.nn.log_softmax(x)
    assert losses.generalized_kl_divergence(log_q, jnp.exp(log_q)).min() >= 0


def test_generalized_kl_far_from_and_near_its_zero():
    log_q, t = jnp.array([0.0, 3.0, -50.0, 60.0, -jnp.inf, 1.0]), jnp.array([1.001, 1.0, 2.0, 1e-20, 0.0, 0.0])
    q, exact = np.exp(np.float64(log_q)), np.float64(t)
    expected = np.where(
        exact == 0,
        q,
        exact * np.log(np.where(exact == 0, 1, exact)) - exact * np.float64(np.where(exact == 0, 0, log_q)) + q - exact,
    )
    got = jax.vmap(lambda a, b: losses.generalized_kl_divergence(a, b, axis=None))(log_q, t)
    np.testing.assert_allclose(got, expected, rtol=1e-3)
    slope = jax.vmap(jax.grad(lambda a, b: losses.generalized_kl_divergence(a, b, axis=None)))(log_q, t)
    np.testing.assert_allclose(slope, q - exact, rtol=1e-5, atol=1e-6)

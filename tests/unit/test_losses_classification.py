"""Losses of classes: values and derivatives against the oracle and optax, extremes, masks, labels, shapes."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradchain import losses
from tests.oracles import losses as oracle

RNG = np.random.default_rng(0)
X = 3 * RNG.normal(size=(6, 4))
Y = RNG.dirichlet(np.ones(4), size=6)
LABELS = np.array([0, 3, 1, 2, 2, 0])
ONE_HOT = np.eye(4)[LABELS]
SIGNS = np.where(RNG.normal(size=(6, 4)) > 0, 1.0, -1.0)
INCLUDE = RNG.random((6, 4)) < 0.7
INCLUDE[np.arange(6), LABELS] = True
INF = np.inf

PAIRS = {
    "hinge_loss": (X, SIGNS),
    "sigmoid_binary_cross_entropy": (X, Y),
    "softmax_cross_entropy": (X, Y),
}
each_pair = pytest.mark.parametrize("name", PAIRS)
with_integers = losses.softmax_cross_entropy_with_integer_labels


def slopes(function, *args):
    return jax.grad(lambda *a: jnp.sum(function(*a)))(*args)


def error(actual, expected):
    return np.max(np.abs(np.asarray(actual, np.float64) - expected)) / np.max(np.abs(expected))


class TestAgainstOthers:
    @each_pair
    def test_oracle_in_float32(self, name):
        x, y = (a.astype(np.float32) for a in PAIRS[name])
        wide = x.astype(np.float64), y.astype(np.float64)
        assert error(getattr(losses, name)(x, y), getattr(oracle, name)(*wide)) < 1e-6
        assert error(slopes(getattr(losses, name), x, y), getattr(oracle, f"{name}_slope")(*wide)) < 1e-6

    @each_pair
    def test_oracle_and_optax_in_float64(self, x64, name):
        x, y = PAIRS[name]
        loss, theirs = getattr(losses, name), getattr(optax, name)
        assert error(loss(x, y), getattr(oracle, name)(x, y)) < 1e-12
        assert error(loss(x, y), np.asarray(theirs(jnp.asarray(x), y))) < 1e-12
        assert error(slopes(loss, x, y), getattr(oracle, f"{name}_slope")(x, y)) < 1e-12
        assert error(slopes(loss, x, y), np.asarray(slopes(theirs, jnp.asarray(x), y))) < 1e-12

    @each_pair
    def test_derivative_in_the_labels_equals_optax(self, x64, name):
        x, y = PAIRS[name]
        ours, theirs = (
            slopes(lambda y, f=f: f(jnp.asarray(x), y), y) for f in (getattr(losses, name), getattr(optax, name))
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)

    def test_integer_labels(self, x64):
        assert error(with_integers(X, LABELS), oracle.softmax_cross_entropy(X, ONE_HOT)) < 1e-12
        slope = slopes(lambda x: with_integers(x, LABELS), X)
        assert error(slope, oracle.softmax_cross_entropy_slope(X, ONE_HOT)) < 1e-12
        theirs = optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(X), LABELS)
        assert error(with_integers(X, LABELS), np.asarray(theirs)) < 1e-12

    @pytest.mark.slow
    def test_derivatives_of_integer_labels_forwards_and_again(self, x64):
        x, label = jnp.asarray(X[0]), LABELS[0]
        p = jax.nn.softmax(x)
        np.testing.assert_allclose(jax.jacfwd(with_integers)(x, label), p - ONE_HOT[0], rtol=1e-12)
        np.testing.assert_allclose(jax.hessian(with_integers)(x, label), jnp.diag(p) - jnp.outer(p, p), rtol=1e-11)
        rows = jax.vmap(jax.grad(with_integers))(jnp.asarray(X), LABELS)
        np.testing.assert_allclose(rows, jax.nn.softmax(X) - ONE_HOT, rtol=1e-12, atol=1e-15)

    @pytest.mark.parametrize("name", [*PAIRS, "softmax_cross_entropy_with_integer_labels"])
    def test_optax_signature(self, name):
        ours, theirs = (inspect.signature(getattr(lib, name)).parameters.values() for lib in (losses, optax))
        shared = [(p.name, p.kind, p.default) for p in ours if p.name != "label_smoothing"]
        assert shared == [(p.name, p.kind, p.default) for p in theirs]


class TestExtremes:
    @pytest.mark.parametrize("size", [1e4, 1e30])
    @pytest.mark.parametrize("label", [0.0, 1.0, 0.25])
    def test_sigmoid_of_huge_logits(self, size, label):
        for x in (size, -size):
            value, slope = jax.value_and_grad(losses.sigmoid_binary_cross_entropy)(jnp.float32(x), label)
            np.testing.assert_allclose(value, size * abs(label - (x > 0)), rtol=1e-6)
            np.testing.assert_allclose(slope, (x > 0) - label, atol=1e-7)

    def test_sigmoid_of_certain_predictions_keeps_its_digits(self):
        x = np.array([20.0, 50.0, 80.0], np.float32)
        np.testing.assert_allclose(
            losses.sigmoid_binary_cross_entropy(x, np.ones(3)), np.exp(-x.astype(float)), rtol=1e-5
        )

    def test_sigmoid_of_logits_of_zero_has_all_derivatives(self):
        """Where a network begins: maxima and magnitudes have kinks there."""
        loss = losses.sigmoid_binary_cross_entropy
        for label in (0.0, 0.3, 1.0):
            np.testing.assert_allclose(jax.grad(loss)(0.0, label), 0.5 - label, rtol=1e-6)
            second = jax.hessian(lambda z: loss(z[0], z[1]))(jnp.array([0.0, label]))
            np.testing.assert_allclose(second, [[0.25, -1], [-1, 0]], rtol=1e-6)

    def test_softmax_of_huge_logits(self):
        x = jnp.array([1e4, -1e4, 0.0])
        for y, value in (([1, 0, 0], 0.0), ([0, 1, 0], 2e4), ([0.5, 0, 0.5], 5e3)):
            got, slope = jax.value_and_grad(losses.softmax_cross_entropy)(x, jnp.array(y, float))
            np.testing.assert_allclose(got, value, rtol=1e-6)
            np.testing.assert_allclose(slope, np.array([1.0, 0, 0]) - y, atol=1e-7)

    def test_large_common_shifts_lose_no_digits(self):
        """Exactly representable logits near 1e4; the normaliser alone would be rounded to 1e-3."""
        x = np.array([0.0, 0.5, -1.25, 2.0], np.float32)
        expected = oracle.softmax_cross_entropy(x[None].astype(np.float64), np.eye(4)[[1]])[0]
        np.testing.assert_allclose(losses.softmax_cross_entropy(x + 1e4, np.eye(4)[1]), expected, rtol=1e-6)
        np.testing.assert_allclose(with_integers(x + 1e4, 1), expected, rtol=1e-6)

    def test_classes_of_probability_zero(self):
        """An infinite negative logit with label 0 is as if the class weren't there."""
        x = np.array([[1.0, -INF, 0.5], [-INF, -INF, 3.0]], np.float32)
        y, labels = np.array([[0.3, 0.0, 0.7], [0.0, 0.0, 1.0]], np.float32), np.array([2, 2])
        expected = oracle.softmax_cross_entropy(x.astype(np.float64), y, np.isfinite(x))
        np.testing.assert_allclose(losses.softmax_cross_entropy(x, y), expected, rtol=1e-6, atol=1e-7)
        slope = slopes(losses.softmax_cross_entropy, x, y)
        np.testing.assert_allclose(slope, oracle.softmax_cross_entropy_slope(x, y, np.isfinite(x)), atol=1e-6)
        np.testing.assert_allclose(with_integers(x, labels)[1], 0, atol=1e-7)
        assert np.all(np.isfinite(slopes(lambda x: with_integers(x, labels), x)))

    def test_label_on_an_impossible_class_is_infinite_with_a_finite_derivative(self):
        x = jnp.array([[1.0, -INF, 0.5]])
        for loss, label in ((losses.softmax_cross_entropy, np.eye(3)[[1]]), (with_integers, np.array([1]))):
            assert loss(x, label)[0] == INF
            assert np.all(np.isfinite(slopes(lambda x, f=loss, y=label: f(x, y), x)))

    def test_all_classes_impossible(self):
        x = jnp.full((2, 3), -INF)
        assert np.all(losses.softmax_cross_entropy(x, jnp.zeros((2, 3))) == 0)
        assert np.all(losses.softmax_cross_entropy(x, jnp.ones((2, 3)) / 3) == INF)
        assert np.all(with_integers(x, jnp.array([0, 1])) == INF)
        assert np.all(slopes(losses.softmax_cross_entropy, x, jnp.zeros((2, 3))) == 0)
        assert np.all(np.isfinite(slopes(lambda x: with_integers(x, jnp.array([0, 1])), x)))

    def test_nan_is_not_hidden(self):
        x = jnp.array([[jnp.nan, 1.0, 2.0]])
        assert np.isnan(losses.softmax_cross_entropy(x, jnp.eye(3)[1:2])[0])
        assert np.isnan(with_integers(x, jnp.array([1]))[0])


class TestLabelSmoothing:
    @pytest.mark.parametrize("alpha", [0.1, 1.0, np.linspace(0, 1, 6)], ids=["one", "all", "each"])
    @pytest.mark.parametrize("where", [None, INCLUDE, ~INCLUDE], ids=["all", "some", "other"])
    def test_is_the_cross_entropy_of_smoothed_labels(self, x64, alpha, where):
        count = 4 if where is None else np.maximum(where.sum(-1, keepdims=True), 1)
        share = np.reshape(alpha, (-1, 1))
        smooth = (1 - share) * ONE_HOT + share / count
        smoothed = functools.partial(with_integers, labels=LABELS, where=where, label_smoothing=alpha)
        given = (X, smooth) if where is None else (X, smooth, where)
        assert error(smoothed(X), oracle.softmax_cross_entropy(*given)) < 1e-12
        assert error(slopes(smoothed, X), oracle.softmax_cross_entropy_slope(*given)) < 1e-12
        ours = losses.softmax_cross_entropy(X, losses.smooth_labels(ONE_HOT, share, where=where), where=where)
        assert error(smoothed(X), np.asarray(ours)) < 1e-12

    def test_along_another_axis(self, x64):
        moved = with_integers(X.T, LABELS, axis=0, label_smoothing=0.1)
        np.testing.assert_array_equal(moved, with_integers(X, LABELS, label_smoothing=0.1))

    def test_an_impossible_class_makes_it_infinite_unless_it_has_no_share_with_finite_slopes(self):
        x = np.array([0.0, 1.0, -INF, 2.0], np.float32)
        for label, alpha, expected in ((0, 0.1, INF), (2, 0.0, INF), (2, 1.0, INF), (0, 0.0, None)):
            loss = with_integers(x, label, label_smoothing=jnp.float32(alpha))
            assert loss == (with_integers(x, label) if expected is None else expected)
            slope = jax.grad(lambda x, alpha, label=label: with_integers(x, label, label_smoothing=alpha))
            assert np.all(np.isfinite(slope(x, jnp.float32(alpha))))

    def test_a_label_that_is_no_class_gives_nan_and_a_zero_slope(self):
        loss, slope = jax.value_and_grad(with_integers)(np.float32(X[0]), 4, label_smoothing=0.1)
        assert np.isnan(loss)
        assert not np.any(slope)

    def test_shares_outside_the_unit_interval_are_errors(self):
        with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\], got 1.5"):
            with_integers(X, LABELS, label_smoothing=1.5)
        with pytest.raises(ValueError, match=r"label_smoothing must be a number or of shape \(6,\), got shape \(4,\)"):
            with_integers(X, LABELS, label_smoothing=np.ones(4))


class TestMasks:
    def test_elements(self, x64):
        loss = losses.softmax_cross_entropy(X, Y, where=INCLUDE)
        assert error(loss, oracle.softmax_cross_entropy(X, Y, INCLUDE)) < 1e-12
        assert error(loss, np.asarray(optax.softmax_cross_entropy(jnp.asarray(X), Y, where=INCLUDE))) < 1e-12
        slope = slopes(lambda x: losses.softmax_cross_entropy(x, Y, where=INCLUDE), X)
        assert error(slope, oracle.softmax_cross_entropy_slope(X, Y, INCLUDE)) < 1e-12

    def test_elements_with_integer_labels(self, x64):
        loss = with_integers(X, LABELS, where=INCLUDE)
        assert error(loss, oracle.softmax_cross_entropy(X, ONE_HOT, INCLUDE)) < 1e-12
        theirs = optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(X), LABELS, where=INCLUDE)
        assert error(loss, np.asarray(theirs)) < 1e-12

    def test_whole_examples_and_whole_classes(self):
        examples, classes = np.array([1, 1, 0, 1, 0, 1], bool), np.array([[True, False, True, True]])
        for loss, y in ((losses.softmax_cross_entropy, np.float32(Y)), (with_integers, LABELS)):
            full = loss(X, y)
            np.testing.assert_allclose(loss(X, y, where=examples), np.where(examples, full, 0), rtol=1e-6)
            np.testing.assert_array_equal(loss(X, y, where=classes), loss(X, y, where=np.tile(classes, (6, 1))))

    def test_nothing_included_is_zero_with_zero_derivative(self):
        nothing = np.zeros((6, 4), bool)
        for loss, y in ((losses.softmax_cross_entropy, np.float32(Y)), (with_integers, LABELS)):
            value, slope = jax.value_and_grad(lambda x, f=loss, y=y: f(x, y, where=nothing).sum())(X.astype(np.float32))
            assert value == 0
            assert np.all(slope == 0)

    def test_excluded_elements_may_hold_anything(self):
        x = np.array([[0.0, 1.0, INF], [np.nan, 1.0, 1e30]], np.float32)
        include = np.array([[True, True, False], [False, True, False]])
        value, slope = jax.value_and_grad(lambda x: with_integers(x, np.array([0, 1]), where=include).sum())(x)
        np.testing.assert_allclose(value, np.log1p(np.e), rtol=1e-6)
        assert np.all(np.isfinite(slope))

    def test_the_labels_own_class_excluded_is_zero_in_both_forms(self):
        include = np.array([[False, True, True]])
        x = np.array([[1.0, 2.0, 3.0]], np.float32)
        assert with_integers(x, np.array([0]), where=include)[0] == 0
        assert losses.softmax_cross_entropy(x, np.eye(3, dtype=np.float32)[:1], where=include)[0] == 0


class TestAxes:
    def test_one_axis_anywhere(self):
        for axis, x, y in ((0, X.T, Y.T), (-2, X.T, Y.T), (1, X, Y)):
            np.testing.assert_allclose(
                losses.softmax_cross_entropy(x, y, axis=axis), losses.softmax_cross_entropy(X, Y), rtol=1e-6
            )
        np.testing.assert_allclose(with_integers(X.T, LABELS, axis=0), with_integers(X, LABELS), rtol=1e-6)

    @pytest.mark.slow
    def test_several_axes(self, x64):
        x, y = X.reshape(6, 2, 2), Y.reshape(6, 2, 2)
        expected = losses.softmax_cross_entropy(X, Y)
        np.testing.assert_allclose(losses.softmax_cross_entropy(x, y, axis=(1, 2)), expected, rtol=1e-12)
        np.testing.assert_allclose(with_integers(x, LABELS, axis=(1, 2)), with_integers(X, LABELS), rtol=1e-12)
        for axis in ((2, 1), (0, 2)):
            labels = np.array([[0, 3, 2]] * 2) if axis == (0, 2) else LABELS
            logits = jnp.asarray(x[:2] if axis == (0, 2) else x)
            labels = labels[0][:2] if axis == (0, 2) else labels
            theirs = optax.softmax_cross_entropy_with_integer_labels(logits, labels, axis=axis)
            np.testing.assert_allclose(with_integers(logits, labels, axis=axis), theirs, rtol=1e-12)

    def test_all_axes(self):
        assert losses.softmax_cross_entropy(X, Y, axis=None).shape == ()
        expected = losses.softmax_cross_entropy(X.ravel(), Y.ravel())
        np.testing.assert_allclose(losses.softmax_cross_entropy(X, Y, axis=None), expected, rtol=1e-6)

    @pytest.mark.parametrize("axis", [2, -3, (0, 0), (0, -2)])
    def test_axes_that_do_not_exist(self, axis):
        with pytest.raises(ValueError, match="axis must name different axes of 2-dimensional logits, got"):
            losses.softmax_cross_entropy(X, Y, axis=axis)


class TestIntegerLabels:
    @pytest.mark.parametrize("label", [4, 100, -1, -4])
    @pytest.mark.parametrize("call", [lambda f: f, jax.jit], ids=["eager", "jit"])
    def test_out_of_range_is_nan_with_a_zero_derivative(self, label, call):
        labels = np.array([0, label])
        values = call(with_integers)(X[:2], labels)
        assert np.isfinite(values[0])
        assert np.isnan(values[1])
        assert np.all(slopes(lambda x: call(with_integers)(x, labels), X[:2])[1] == 0)

    def test_padding_may_be_excluded(self):
        labels = np.array([0, -1])
        value, slope = jax.value_and_grad(lambda x: with_integers(x, labels, where=labels >= 0).sum())(X[:2])
        np.testing.assert_allclose(value, with_integers(X[0], 0), rtol=1e-6)
        assert np.all(np.isfinite(slope))
        assert np.all(slope[1] == 0)

    @pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint32])
    def test_any_integer_dtype_even_narrower_than_the_number_of_classes(self, dtype):
        x = RNG.normal(size=(2, 300)).astype(np.float32)
        np.testing.assert_array_equal(with_integers(x, np.array([5, 100], dtype)), with_integers(x, np.array([5, 100])))

    def test_no_batch(self):
        np.testing.assert_allclose(with_integers(X[0], 0), with_integers(X, LABELS)[0], rtol=1e-6)


class TestDtypes:
    @each_pair
    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
    def test_half_precision_is_rounded_once(self, name, dtype):
        x, y = (jnp.asarray(a, dtype) for a in PAIRS[name])
        loss = getattr(losses, name)
        assert loss(x, y).dtype == dtype
        np.testing.assert_array_equal(loss(x, y), loss(x.astype(jnp.float32), y.astype(jnp.float32)).astype(dtype))

    def test_half_precision_logits_with_integer_labels(self):
        x = jnp.asarray(X, jnp.bfloat16)
        assert with_integers(x, LABELS).dtype == jnp.bfloat16
        np.testing.assert_array_equal(
            with_integers(x, LABELS), with_integers(x.astype(jnp.float32), LABELS).astype(jnp.bfloat16)
        )

    def test_many_classes_in_half_precision_add_up_in_float32(self):
        loss = with_integers(jnp.zeros(5000, jnp.bfloat16), 0)
        np.testing.assert_allclose(np.float32(loss), np.log(5000), rtol=4e-3)

    def test_integer_and_boolean_targets(self):
        labels = X > 0
        expected = losses.sigmoid_binary_cross_entropy(X, labels.astype(np.float32))
        for kind in (labels, labels.astype(int)):
            np.testing.assert_array_equal(losses.sigmoid_binary_cross_entropy(X, kind), expected)
        np.testing.assert_array_equal(losses.hinge_loss(X, SIGNS.astype(int)), losses.hinge_loss(X, SIGNS))


class TestErrors:
    @pytest.mark.parametrize(("name", "names"), [
        ("hinge_loss", ("predictor_outputs", "targets")),
        ("sigmoid_binary_cross_entropy", ("logits", "labels")),
        ("softmax_cross_entropy", ("logits", "labels")),
    ])  # fmt: skip
    def test_shapes_that_would_broadcast(self, name, names):
        message = rf"{name}: the shapes must be equal, got {names[0]} \(5, 1\) and {names[1]} \(5,\)"
        with pytest.raises(ValueError, match=message):
            getattr(losses, name)(jnp.ones((5, 1)), jnp.ones(5))
        with pytest.raises(TypeError, match=f"{name}: {names[0]} must be floating-point, got int32"):
            getattr(losses, name)(jnp.arange(3), jnp.ones(3))

    @pytest.mark.parametrize("shape", [(6, 1), (1, 6), (4,), ()])
    def test_label_shapes(self, shape):
        with pytest.raises(ValueError, match=r"got labels \(.*\) and logits without axis \(6,\)"):
            with_integers(X, np.zeros(shape, int))

    @pytest.mark.parametrize("dtype", [float, bool])
    def test_label_dtypes(self, dtype):
        with pytest.raises(TypeError, match="labels must be integers, got"):
            with_integers(X, np.zeros(6, dtype))

    @pytest.mark.parametrize("shape", [(4,), (5, 4), (6, 3), (), (1, 6, 4)])
    def test_mask_shapes(self, shape):
        for loss, y in ((losses.softmax_cross_entropy, np.float32(Y)), (with_integers, LABELS)):
            with pytest.raises(ValueError, match=r"where must have the shape of the logits or of the result, got"):
                loss(X, y, where=np.ones(shape, bool))

    def test_mask_dtype(self):
        with pytest.raises(TypeError, match="where must be boolean, got float32"):
            with_integers(X, LABELS, where=np.ones(6, np.float32))


@pytest.mark.parametrize("name", PAIRS)
def test_compiles_and_maps(name):
    x, y = (a.astype(np.float32) for a in PAIRS[name])
    loss = getattr(losses, name)
    np.testing.assert_allclose(jax.jit(loss)(x, y), loss(x, y), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(loss)(x, y), loss(x, y), rtol=1e-5, atol=1e-6)

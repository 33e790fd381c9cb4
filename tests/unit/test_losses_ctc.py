"""CTC against the sum over all alignments: losses, derivatives, forward probabilities, padding, extremes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradchain.losses import ctc_loss, ctc_loss_with_forward_probs
from tests.oracles import losses as oracle

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 5, 3))
LABELS = np.array([[1, 2], [1, 1], [2, 0], [0, 0]])
ABSENT = np.array([[0, 0], [0, 0], [0, 1], [1, 1]], float)
PADDED = np.array([[0, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 1, 0, 0, 0], [0, 0, 0, 1, 1]], float)
ARGUMENTS = (PADDED, LABELS, ABSENT)


def expected(x, padded=PADDED, labels=LABELS, absent=ABSENT, blank=0):
    rows = zip(x, padded, labels, absent, strict=True)
    return np.array([oracle.ctc_loss(a[p == 0], y[q == 0], blank) for a, p, y, q in rows])


def total(x, *arguments, **options):
    return jnp.sum(ctc_loss(x, *arguments, **options))


@pytest.mark.slow
def test_all_alignments_and_optax(x64):
    x = jnp.asarray(X)
    np.testing.assert_allclose(ctc_loss(X, *ARGUMENTS), expected(X), rtol=1e-12)
    ours, theirs = (
        f(x, *map(jnp.asarray, ARGUMENTS)) for f in (ctc_loss_with_forward_probs, optax.ctc_loss_with_forward_probs)
    )
    for mine, yours in zip(ours, theirs, strict=True):
        assert mine.shape == yours.shape
        np.testing.assert_allclose(mine, yours, rtol=1e-12)
    np.testing.assert_allclose(optax.ctc_loss(x, *map(jnp.asarray, ARGUMENTS)), ours[0], rtol=1e-12)


@pytest.mark.slow
def test_derivative(x64):
    slope = jax.grad(total)(X, *ARGUMENTS)
    np.testing.assert_allclose(slope, oracle.slope(expected, X), atol=1e-8)
    theirs = jax.grad(lambda x: optax.ctc_loss(x, *map(jnp.asarray, ARGUMENTS)).sum())(jnp.asarray(X))
    np.testing.assert_allclose(slope, theirs, atol=1e-13)


@pytest.mark.slow
def test_float32():
    np.testing.assert_allclose(ctc_loss(np.float32(X), *ARGUMENTS), expected(np.float32(X).astype(float)), rtol=2e-6)
    slope = jax.grad(total)(np.float32(X), *ARGUMENTS)
    np.testing.assert_allclose(slope, oracle.slope(expected, X), atol=2e-6)


@pytest.mark.parametrize("blank", [1, 2])
def test_another_blank(x64, blank):
    labels = np.where(blank == LABELS, 0, LABELS)
    padded = (PADDED, labels, np.array([[0, 0], [0, 0], [0, 1], [1, 1]]))
    np.testing.assert_allclose(ctc_loss(X, *padded, blank_id=blank), expected(X, *padded, blank), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1e4, 1e15])
def test_extreme_logits(size):
    """The likeliest alignment has all the probability, or the sequence nearly none."""
    x = size * np.sign(X).astype(np.float32)
    for log_epsilon in (-1e5, -np.inf):
        value, slope = jax.value_and_grad(total)(x, *ARGUMENTS, log_epsilon=log_epsilon)
        assert np.isfinite(value)
        assert np.all(np.isfinite(slope))


@pytest.mark.slow
def test_unlikely_labels_are_exact_with_a_log_of_zero_at_minus_infinity():
    """Each of the 8 labels costs 2e4: more than what stands for impossible by default, which is
    reached in two ways here."""
    x = np.full((1, 8, 9), -1e4, np.float32)
    x[..., 0] = 1e4
    arguments = (np.zeros((1, 8)), np.arange(1, 9)[None], np.zeros((1, 8)))
    np.testing.assert_allclose(ctc_loss(x, *arguments, log_epsilon=-np.inf), 1.6e5, rtol=1e-6)
    np.testing.assert_allclose(ctc_loss(x, *arguments), 1e5 - np.log(2), rtol=1e-6)
    np.testing.assert_allclose(optax.ctc_loss(x, *arguments), 1e5 - np.log(2), rtol=1e-6)


@pytest.mark.slow
def test_impossible_sequences():
    """Two equal labels take three steps."""
    x = np.float32(X[:1, :2])
    arguments = (np.zeros((1, 2)), np.array([[1, 1]]), np.zeros((1, 2)))
    np.testing.assert_allclose(ctc_loss(x, *arguments), 1e5, rtol=1e-4)
    value, slope = jax.value_and_grad(total)(x, *arguments, log_epsilon=-np.inf)
    assert value == np.inf
    assert np.all(np.isfinite(slope))


def test_classes_of_probability_zero():
    x = np.float32(X).copy()
    x[:, :, 2] = -np.inf
    arguments = (PADDED, np.ones((4, 2), int), ABSENT)
    value, slope = jax.value_and_grad(total)(x, *arguments)
    np.testing.assert_allclose(value, expected(x[..., :2].astype(float), *arguments).sum(), rtol=1e-6)
    assert np.all(np.isfinite(slope))
    assert np.all(np.isnan(optax.ctc_loss(x, *arguments)))


def test_padding_may_hold_anything():
    x, labels = np.float32(X).copy(), np.where(ABSENT == 1, -7, LABELS)
    x[PADDED == 1] = np.nan
    value, slope = jax.value_and_grad(total)(x, PADDED.astype(bool), labels, ABSENT.astype(int))
    np.testing.assert_allclose(value, total(np.float32(X), *ARGUMENTS), rtol=1e-6)
    np.testing.assert_allclose(slope, jax.grad(total)(np.float32(X), *ARGUMENTS), atol=1e-6)


@pytest.mark.parametrize("label", [3, -1])
def test_a_label_that_names_no_class_is_nan_with_a_zero_derivative(label):
    labels = LABELS.copy()
    labels[0, 1] = label
    values = ctc_loss(X, PADDED, labels, ABSENT)
    assert np.isnan(values[0])
    assert np.all(np.isfinite(values[1:]))
    assert np.all(jax.grad(total)(X, PADDED, labels, ABSENT)[0] == 0)
    assert np.all(np.isfinite(optax.ctc_loss(X, PADDED, labels, ABSENT)))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_rounded_once(dtype):
    x = jnp.asarray(X, dtype)
    np.testing.assert_array_equal(ctc_loss(x, *ARGUMENTS), ctc_loss(x.astype(jnp.float32), *ARGUMENTS).astype(dtype))


@pytest.mark.slow
def test_compiles_and_maps():
    x = np.float32(X)
    np.testing.assert_allclose(jax.jit(ctc_loss)(x, *ARGUMENTS), ctc_loss(x, *ARGUMENTS), rtol=1e-5)
    one = jax.vmap(lambda *a: ctc_loss(*(v[None] for v in a))[0])(x, *ARGUMENTS)
    np.testing.assert_allclose(one, ctc_loss(x, *ARGUMENTS), rtol=1e-5)


@pytest.mark.slow
def test_no_labels_at_all():
    loss = ctc_loss(X[:1], PADDED[:1], np.zeros((1, 0), int), np.zeros((1, 0)))
    np.testing.assert_allclose(loss, -jax.nn.log_softmax(X[0])[:, 0].sum(), rtol=1e-6)


def test_errors():
    with pytest.raises(
        ValueError, match=r"logits must have shape \(batch, steps, classes\) and labels .* got \(5, 3\)"
    ):
        ctc_loss(X[0], *ARGUMENTS)
    with pytest.raises(ValueError, match=r"got logit_paddings \(4, 4\) and logits without classes \(4, 5\)"):
        ctc_loss(X, PADDED[:, :4], LABELS, ABSENT)
    with pytest.raises(ValueError, match=r"got label_paddings \(4, 1\) and labels \(4, 2\)"):
        ctc_loss(X, PADDED, LABELS, ABSENT[:, :1])
    with pytest.raises(ValueError, match=r"blank_id must be in \[0, 3\), got -1"):
        ctc_loss(X, *ARGUMENTS, blank_id=-1)
    with pytest.raises(ValueError, match=r"log_epsilon must be in \[-inf, 0\], got 1"):
        ctc_loss(X, *ARGUMENTS, log_epsilon=1.0)
    with pytest.raises(ValueError, match="there must be a time step"):
        ctc_loss(X[:, :0], PADDED[:, :0], LABELS, ABSENT)
    with pytest.raises(TypeError, match="labels must be integers, got float"):
        ctc_loss(X, PADDED, LABELS.astype(float), ABSENT)
    with pytest.raises(TypeError, match="logits must be floating-point"):
        ctc_loss(X.astype(int), *ARGUMENTS)

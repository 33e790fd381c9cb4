"""The losses' table: each against its oracle and optax, in values and derivatives, in every dtype, and at extremes."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn import logsumexp
from optax import losses as theirs

from gradchain import losses
from tests.oracles import losses as oracle

RNG = np.random.default_rng(0)
X, P, T = (RNG.normal(size=(5, 4)) for _ in range(3))
Y = RNG.dirichlet(np.ones(4), size=5)
LOG_Q = np.log(RNG.dirichlet(np.ones(4), size=5))
LABELS = np.array([0, 3, 1, 2, 2])
SIGNS, YES = np.where(X > P, 1.0, -1.0), (X > T).astype(float)
PIXELS, REGIONS = RNG.normal(size=(2, 6, 3)), np.eye(3)[RNG.integers(0, 3, size=(2, 6))]
SPOTS = (RNG.random((2, 6)) < 0.5).astype(float)


class Row:
    """A loss with arguments: the first ``arrays`` are floating-point, and differentiated."""

    def __init__(self, name, *arrays, then=(), oracle_options=None, **options):
        self.name, self.arrays, self.then, self.options = name, arrays, then, options
        self.oracle_options = options if oracle_options is None else oracle_options

    def __repr__(self):
        return "-".join([self.name, *map(str, self.options)])

    def of(self, library):
        return lambda *arrays: getattr(library, self.name)(*arrays, *self.then, **self.options)

    def oracle(self, *arrays):
        return getattr(oracle, self.name)(*arrays, *self.then, **self.oracle_options)


ROWS = [
    Row("perceptron_loss", X, SIGNS),
    Row("sparsemax_loss", X, then=(YES.astype(int),)),
    Row("multiclass_perceptron_loss", X, then=(LABELS,)),
    Row("multiclass_hinge_loss", X, then=(LABELS,)),
    Row("multiclass_sparsemax_loss", X, then=(LABELS,)),
    Row("poly_loss_cross_entropy", X, Y),
    Row("poly_loss_cross_entropy", X, Y, epsilon=-1.0),
    Row("sigmoid_focal_loss", X, then=(YES.astype(int),)),
    Row("sigmoid_focal_loss", X, 0.2 + 0.6 * YES, alpha=0.3, gamma=0.5),
    Row("kl_divergence", LOG_Q, Y),
    Row("kl_divergence_with_log_targets", LOG_Q, np.log(Y)),
    Row("generalized_kl_divergence", LOG_Q, 2 * Y),
    Row("cosine_similarity", P, T),
    Row("cosine_similarity", P, T, epsilon=4.0),
    Row("cosine_distance", P, T),
    Row("smooth_labels", Y, then=(0.1,)),
    Row("ranking_softmax_loss", X, Y),
    Row("ranking_softmax_loss", X, Y, weights=np.abs(P)),
    Row("ntxent", P, then=(np.array([0, 1, 0, 0, 1]),)),
    Row("ntxent", P, then=(np.array([0, 1, 0, 2, 1]), 0.5)),
    Row("triplet_margin_loss", X, P, T),
    Row("triplet_margin_loss", X, P, T, norm_degree=4, margin=0.5, oracle_options={"degree": 4, "margin": 0.5}),
    Row("dice_loss", PIXELS, REGIONS, reduction="none", oracle_options={}),
    Row("dice_loss", PIXELS, REGIONS, reduction="none", alpha=0.3, beta=0.7, smooth=0.1,
        oracle_options={"alpha": 0.3, "beta": 0.7, "smooth": 0.1}),
    Row("multiclass_generalized_dice_loss", PIXELS, REGIONS),
    Row("binary_dice_loss", PIXELS[..., 0], SPOTS),
]  # fmt: skip
each = pytest.mark.parametrize("row", ROWS, ids=repr)
half = pytest.mark.parametrize("dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.slow)])


def slopes(function, *args):
    return jax.grad(lambda *a: jnp.sum(function(*a)), argnums=tuple(range(len(args))))(*args)


def error(actual, expected):
    return np.max(np.abs(np.asarray(actual, np.float64) - expected)) / np.max(np.abs(expected))


@each
def test_oracle_in_float64(x64, row):
    arrays = [jnp.asarray(a) for a in row.arrays]
    assert error(row.of(losses)(*arrays), row.oracle(*row.arrays)) < 1e-12
    for i, slope in enumerate(slopes(row.of(losses), *arrays)):
        before, after = row.arrays[:i], row.arrays[i + 1 :]
        expected = oracle.slope(lambda x, a=before, b=after: row.oracle(*a, x, *b), row.arrays[i])
        assert np.max(np.abs(slope - expected)) < 1e-8


@pytest.mark.slow
@each
def test_optax_in_float64(x64, row):
    arrays = [jnp.asarray(a) for a in row.arrays]
    ours, other = row.of(losses), jax.numpy_rank_promotion("allow")(row.of(theirs))
    np.testing.assert_allclose(ours(*arrays), other(*arrays), rtol=1e-12, atol=1e-14)
    for mine, yours in zip(slopes(ours, *arrays), slopes(other, *arrays), strict=True):
        np.testing.assert_allclose(mine, yours, rtol=1e-10, atol=1e-13)


@pytest.mark.slow
@each
def test_oracle_in_float32(row):
    narrow = [np.float32(a) for a in row.arrays]
    wide = [np.float64(a) for a in narrow]
    assert row.of(losses)(*narrow).dtype == jnp.float32
    assert error(row.of(losses)(*narrow), row.oracle(*wide)) < 3e-6
    expected = oracle.slope(lambda x: row.oracle(x, *wide[1:]), wide[0])
    assert np.max(np.abs(slopes(row.of(losses), *narrow)[0] - expected)) < 1e-5


@each
@half
def test_half_precision_is_rounded_once(row, dtype):
    narrow = [jnp.asarray(a, dtype) for a in row.arrays]
    expected = row.of(losses)(*(a.astype(jnp.float32) for a in narrow)).astype(dtype)
    assert row.of(losses)(*narrow).dtype == dtype
    np.testing.assert_array_equal(row.of(losses)(*narrow), expected)


@each
def test_compiles(row):
    narrow = [np.float32(a) for a in row.arrays]
    np.testing.assert_allclose(jax.jit(row.of(losses))(*narrow), row.of(losses)(*narrow), rtol=1e-5, atol=1e-6)


@each
@pytest.mark.parametrize("size", [0.0, 1e4, 1e15])
def test_finite_in_value_and_derivative_at_extremes(row, size):
    """The first argument is of that size, both signs in it; labels are certain."""
    first, *rest = (jnp.float32(a) for a in row.arrays)
    if "kl" in row.name:
        first = jnp.where(first < -1, -min(size, 1e4), first)
    elif row.name != "smooth_labels":
        first = size * jnp.sign(first)
    for others in (rest, [jnp.where(a == jnp.max(a, -1, keepdims=True), 1.0, 0.0) for a in rest]):
        assert np.all(np.isfinite(row.of(losses)(first, *others)))
        for slope in slopes(row.of(losses), first, *others):
            assert np.all(np.isfinite(slope))


@pytest.mark.parametrize("row", [row for row in ROWS if len(row.arrays) > 1], ids=repr)
def test_a_column_against_a_vector_is_an_error(row):
    first, *rest = row.arrays
    with pytest.raises(ValueError, match="the shapes must be equal, got"):
        row.of(losses)(first, *(a[..., :1] for a in rest))


@each
def test_integers_and_complex_numbers_are_errors(row):
    first, *rest = row.arrays
    for dtype in (int, complex):
        with pytest.raises(TypeError, match=r"must be floating-point, got"):
            row.of(losses)(first.astype(dtype), *rest)


def test_all_names_and_signatures():
    public = {n for n, x in vars(theirs).items() if inspect.isfunction(x)} - {"convex_kl_divergence"}  # deprecated
    assert public == set(losses.__all__)
    assert len(public) == 31
    for name in public:
        ours, other = (
            [(p.name, p.kind, p.default) for p in inspect.signature(getattr(lib, name)).parameters.values()]
            for lib in (losses, theirs)
        )
        assert ours[: len(other)] == other
        assert all(kind is inspect.Parameter.KEYWORD_ONLY for _, kind, _ in ours[len(other) :])


MASKED = ["kl_divergence", "kl_divergence_with_log_targets", "generalized_kl_divergence", "cosine_similarity"]
MASKED += ["cosine_distance", "poly_loss_cross_entropy"]
INCLUDE = np.array([[1, 1, 0, 1], [0, 0, 0, 1], [1, 1, 1, 1], [0, 1, 1, 0], [1, 0, 1, 0]], bool)


class TestMasks:
    @pytest.mark.parametrize("name", MASKED)
    def test_as_if_the_others_were_not_there(self, x64, name):
        ours, other = (partial(getattr(lib, name), where=INCLUDE) for lib in (losses, theirs))
        log = "log_targets" in name
        x, t = jnp.asarray(LOG_Q), jnp.asarray(np.log(Y) if log else Y)
        np.testing.assert_allclose(ours(x, t), other(x, t), rtol=1e-12)
        expected = [getattr(oracle, name)(a[None, k], b[None, k])[0] for a, b, k in zip(x, t, INCLUDE, strict=True)]
        np.testing.assert_allclose(ours(x, t), expected, rtol=1e-12)

    @pytest.mark.parametrize("name", MASKED)
    def test_excluded_elements_may_hold_anything(self, name):
        loss = partial(getattr(losses, name), where=INCLUDE)
        t = np.log(Y) if "log_targets" in name else Y
        x, t = jnp.float32(LOG_Q), jnp.float32(t)
        value, slope = jax.value_and_grad(lambda x, t: loss(x, t).sum(), (0, 1))(x, t)
        odd = [jnp.where(INCLUDE, a, jnp.nan) for a in (x, t)]
        odd_value, odd_slope = jax.value_and_grad(lambda x, t: loss(x, t).sum(), (0, 1))(*odd)
        np.testing.assert_allclose(odd_value, value, rtol=1e-6)
        for a, b in zip(odd_slope, slope, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)

    @pytest.mark.parametrize("name", MASKED)
    def test_nothing_included(self, name):
        loss = partial(getattr(losses, name), where=np.zeros((5, 4), bool))
        value, slope = jax.vjp(loss, jnp.float32(LOG_Q), jnp.float32(Y))
        assert np.all(value == (1 if name == "cosine_distance" else 0))
        assert all(np.all(s == 0) for s in slope(jnp.ones(5)))

    def test_ranking(self, x64):
        x, y = jnp.asarray(X), jnp.asarray(Y)
        include = INCLUDE.copy()
        include[1] = False
        ours, other = (partial(lib.ranking_softmax_loss, x, y, where=include) for lib in (losses, theirs))
        assert error(ours(), oracle.ranking_softmax_loss(X, Y, include)) < 1e-12
        for reduce_fn in (jnp.mean, jnp.sum, None):
            np.testing.assert_allclose(ours(reduce_fn=reduce_fn), other(reduce_fn=reduce_fn), rtol=1e-12)
        nothing = partial(losses.ranking_softmax_loss, labels=y, where=np.zeros((5, 4), bool))
        value, slope = jax.value_and_grad(nothing)(x)
        assert value == 0
        assert np.all(slope == 0)

    def test_smooth_labels(self, x64):
        for where in (INCLUDE, np.array([[True, False, True, True]]).repeat(5, 0)):
            np.testing.assert_allclose(
                losses.smooth_labels(jnp.asarray(Y), 0.2, where=where),
                theirs.smooth_labels(jnp.asarray(Y), 0.2, where=jnp.asarray(where)), rtol=1e-12,
            )  # fmt: skip
        nothing = losses.smooth_labels(Y, 0.2, where=np.zeros(5, bool))
        np.testing.assert_allclose(nothing, 0.8 * Y + 0.2, rtol=1e-12)

    @pytest.mark.parametrize("name", [n for n in MASKED if n != "poly_loss_cross_entropy"])
    def test_any_axes(self, x64, name):
        loss = getattr(losses, name)
        x, t = np.tile(LOG_Q, (2, 1, 1)), np.tile(Y, (2, 1, 1))
        for axis in (0, (0, 2), None, -2):
            expected = getattr(theirs, name)(jnp.asarray(x), jnp.asarray(t), axis=axis)
            np.testing.assert_allclose(loss(x, t, axis=axis), expected, rtol=1e-11)
        with pytest.raises(ValueError, match=f"{name}: axis must name different axes of 3-dimensional predictions"):
            loss(x, t, axis=3)


class TestFenchelYoung:
    def test_of_log_sum_exp_is_the_softmax_cross_entropy(self, x64):
        ours, other = (lib.make_fenchel_young_loss(logsumexp) for lib in (losses, theirs))
        assert error(ours(X, Y), oracle.softmax_cross_entropy(X, Y)) < 1e-12
        np.testing.assert_allclose(ours(X, Y), other(jnp.asarray(X), jnp.asarray(Y)), rtol=1e-12)
        assert error(slopes(ours, X, Y)[0], oracle.softmax_cross_entropy_slope(X, Y)) < 1e-12
        assert ours(X[0], Y[0]).shape == ()
        assert ours(X[None], Y[None]).shape == (1, 5)

    def test_other_arguments_reach_the_maximum(self):
        def soft(scores, temperature, *, shift):
            return temperature * logsumexp(scores / temperature) + shift

        loss = losses.make_fenchel_young_loss(soft)
        expected = losses.make_fenchel_young_loss(lambda s: soft(s, 0.5, shift=1.0))(X, Y)
        np.testing.assert_allclose(loss(X, Y, 0.5, shift=1.0), expected, rtol=1e-6)
        with pytest.raises(TypeError):
            theirs.make_fenchel_young_loss(soft)(X, Y, 0.5, shift=1.0)

    def test_extremes(self):
        loss = losses.make_fenchel_young_loss(logsumexp)
        x, y = jnp.array([1e4, -1e4, -jnp.inf]), jnp.array([0.0, 1.0, 0.0])
        value, slope = jax.value_and_grad(loss)(x, y)
        np.testing.assert_allclose(value, 2e4)
        np.testing.assert_allclose(slope, [1, -1, 0])

    def test_shapes_dtypes_and_the_slope_in_a_target_of_zero(self):
        loss = losses.make_fenchel_young_loss(logsumexp)
        assert jax.grad(loss, 1)(jnp.array([1.0, 3.0]), jnp.array([1.0, 0.0]))[1] == -3
        assert loss(jnp.bfloat16(X), jnp.bfloat16(Y)).dtype == jnp.bfloat16
        with pytest.raises(ValueError, match=r"shapes must be equal, got scores \(5, 4\) and targets \(4,\)"):
            loss(X, Y[0])
        with pytest.raises(ValueError, match="scores must be vectors, got a number"):
            loss(1.0, 1.0)

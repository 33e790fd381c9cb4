"""gradchain.matrices against NumPy in double precision, and what rules make of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from gradchain import matrices, numerics
from tests import trees


def array(*shape, dtype="float64", seed=0):
    """Return a random array."""
    return jnp.asarray(trees.normal(np.random.default_rng(seed), shape, dtype))


def semidefinite(spectrum, dtype="float64", seed=0):
    """Return a Hermitian matrix of given eigenvalues, and its eigenvectors."""
    n = len(spectrum)
    vectors, _ = np.linalg.qr(np.asarray(trees.normal(np.random.default_rng(seed), (n, n), dtype)))
    return (vectors * np.asarray(spectrum)) @ vectors.conj().T, vectors


VIEWS = [
    ((5, 3), None, None, [(5, 3)]),
    ((5, 3), (1, 0), None, [(3, 5)]),
    ((4, 2, 3), (0, (1, 2)), None, [(4, 6)]),
    ((4, 2, 3), (0, 2), None, [(2, 4, 3)]),
    ((2, 3, 4, 5), ((3, 0), 1), None, [(4, 10, 3)]),
    ((4, 6), (0, 1, 1, 3), None, [(3, 4, 2)]),
    ((4, 6), (0, 1, 2, 3), None, [(6, 2, 2)]),
    ((4, 6), (0, 1, 1, (4, 1, 1)), None, [(1, 4, 4), (2, 4, 1)]),
    ((5, 7), None, 3, [(2, 3, 3), (1, 3, 1), (2, 2, 3), (1, 2, 1)]),
    ((2, 4, 7), (1, 2, 1, (3, 4)), 2, [(2, 6, 2, 2), (2, 2, 2, 1)]),
    ((3, 4), None, 5, [(3, 4)]),
    ((0, 4), None, 3, [(1, 0, 3), (1, 0, 1)]),
    ((0, 4), (0, 1, 2, 1), None, [(2, 0, 4)]),
    ((1, 1), None, 1, [(1, 1)]),
]


@pytest.mark.parametrize(("shape", "dims", "size", "shapes"), VIEWS)
def test_blocks_have_these_shapes_and_make_up_the_array_again(shape, dims, size, shapes):
    x = jnp.arange(1.0, np.prod(shape) + 1).reshape(shape)
    seen = matrices.view(shape, dims and gc.MuonDimensionNumbers(*dims), block_size=size)
    blocks = seen.split(x)
    assert [block.shape for block in blocks] == shapes
    assert seen.is_cut == (len(shapes) > 1 or len(shapes[0]) > len(seen.batch) + 2)
    assert seen.matrices(x).shape == (*seen.batch, seen.rows, seen.columns)
    for back in (seen.join(blocks), seen.array(seen.matrices(x)), seen.map(lambda block: block, x)):
        np.testing.assert_array_equal(back, x)


def test_blocks_are_the_parts_of_the_matrix_in_order():
    x = np.arange(70.0).reshape(2, 5, 7)
    seen = matrices.view(x.shape, gc.MuonDimensionNumbers(1, 2, output_blocks=(3, 4)), block_size=3)
    whole, low = seen.split(jnp.asarray(x))[0], seen.split(jnp.asarray(x))[2]
    np.testing.assert_array_equal(whole, np.stack([x[:, :3, :3], x[:, :3, 3:6]], axis=1))
    np.testing.assert_array_equal(low, np.stack([x[:, 3:, :3], x[:, 3:, 3:6]], axis=1))
    turned = matrices.view((4, 2, 3), gc.MuonDimensionNumbers((2, 0), 1)).matrices(jnp.arange(24.0).reshape(4, 2, 3))
    np.testing.assert_array_equal(turned, np.arange(24.0).reshape(4, 2, 3).transpose(2, 0, 1).reshape(12, 2))


def test_map_takes_blocks_of_several_arrays_together():
    x, y = array(5, 7, dtype="float32"), array(5, 7, dtype="float32", seed=1)
    seen = matrices.view(x.shape, block_size=4)

    def scaled(x, y):
        return x * jnp.max(jnp.abs(y), axis=(-2, -1), keepdims=True)

    got = jax.jit(lambda x, y: seen.map(scaled, x, y))(x, y)
    for rows in (slice(4), slice(4, 5)):
        for columns in (slice(4), slice(4, 7)):
            np.testing.assert_array_equal(got[rows, columns], x[rows, columns] * jnp.max(jnp.abs(y[rows, columns])))


@pytest.mark.parametrize(
    ("shape", "dims", "size", "error"),
    [
        ((3,), None, None, r"rule: an array of shape \(3,\) is not a matrix; it needs MuonDimensionNumbers"),
        ((2, 2), (0, 2), None, "rule: .* axes must exist, and differ"),
        ((2, 2), (0, -2), None, "rule: .* axes must exist, and differ"),
        ((4, 6), (0, 1, 1, 4), None, "rule: output_blocks=4 doesn't divide 6"),
        ((4, 6), (0, 1, 0, 1), None, "rule: reduction_blocks=0 doesn't divide 4"),
        ((4, 6), (0, 1, (1, 2), 1), None, r"rule: reduction_blocks=\(1, 2\) must add up to 4, got 3"),
        ((4, 6), (0, 1, 1, (-2, 8)), None, r"rule: output_blocks=\(-2, 8\) must add up to 6"),
        ((4, 6), None, 0, "rule: block_size must be at least 1, got 0"),
    ],
)
def test_views_that_dont_fit_are_errors(shape, dims, size, error):
    with pytest.raises(ValueError, match=error):
        matrices.view(shape, dims and gc.MuonDimensionNumbers(*dims), block_size=size, where="rule")


def test_muon_of_queries_keys_and_values_in_one_array_is_muon_of_each():
    def muon(dims):
        momentum = gc.scale_by_muon(adaptive=True, weight_dimension_numbers=dims)
        return gc.chain(momentum, gc.scale_by_shape(dims), gc.scale_by_shape(dims, 0.2))

    parts = [array(4, width, dtype="float32", seed=width) for width in (8, 2, 2)]
    fused = jnp.concatenate(parts, axis=1)
    tx, apart = muon(gc.MuonDimensionNumbers(0, 1, 1, (8, 2, 2))), muon(None)
    updates, state = jax.jit(tx.update)(fused, tx.init(fused))
    assert state[0].mu.shape == fused.shape
    expected, _ = jax.jit(apart.update)(parts, apart.init(parts))
    trees.assert_close(updates, jnp.concatenate(expected, axis=1), 2e-6)
    config = gc.to_config(tx)
    assert config["stages"][0]["weight_dimension_numbers"] == {"tree": {"dimensions": [0, 1, 1, [8, 2, 2]]}}
    assert gc.from_config(config) == tx
    with pytest.raises(ValueError, match=r"scale_by_muon: .*: output_blocks=\(8, 2, 2\) must add up to 8"):
        tx.init(jnp.ones((4, 8)))


def test_all_arrays_are_due_together_or_each_in_its_turn():
    def when(every, turn=None, steps=9):
        return [k for k in range(steps) if matrices.due(jnp.int32(k), every, turn)]

    assert when(4) == when(jnp.float32(4)) == [0, 4, 8]
    assert when(1) == list(range(9))
    assert [when(4, (i, 3)) for i in range(3)] == [[0, 4, 8], [0, 3, 7], [0, 2, 6]]
    assert [when(2, (i, 5), 5) for i in range(5)] == [[0, 2, 4]] * 3 + [[0, 1, 3]] * 2
    assert when(4, (jnp.int32(1), jnp.int32(3))) == [0, 3, 7]
    busy = [sum(bool(matrices.due(k, 10, (i, 40))) for i in range(40)) for k in range(1, 21)]
    assert busy == [4] * 20


def test_what_isnt_due_isnt_computed_and_a_trace_serves_all_updates():
    made, traces = [], []

    def make():
        made.append(1)
        return {"a": jnp.ones(2)}

    old = {"a": jnp.zeros(2)}
    assert matrices.refresh(jnp.asarray(False), make, old) is old
    assert not made
    trees.assert_close(matrices.refresh(jnp.asarray(True), make, old), {"a": np.ones(2)}, 0)

    @jax.jit
    def step(count, every):
        traces.append(1)
        return matrices.refresh(matrices.due(count, every), make, old)["a"][0]

    assert [float(step(k, every)) for k, every in ((0, 2), (1, 2), (2, 2), (2, 3), (3, 3))] == [1, 0, 1, 0, 1]
    assert len(traces) == 1
    np.testing.assert_array_equal(jax.vmap(step, in_axes=(0, None))(jnp.arange(3), 2), [1, 0, 1])


@pytest.mark.parametrize("wrong", [jnp.nan, jnp.inf])
def test_what_isnt_finite_can_be_left_out(wrong):
    old = (jnp.zeros(2), jnp.zeros(1))

    def refreshed(value, finite):
        new = lambda: (jnp.array([1.0, value]), jnp.ones(1))  # noqa: E731
        return matrices.refresh(True, new, old, finite=finite)

    trees.assert_close(refreshed(wrong, True), old, 0)
    trees.assert_close(refreshed(2.0, True), (np.array([1.0, 2.0]), np.ones(1)), 0)
    assert not jnp.isfinite(refreshed(wrong, False)[0][1])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "complex64"])
def test_gram_matrices_of_rows_and_of_columns(dtype):
    x = array(2, 3, 4, dtype=dtype)
    wide = np.asarray(x).astype(np.result_type(np.float64, np.complex64 if dtype == "complex64" else np.float32))
    adjoint = wide.conj().swapaxes(-2, -1)
    trees.assert_close(matrices.gram(x), wide @ adjoint, 1e-6)
    trees.assert_close(matrices.gram(x, "columns"), adjoint @ wide, 1e-6)
    assert matrices.gram(x).dtype == numerics.compute_dtype(dtype)
    with pytest.raises(ValueError, match="gram: side must be one of 'rows', 'columns', got 'left'"):
        matrices.gram(x, "left")


SPECTRA = {"plain": [3.0, 2.0, 1.0, 0.5], "wide": [1.0, 1e-2, 1e-4, 1e-6], "singular": [2.0, 1.0, 0.0, 0.0]}


def exact_root(spectrum, vectors, p, ridge, shift=0.0):
    """Return the inverse root from eigenvalues."""
    values = np.asarray(spectrum) + ridge * max(spectrum) + shift
    powers = np.where(values > 0, np.where(values > 0, values, 1) ** (-1 / p), 0)
    return (vectors * powers) @ vectors.conj().T


@pytest.mark.parametrize(("method", "p"), [("eigh", 1), ("eigh", 2), ("eigh", 3.5), ("newton", 2), ("newton", 4)])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_inverse_roots_with_a_ridge(spectrum, method, p, x64):
    values = SPECTRA[spectrum]
    a, vectors = semidefinite(values)
    b, others = semidefinite(values[::-1], seed=1)
    root = jax.jit(lambda x: matrices.inverse_root(x, p, ridge=1e-4, method=method))
    got = root(jnp.stack([jnp.asarray(a), 5 * jnp.asarray(b)]))
    exact = exact_root(values, vectors, p, 1e-4), exact_root(5 * np.array(values[::-1]), others, p, 1e-4)
    trees.assert_close(list(got), list(exact), 1e-11)


def test_inverse_roots_of_complex_matrices_and_with_a_shift(x64):
    a, vectors = semidefinite(SPECTRA["singular"], "complex128")
    for ridge, shift in ((1e-4, 0.0), (0.0, 1e-3), (1e-2, 0.5)):
        got = matrices.inverse_root(jnp.asarray(a), 4, ridge=ridge, shift=shift)
        trees.assert_close(got, exact_root(SPECTRA["singular"], vectors, 4, ridge, shift), 1e-11)
    real, vectors = semidefinite([2.0, 1.0, 0.5])
    newton = jax.jit(lambda a: matrices.inverse_root(a, 2, ridge=0.0, shift=0.5, method="newton"))
    trees.assert_close(newton(jnp.asarray(real)), exact_root([2.0, 1.0, 0.5], vectors, 2, 0.0, 0.5), 1e-10)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_without_a_ridge_it_is_the_root_of_the_pseudo_inverse(dtype, x64):
    a, vectors = semidefinite(SPECTRA["singular"], dtype)
    got = matrices.inverse_root(jnp.asarray(a), 2, ridge=0.0)
    trees.assert_close(got, exact_root(SPECTRA["singular"], vectors, 2, 0.0), 1e-12)
    trees.assert_close(got @ got, np.linalg.pinv(a), 1e-12)


@pytest.mark.parametrize("method", ["eigh", "newton"])
def test_inverse_roots_of_matrices_of_all_sizes(method):
    a, vectors = semidefinite(SPECTRA["plain"])
    sizes = np.array([1e-30, 1e-3, 1.0, 1e30, 0.0])
    root = jax.jit(jax.vmap(lambda x: matrices.inverse_root(x, 4, ridge=1e-3, method=method)))
    got = root(jnp.asarray(sizes[:, None, None] * a[None], "float32"))
    for one, size in zip(got, sizes[:-1], strict=False):
        trees.assert_close(one, size**-0.25 * exact_root(SPECTRA["plain"], vectors, 4, 1e-3), 2e-5)
    np.testing.assert_array_equal(got[-1], np.zeros((4, 4)))


def test_inverse_roots_of_batches_and_half_precision_and_of_nothing():
    batch = jnp.asarray([[[4.0]], [[0.25]]], "bfloat16")
    got = matrices.inverse_root(batch, 2, ridge=0.0)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, [[[0.5]], [[2.0]]], rtol=1e-6)
    for method in ("eigh", "newton"):
        assert matrices.inverse_root(jnp.zeros((2, 0, 0)), 4, method=method).shape == (2, 0, 0)


def test_a_zero_matrix_with_a_shift_has_the_root_of_the_shift():
    np.testing.assert_allclose(matrices.inverse_root(jnp.zeros((2, 2)), 2, shift=100.0), np.eye(2) / 10, rtol=1e-6)


def test_inverse_roots_say_what_they_need():
    with pytest.raises(ValueError, match=r"square matrices \(..., n, n\), got shape \(2, 3\)"):
        matrices.inverse_root(jnp.ones((2, 3)), 2)
    with pytest.raises(ValueError, match="p must be above 0, got 0"):
        matrices.inverse_root(jnp.eye(2), 0)
    with pytest.raises(ValueError, match=r"p must be a whole number of at least 1, got 1\.5"):
        matrices.inverse_root(jnp.eye(2), 1.5, method="newton")
    with pytest.raises(ValueError, match="method must be one of 'eigh', 'newton', got 'qr'"):
        matrices.inverse_root(jnp.eye(2), 2, method="qr")
    with pytest.raises(TypeError, match="Newton's method is for real matrices"):
        matrices.inverse_root(jnp.eye(2, dtype="complex64"), 2, method="newton")


@pytest.mark.slow
def test_orthogonalize_takes_presets_batches_and_half_precision():
    x = array(2, 3, 5, dtype="float32")
    got = matrices.orthogonalize(x)
    for one, alone in zip(got, x, strict=True):
        trees.assert_close(one, matrices.orthogonalize(alone, (3.4445, -4.7750, 2.0315), 5), 1e-6)
    trees.assert_close(got[0], gc.orthogonalize_via_newton_schulz(x[0], (3.4445, -4.7750, 2.0315)), 1e-6)
    assert matrices.orthogonalize(x.astype("bfloat16"), "quintic").dtype == jnp.float32
    np.testing.assert_array_equal(matrices.orthogonalize(jnp.zeros((2, 0, 3))), np.zeros((2, 0, 3)))
    with pytest.raises(ValueError, match=r"orthogonalize: an array of shape \(3,\) is not a matrix"):
        matrices.orthogonalize(jnp.ones(3))
    with pytest.raises(ValueError, match=r"orthogonalize: coefficients must be one of 'standard', .* got 'fast'"):
        matrices.orthogonalize(x, "fast")
    with pytest.raises(ValueError, match=r"orthogonalize: coefficients must have shape \(3,\) or \(n, 3\), got \(2,\)"):
        matrices.orthogonalize(x, (1.0, 2.0))


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "dtype"), [((6, 3), "complex128"), ((3, 6), "float64"), ((2, 4, 4), "float64")])
def test_spectral_norms_and_their_vectors(shape, dtype, x64):
    x = array(*shape, dtype=dtype)
    norm, vector = matrices.spectral_norm(x, steps=100)
    u, s, vh = np.linalg.svd(x, full_matrices=False)
    trees.assert_close(norm, s[..., 0], 1e-12)
    trees.assert_close(np.abs(np.sum(vh[..., 0, :] * vector, axis=-1)), np.ones(shape[:-2]), 1e-8)
    trees.assert_close(np.linalg.norm(vector, axis=-1), np.ones(shape[:-2]), 1e-14)
    if dtype == "float64":
        slope = jax.jit(jax.grad(lambda x: jnp.sum(matrices.spectral_norm(x, vector, 30)[0])))(x)
        trees.assert_close(slope, u[..., :1] * vh[..., :1, :], 1e-7)


@pytest.mark.slow
def test_a_kept_vector_makes_up_for_few_steps_and_may_start_at_zero(x64):
    x = array(8, 6)
    exact = np.linalg.norm(x, 2)
    first, vector = matrices.spectral_norm(x, jnp.zeros(6))
    trees.assert_close(first, matrices.spectral_norm(x)[0], 0)
    errors = [exact - first]
    again = jax.jit(matrices.spectral_norm)
    for _ in range(30):
        norm, vector = again(x, vector)
        errors.append(exact - norm)
    assert 0 <= errors[-1] < 1e-3 * errors[0]
    assert errors[0] > 1e-3
    assert np.all(np.diff(errors) <= 1e-14)
    trees.assert_close(matrices.spectral_norm(x, steps=31)[1], vector, 1e-12)


@pytest.mark.slow
def test_spectral_norms_of_extreme_matrices():
    x = array(3, 4, dtype="float32")
    exact = np.linalg.norm(np.asarray(x, np.float64), 2)
    scales = jnp.array([1e-30, 1.0, 1e30, 0.0])
    norms, vectors = matrices.spectral_norm(scales[:, None, None] * x[None], None, 50)
    np.testing.assert_allclose(norms, np.array([1e-30, 1.0, 1e30, 0.0]) * exact, rtol=1e-5)
    np.testing.assert_array_equal(vectors[3], np.zeros(4))
    lost = matrices.spectral_norm(jnp.diag(jnp.array([2.0, 0.0])), jnp.array([0.0, 1.0]))  # orthogonal to all rows
    np.testing.assert_array_equal(lost[0], 2.0)
    assert matrices.spectral_norm(jnp.zeros((2, 0, 3)))[0].shape == (2,)
    # the row of the largest norm is better than the row of ones, which a matrix may send to 0
    np.testing.assert_allclose(matrices.spectral_norm(jnp.array([[1.0, -1.0]]), steps=0)[0], np.sqrt(2), rtol=1e-6)
    with pytest.raises(ValueError, match=r"got \(2, 3\) and vectors of shape \(2,\)"):
        matrices.spectral_norm(jnp.ones((2, 3)), jnp.ones(2))


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_a_tracked_basis_becomes_that_of_the_eigenvectors(dtype, x64):
    a, vectors = semidefinite([1.0, 8.0, 4.0, 2.0], dtype)
    track = jax.jit(matrices.track_basis)
    basis = jnp.eye(4, dtype=dtype)
    for _ in range(60):
        basis = track(jnp.asarray(a), basis)
    image = np.asarray(basis).conj().T @ a @ basis
    trees.assert_close(image, np.diag(np.diag(image)), 1e-12)
    trees.assert_close(np.sort(np.diag(image).real), np.array([1.0, 2.0, 4.0, 8.0]), 1e-12)
    trees.assert_close(matrices.track_basis(jnp.asarray(a), basis), basis, 1e-12)  # which stays, signs included
    turned = jnp.asarray(vectors * np.array([1, -1, 1, -1]))
    trees.assert_close(matrices.track_basis(jnp.asarray(a), turned), turned, 1e-12)  # and so do these, in any order


def test_columns_of_a_tracked_basis_stay_in_their_places(x64):
    a = jnp.diag(jnp.array([1.0, 3.0, 2.0])) + 1e-3 * array(3, 1) @ array(3, 1).T
    basis = matrices.track_basis(a, jnp.eye(3))
    np.testing.assert_allclose(basis, np.eye(3), atol=5e-3)
    order = np.array([1, 2, 0])
    q, _ = np.linalg.qr(np.asarray(a + 1e-5 * jnp.trace(a) * jnp.eye(3))[:, order])
    np.testing.assert_allclose(basis[:, order], q * np.sign(np.diag(q[order])), atol=1e-14)


@pytest.mark.slow
def test_tracked_bases_of_batches_few_columns_and_extreme_matrices():
    a = jnp.asarray(np.stack([semidefinite([3.0, 2.0, 1.0], seed=k)[0] for k in range(2)]), "float32")
    basis = jnp.broadcast_to(jnp.eye(3)[:, :2], (2, 3, 2))
    together = matrices.track_basis(a, basis)
    trees.assert_close(jax.vmap(matrices.track_basis)(a, basis), together, 1e-6)
    for scale in (1e-30, 1e30):
        trees.assert_close(matrices.track_basis(scale * a, basis), together, 1e-5)
    trees.assert_close(matrices.track_basis(0 * a, together), together, 0)
    assert matrices.track_basis(jnp.zeros((0, 0)), jnp.zeros((0, 0))).shape == (0, 0)
    assert matrices.track_basis(a[0].astype("bfloat16"), jnp.eye(3, dtype="bfloat16")).dtype == jnp.float32
    with pytest.raises(ValueError, match=r"track_basis: needs .* got \(3, 3\) and \(2, 2\)"):
        matrices.track_basis(a[0], jnp.eye(2))


def test_a_ridge_makes_bases_of_singular_matrices_reproducible(x64):
    g = array(8, 2)
    change = 1e-10 * array(8, 2, seed=1)

    grams = matrices.gram(jnp.stack([g, g + change]))
    track = jax.jit(matrices.track_basis)

    def moved(ridge):
        bases = jnp.broadcast_to(jnp.eye(8), (2, 8, 8))
        for _ in range(5):
            bases = track(grams, bases, ridge)
        return float(jnp.max(jnp.abs(bases[0] - bases[1])))

    assert moved(1e-6) < 1e-8
    assert moved(0.0) > 1e-3


def test_signs_are_aligned_with_other_vectors(x64):
    v = array(2, 4, 3, dtype="complex128")
    phases = jnp.exp(1j * jnp.arange(6.0)).reshape(2, 1, 3)
    trees.assert_close(matrices.align_signs(v * phases, v), v, 1e-14)
    signs = jnp.array([1.0, -1.0, 1.0]).reshape(1, 1, 3)
    trees.assert_close(matrices.align_signs(v.real * signs, v.real), v.real, 0)
    trees.assert_close(matrices.align_signs(v.real, 0 * v.real), v.real, 0)


@gc.leafwise(slots=("kept",), turn=True)
def kept_in_turn(g, slot, at, every: gc.Count = 4):
    """Return the gradient that was kept when it was last the array's turn."""
    kept = matrices.refresh(matrices.due(at.count, every, at.turn), lambda: g, slot.kept)
    return kept, slot(kept=kept)


@pytest.mark.parametrize("how", ["eager", "jit", "schedule", "layers"])
def test_each_array_has_its_turn_in_a_rule(how):
    every = gc.constant_schedule(4.0) if how == "schedule" else 4
    tx = kept_in_turn(every)
    tx = gc.per_layer(tx, {"a": None, "b": None, "c": 0, "d": None}) if how == "layers" else tx
    zeros = {"a": jnp.zeros(2), "b": None, "c": jnp.zeros((3, 2)), "d": jnp.zeros(2)}
    update = jax.jit(tx.update) if how == "jit" else tx.update
    state, seen = tx.init(zeros), []
    for k in range(9):
        updates, state = update(jax.tree.map(lambda x, k=k: x + k, zeros), state)
        seen.append([int(x.ravel()[0]) for x in jax.tree.leaves(updates)])
    when = [[0, 4, 8], [0, 3, 7], [0, 2, 6]]
    assert seen == [[max(t for t in times if t <= k) for times in when] for k in range(9)]


def test_a_rule_reads_its_turn_and_count_only_where_they_are_there():
    @gc.leafwise()
    def reads_turn(g, slot, at, every: gc.Count = 2):
        return g * at.turn[0]

    with pytest.raises(AttributeError, match=r"the rule reads at\.turn: declare turn=True"):
        reads_turn().update(jnp.ones(2), reads_turn().init(jnp.ones(2)))

    @gc.leafwise()
    def reads_count(g, slot, at):
        return g * at.count

    with pytest.raises(AttributeError, match=r"the rule reads at\.count: declare count=True"):
        reads_count().update(jnp.ones(2), reads_count().init(jnp.ones(2)))
    with pytest.raises(TypeError, match="@treewise: the rule sees all arrays together"):
        gc.treewise(turn=True)

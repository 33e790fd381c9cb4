"""Orthogonal updates and low-rank projections, beyond their rows in the registry."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import gradchain as gc
from tests import oracles, trees

CONVERGENT = (15 / 8, -10 / 8, 3 / 8)
HOW = ("frobenius", "spectral", "schatten", "aol")


def matrix(*shape, dtype="float64", seed=0):
    """Return a random array."""
    return jnp.asarray(trees.normal(np.random.default_rng(seed), shape, dtype))


def updates_of(tx, gradients, params):
    """Return all updates on a list of gradients, with the parameters at rest."""
    state, results = tx.init(params), []
    for gradient in gradients:
        updates, state = tx.update(gradient, state, params)
        results.append(updates)
    return results


@pytest.mark.parametrize("how", ["frobenius", "spectral", "schatten"])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("shape", [(7, 4), (4, 7), pytest.param((5, 5), marks=pytest.mark.slow)])
def test_convergent_coefficients_give_the_polar_factor(shape, dtype, how, x64):
    x = matrix(*shape, dtype=dtype)
    u, _, vh = np.linalg.svd(np.asarray(x), full_matrices=False)
    got = gc.orthogonalize_via_newton_schulz(x, CONVERGENT, 40, how)
    np.testing.assert_allclose(got, u @ vh, atol=1e-13)
    np.testing.assert_allclose(gc.orthogonalize_via_newton_schulz(got, CONVERGENT, 40, how), got, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("rows", [oracles.STANDARD, oracles.QUINTIC])
@pytest.mark.parametrize("shape", [(6, 3), (3, 6), (1, 4)])
def test_each_step_maps_the_singular_values_by_a_polynomial(shape, rows, how, x64):
    x = matrix(*shape, dtype="complex128")
    got = gc.orthogonalize_via_newton_schulz(x, rows, preconditioning=how)
    trees.assert_close(got, oracles.orthogonalized(np.asarray(x), rows, how), 1e-12)
    assert np.all(np.abs(np.linalg.svd(got, compute_uv=False) - 1) < 0.6)


@pytest.mark.slow
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("shape", [(6, 3), *(pytest.param(s, marks=pytest.mark.slow) for s in [(3, 6), (4, 2, 3)])])
def test_agrees_with_optax(shape, how, x64):
    x, axes = matrix(*shape), (1, 2) if len(shape) == 3 else (0, 1)
    theirs = optax.contrib._muon.orthogonalize_via_newton_schulz(
        x,
        jnp.asarray(oracles.STANDARD[0]),
        preconditioning=how,
        dimension_numbers=optax.contrib.MuonDimensionNumbers(*axes),
    )
    dims = gc.MuonDimensionNumbers(*axes)
    ours = gc.orthogonalize_via_newton_schulz(x, oracles.STANDARD[0], preconditioning=how, dimension_numbers=dims)
    trees.assert_close(ours, theirs, 1e-12)


@pytest.mark.parametrize("how", HOW)
def test_the_scale_of_a_matrix_has_no_influence(how):
    x = matrix(3, 5, dtype="float32")
    expected = gc.orthogonalize_via_newton_schulz(x, CONVERGENT, 8, how, 0.0)
    for size in (2.0**-30, 2.0**30):
        trees.assert_close(gc.orthogonalize_via_newton_schulz(size * x, CONVERGENT, 8, how, 0.0), expected, 1e-6)
        assert np.all(gc.orthogonalize_via_newton_schulz(0 * x, CONVERGENT, 8, how, 0.0) == 0)


def test_a_small_matrix_is_orthogonalized_here_and_lost_there():
    x, arguments = 1e-6 * jnp.eye(3), {"ns_steps": 5, "preconditioning": "schatten"}
    ours = gc.orthogonalize_via_newton_schulz(x, CONVERGENT, **arguments)
    theirs = optax.contrib._muon.orthogonalize_via_newton_schulz(x, jnp.asarray(CONVERGENT), **arguments)
    assert ours[0, 0] > 0.99
    assert theirs[0, 0] < 0.5


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 0, 3, 1)])
def test_batches_equal_single_matrices(order):
    x = matrix(2, 3, 4, 5, dtype="float32")
    turned = x.transpose(order)
    dims = gc.MuonDimensionNumbers(order.index(2), [order.index(3)])
    got = gc.orthogonalize_via_newton_schulz(turned, CONVERGENT, dimension_numbers=dims).transpose(np.argsort(order))
    for i in np.ndindex(2, 3):
        trees.assert_close(got[i], gc.orthogonalize_via_newton_schulz(x[i], CONVERGENT), 1e-6)


def test_several_axes_are_one():
    x = matrix(4, 2, 3, dtype="float32")
    got = gc.orthogonalize_via_newton_schulz(x, CONVERGENT, dimension_numbers=gc.MuonDimensionNumbers(0, (1, 2)))
    flat = gc.orthogonalize_via_newton_schulz(x.reshape(4, 6), CONVERGENT)
    trees.assert_close(got.reshape(4, 6), flat, 0)


@pytest.mark.slow
@pytest.mark.parametrize("adaptive", [False, True])
def test_layers_of_muon_are_batches_of_matrices_and_matrices_by_themselves(adaptive):
    x = matrix(3, 4, 5, dtype="float32")
    rule = gc.scale_by_muon(adaptive=adaptive)
    stacked = gc.scale_by_muon(adaptive=adaptive, weight_dimension_numbers=gc.MuonDimensionNumbers(1, 2))
    apart = jnp.stack([updates_of(rule, [layer], layer)[0] for layer in x])
    trees.assert_close(updates_of(stacked, [x], x)[0], apart, 2e-6)
    trees.assert_close(updates_of(gc.per_layer(rule, 0), [x], x)[0], apart, 2e-6)
    theirs = optax.contrib.scale_by_muon(
        adaptive=adaptive, weight_dimension_numbers=optax.contrib.MuonDimensionNumbers(1, 2)
    )
    alike = trees.relative_error(updates_of(theirs, [x], x)[0], apart) < 1e-5
    assert alike != adaptive  # optax adds up the dual norms of the batch


def test_fewer_steps_than_rows_of_coefficients_take_the_first_and_are_refused_there():
    x = matrix(3, 4, dtype="float32")
    by_name, first = gc.scale_by_muon("quintic", 2), gc.scale_by_muon(np.asarray(oracles.QUINTIC[:2]))
    trees.assert_close(updates_of(by_name, [x], x), updates_of(first, [x], x), 0)
    with pytest.raises(ValueError, match="Not enough coeffs"):
        optax.contrib.scale_by_muon(oracles.QUINTIC, 2).init(x)


def attention(params):
    """Return dimension numbers of a projection with heads, and of a convolution; embeddings go to Adam."""
    return {"attention": gc.MuonDimensionNumbers(0, (1, 2)), "conv": gc.MuonDimensionNumbers((0, 1, 2), 3), "emb": None}


@pytest.mark.slow
@pytest.mark.parametrize("preconditioning", HOW)
def test_muon_routes_by_dimension_numbers_as_optax_does(preconditioning, x64):
    params = {"attention": matrix(4, 2, 3), "conv": matrix(2, 2, 3, 4), "emb": {"table": matrix(5, 2)}}
    gradients = [
        jax.tree.map(lambda x, k=k: x * np.cos(k + np.arange(x.size)).reshape(x.shape), params) for k in range(9)
    ]
    theirs = jax.tree.map(
        lambda dims: dims and optax.contrib.MuonDimensionNumbers(*dims[:2]),
        attention(params),
        is_leaf=lambda x: x is None or isinstance(x, gc.MuonDimensionNumbers),
    )
    there = optax.contrib.muon(0.1, preconditioning=preconditioning, muon_weight_dimension_numbers=theirs)
    expected = updates_of(there, gradients, params)
    for dims in (attention(params), attention):
        tx = gc.muon(0.1, preconditioning=preconditioning, muon_weight_dimension_numbers=dims)
        trees.assert_close(updates_of(tx, gradients, params), expected, 1e-10)
        assert tx.init(params).inner_states["muon"][0].mu["emb"]["table"] is None


def test_what_is_no_matrix_is_an_error():
    for shape, dims in (((3,), None), ((2, 2, 2), None), ((2, 2), (0, 0)), ((2, 2), (0, 2)), ((), (0, 1))):
        dims = dims and gc.MuonDimensionNumbers(*dims)
        with pytest.raises(ValueError, match=r"scale_by_muon: .*array of shape \(.*\)"):
            updates_of(gc.scale_by_muon(weight_dimension_numbers=dims), [jnp.ones(shape)], jnp.ones(shape))
    for wrong, error in ((jnp.ones((2, 4)), r"got \(2, 4\)"), ("fast", "must be one of 'standard', 'quintic'")):
        with pytest.raises(ValueError, match=f"scale_by_muon: ns_coeffs .*{error}"):
            gc.scale_by_muon(wrong)
    with pytest.raises(ValueError, match=r"coefficients must have shape \(3,\) or \(n, 3\), got \(2,\)"):
        gc.orthogonalize_via_newton_schulz(jnp.ones((2, 2)), (1.0, 2.0))
    with pytest.raises(ValueError, match="preconditioning must be one of 'frobenius'"):
        gc.orthogonalize_via_newton_schulz(jnp.ones((2, 2)), CONVERGENT, preconditioning="none")


GALORE = {"tall": (6, 3), "wide": (3, 6), "vector": (4,)}


def galore_stream(steps):
    """Return parameters and gradients for two matrices and a vector."""
    params = {name: matrix(*shape, dtype="float32") for name, shape in GALORE.items()}
    stream = {name: matrix(steps, *shape, dtype="float32", seed=1) for name, shape in GALORE.items()}
    return params, [trees.at(stream, k) for k in range(steps)]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [{"rank": 2, "scale": 0.5}])
def test_galore_agrees_with_optax_between_two_projections(arguments):
    params, gradients = galore_stream(100)
    ours = updates_of(gc.galore(0.1, weight_decay=0.1, **arguments), gradients, params)
    theirs = updates_of(optax.contrib.galore(0.1, weight_decay=0.1, **arguments), gradients, params)
    trees.assert_close(ours, theirs, 3e-5)


def test_galore_keeps_few_numbers():
    params, _ = galore_stream(1)
    state = gc.scale_by_galore(2).init(params)
    shapes = jax.tree.map(jnp.shape, state.projector), jax.tree.map(jnp.shape, state.base_optimizer_state.mu)
    assert shapes[0] == {"tall": (6, 2), "wide": (6, 2), "vector": None}
    assert shapes[1] == {"tall": (2, 3), "wide": (3, 2), "vector": (4,)}


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_momentum_outlives_a_new_projection_whatever_the_sign_of_its_vectors(sign, monkeypatch):
    svd, calls = jnp.linalg.svd, []

    def turning(x, **kwargs):
        calls.append(x)
        u, s, vh = svd(x, **kwargs)
        turned = sign if len(calls) > 1 else 1.0
        return turned * u, s, turned * vh

    monkeypatch.setattr(jnp.linalg, "svd", turning)
    gradient = jnp.outer(jnp.arange(1.0, 4.0), jnp.ones(2))
    with jax.disable_jit():
        arguments = {"rank": 1, "update_proj_gap": 1}
        ours = updates_of(gc.scale_by_galore(base_optimizer=gc.trace(0.9), **arguments), [gradient] * 2, gradient)
        calls.clear()
        base = optax.trace(0.9)
        theirs = updates_of(optax.contrib.scale_by_galore(base_optimizer=base, **arguments), [gradient] * 2, gradient)
    trees.assert_close(ours[1], 1.9 * gradient, 1e-5)
    trees.assert_close(theirs[1], (1 + sign * 0.9) * gradient, 1e-5)


def test_galore_of_batches_and_of_several_axes():
    x = matrix(3, 6, 4, dtype="float32")
    rule = gc.scale_by_galore(2, base_optimizer=gc.trace(0.9))
    apart = jnp.stack([updates_of(rule, [layer], layer)[0] for layer in x])
    dims = gc.GaLoreDimensionNumbers(1, 2)
    for given in (dims, {"w": dims, "b": None}, lambda params: {"w": dims, "b": None}):
        tx = gc.scale_by_galore(2, base_optimizer=gc.trace(0.9), weight_dimension_numbers=given)
        params = {"w": x, "b": jnp.ones(3)}
        (updates,) = updates_of(tx, [params], params)
        trees.assert_close(updates["w"], apart, 1e-5)
        trees.assert_close(updates["b"], params["b"], 0)
        assert tx.init(params).projector["b"] is None


def test_galores_arguments():
    with pytest.raises(TypeError, match=r"scale_by_galore: rank must be a whole number, got 2\.0"):
        gc.scale_by_galore(2.0)
    with pytest.raises(ValueError, match="scale_by_galore: rank must be at least 1, got 0"):
        gc.scale_by_galore(0)
    params, gradients = galore_stream(1)
    with pytest.raises(ValueError, match="needs params"):
        updates_of(gc.scale_by_galore(base_optimizer=gc.adamw(0.1)), gradients, params)
    tx = gc.scale_by_galore()
    with pytest.raises(ValueError, match="scale_by_galore: updates and the projector differ in structure"):
        tx.update({"other": jnp.ones((2, 2))}, tx.init(params))

"""Muon's relatives beyond their rows: matrices of all shapes, blocks and stacks, and gradients that are degenerate."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from gradchain import matrices
from gradchain.matrices.orthogonal import PRESETS
from tests import oracles, quick, trees

STEPS = 30
ARRAYS = {
    "tall": (7, 3),
    "wide": (3, 7),
    "square": (4, 4),
    "layers": (2, 5, 3),
    "conv": (2, 2, 3, 4),
    "queries": (6, 2, 3),  # features, heads, size
    "output": (2, 3, 6),  # heads, size, features
    "fused": (4, 10),  # queries, keys and values, of which the queries are wider
    "experts": (2, 4, 6),  # gate and up, for each expert
}
DIMS = {
    "tall": None,
    "wide": None,
    "square": None,
    "layers": gc.MuonDimensionNumbers(1, 2),
    "conv": gc.MuonDimensionNumbers((0, 1, 2), 3),
    "queries": gc.MuonDimensionNumbers(0, 2),
    "output": gc.MuonDimensionNumbers(1, 2),
    "fused": gc.MuonDimensionNumbers(output_blocks=(6, 2, 2)),
    "experts": gc.MuonDimensionNumbers(1, 2, output_blocks=2),
}


def dims_of(names):
    return {name: DIMS[name] or gc.MuonDimensionNumbers() for name in names}


def apart(tree):
    """Return each matrix of the arrays as an array of its own."""
    cut = {
        "layers": lambda x: [*x],
        "conv": lambda x: [x.reshape(12, 4)],
        "queries": lambda x: [x[:, head] for head in range(2)],
        "output": lambda x: [*x],
        "fused": lambda x: [x[:, :6], x[:, 6:8], x[:, 8:]],
        "experts": lambda x: [part for one in x for part in (one[:, :3], one[:, 3:])],
    }
    pieces = {name: cut.get(name, lambda x: [x])(np.asarray(x)) for name, x in tree.items()}
    return {f"{name}/{i}": piece for name, found in pieces.items() for i, piece in enumerate(found)}


def shaped(rule, scale="spectral"):
    """Return a rule, and then the scale of shapes, on all arrays."""
    dims = dims_of(ARRAYS)
    return gc.chain(rule(weight_dimension_numbers=dims), gc.scale_by_shape(dims, scale=scale))


SPECTRAL = oracles.by_shape(spectral=True)
RULES = {
    "muon": (functools.partial(gc.scale_by_muon, momentum="average"), oracles.muon(form="average")),
    "longer": (gc.scale_by_normuon, oracles.normuon()),
    "outputs": (
        functools.partial(gc.scale_by_normuon, "outputs", momentum="average", nesterov=False),
        oracles.normuon("outputs", form="average", nesterov=False),
    ),
    "elements": (
        functools.partial(gc.scale_by_normuon, "elements", norm="exact"),
        oracles.normuon("elements", exact=True),
    ),
    "all": (functools.partial(gc.scale_by_normuon, "all"), oracles.normuon("all")),
    "metric": (gc.orthogonalize_in_metric, oracles.in_metric()),
    "dion2": (functools.partial(gc.scale_by_dion2, 0.4), oracles.dion2(0.4)),
    "nordion2": (functools.partial(gc.scale_by_dion2, 0.4, moment_decay=0.9), oracles.dion2(0.4, b2=0.9)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n == "longer" else [pytest.mark.slow]) for n in RULES])
def test_each_matrix_has_the_updates_that_it_has_alone(name, x64):
    rule, oracle = RULES[name]
    rng = np.random.default_rng(0)
    grads = {key: rng.standard_normal((STEPS, *shape)) for key, shape in ARRAYS.items()}
    tx, alone = shaped(rule), oracles.chain(oracle, SPECTRAL)
    params = {key: jnp.zeros(shape) for key, shape in ARRAYS.items()}
    run = quick.jit(lambda grads: jax.lax.scan(lambda s, g: tx.update(g, s)[::-1], tx.init(params), grads)[1])
    updates = run(grads)
    zeros = apart(params)
    state = alone.init(zeros)
    for k in range(STEPS):
        expected, state = alone.update(apart(trees.at(grads, k)), state, zeros)
        trees.assert_close(apart(trees.at(updates, k)), expected, 1e-10)


ODD = {"zero": (4, 3), "one": (4, 3), "huge": (3, 5), "tiny": (3, 5), "empty": (0, 3), "none": (2, 0)}


def odd(dtype):
    """Return gradients that are zero, of rank one, huge, tiny and without elements."""
    rng = np.random.default_rng(0)
    found = {name: trees.normal(rng, shape, np.result_type(dtype, "float32")) for name, shape in ODD.items()}
    found["one"] = found["one"][:, :1] * found["one"][:1]
    sizes = {"zero": 0.0, "huge": 1e30, "tiny": 1e-30}
    return {name: jnp.asarray(x * sizes.get(name, 1.0)).astype(dtype) for name, x in found.items()}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n == "nordion2" else [pytest.mark.slow]) for n in RULES])
@pytest.mark.parametrize("dtype", ["float32", pytest.param("complex64", marks=pytest.mark.slow)])
def test_degenerate_gradients_give_finite_updates(name, dtype):
    tx, gradient = RULES[name][0](), odd(dtype)
    state = tx.init(gradient)
    update = quick.jit(tx.update)
    for _ in range(3):
        updates, state = update(gradient, state)
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((updates, state)))
    np.testing.assert_array_equal(updates["zero"], np.zeros((4, 3)))
    assert np.linalg.norm(updates["huge"]) > 0.5


def test_sets_of_coefficients_bring_singular_values_near_to_one(x64):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((6, 9)))
    u, _, vh = np.linalg.svd(x, full_matrices=False)
    within = {"polar_express": 1e-6, "converging": 1e-6, "deepseekv4": 0.02, "cubic": 0.8}
    for name, chosen in PRESETS.items():
        got = matrices.orthogonalize(x, name)
        assert np.max(np.abs(np.linalg.svd(got, compute_uv=False) - 1)) < within.get(name, 0.35), name
        exact = oracles.orthogonalized(np.asarray(x), chosen.rows, "aol" if name == "aol" else "frobenius", 1e-8)
        trees.assert_close(got, exact, 1e-12)
    trees.assert_close(matrices.orthogonalize(x, "polar_express", 12), u @ vh, 1e-12)
    for name, rows in (("polar_express", (-1, -1)), ("quintic", (-1,))):  # further steps repeat the last row
        longer = (*PRESETS[name].rows, *(PRESETS[name].rows[i] for i in rows))
        trees.assert_close(matrices.orthogonalize(x, name, len(longer)), matrices.orthogonalize(x, longer), 1e-14)


SUMS = {
    "standard": (5, 51.2550),
    "quintic": (5, 52.7488),
    "polar_express": (8, 83.1423),
    "polar_express_5": (5, 68.685037),
    "cans": (5, 78.1521),
    "aol": (4, 39.6985),
    "converging": (12, 48.0),
    "deepseekv4": (10, 90.008),
    "cubic": (5, 10.0),
}
"""How many rows a set has, and the sum of the magnitudes of its coefficients, as the sources print them."""


def test_no_digit_of_a_set_has_changed():
    found = {name: (len(rows), pytest.approx(np.sum(np.abs(rows)), abs=1e-6)) for name, (rows, _) in PRESETS.items()}
    assert found == SUMS


def test_polar_express_for_five_steps_divides_by_two_per_cent_more():
    rows = PRESETS["polar_express_5"].rows
    value = functools.reduce(lambda s, row: row[0] * s + row[1] * s**3 + row[2] * s**5, rows, 1.0)
    assert 0.8 < value < 1.2
    assert rows[0] == pytest.approx((8.156554524902461 / 1.02, -22.48329292557795 / 1.02**3, 15.8787699152 / 1.02**5))


def test_momenta_differ_but_for_the_first_update(x64):
    rng = np.random.default_rng(0)
    grads = [jnp.asarray(rng.standard_normal((3, 5))) for _ in range(4)]

    def updates(momentum, **options):
        tx = gc.scale_by_muon(momentum=momentum, eps=0.0, **options)
        state, found = tx.init(grads[0]), []
        for g in grads:
            u, state = tx.update(g, state)
            found.append(u)
        return found

    debiased, average, total = map(updates, ("debiased", "average", "sum"))
    trees.assert_close(total, average, 1e-12)
    trees.assert_close(debiased[0], average[0], 1e-12)
    assert 1e-3 < trees.relative_error(debiased[3], average[3]) < 0.3
    trees.assert_close(updates("debiased", nesterov=False), updates("sum", nesterov=False), 1e-12)
    with pytest.raises(ValueError, match="scale_by_muon: momentum must be one of 'debiased', 'average', 'sum', got"):
        gc.scale_by_muon(momentum="lerp")


def test_momentum_apart_from_the_iteration_is_muon(x64):
    gradient = {"w": jnp.asarray(np.random.default_rng(0).standard_normal((4, 6)))}
    dims = gc.MuonDimensionNumbers(output_blocks=2)
    apart = gc.chain(gc.trace(0.9, nesterov=True), gc.orthogonalize_updates("cans", weight_dimension_numbers=dims))
    muon = gc.scale_by_muon("cans", beta=0.9, momentum="sum", weight_dimension_numbers=dims)
    trees.assert_close(
        apart.update(gradient, apart.init(gradient))[0], muon.update(gradient, muon.init(gradient))[0], 1e-14
    )


def test_scales_for_shapes():
    x = {"wide": jnp.ones((2, 8)), "tall": jnp.ones((8, 2))}

    def scales(*args, **kwargs):
        updates, _ = gc.scale_by_shape(*args, **kwargs).update(x, gc.scale_by_shape(*args, **kwargs).init(x))
        return float(updates["wide"][0, 0]), float(updates["tall"][0, 0])

    assert scales() == scales(scale="original") == (2, 1)
    assert scales(scale="spectral") == (2, 0.5)
    assert scales(scale="none") == (1, 1)
    assert scales(None, 0.5) == pytest.approx((0.5 * 8**0.5,) * 2)
    blocks = gc.MuonDimensionNumbers(output_blocks=(6, 2))
    tx = gc.scale_by_shape(blocks, scale="spectral")
    cut, _ = tx.update(x["wide"], tx.init(x["wide"]))
    np.testing.assert_allclose(cut[0], [3**0.5] * 6 + [1.0] * 2, rtol=1e-6)
    with pytest.raises(ValueError, match="scale_by_shape: scale must be one of 'original', 'spectral', 'none', got"):
        gc.scale_by_shape(scale="rms")


def test_second_moments_are_few_numbers():
    params = {"w": jnp.ones((3, 8, 4)), "fused": jnp.ones((4, 12))}
    dims = {"w": gc.MuonDimensionNumbers(1, 2), "fused": gc.MuonDimensionNumbers(output_blocks=3)}

    def shapes(axis):
        nu = gc.scale_by_normuon(axis, weight_dimension_numbers=dims).init(params).nu
        return [x.shape for name in ("w", "fused") for x in nu[name]]

    assert shapes("longer") == [(3, 8, 1), (3, 1, 4)]
    assert shapes("outputs") == [(3, 1, 4), (3, 1, 4)]
    assert shapes("elements") == [(3, 8, 4), (3, 4, 4)]
    assert shapes("all") == [(3, 1, 1), (3, 1, 1)]
    assert shapes(None) == []
    muon = gc.scale_by_muon("polar_express_5", weight_dimension_numbers=dims)
    plain = gc.scale_by_normuon(None, weight_dimension_numbers=dims)
    trees.assert_close(plain.update(params, plain.init(params))[0], muon.update(params, muon.init(params))[0], 0)


@pytest.mark.parametrize("norm", ["spectral", "sign", "outputs", "inputs"])
def test_balls_of_matrices(norm, x64):
    g = {name: np.random.default_rng(1).standard_normal(shape) for name, shape in ARRAYS.items()}
    tx = gc.scale_by_lmo(norm, 2.0, weight_dimension_numbers=dims_of(ARRAYS))
    got, _ = quick.jit(tx.update)(g, tx.init(g))
    expected = {name: 2 * oracles.furthest(norm, x) for name, x in apart(g).items()}
    trees.assert_close(apart(got), expected, 1e-12)


def test_each_array_has_the_norm_that_goes_with_its_axes(x64):
    rng = np.random.default_rng(1)
    shapes = {"dense": (4, 6), "conv": (3, 2, 4, 6), "line": (3, 4, 6), "bias": (6,), "gain": (), "stack": (2, 4, 6)}
    g = {name: jnp.asarray(rng.standard_normal(shape)) for name, shape in shapes.items()}
    dims = dict.fromkeys(shapes) | {"stack": gc.MuonDimensionNumbers(1, 2)}
    tx = gc.scale_by_lmo(weight_dimension_numbers=dims)
    got, _ = quick.jit(tx.update)(g, tx.init(g))
    kinds = {"dense": "spectral", "conv": "conv", "line": "conv", "bias": "rms", "gain": "rms"}
    expected = {name: oracles.furthest(kind, np.asarray(g[name])) for name, kind in kinds.items()}
    expected["stack"] = np.stack([oracles.furthest("spectral", np.asarray(x)) for x in g["stack"]])
    trees.assert_close(got, expected, 1e-12)


def test_balls_that_dont_fit_an_array_are_errors():
    with pytest.raises(ValueError, match=r"scale_by_lmo: norm must be one of 'auto', .*, got 'nuclear'"):
        gc.scale_by_lmo("nuclear")
    for norm, shape, error in (
        ("conv", (2, 3), r"scale_by_lmo: norm='conv' is for kernels .*, got \(2, 3\); use"),
        ("sign", (3,), r"an array of shape \(3,\) is not a matrix; it needs MuonDimensionNumbers"),
    ):
        tx = gc.scale_by_lmo(norm)
        with pytest.raises(ValueError, match=error):
            tx.update(jnp.ones(shape), tx.init(jnp.ones(shape)))
    with pytest.raises(ValueError, match=r"scale_by_lmo: \['w'\]: .*axes must exist"):
        gc.scale_by_lmo(weight_dimension_numbers=gc.MuonDimensionNumbers(0, 2)).init({"w": jnp.ones((2, 3))})


def norms(params):
    """Return the norms that scion bounds, relative to its default radii."""
    return {
        "embed": 64 * jnp.max(jnp.abs(params["embed"])) / 3000,
        "hidden": (4 / 8) ** -0.5 * jnp.linalg.norm(params["hidden"], 2) / 50,
        "conv": 9 * (6 / 4) ** -0.5 * jnp.linalg.norm(params["conv"].reshape(-1, 6), 2) / 50,
        "bias": jnp.sqrt(jnp.mean(params["bias"] ** 2)),
    }


@pytest.mark.slow
def test_scion_starts_and_stays_in_its_balls():
    rng = np.random.default_rng(0)
    shapes = {"embed": (64, 8), "hidden": (8, 4), "conv": (3, 3, 4, 6), "bias": (4,)}
    params = {name: jnp.asarray(rng.standard_normal(shape), "float32") for name, shape in shapes.items()}
    params["bias"] *= 0.1
    start = gc.scion_init(params)
    trees.assert_close(norms(start), norms(params) | dict.fromkeys(("embed", "hidden", "conv"), 1.0), 1e-4)
    trees.assert_close(start["bias"], params["bias"], 0)
    assert norms(gc.scion_init(params | {"bias": jnp.full(4, 7.0)}))["bias"] == pytest.approx(1.0)
    tx = gc.scion(0.1, ns_coeffs="polar_express")
    grads = {name: jnp.asarray(rng.standard_normal((20, *shape)), "float32") for name, shape in shapes.items()}

    def step(carry, g):
        updates, state = tx.update(g, carry[1], carry[0])
        params = gc.apply_updates(carry[0], updates)
        return (params, state), norms(params)

    (end, _), seen = quick.jit(lambda grads: jax.lax.scan(step, (start, tx.init(start)), grads))(grads)
    assert all(np.max(x) < 1 + 1e-3 for x in seen.values())
    assert all(np.all(end[name] != x) for name, x in start.items() if name != "embed")
    assert np.mean(np.sign(end["embed"]) == np.sign(start["embed"])) < 0.9


@pytest.mark.slow
def test_dion2_moves_a_fraction_and_keeps_the_rest():
    g = jnp.asarray([[1.0, -5.0, 2.0, 0.5], [1.0, 1.0, -3.0, 0.0], [0.0, 2.0, 0.0, 0.5], [1.0, 0.0, 0.0, 0.0]])
    tx = gc.scale_by_dion2(0.5, 0.25)
    updates, state = tx.update(g, tx.init(g))
    np.testing.assert_array_equal(np.any(updates != 0, axis=0), [False, True, True, False])
    np.testing.assert_array_equal(state.mu, np.asarray(g) * np.array([1, 0.25, 0.25, 1]))
    wide = gc.scale_by_dion2(0.5)
    np.testing.assert_array_equal(np.any(wide.update(g[:2], wide.init(g[:2]))[0] != 0, axis=1), [True, False])
    for wrong in (0.0, 1.5):
        with pytest.raises(ValueError, match=rf"scale_by_dion2: fraction must be in \(0, 1\], got {wrong}"):
            gc.scale_by_dion2(wrong)
    with pytest.raises(TypeError, match="dion2: fraction must be a number, got 'half'"):
        gc.dion2(0.1, "half")


def test_matrices_by_name_go_to_the_matrix_rule_and_others_to_adam():
    params = {"embed": jnp.ones((9, 4)), "dense": {"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)}}
    for name, tx in (("normuon", gc.normuon(0.1)), ("dion2", gc.dion2(0.1))):
        state = tx.init(params)
        assert state.inner_states[name][0].mu["dense"]["kernel"] is not None
        assert state.inner_states[name][0].mu["embed"] is None
        assert state.inner_states["adam"][0].mu["embed"] is not None
    by_dims = gc.normuon(0.1, weight_dimension_numbers=lambda p: jax.tree.map(lambda x: x.ndim == 2 or None, p))
    with pytest.raises(TypeError, match=r"weight_dimension_numbers's result must be MuonDim.*, got True"):
        by_dims.init(params)

"""PSGD-Kron: against its oracle and another implementation, with the noise that these draw."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc
from gradchain.transforms import kron
from tests import oracles, references, trees

SHAPES = {"square": (4, 4), "tall": (6, 3), "wide": (2, 5), "vector": (3,), "conv": (2, 2, 3, 2), "cube": (3, 2, 4)}


@pytest.fixture
def with_noise(monkeypatch):
    """Make rules take given random arrays, told apart by their shapes, in the place of those that they would draw."""

    def use(noise):
        by_shape = {v.shape: jnp.asarray(v) for v in noise.values()}
        monkeypatch.setattr(kron, "probe", lambda key, x: by_shape[x.shape])

    return use


def updates_of(tx, gradients, noise, use):
    """Return the updates of a transform, eagerly, so that each step can have its own noise."""
    state, updates = tx.init(gradients[0]), []
    for g, v in zip(gradients, noise, strict=True):
        use(v)
        u, state = tx.update(g, state, g)
        updates.append(u)
    return updates


def arrays(steps, shapes=SHAPES, dtype="float64", seed=0):
    rng = np.random.default_rng(seed)
    return [{name: trees.normal(rng, shape, np.dtype(dtype)) for name, shape in shapes.items()} for _ in range(steps)]


def on_all_axes(**options):
    return gc.scale_by_kron(
        **{"update_probability": 1.0, "balance_probability": 0.0, "weight_dimension_numbers": "axes"} | options
    )


def check(tx, use, steps=30, shapes=SHAPES, dtype="float64", **options):
    """Assert that a transform's updates are those of its oracle."""
    gradients, noise = arrays(steps, shapes, dtype), arrays(steps, shapes, dtype, seed=1)
    ours = updates_of(tx, gradients, noise, use)
    oracle, theirs = oracles.kron(noise, **options), []
    state = oracle.init(gradients[0])
    for g in gradients:
        u, state = oracle.update(g, state, g)
        theirs.append(u)
    trees.assert_close(ours, theirs, 1e-10)


@pytest.mark.slow
def test_it_is_its_oracle(with_noise, x64):
    check(on_all_axes(), with_noise, steps=3, shapes={"tall": (6, 3), "vector": (3,)})


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_it_is_its_oracle_on_arrays_of_every_order(dtype, with_noise, x64):
    check(on_all_axes(), with_noise, dtype=dtype)


@pytest.mark.slow
def test_diagonal_factors_are_the_oracles(with_noise, x64):
    tx, shapes = on_all_axes(memory_save_mode="one_diagonal"), {"wide": (2, 5), "cube": (3, 2, 4)}
    check(tx, with_noise, shapes=shapes, diagonal=lambda shape: [n == max(shape) for n in shape])


def steps_of_the_reference(problem, steps):
    start, gradients, _ = references.problem(problem)
    noise = references.noise("kron/pytorch_optimizer", problem)
    return start, *([jax.tree.map(lambda x, k=k: x[k], tree) for k in range(steps)] for tree in (gradients, noise))


@pytest.mark.slow
@pytest.mark.parametrize("problem", ["lstsq", "mlp", "conv", "square"])
def test_pytorch_optimizers_kron(problem, with_noise, x64):
    """With the noise that it drew; matrices and kernels decay, vectors don't."""
    tx = gc.chain(
        on_all_axes(preconditioner_rate=0.1),
        gc.add_decayed_weights(0.1, mask=lambda params: jax.tree.map(lambda w: w.ndim > 1, params)),
        gc.scale_by_learning_rate(0.01),
    )
    start, gradients, noise = steps_of_the_reference(problem, 30)
    params, state = start, tx.init(start)
    for g, v in zip(gradients, noise, strict=True):
        with_noise(v)
        updates, state = tx.update(g, state, params)
        params = gc.apply_updates(params, updates)
    end = references.recorded()["references"]["kron/pytorch_optimizer"]["params"][problem]
    moved = max(np.max(np.abs(np.array(end[name]) - start[name])) for name in end)
    missed = max(np.max(np.abs(np.asarray(params[name]) - np.array(end[name]))) for name in end)
    assert missed <= references.tolerance("kron/pytorch_optimizer", problem) * moved


@pytest.mark.slow
def test_a_batch_of_matrices_is_each_of_them(with_noise, x64):
    stacked = [{"layers": x["layers"]} for x in arrays(2, {"layers": (3, 2, 4)})]
    noise = arrays(2, {"layers": (3, 2, 4)}, seed=1)
    together = updates_of(
        on_all_axes(weight_dimension_numbers=gc.MuonDimensionNumbers(1, 2)), stacked, noise, with_noise
    )
    for i in range(3):
        one = [{"layers": x["layers"][i]} for x in stacked]
        own = [{"layers": x["layers"][i]} for x in noise]
        alone = updates_of(on_all_axes(), one, own, with_noise)
        trees.assert_close([u["layers"][i] for u in together], [u["layers"] for u in alone], 1e-13)


@pytest.mark.parametrize(
    ("options", "shapes"),
    [
        ({}, [(3, 3), (4, 4)]),
        ({"max_size_triangular": 3}, [(3, 3), (4,)]),
        ({"min_ndim_triangular": 3}, [(3,), (4,)]),
        ({"memory_save_mode": "one_diagonal"}, [(3, 3), (4,)]),
        ({"memory_save_mode": "smart_one_diagonal"}, [(3, 3), (4,)]),
        ({"memory_save_mode": "all_diagonal"}, [(3,), (4,)]),
    ],
)
def test_which_factors_are_diagonal(options, shapes):
    tx = gc.scale_by_kron(**options)
    assert [q.shape for q in jax.eval_shape(tx.init, jnp.zeros((3, 4))).factors[0]] == shapes


def test_the_smart_mode_keeps_both_factors_of_a_square_matrix_and_axes_of_length_one_have_none():
    smart = gc.scale_by_kron(memory_save_mode="smart_one_diagonal")
    assert [q.shape for q in smart.init(jnp.zeros((3, 3))).factors[0]] == [(3, 3), (3, 3)]
    assert [q.shape for q in gc.scale_by_kron().init(jnp.zeros((3, 1))).factors[0]] == [(3, 3), (1,)]
    assert [q.shape for q in gc.scale_by_kron().init(jnp.zeros(())).factors[0]] == [(1,)]


@functools.cache
def long_run(probability, balance=0.0):
    """Return the factors and the updates of 200 steps on noise of two sizes."""
    tx = gc.scale_by_kron(update_probability=probability, balance_probability=balance, init_scale=4.0)
    sizes = jnp.array([[10.0], [0.1], [1.0]])

    def step(state, key):
        u, state = tx.update(sizes * jax.random.normal(key, (3, 2)), state)
        return state, (u, state.factors)

    return jax.jit(lambda: jax.lax.scan(step, tx.init(jnp.zeros((3, 2))), jax.random.split(jax.random.key(0), 200)))()[
        1
    ]


def changes(factors):
    return np.any(np.diff(np.asarray(factors[0][0]), axis=0) != 0, axis=(1, 2))


def test_factors_are_updated_as_often_as_the_probability_says():
    assert np.all(changes(long_run(1.0)[1]))
    assert 0.2 < np.mean(changes(long_run(0.3)[1])) < 0.4
    schedule = gc.scale_by_kron().update_probability
    np.testing.assert_allclose([schedule(0), schedule(500), schedule(1500), schedule(10_000)], [1, 1, np.exp(-1), 0.03])


def test_factors_whiten_gradients_of_unequal_rows():
    updates, factors = long_run(1.0)
    rows = np.sqrt(np.mean(np.square(updates[-100:]), axis=(0, 2)))
    assert np.max(rows) < 3 * np.min(rows)
    np.testing.assert_array_equal(np.tril(factors[0][0], -1), 0)


def test_balancing_makes_factors_equal_and_keeps_their_product():
    old = [jnp.array([[8.0, 1.0], [0.0, 2.0]]), jnp.array([0.5, 0.25])]
    new = [q * scale for q, scale in zip(old, kron.evening(old), strict=True)]
    np.testing.assert_allclose([jnp.max(q) for q in new], 2)
    np.testing.assert_allclose(jnp.kron(new[0], new[1][:, None]), jnp.kron(old[0], old[1][:, None]))
    largest = [np.max(np.abs(q), axis=(1, 2)) for q in long_run(1.0, 1.0)[1][0]]
    assert np.max(np.abs(np.log(largest[0] / largest[1]))) < 1
    unbalanced = [np.max(np.abs(q), axis=(1, 2)) for q in long_run(1.0)[1][0]]
    assert np.max(np.abs(np.log(unbalanced[0] / unbalanced[1]))) > 1


def test_an_array_of_three_axes_needs_to_be_told_apart():
    with pytest.raises(ValueError, match=r"\['w'\]: an array of shape \(2, 3, 4\).*MuonDimensionNumbers, or 'axes'"):
        gc.scale_by_kron().init({"w": jnp.zeros((2, 3, 4))})

"""Projections by what makes them so: feasible, nearest, idempotent, with the right Jacobian; and at extremes."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads
from optax import projections as theirs

from gradchain import projections

RNG = np.random.default_rng(0)
TREE = {"a": RNG.normal(size=(2, 3)), "b": (RNG.normal(size=4), np.float64(0.7))}
NORMAL = {"a": RNG.normal(size=(2, 3)), "b": (RNG.normal(size=4), np.float64(-0.4))}
LOW = jax.tree.map(lambda x: np.full_like(x, -0.3), TREE)
HIGH = jax.tree.map(lambda x: np.abs(x) / 2, NORMAL)


def flat(tree):
    return np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree)])


def unflat(vector):
    leaves, treedef = jax.tree.flatten(TREE)
    ends = np.cumsum([np.size(x) for x in leaves])[:-1]
    return treedef.unflatten([p.reshape(np.shape(x)) for p, x in zip(jnp.split(vector, ends), leaves, strict=True)])


A = flat(NORMAL)

# name: (arguments after the tree, by how much a point violates the constraint, a point of the set from any vector)
SETS = {
    "projection_non_negative": ((), lambda y: max(0, -y.min()), lambda z: np.abs(z)),
    "projection_box": (
        (LOW, HIGH), lambda y: max(0, (flat(LOW) - y).max(), (y - flat(HIGH)).max()),
        lambda z: np.clip(z, flat(LOW), flat(HIGH))),
    "projection_hypercube": ((0.6,), lambda y: max(0, -y.min(), y.max() - 0.6), lambda z: np.clip(z, 0, 0.6)),
    "projection_linf_ball": ((0.6,), lambda y: max(0, np.abs(y).max() - 0.6), lambda z: np.clip(z, -0.6, 0.6)),
    "projection_l2_ball": (
        (1.5,), lambda y: max(0, np.linalg.norm(y) - 1.5), lambda z: 1.5 * z / max(1.5, np.linalg.norm(z))),
    "projection_l1_ball": (
        (1.5,), lambda y: max(0, np.abs(y).sum() - 1.5), lambda z: 1.5 * z / max(1.5, np.abs(z).sum())),
    "projection_simplex": (
        (1.5,), lambda y: max(-y.min(), abs(y.sum() - 1.5)), lambda z: 1.5 * np.abs(z) / np.abs(z).sum()),
    "projection_vector": ((NORMAL,), lambda y: np.abs(y - (y @ A) / (A @ A) * A).max(), lambda z: z[0] * A),
    "projection_hyperplane": ((NORMAL, 0.5), lambda y: abs(y @ A - 0.5), lambda z: z + (0.5 - z @ A) / (A @ A) * A),
    "projection_halfspace": (
        (NORMAL, 0.5), lambda y: max(0, y @ A - 0.5), lambda z: z + min(0, 0.5 - z @ A) / (A @ A) * A),
}  # fmt: skip
SPHERES = {
    "projection_l2_sphere": (2.0, lambda y: np.linalg.norm(y) - 2, lambda z: 2 * z / np.linalg.norm(z)),
    "projection_l1_sphere": (2.0, lambda y: np.abs(y).sum() - 2, lambda z: 2 * z / np.abs(z).sum()),
}
ARGUMENTS = {**{n: row[0] for n, row in SETS.items()}, **{n: (row[0],) for n, row in SPHERES.items()}}
each = pytest.mark.parametrize("name", ARGUMENTS)
sizes = pytest.mark.parametrize("size", [1e-3, 0.1, 1.0, 30.0])


def project(name, tree):
    return getattr(projections, name)(tree, *ARGUMENTS[name])


def points(size, count=10):
    return [unflat(size * v) for v in np.random.default_rng(1).normal(size=(count, 11))]


@pytest.mark.parametrize("name", SETS)
@sizes
def test_feasible_and_nearest(x64, name, size):
    """The nearest point y of a convex set is the one with (x - y, z - y) at most 0 for every z in the set."""
    _, violation, inside = SETS[name]
    for x in points(size):
        y = flat(project(name, x))
        assert violation(y) < 1e-12 * max(1, size)
        for z in np.random.default_rng(2).normal(size=(20, 11)):
            assert (flat(x) - y) @ (inside(z) - y) <= 1e-11 * max(1, size) ** 2


@pytest.mark.parametrize("name", SPHERES)
@sizes
def test_feasible_and_nearest_on_spheres(x64, name, size):
    """Spheres aren't convex: no other point is nearer, near by or far off."""
    _, violation, onto = SPHERES[name]
    for x in points(size):
        y = flat(project(name, x))
        assert abs(violation(y)) < 1e-12
        rng = np.random.default_rng(2)
        for step in (1e-3, 0.1, 10.0):
            others = np.stack([onto(y + step * v) for v in rng.normal(size=(20, 11))])
            nearest = np.min(np.linalg.norm(others - flat(x), axis=1))
            assert np.linalg.norm(y - flat(x)) <= nearest + 1e-12 * max(1, size)


@each
@sizes
def test_idempotent(x64, name, size):
    for x in points(size):
        once = flat(project(name, x))
        np.testing.assert_allclose(flat(project(name, unflat(once))), once, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["box", "l2_ball", "l1_ball", "linf_ball", "halfspace"])
def test_points_of_the_set_stay_bit_for_bit(name):
    x = jax.tree.map(lambda v: np.float32(0.02) * np.float32(v), TREE)
    x["b"] = (-x["b"][0], x["b"][1])
    arguments = (-1.0, 1.0) if name == "box" else ARGUMENTS[f"projection_{name}"]
    y = getattr(projections, f"projection_{name}")(x, *arguments)
    np.testing.assert_array_equal(flat(y), flat(x))


@pytest.mark.slow
@each
@pytest.mark.parametrize("size", [0.1, 1.0, 5.0])
def test_jacobian_is_that_of_finite_differences(x64, name, size):
    def function(vector):
        return jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(project(name, unflat(vector)))])

    for x in points(size, 3):
        v, step = flat(x), 1e-6
        expected = np.stack(
            [(function(v + step * e) - function(v - step * e)) / (2 * step) for e in np.eye(v.size)], axis=1
        )
        np.testing.assert_allclose(jax.jacrev(function)(v), expected, atol=1e-7)
        np.testing.assert_allclose(jax.jacfwd(function)(v), expected, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, arguments in ARGUMENTS.items() if arguments])
def test_jacobian_in_the_other_arguments(x64, name):
    def total(*arguments):
        projected = getattr(projections, name)(TREE, *arguments)
        return sum(jnp.sum(w * y) for w, y in zip(jax.tree.leaves(LOW), jax.tree.leaves(projected), strict=True))

    arguments = jax.tree.map(lambda x: jnp.asarray(x, float), ARGUMENTS[name])
    check_grads(total, arguments, order=1, modes=["fwd", "rev"], atol=1e-6, rtol=1e-6)


class TestAgainstOptax:
    @pytest.mark.slow
    @each
    @sizes
    def test_values_and_derivatives(self, x64, name, size):
        """Tree by tree; a bound of one number only for one array, which is what optax takes."""
        bare = name == "projection_hypercube"
        for x in points(size, 4):
            x = jnp.asarray(flat(x)) if bare else jax.tree.map(jnp.asarray, x)
            weights = jax.tree.map(jnp.cos, x)
            results = []
            for function in (getattr(projections, name), getattr(theirs, name)):
                y, pull = jax.vjp(lambda x, f=function: f(x, *ARGUMENTS[name]), x)
                results.append((flat(y), flat(pull(weights)[0])))
            np.testing.assert_allclose(*[r[0] for r in results], rtol=1e-10, atol=1e-12)
            np.testing.assert_allclose(*[r[1] for r in results], rtol=1e-9, atol=1e-10)

    def test_all_names_and_signatures(self):
        public = [n for n, x in vars(theirs).items() if inspect.isfunction(x)]
        assert sorted(public) == sorted(projections.__all__) == sorted(ARGUMENTS)
        for name in public:
            ours, other = (inspect.signature(getattr(lib, name)).parameters for lib in (projections, theirs))
            assert [(p.name, p.kind, p.default) for p in ours.values()] == [
                (p.name, p.kind, p.default) for p in other.values()
            ]


class TestWhereOptaxDiffers:
    """Each differs on purpose; the docstrings say so."""

    def test_l1_sphere_from_a_point_with_zeros(self):
        x = jnp.array([0.1, 0.0])
        np.testing.assert_allclose(projections.projection_l1_sphere(x), [0.55, 0.45], rtol=1e-6)
        assert np.abs(theirs.projection_l1_sphere(x)).sum() < 0.6

    def test_l2_sphere_from_its_centre(self):
        x = {"a": jnp.zeros(3), "b": jnp.zeros(())}
        y, pull = jax.vjp(projections.projection_l2_sphere, x)
        np.testing.assert_allclose(flat(y), 0.5)
        assert np.all(flat(pull(jax.tree.map(jnp.ones_like, x))[0]) == 0)
        assert np.all(np.isnan(flat(theirs.projection_l2_sphere(x))))

    @pytest.mark.parametrize("name", ["vector", "hyperplane", "halfspace"])
    def test_directions_of_zeros(self, name):
        name = f"projection_{name}"
        x, zero = jnp.array([1.0, -2.0]), jnp.zeros(2)
        rest = () if name == "projection_vector" else (1.0,)
        y, pull = jax.vjp(lambda x, a: getattr(projections, name)(x, a, *rest), x, zero)
        np.testing.assert_array_equal(y, zero if name == "projection_vector" else x)
        assert np.all(np.isfinite(pull(x)))
        if name != "projection_halfspace":
            assert np.all(np.isnan(getattr(theirs, name)(x, zero, *rest)))

    @pytest.mark.parametrize("name", ["l1_ball", "l1_sphere", "l2_ball", "l2_sphere", "linf_ball", "simplex"])
    @pytest.mark.parametrize("x", [[1.0, -2.0, 0.0], [0.0, 0.0, 0.0]])
    def test_radius_zero_is_the_point_zero(self, name, x):
        project = getattr(projections, f"projection_{name}")
        y, pull = jax.vjp(lambda x: project(x, 0.0), jnp.array(x))
        np.testing.assert_array_equal(y, np.zeros(3))
        assert np.all(np.isfinite(pull(jnp.ones(3))[0]))

    def test_complex_vectors_are_projected_to_the_nearest(self):
        x, a = jnp.array([1 + 2j, -1j]), jnp.array([2j, 1 - 1j])
        y = projections.projection_vector(x, a)
        np.testing.assert_allclose(jnp.vdot(a, x - y), 0, atol=1e-6)
        assert np.abs(jnp.vdot(a, x - theirs.projection_vector(x, a))) > 1

    def test_one_bound_for_a_whole_tree(self):
        y = projections.projection_hypercube(TREE, 0.5)
        assert flat(y).max() == 0.5
        with pytest.raises(ValueError, match="pytree structure error"):
            theirs.projection_hypercube(TREE, 0.5)


class TestExtremes:
    @pytest.mark.slow
    @each
    @pytest.mark.parametrize("size", [1e-30, 1e4, 1e18, 1e30])
    def test_finite_in_value_and_derivative(self, name, size):
        for x in (unflat(jnp.asarray(size * flat(TREE), jnp.float32)), unflat(jnp.full(11, size))):
            y, pull = jax.vjp(lambda x: project(name, x), x)
            assert np.all(np.isfinite(flat(y)))
            assert np.all(np.isfinite(flat(pull(y)[0])))

    @pytest.mark.parametrize("name", ["l1_sphere", "l2_sphere", "l1_ball", "l2_ball", "simplex"])
    @pytest.mark.parametrize("size", [1e4, 1e30])
    def test_far_points_land_on_the_surface(self, name, size):
        y = getattr(projections, f"projection_{name}")(jnp.float32(size) * jnp.array([1.0, 1.0, 0.5]))
        length = np.linalg.norm(y) if "l2" in name else np.abs(y).sum()
        np.testing.assert_allclose(length, 1, rtol=1e-6)

    def test_simplex_of_shifted_values_keeps_its_digits(self):
        x = np.array([0.25, 0.5, -1.25, 0.125], np.float32)
        np.testing.assert_array_equal(projections.projection_simplex(x + 2**14), projections.projection_simplex(x))

    def test_simplex_with_elements_that_are_impossible(self):
        x = jnp.array([-jnp.inf, 0.2, 0.4])
        y, pull = jax.vjp(projections.projection_simplex, x)
        np.testing.assert_allclose(y, [0, 0.4, 0.6], rtol=1e-6)
        np.testing.assert_allclose(pull(jnp.array([1.0, 2.0, 0.0]))[0], [0, 1, -1], atol=1e-7)

    def test_ties(self):
        np.testing.assert_allclose(projections.projection_simplex(jnp.ones(5)), 0.2, rtol=1e-6)
        np.testing.assert_allclose(projections.projection_l1_ball(-jnp.ones(5)), -0.2, rtol=1e-6)

    @each
    def test_nan_is_not_hidden(self, name):
        x = jax.tree.map(jnp.asarray, TREE)
        x["a"] = x["a"].at[0, 0].set(jnp.nan)
        assert np.any(np.isnan(flat(project(name, x))))


class TestTrees:
    @each
    def test_structure_shapes_and_dtypes_are_kept(self, name):
        dtypes = [jnp.bfloat16, jnp.float32, jnp.float16]
        leaves, treedef = jax.tree.flatten(TREE)
        x = treedef.unflatten([jnp.asarray(v, d) for v, d in zip(leaves, dtypes, strict=True)])
        y = project(name, x)
        assert jax.tree.map(lambda v: (v.shape, v.dtype), y) == jax.tree.map(lambda v: (v.shape, v.dtype), x)
        expected = project(name, jax.tree.map(lambda v: v.astype(jnp.float32), x))
        np.testing.assert_allclose(flat(y), flat(expected), atol=5e-3)

    @pytest.mark.parametrize("name", ["l1_sphere", "l2_sphere", "l1_ball", "l2_ball", "simplex", "non_negative"])
    def test_empty_trees_and_arrays(self, name):
        project = getattr(projections, f"projection_{name}")
        assert project({}) == {}
        assert project({"a": jnp.zeros((0, 3))})["a"].shape == (0, 3)

    @pytest.mark.parametrize(("name", "expected"), [("projection_simplex", 1.5), ("projection_non_negative", 2.0)])
    def test_none_stays_and_python_numbers_count(self, name, expected):
        assert project(name, {"a": 2.0, "b": None}) == {"a": expected, "b": None}

    @pytest.mark.slow
    @each
    def test_compiles_and_maps(self, name):
        x = jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), TREE)
        batch = jax.tree.map(lambda v: jnp.stack([v, 0.1 * v]), x)
        np.testing.assert_allclose(flat(jax.jit(lambda x: project(name, x))(x)), flat(project(name, x)), atol=1e-6)
        mapped = jax.vmap(lambda x: project(name, x))(batch)
        np.testing.assert_allclose(flat(jax.tree.map(lambda v: v[0], mapped)), flat(project(name, x)), atol=1e-6)

    def test_radius_may_be_traced(self):
        for name in ("l1_sphere", "l2_sphere", "l1_ball", "l2_ball", "linf_ball", "simplex", "hypercube"):
            project = getattr(projections, f"projection_{name}")
            np.testing.assert_allclose(flat(jax.jit(project)(TREE, 0.5)), flat(project(TREE, 0.5)), atol=1e-6)

    def test_complex_balls(self):
        x = jnp.array([3.0, 4.0j])
        np.testing.assert_allclose(projections.projection_l2_ball(x), x / 5, rtol=1e-6)
        np.testing.assert_allclose(projections.projection_l2_sphere(x, 10.0), 2 * x, rtol=1e-6)

    def test_boxes_open_on_one_side_and_broadcast(self):
        x = jnp.arange(6.0).reshape(2, 3)
        np.testing.assert_array_equal(projections.projection_box(x, None, 4.0), jnp.minimum(x, 4))
        columns = {"w": jnp.array([[1.0], [4.0]])}
        y = projections.projection_box({"w": x}, columns, {"w": None})
        np.testing.assert_array_equal(y["w"], jnp.maximum(x, columns["w"]))


class TestErrors:
    @each
    def test_integers_are_named(self, name):
        x = jax.tree.map(jnp.asarray, TREE)
        x["b"] = (jnp.arange(4), x["b"][1])
        with pytest.raises(TypeError, match=rf"{name}: \['b'\]\[0\] must be floating-point.*, got int32"):
            project(name, x)

    @pytest.mark.parametrize("name", ["l1_sphere", "l2_sphere", "l1_ball", "l2_ball", "linf_ball", "simplex"])
    def test_radius(self, name):
        project = getattr(projections, f"projection_{name}")
        with pytest.raises(ValueError, match=rf"projection_{name}: scale must be in \[0, inf\), got -1"):
            project(jnp.ones(3), -1.0)
        with pytest.raises(ValueError, match=rf"projection_{name}: scale must be one number, got shape \(3,\)"):
            project(jnp.ones(3), jnp.ones(3))

    def test_bounds(self):
        with pytest.raises(ValueError, match=r"projection_box: \['a'\] has a lower bound above its upper one"):
            projections.projection_box({"a": jnp.ones(2)}, 1.0, 0.0)
        with pytest.raises(ValueError, match=r"projection_hypercube: .* has a lower bound above"):
            projections.projection_hypercube(jnp.ones(2), -1.0)
        with pytest.raises(ValueError, match=r"projection_box: tree and upper differ in structure: tree has \['a'\]"):
            projections.projection_box({"a": jnp.ones(2)}, 0.0, {"b": 1.0})
        with pytest.raises(ValueError, match=r"\['a'\] has shape \(2,\), but a bound has \(3,\)"):
            projections.projection_box({"a": jnp.ones(2)}, {"a": jnp.zeros(3)}, 1.0)

    @pytest.mark.parametrize("name", ["vector", "hyperplane", "halfspace"])
    def test_normals(self, name):
        rest = () if name == "vector" else (1.0,)
        project = getattr(projections, f"projection_{name}")
        with pytest.raises(ValueError, match=rf"projection_{name}: .* x has \['a'\], which a lacks"):
            project({"a": jnp.ones(2)}, {"b": jnp.ones(2)}, *rest)
        with pytest.raises(ValueError, match=rf"projection_{name}: \['a'\] has shape \(3,\) in a but \(2,\) in x"):
            project({"a": jnp.ones(2)}, {"a": jnp.ones(3)}, *rest)


def test_projected_descent_solves_a_constrained_problem():
    """The nearest probabilities to a target, found by steps of descent, each projected."""
    target, x = jnp.array([0.9, 0.6, -0.5]), jnp.ones(3) / 3
    for _ in range(100):
        x = projections.projection_simplex(optax.apply_updates(x, -0.3 * (x - target)))
    np.testing.assert_allclose(x, [0.65, 0.35, 0.0], atol=1e-6)

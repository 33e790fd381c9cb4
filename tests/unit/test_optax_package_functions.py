"""Schedules, tree functions, projections, norms, micro-batching and aggregators of ``gradchain.optax`` are Optax's."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradchain import optax as ours
from tests import trees
from tests.optax_cases import assert_same

A = {"w": jnp.array([[0.3, -1.2], [2.0, 0.1]]), "b": jnp.array([1.5, -0.2])}
HALF, WHOLE = (jax.tree.map(lambda x, d=d: x.astype(d), A) for d in (jnp.bfloat16, jnp.int32))
COMPLEX = jax.tree.map(lambda x: x * (1 + 2j), A)
NONE = {"w": None, "b": A["b"]}
MIXED = {"w": HALF["w"], "b": A["b"]}
STATE = optax.chain(optax.adam(optax.constant_schedule(0.1)), optax.trace(0.9)).init(A)
X = jnp.arange(18.0).reshape(6, 3) ** 0.5
Y = jnp.cos(jnp.arange(6.0))
W = jnp.array([0.5, -1.0, 2.0])

SCHEDULES = {
    "constant_schedule": [(0.5,), (3,), (np.arange(2.0),)],
    "linear_schedule": [(1.0, 0.5, 4, 2), (1.0, 0.5, 0), (1.0, 0.5, -3), (1.0, 0.5, 4, -2)],
    "polynomial_schedule": [(1.0, 0.5, 0, 4), (1.0, 0.5, 2, 0), (1.0, 0.5, 2.0, 9, -1)],
    "exponential_decay": [(1.0, 4, 0), (1.0, 0, 0.5), (1.0, 4, 0.5, -2), (1.0, 4, -0.5, 0, True, -0.1)],
    "cosine_decay_schedule": [(1.0, 0), (1.0, 6, -0.5), (1.0, 6, 0.1, 0.0)],
    "piecewise_constant_schedule": [(1.0, {5: 0.5, 2: 0.1}), (1.0, {2: -0.5}), (1.0, {})],
    "piecewise_interpolate_schedule": [("linear", 1.0, {3: 2.0, 7: 0.1}), ("square", 1.0), ("cosine", 1.0, {2: -1.0})],
    "linear_onecycle_schedule": [(100, 1.0, 0.29), (10, 1.0, 0.5, 0.5), (0, 1.0)],
    "cosine_onecycle_schedule": [(100, 1.0, 0.29), (10, -1.0), (-1, 1.0)],
    "warmup_constant_schedule": [(0.1, 1.0, 0), (0.1, 1.0, 5)],
    "warmup_cosine_decay_schedule": [
        (0.1, 0.0, 2, 8, 0.5),
        (0.1, 1.0, 8, 8),
        (0.1, 1.0, -2, 8),
        (0.1, 1.0, 2, 8, 0.5, 0),
    ],
    "warmup_exponential_decay_schedule": [(0.1, 1.0, 0, 4, 0.5), (0.1, 1.0, 3, 4, 0.0)],
    "sgdr_schedule": [([{"init_value": 0.0, "peak_value": p, "warmup_steps": 1, "decay_steps": 4} for p in (1, 2)],)],
}
COUNTS = (0, 2, 5, 29, jnp.int32(7))

TREES = [
    *(("conj", (t,), {}) for t in (A, COMPLEX)),
    *((name, (t,), {}) for name in ("sum", "max", "min", "norm", "size") for t in (A, HALF, WHOLE, NONE)),
    *(("norm", (t,), {"ord": o, "squared": s}) for t in (HALF, WHOLE) for o in (1, 2, "inf") for s in (False, True)),
    ("norm", (COMPLEX,), {"ord": 1}),
    ("norm", (A,), {"ord": 3}),
    ("vdot", (HALF, HALF), {}),
    ("vdot", (WHOLE, WHOLE), {}),
    ("vdot", (COMPLEX, A), {}),
    ("add", ({"x": 1, "y": np.ones(2)}, {"x": 2, "y": np.ones(2)}), {}),
    ("div", (WHOLE, A), {}),
    ("scale", (jnp.float32(0.5), HALF), {}),
    ("scale", (0.5, WHOLE), {}),
    ("add_scale", (HALF, jnp.float32(0.5), HALF), {}),
    ("add_scale", (NONE, 2.0, NONE), {}),
    ("cast", (WHOLE, jnp.float16), {}),
    ("cast", (A, None), {}),
    ("cast_like", (A, {"w": A["w"], "b": 1.0}), {}),
    ("cast_like", (COMPLEX, WHOLE), {}),
    ("full_like", (WHOLE, 2.5), {}),
    ("dtype", ({},), {"mixed_dtype_handler": "other"}),
    ("dtype", (MIXED,), {}),
    ("dtype", (MIXED, "lowest"), {}),
    (
        "random_like",
        (jax.random.key(0), A),
        {"sampler": lambda key, shape, dtype, out_sharding: jnp.ones(shape, dtype)},
    ),
    ("random_like", (jax.random.key(0), A, lambda key, shape, dtype: jnp.ones(shape, dtype)), {}),
    ("update_moment", (A, HALF, 0.9, 2), {}),
    ("update_moment", (NONE, A, 0.9, 2), {}),
    ("update_moment_per_elem_norm", (A, A, 0.9, 3), {}),
    ("update_moment_per_elem_norm", (COMPLEX, A, 0.9, 3), {}),
    ("update_infinity_moment", (A, HALF, 0.9, 1e-8), {}),
    ("bias_correction", (HALF, 0.9, jnp.int32(3)), {}),
    *(("get", (STATE, key), {}) for key in ("count", "mu", "trace", "missing", "a.b")),
    ("get", (STATE, "a.b", 3), {}),
    ("set", (STATE,), {"count": 7}),
    ("set", (STATE,), {"missing": 7}),
]

PROJECTIONS = [
    *((f"projection_{n}", (WHOLE, 2.5)) for n in ("simplex", "l1_sphere", "l2_sphere", "l2_ball", "linf_ball")),
    ("projection_non_negative", (WHOLE,)),
    ("projection_non_negative", (A,)),
    ("projection_box", (WHOLE, jax.tree.map(lambda x: -x, A), WHOLE)),
    ("projection_hypercube", (X[0], 0.5)),
    ("projection_linf_ball", (A, 0.5)),
    ("projection_vector", (A, WHOLE)),
    ("projection_halfspace", (A, WHOLE, 0.5)),
]

FLAT = [
    ("safe_increment", (jnp.int8(127),)),
    ("safe_increment", (jnp.complex64(1),)),
    ("safe_int32_increment", (jnp.int32(3),)),
    ("safe_norm", (HALF["w"], 0.0)),
    ("safe_norm", (A["w"], 10.0, None, 0, True)),
    ("safe_norm", (A["w"],)),
    ("safe_root_mean_squares", (HALF["w"], 0.1)),
    ("safe_root_mean_squares", (COMPLEX["w"], 0.1)),
    ("global_norm", (HALF,)),
    ("scale_gradient", (A, 0.5)),
    ("tree_map_params", (optax.adam(0.1), lambda x: x + 1, STATE[0])),
]


def rows(table):
    return [(name, i) for name, cases in table.items() for i in range(len(cases))]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "case"), rows(SCHEDULES))
def test_schedules_and_their_edges(name, case):
    args = SCHEDULES[name][case]
    assert_same(*(lambda library=library: curve(library, name, args) for library in (ours, optax)))


def curve(library, name, args):
    schedule = getattr(library.schedules, name)(*args)
    return [jnp.asarray(schedule(count)) for count in COUNTS]


def test_schedules_may_be_made_while_a_function_is_traced():
    calls = {
        "cosine_decay_schedule": (1.0, 6),
        "exponential_decay": (1.0, 4, 0.5),
        "polynomial_schedule": (1.0, 0.5, 2, 4),
        "sgdr_schedule": SCHEDULES["sgdr_schedule"][0],
        "warmup_constant_schedule": (0.1, 1.0, 5),
        "warmup_cosine_decay_schedule": (0.1, 1.0, 3, 9),
        "warmup_exponential_decay_schedule": (0.1, 1.0, 3, 4, 0.5),
    }
    curves = [curve(ours, name, args) for name, args in calls.items()]
    trees.assert_close(jax.jit(lambda: [curve(ours, name, args) for name, args in calls.items()])(), curves, 1e-6)


@pytest.mark.parametrize("boundaries", [[3, 5, 9], [3], [5, 3], [0, 2.5]])
def test_schedules_or_boundaries_that_are_too_many_are_left_out(boundaries):
    def joined(library):
        parts = [library.constant_schedule(0.1), library.linear_schedule(0.0, 1.0, 5), lambda count: count * 2.0]
        return [jnp.asarray(library.join_schedules(parts, boundaries)(count)) for count in COUNTS]

    assert_same(lambda: joined(ours), lambda: joined(optax))


def test_a_wrapped_schedule_counts():
    def run(library):
        schedule = library.schedules.WrappedSchedule(lambda count: 0.5 * count)
        state = schedule.update(schedule.init(), value=1.0)
        return state, schedule(state, value=1.0)

    assert_same(lambda: run(ours), lambda: run(optax))
    assert isinstance(ours.schedules.WrappedSchedule(abs), ours.schedules.StatefulSchedule)


@pytest.mark.parametrize(("name", "args", "kwargs"), TREES)
def test_trees(name, args, kwargs):
    assert_same(getattr(ours.tree, name), getattr(optax.tree, name), *args, **kwargs)


def test_an_address_finds_a_part_of_a_state():
    np.testing.assert_array_equal(ours.tree.get(STATE, "scale_by_adam.mu['b']"), jnp.zeros(2))


@pytest.mark.parametrize(("name", "args"), PROJECTIONS)
def test_projections(name, args):
    assert_same(getattr(ours.projections, name), getattr(optax.projections, name), *args)


@pytest.mark.parametrize(("name", "args"), FLAT)
def test_numbers(name, args):
    assert_same(getattr(ours, name), getattr(optax, name), *args)


def test_a_normal_distribution():
    def run(library):
        normal = library.multi_normal(W, jnp.array([0.1, 0.2, 0.3]))
        return (
            normal.sample((2,), jax.random.PRNGKey(0)),
            normal.log_prob(jnp.ones((2, 3))),
            normal.params,
            normal.log_scale,
        )

    assert_same(lambda: run(ours), lambda: run(optax))


@pytest.mark.parametrize(("name", "args"), [("hvp", (W,)), ("hessian_diag", ()), ("fisher_diag", ())])
def test_curvature_of_a_loss(name, args):
    def loss(w, x, y):
        return jnp.mean((x @ w - y) ** 4)

    with pytest.warns(DeprecationWarning, match=f"{name} is deprecated"):
        getattr(ours.second_order, name)(loss, *args, W, X, Y)
    assert_same(getattr(ours.second_order, name), getattr(optax.second_order, name), loss, *args, W, X, Y)


@pytest.mark.parametrize("name", ["tree_scalar_mul", "tree_l1_norm", "tree_linf_norm"])
def test_old_names_of_tree_functions_warn(name):
    with pytest.warns(DeprecationWarning, match=name):
        found = getattr(ours.tree_utils, name)
    args = (2.0, A) if "mul" in name else (A,)
    assert_same(found, lambda *args: getattr(optax.tree_utils, name)(*args), *args)
    with pytest.raises(AttributeError, match="tree_other"):
        importlib.import_module("gradchain.optax.tree_utils").tree_other  # noqa: B018


def squares(w, x, y):
    return jnp.sum((x @ w - y) ** 2)


def errors(w, x, y):
    return x @ w - y


def transposed(w, x, y):
    return squares(w, x.T, y)


SLICES = {
    "sum": lambda m, kind: m.microbatch(squares, (1, 2), 2)(W, X, Y),
    "mean": lambda m, kind: m.microbatch(squares, (1, 2), 2, kind.MEAN)(W, X, Y),
    "concatenated": lambda m, kind: m.microbatch(errors, (1, 2), 2, kind.CONCAT)(W, X, Y),
    "two ways": lambda m, kind: m.microbatch(
        lambda w, x, y: (squares(w, x, y), errors(w, x, y)), (1, 2), 3, (kind.SUM, kind.CONCAT)
    )(W, X, Y),
    "of another axis": lambda m, kind: m.microbatch(transposed, (1, 2), 2, in_axes=(1, 0))(W, X.T, Y),
    "by name": lambda m, kind: m.microbatch(lambda w, *, x, y: squares(w, x, y), (), 2, argnames=("x", "y"))(
        W, x=X, y=Y
    ),
    "stopped, mean": lambda m, kind: m.microbatch(squares, (1, 2), 2, kind.MEAN, num_real_microbatches=2)(W, X, Y),
    "stopped, running mean": lambda m, kind: m.microbatch(
        squares, (1, 2), 2, kind.RUNNING_MEAN, num_real_microbatches=jnp.int32(2)
    )(W, X, Y),
    "no slices": lambda m, kind: m.microbatch(squares, (1, 2), None, kind.MEAN)(W, X, Y),
    "a size that doesn't divide": lambda m, kind: m.microbatch(squares, (1, 2), 4)(W, X, Y),
    "unequal": lambda m, kind: m.microbatch(squares, (1, 2), 2)(W, X, Y[:4]),
    "a mean of counts": lambda m, kind: m.microbatch(lambda x: jnp.int32(x.shape[0]), 0, 2, kind.MEAN)(X),
    "another accumulator": lambda m, kind: m.microbatch(lambda x: x.sum(), 0, 2, "sum")(X),
    "largest": lambda m, kind: m.micro_vmap(
        lambda x: x,
        microbatch_size=2,
        accumulator=m.Accumulator(
            lambda x: jnp.full(x.shape, -jnp.inf, x.dtype),
            lambda c, x, i: jnp.maximum(c, x),
            lambda c: c,
            lambda x: x.max(0),
        ),
    )(X),
    "mapped": lambda m, kind: m.micro_vmap(errors, (None, 0, 0), microbatch_size=3)(W, X, Y),
    "mapped by name": lambda m, kind: m.micro_vmap(lambda x, *, y: x * y, microbatch_size=3)(X, y=Y),
    "mapped, mean": lambda m, kind: m.micro_vmap(errors, (None, 0, 0), microbatch_size=3, accumulator=kind.MEAN)(
        W, X, Y
    ),
    "mapped to another axis": lambda m, kind: m.micro_vmap(errors, (None, 0, 0), 1),
    "gradients": lambda m, kind: [*m.micro_grad(squares, batch_argnums=(1, 2), microbatch_size=2)(W, X, Y)[1]],
    "gradients' sum": lambda m, kind: m.micro_grad(squares, batch_argnums=(1, 2), microbatch_size=2)(W, X, Y)[0],
    "clipped gradients": lambda m, kind: jax.tree.leaves(
        m.micro_grad(
            lambda w, x, y: (squares(w, x, y), {"error": errors(w, x, y)}),
            has_aux=True,
            batch_argnums=(1, 2),
            keep_batch_dim=False,
            accumulator=kind.MEAN,
            transform_fn=lambda g: jnp.clip(g, -1, 1),
            metrics_fn=jnp.linalg.norm,
        )(W, X, Y)
    ),
    "reshaped": lambda m, kind: m.reshape_batch_axis({"x": X.T}, 2, 1),
    "kinds": lambda m, kind: [each.name for each in kind],
}


@pytest.mark.parametrize("name", SLICES)
def test_micro_batches(name):
    modules = (ours.microbatching, optax.microbatching)
    assert_same(*(lambda m=m: SLICES[name](m, m.AccumulationType) for m in modules))


def test_arguments_by_name_are_as_good_as_by_position():
    gradient = ours.microbatching.micro_grad(squares, batch_argnums=(1, 2), microbatch_size=2)
    np.testing.assert_array_equal(gradient(W, y=Y, x=X)[0], gradient(W, X, Y)[0])
    by_name = ours.microbatch(squares, 1, 2, argnames="y")
    np.testing.assert_array_equal(by_name(W, X, Y), by_name(W, y=Y, x=X))


def test_a_batch_without_examples_gives_nothing():
    assert ours.microbatch(squares, (1, 2), 2)(W, X[:0], Y[:0]) == 0
    assert ours.microbatch(lambda x: jnp.ones(()), 0, 2, num_real_microbatches=1)(X[:0]) == 0


def examples(step):
    return {
        "w": jnp.sin(jnp.arange(12.0) + step).reshape(3, 2, 2),
        "b": jnp.cos(jnp.arange(6.0) * (step + 1)).reshape(3, 2),
    }


def run(tx, steps=4, batch=examples, **extra):
    state, updates = tx.init(A), []
    for step in range(steps):
        new, state = tx.update(batch(step), state, A, **extra)
        updates.append(new)
    return updates, state


AGGREGATORS = {
    "average": lambda a, o: run(a.average_per_element_updates()),
    "over two axes": lambda a, o: run(a.average_per_element_updates([0, 1]), 1),
    "average of steps": lambda a, o: run(a.average_incrementally_updates(0, 3)),
    "steps alone": lambda a, o: run(a.average_incrementally_updates(None, 3), batch=lambda step: A),
    "no steps": lambda a, o: a.accumulate_avg_updates(0),
    "squares": lambda a, o: run(a.get_per_element_mean_and_sum_sq_diff_grads()),
    "squares over steps": lambda a, o: run(a.get_per_element_mean_and_sum_sq_diff_grads(0, 2)),
    "unequal sizes": lambda a, o: a.get_batch_size_from_per_elt_updates({"w": X, "b": W}, 0),
    "processed": lambda a, o: run(a.process(o.scale(2.0), a.average_incrementally_updates(0, 2), o.adam(0.1))),
    "tracked": lambda a, o: run(a.add_mean_variance_to_opt(o.sgd(0.1, 0.9), 0.8, 0, 2), 5),
    "corrected": lambda a, o: a.get_unbiased_mean_and_variance_ema(run(a.add_mean_variance_to_opt(o.sgd(0.1), 0.8))[1]),
    "not tracked": lambda a, o: a.get_unbiased_mean_and_variance_ema(o.adam(0.1).init(A)),
    "kinds": lambda a, o: [
        isinstance(tx, a.Aggregator)
        for tx in (
            a.average_per_element_updates(),
            a.process(o.identity(), a.average_per_element_updates(), o.sgd(0.1)),
            a.process(o.identity(), a.accumulate_avg_updates(2), o.sgd(0.1)),
            a.Aggregator(lambda params: (), lambda updates, state, params=None: (updates, state)),
            o.adam(0.1),
        )
    ],
}


@pytest.mark.parametrize("name", AGGREGATORS)
def test_aggregators(name):
    assert_same(*(lambda o=o: AGGREGATORS[name](o.experimental.aggregating, o) for o in (ours, optax)))

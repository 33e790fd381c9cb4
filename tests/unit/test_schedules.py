"""Schedules: values, ends, derivatives, and what makes them values."""

import copy
import inspect
import pickle
import re

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

import gradchain as gc
from tests import public
from tests.oracles import schedules as oracle

CYCLES = [{"init_value": 0.01, "peak_value": 0.1, "warmup_steps": 2, "decay_steps": n} for n in (5, 9)]
LINEAR = {"init_value": 0.1, "end_value": 0.02, "transition_steps": 7, "transition_begin": 3}
EXPONENTIAL = {"init_value": 0.1, "transition_steps": 4, "decay_rate": 0.8, "transition_begin": 3}
WARMUP = {"init_value": 0.01, "peak_value": 0.1, "warmup_steps": 5}
COSINE = WARMUP | {"decay_steps": 15, "end_value": 0.02}
WSD = WARMUP | {"stable_steps": 4, "decay_steps": 6, "end_value": 0.02}
FAST_SLOW = WARMUP | {"knee_value": 0.04, "stable_steps": 3, "fast_steps": 6, "slow_steps": 7, "end_value": 0.02}
HALF_LIFE = {"init_value": 0.9, "end_value": 0.999, "transition_steps": 7, "transition_begin": 3}
TABLE = {"init_value": 0.1, "boundaries_and_scales": {10: 0.5, 4: 0.3}}

# (name, arguments, step from which the value is constant, or None)
CASES = [
    ("constant_schedule", {"value": 0.3}, 0),
    ("linear_schedule", LINEAR, 10),
    ("polynomial_schedule", LINEAR | {"power": 0.5}, 10),
    ("polynomial_schedule", LINEAR | {"power": 2.5}, 10),
    ("exponential_decay", EXPONENTIAL, None),
    ("exponential_decay", EXPONENTIAL | {"staircase": True}, None),
    ("exponential_decay", EXPONENTIAL | {"end_value": 0.06}, 13),
    ("exponential_decay", EXPONENTIAL | {"decay_rate": 1.3, "end_value": 0.2}, 14),
    ("cosine_decay_schedule", {"init_value": 0.1, "decay_steps": 11, "alpha": 0.1}, 11),
    ("cosine_decay_schedule", {"init_value": 0.1, "decay_steps": 11, "exponent": 0.5}, 11),
    ("inverse_sqrt_schedule", WARMUP, None),
    ("inverse_sqrt_schedule", WARMUP | {"timescale": 3}, None),
    ("piecewise_constant_schedule", TABLE, 10),
    ("piecewise_constant_schedule", {"init_value": 0.1}, 0),
    ("piecewise_interpolate_schedule", TABLE | {"interpolate_type": "linear"}, 10),
    ("piecewise_interpolate_schedule", TABLE | {"interpolate_type": "cosine"}, 10),
    ("warmup_constant_schedule", WARMUP, 5),
    ("warmup_cosine_decay_schedule", COSINE, 15),
    ("warmup_cosine_decay_schedule", COSINE | {"warmup_steps": 0, "exponent": 0.5}, 15),
    ("warmup_exponential_decay_schedule", WARMUP | {"transition_steps": 4, "decay_rate": 0.8}, None),
    (
        "warmup_exponential_decay_schedule",
        WARMUP | {"transition_steps": 4, "decay_rate": 0.8, "transition_begin": 2, "end_value": 0.06},
        17,
    ),
    ("warmup_stable_decay_schedule", WSD, 15),
    ("warmup_stable_decay_schedule", WSD | {"decay_type": "cosine"}, 15),
    ("warmup_stable_decay_schedule", WSD | {"decay_type": "1-sqrt"}, 15),
    ("warmup_stable_decay_schedule", WSD | {"exponent": 1.2}, 15),
    ("fast_slow_decay_schedule", FAST_SLOW, 21),
    ("linear_half_life_schedule", HALF_LIFE, 10),
    ("linear_onecycle_schedule", {"transition_steps": 20, "peak_value": 0.1}, 20),
    ("linear_onecycle_schedule", {"transition_steps": 13, "peak_value": 0.1}, 13),
    ("cosine_onecycle_schedule", {"transition_steps": 20, "peak_value": 0.1}, 20),
    ("sgdr_schedule", {"cosine_kwargs": CYCLES}, 14),
]
# Lengths of nothing: (name, arguments, values at the first steps)
DEGENERATE = [
    ("linear_schedule", LINEAR | {"transition_steps": 0}, 0.1),
    ("polynomial_schedule", LINEAR | {"transition_steps": 0, "power": 2}, 0.1),
    ("exponential_decay", EXPONENTIAL | {"transition_steps": 0}, 0.1),
    ("inverse_sqrt_schedule", WARMUP | {"warmup_steps": 0, "timescale": 1e9}, 0.1),
    ("piecewise_constant_schedule", {"init_value": 0.1, "boundaries_and_scales": {0: 0.5}}, 0.05),
    (
        "piecewise_interpolate_schedule",
        {"interpolate_type": "cosine", "init_value": 0.1, "boundaries_and_scales": {0: 0.5}},
        0.05,
    ),
    ("warmup_constant_schedule", WARMUP | {"warmup_steps": 0}, 0.1),
    ("warmup_cosine_decay_schedule", COSINE | {"warmup_steps": 0, "decay_steps": 0}, 0.02),
    (
        "warmup_exponential_decay_schedule",
        WARMUP | {"warmup_steps": 0, "transition_steps": 0, "decay_rate": 0.5},
        0.1,
    ),
    ("warmup_stable_decay_schedule", WSD | {"warmup_steps": 0, "stable_steps": 0, "decay_steps": 0}, 0.02),
    ("fast_slow_decay_schedule", FAST_SLOW | {name: 0 for name in FAST_SLOW if name.endswith("steps")}, 0.02),
    ("linear_half_life_schedule", HALF_LIFE | {"transition_steps": 0}, 0.9),
]
COUNTS = np.arange(40)


def cases(cases):
    return pytest.mark.parametrize(("name", "kwargs", "end"), cases, ids=[f"{c[0]}-{i}" for i, c in enumerate(cases)])


each_case = cases(CASES)
each_in_optax = cases([case for case in CASES if hasattr(optax, case[0])])
each_that_ends = cases([case for case in CASES if case[2] is not None])
each_degenerate = pytest.mark.parametrize(
    ("name", "kwargs", "value"), DEGENERATE, ids=[name for name, *_ in DEGENERATE]
)


def make(name, kwargs):
    return getattr(gc, name)(**kwargs)


def error(actual, expected):
    return np.max(np.abs(np.asarray(actual, np.float64) - expected)) / np.max(np.abs(expected))


def by_oracle(name, kwargs, counts=COUNTS):
    return np.array([getattr(oracle, name)(int(k), **kwargs) for k in counts])


class TestValues:
    @each_case
    def test_oracle_in_float32(self, name, kwargs, end):
        values = make(name, kwargs)(COUNTS)
        assert values.dtype == jnp.float32
        assert error(values, by_oracle(name, kwargs)) < 1e-6

    @each_case
    def test_oracle_in_float64(self, x64, name, kwargs, end):
        values = make(name, kwargs)(COUNTS)
        assert values.dtype == jnp.float64
        assert error(values, by_oracle(name, kwargs)) < 1e-12

    @each_in_optax
    def test_optax(self, name, kwargs, end):
        theirs = getattr(optax, name)(**kwargs)
        with jax.enable_x64(True):
            expected = np.asarray(jax.vmap(theirs)(COUNTS.astype(np.float64)))
            assert error(make(name, kwargs)(COUNTS), expected) < 1e-12
        assert error(make(name, kwargs)(COUNTS), expected) < 1e-6

    @pytest.mark.parametrize("name", ["join_schedules", *{name: 0 for name, *_ in CASES if hasattr(optax, name)}])
    def test_optax_signature(self, name):
        ours, theirs = (inspect.signature(getattr(lib, name)).parameters for lib in (gc, optax))
        assert [(p.name, p.default) for p in ours.values()] == [(p.name, p.default) for p in theirs.values()]

    @each_that_ends
    def test_constant_past_the_end_and_not_before(self, name, kwargs, end):
        values = np.asarray(make(name, kwargs)(np.array([end - 1, end, end + 1, 10 * end + 100, 2**31 - 1])))
        assert np.all(values[1:] == values[1])
        assert end == 0 or values[0] != values[1]

    @each_that_ends
    def test_first_and_last_value_are_exact(self, name, kwargs, end):
        expected = by_oracle(name, kwargs, [0, end]).astype(np.float32)
        np.testing.assert_array_max_ulp(np.asarray(make(name, kwargs)(np.array([0, end]))), expected, maxulp=2)

    @each_degenerate
    def test_lengths_of_nothing(self, name, kwargs, value):
        np.testing.assert_allclose(make(name, kwargs)(np.arange(3)), np.float32(value), rtol=1e-6)

    @pytest.mark.slow
    @each_case
    def test_counts_of_any_type(self, name, kwargs, end):
        schedule = make(name, kwargs)
        expected = schedule(jnp.int32(7))
        assert expected.shape == ()
        for count in (7, 7.0, np.int64(7), np.float32(7), jnp.float16(7), jnp.bfloat16(7), jnp.uint8(7)):
            assert schedule(count) == expected
            assert schedule(count).dtype == jnp.float32
        assert schedule(COUNTS.reshape(8, 5)).shape == (8, 5)

    @each_case
    def test_finite_up_to_the_largest_count(self, name, kwargs, end):
        assert jnp.all(jnp.isfinite(make(name, kwargs)(np.array([2**24 + 1, 2**31 - 1]))))

    def test_growth_without_a_bound_stays_finite(self):
        grown = gc.exponential_decay(0.1, 1, 2.0)
        assert jnp.isfinite(grown(2**31 - 1))
        assert jnp.isfinite(jax.grad(lambda s: s(2**31 - 1))(grown).decay_rate)

    def test_warmup_is_exact_relative_to_each_value(self):
        """One minus the remaining part would be wrong by 6e-5 at step 1."""
        values = np.asarray(gc.warmup_constant_schedule(0.0, 1.0, 1000)(np.arange(1, 1000)), np.float64)
        np.testing.assert_allclose(values, np.arange(1, 1000) / 1000, rtol=2e-7)

    def test_cosine_is_exact_relative_to_each_value(self):
        k = np.arange(10_000)
        values = np.asarray(gc.cosine_decay_schedule(1.0, 10_000)(k), np.float64)
        np.testing.assert_allclose(values, np.sin(np.pi / 2 * (10_000 - k) / 10_000) ** 2, rtol=1e-6)

    @pytest.mark.parametrize("steps", [3, 7, 10, 49, 1000])
    def test_staircase_steps_at_whole_multiples_compiled_or_not(self, steps):
        schedule = gc.exponential_decay(1.0, steps, 0.5, staircase=True)
        counts = steps * np.arange(1, 20)
        expected = 0.5 ** np.arange(1, 20)
        for call in (schedule, jax.jit(schedule.__call__), lambda k: jax.jit(lambda s, k: s(k))(schedule, k)):
            np.testing.assert_allclose(call(counts), expected, rtol=1e-6)
            np.testing.assert_allclose(call(counts - 1), 2 * expected, rtol=1e-6)

    def test_step_decay(self):
        counts = np.array([0, 999, 1000, 1999, 2000, 5000])
        expected = np.array([0.1, 0.1, 0.05, 0.05, 0.025, 0.025], np.float32)
        np.testing.assert_allclose(gc.piecewise_constant_schedule(0.1, {1000: 0.5, 2000: 0.5})(counts), expected)

    def test_cosine_ends_at_end_value_for_a_peak_of_zero(self):
        assert gc.warmup_cosine_decay_schedule(0.0, 0.0, 2, 10, end_value=0.1)(10) == np.float32(0.1)


class TestIsAValue:
    @each_case
    def test_repr_rebuilds_it(self, name, kwargs, end):
        schedule = make(name, kwargs)
        again = eval(repr(schedule), public.NAMES)
        assert again == schedule
        assert hash(again) == hash(schedule)

    @each_case
    def test_copies_and_pickles(self, name, kwargs, end):
        schedule = make(name, kwargs)
        assert pickle.loads(pickle.dumps(schedule)) == copy.deepcopy(schedule) == schedule

    @each_case
    def test_all_numbers_are_leaves(self, name, kwargs, end):
        static = {"staircase", "interpolate_type", "decay_type"}

        def numbers(x):
            items = x.items() if isinstance(x, dict) else enumerate(x) if isinstance(x, list) else None
            if items is None:
                return 1
            own = len(x) if isinstance(x, dict) and not all(isinstance(k, str) for k in x) else 0
            return own + sum(numbers(v) for k, v in items if k not in static)

        defaults = {p.name: p.default for p in inspect.signature(getattr(gc, name)).parameters.values()}
        full = {k: v for k, v in (defaults | kwargs).items() if v is not None}
        if name == "sgdr_schedule":
            full = {"cosine_kwargs": [cycle | {"end_value": 0.0, "exponent": 1.0} for cycle in CYCLES]}
        assert len(jax.tree.leaves(make(name, kwargs))) == numbers(full)

    @each_case
    def test_one_trace_for_all_numbers(self, name, kwargs, end):
        schedule, traces = make(name, kwargs), []

        @jax.jit
        def run(schedule, counts):
            traces.append(None)
            return schedule(counts)

        moved = jax.tree.map(lambda x: x * 1.5, schedule)
        for s in (schedule, moved):
            np.testing.assert_allclose(run(s, COUNTS), s(COUNTS), rtol=3e-6, atol=1e-8)
        assert len(traces) == 1

    @each_case
    def test_closed_over_equals_eager(self, name, kwargs, end):
        schedule = make(name, kwargs)
        np.testing.assert_allclose(jax.jit(schedule.__call__)(COUNTS), schedule(COUNTS), rtol=3e-6, atol=1e-8)

    @each_case
    def test_scan_gives_its_values_in_turn(self, name, kwargs, end):
        schedule = make(name, kwargs)
        _, values = jax.lax.scan(lambda k, _: (k + 1, schedule(k)), jnp.int32(0), length=20)
        np.testing.assert_allclose(values, schedule(np.arange(20)), rtol=3e-6, atol=1e-8)

    @each_case
    def test_vmap_equals_stack(self, name, kwargs, end):
        schedules = [jax.tree.map(lambda x, f=f: x * f, make(name, kwargs)) for f in (1.0, 1.25, 1.5)]
        batch = jax.tree.map(lambda *x: jnp.array(x), *schedules)
        values = jax.vmap(lambda s: s(COUNTS))(batch)
        np.testing.assert_allclose(values, np.stack([s(COUNTS) for s in schedules]), rtol=3e-6, atol=1e-8)

    def test_batches_come_from_the_constructor(self):
        schedule = gc.warmup_cosine_decay_schedule(0.0, jnp.array([0.1, 0.2]), 5, np.array([10, 20]))
        axes = gc.warmup_cosine_decay_schedule.Value(None, 0, None, 0, None, None)
        values = jax.vmap(lambda s: s(7), in_axes=(axes,))(schedule)
        expected = [gc.warmup_cosine_decay_schedule(0.0, p, 5, n)(7) for p, n in ((0.1, 10), (0.2, 20))]
        np.testing.assert_allclose(values, expected, rtol=1e-6)


def gradients(schedule, count):
    return jax.grad(lambda s: s(count))(schedule)


class TestDerivatives:
    @pytest.mark.parametrize(
        ("name", "kwargs"), [case[:2] for case in CASES + DEGENERATE], ids=[c[0] for c in CASES + DEGENERATE]
    )
    @pytest.mark.slow
    def test_finite_at_every_step(self, name, kwargs):
        counts = jnp.array([*range(22), 10**6, 2**31 - 1])
        rows = jax.vmap(gradients, in_axes=(None, 0))(make(name, kwargs), counts)
        for leaf in jax.tree.leaves(rows):
            assert np.all(np.isfinite(leaf)), leaf

    @each_case
    @pytest.mark.slow
    def test_equals_finite_differences(self, x64, name, kwargs, end):
        """At counts between whole steps, where no boundary lies; the one-cycle's own steps are whole."""
        leaves, treedef = jax.tree.flatten(make(name, kwargs))
        at = jax.jit(lambda leaves: treedef.unflatten(leaves)(np.array([1.5, 6.5, 11.5])))
        exact = jax.jacfwd(at)(leaves)
        for i, leaf in enumerate(leaves):
            if "onecycle" in name and leaf in (20, 13, 0.3, 0.85):
                continue
            h = 1e-6 * max(abs(leaf), 1)
            up, down = (at([*leaves[:i], leaf + d, *leaves[i + 1 :]]) for d in (h, -h))
            np.testing.assert_allclose(exact[i], (up - down) / (2 * h), rtol=1e-5, atol=1e-8)

    def test_a_length_can_be_learned(self):
        slope = gradients(gc.cosine_decay_schedule(1.0, 100), 50).decay_steps
        np.testing.assert_allclose(slope, np.pi / 2 * 50 / 100**2, rtol=1e-5)

    def test_a_boundary_of_an_interpolation_can_be_learned(self):
        table = gradients(gc.piecewise_interpolate_schedule("linear", 1.0, {100: 0.0}), 50).boundaries_and_scales
        np.testing.assert_allclose(table.boundaries[0], 50 / 100**2, rtol=1e-6)


class TestErrors:
    @pytest.mark.parametrize(
        ("name", "args", "message"),
        [
            ("cosine_decay_schedule", (0.1, -1), "decay_steps must be in (0, inf), got -1"),
            ("cosine_decay_schedule", (0.1, 0), "decay_steps must be in (0, inf), got 0"),
            ("linear_schedule", (1, 0, -5), "transition_steps must be in [0, inf), got -5"),
            ("linear_schedule", (1, 0, np.inf), "transition_steps must be in [0, inf), got inf"),
            ("linear_schedule", (1, 0, 5, -1), "transition_begin must be in [0, inf), got -1"),
            ("polynomial_schedule", (1, 0, 0, 5), "power must be in (0, inf], got 0"),
            ("exponential_decay", (1, 5, 0), "decay_rate must be in (0, inf], got 0"),
            ("warmup_cosine_decay_schedule", (0, 1, 20, 10), "decay_steps must be at least warmup_steps, got"),
            ("linear_onecycle_schedule", (10, 1, 0.5, 0.2), "pct_final must be at least pct_start, got pct_final=0.2"),
            ("cosine_onecycle_schedule", (10, 1, 1.5), "pct_start must be in [0, 1], got 1.5"),
            ("piecewise_interpolate_schedule", ("cubic", 1), "interpolate_type must be one of 'linear', 'cosine', got"),
            ("warmup_stable_decay_schedule", (0, 1, 1, 1, 1, 0, "x"), "decay_type must be one of 'linear', 'cosine'"),
            ("piecewise_constant_schedule", (1, {-1: 0.5}), "boundaries_and_scales boundaries[0] must be in [0, inf)"),
            ("piecewise_constant_schedule", (1, {1: -0.5}), "boundaries_and_scales scales[0] must be in [0, inf)"),
            ("piecewise_constant_schedule", (1, [(5, 1), (4, 1)]), "boundaries_and_scales: boundary 1 must be at"),
            ("join_schedules", ([0.1, 0.2], []), "boundaries must be one fewer than schedules, got 0 for 2"),
            ("join_schedules", ([0.1, 0.2, 0.3], [5, 4]), "boundaries[1] must be at least boundaries[0], got"),
            (
                "join_schedules",
                ([0.1, 0.2], [3, 5]),
                "boundaries must be one fewer than schedules, got 2 for 2 schedules; no schedule starts at 5.0: leave",
            ),
            ("join_schedules", ([], []), "boundaries must be one fewer than schedules, got 0 for 0"),
            ("sgdr_schedule", ([],), "cosine_kwargs must hold at least one cycle"),
        ],
    )  # fmt: skip
    def test_range(self, name, args, message):
        with pytest.raises(ValueError, match=re.escape(f"{name}: {message}")):
            getattr(gc, name)(*args)

    @pytest.mark.parametrize(
        ("name", "args", "message"),
        [
            ("piecewise_constant_schedule", (1, [1, 2]), "boundaries_and_scales must be a dict or pairs"),
            ("piecewise_constant_schedule", (1, 5), "boundaries_and_scales must be a dict or pairs"),
            ("join_schedules", (0.1, []), "schedules must be a sequence"),
            ("sgdr_schedule", ({"init_value": 0.1},), "cosine_kwargs must be a sequence of dicts"),
            ("sgdr_schedule", ([0.1],), "cosine_kwargs[0] must be a dict of warmup_cosine_decay_schedule's"),
            ("linear_schedule", (1, 0), "missing a required argument: 'transition_steps'"),
            ("linear_schedule", ("a", 0, 1), "init_value must be a number"),
            ("linear_schedule", (None, 0, 1), "init_value can't be None"),
        ],
    )
    def test_type(self, name, args, message):
        with pytest.raises(TypeError, match=re.escape(f"{name}: {message}")):
            getattr(gc, name)(*args)

    def test_order_is_checked_in_batches_and_not_for_traced_lengths(self):
        with pytest.raises(ValueError, match="decay_steps must be at least warmup_steps"):
            gc.warmup_cosine_decay_schedule(0, 1, jnp.array([1, 20]), jnp.array([10, 10]))
        late = jax.jit(lambda w: gc.warmup_cosine_decay_schedule(0.0, 1.0, w, 10, end_value=0.5)(COUNTS))(20)
        assert np.all(np.isfinite(late))


class TestPiecewise:
    def test_shows_the_dict_in_order(self):
        schedule = gc.piecewise_constant_schedule(0.1, {200: 0.1, 100: 0.5})
        assert repr(schedule) == "piecewise_constant_schedule(0.1, boundaries_and_scales={100.0: 0.5, 200.0: 0.1})"

    def test_pairs_are_the_same_as_a_dict_even_where_steps_repeat(self):
        assert gc.piecewise_constant_schedule(1, [(5, 0.5)]) == gc.piecewise_constant_schedule(1, {5: 0.5})
        twice = gc.piecewise_constant_schedule(1, [(5, 0.5), (5, 0.5)])
        assert twice(5) == 0.25
        assert eval(repr(twice), public.NAMES) == twice

    @pytest.mark.parametrize(
        "build", [gc.piecewise_constant_schedule, lambda *a: gc.piecewise_interpolate_schedule("linear", *a)]
    )
    def test_scales_and_boundaries_may_be_traced_in_the_constructor(self, build):
        expected = build(1.0, {4: 0.5, 8: 0.1})(COUNTS)
        by_dict = jax.jit(lambda s: build(1.0, {4: s, 8: 0.1})(COUNTS))(0.5)
        by_pairs = jax.jit(lambda b: build(1.0, [(b, 0.5), (2 * b, 0.1)])(COUNTS))(4.0)
        np.testing.assert_allclose(by_dict, expected, rtol=1e-6)
        np.testing.assert_allclose(by_pairs, expected, rtol=1e-6)

    def test_boundaries_may_be_a_batch(self):
        schedule = gc.piecewise_constant_schedule(1.0, [(jnp.array([3, 6]), 0.5)])
        values = jax.vmap(lambda s: s(4), in_axes=(jax.tree.map(lambda x: 0 if np.ndim(x) else None, schedule),))(
            schedule
        )
        np.testing.assert_array_equal(values, [0.5, 1.0])

    def test_numbers_have_names(self):
        tx = gc.sgd(gc.piecewise_constant_schedule(0.1, {100: 0.5}))
        assert gc.hyperparams(tx)["scale_by_learning_rate.learning_rate.boundaries_and_scales.boundaries.0"] == 100
        moved = tx.replace(**{"boundaries.0": 50})
        assert moved == gc.sgd(gc.piecewise_constant_schedule(0.1, {50: 0.5}))


class TestJoin:
    def test_each_part_counts_from_its_own_start(self):
        parts, boundaries = [gc.linear_schedule(0.0, 1.0, 5), 0.7, gc.exponential_decay(0.5, 2, 0.5)], [5, 9]
        joined = gc.join_schedules(parts, boundaries)
        expected = [parts[0](k) if k < 5 else 0.7 if k < 9 else parts[2](k - 9) for k in range(20)]
        np.testing.assert_allclose(joined(np.arange(20)), expected, rtol=1e-6)

    def test_optax(self):
        ours = gc.join_schedules([gc.linear_schedule(0.0, 1.0, 5), gc.cosine_decay_schedule(1.0, 10)], [5])
        theirs = optax.join_schedules([optax.linear_schedule(0.0, 1.0, 5), optax.cosine_decay_schedule(1.0, 10)], [5])
        np.testing.assert_allclose(ours(COUNTS), theirs(COUNTS.astype(np.float32)), rtol=0, atol=1e-6)

    def test_is_a_value(self):
        joined = gc.join_schedules([0.1, gc.cosine_decay_schedule(0.1, 900)], [100])
        assert eval(repr(joined), public.NAMES) == joined == pickle.loads(pickle.dumps(joined))
        assert len(jax.tree.leaves(joined)) == 1 + 4 + 1

    def test_derivative_with_respect_to_a_boundary(self):
        joined = gc.join_schedules([0.1, gc.linear_schedule(0.0, 1.0, 10)], [5])
        np.testing.assert_allclose(gradients(joined, 8).boundaries[0], -0.1, rtol=1e-6)

    def test_optax_schedules_and_other_callables_are_parts(self):
        joined = gc.join_schedules([lambda k: 0.1 * k, optax.linear_schedule(1.0, 0.0, 4)], [3])
        np.testing.assert_allclose(joined(np.arange(8)), [0, 0.1, 0.2, 1, 0.75, 0.5, 0.25, 0], atol=1e-7)

    @pytest.mark.parametrize("call", [lambda s, k: s(k), jax.jit(lambda s, k: s(k))], ids=["eager", "traced"])
    def test_a_callable_may_index_a_table(self, call):
        table = jnp.array([3.0, 2.0, 1.0])
        joined = gc.join_schedules([0.5, lambda k: table[jnp.minimum(k, 2)]], [10])
        np.testing.assert_array_equal([call(joined, k) for k in (0, 10, 11, 50)], [0.5, 3, 2, 1])

    def test_one_part_needs_no_boundary(self):
        np.testing.assert_array_equal(gc.join_schedules([0.5], [])(COUNTS), np.full(40, 0.5))

    def test_numbers_have_names(self):
        tx = gc.sgd(gc.join_schedules([gc.constant_schedule(0.1), gc.cosine_decay_schedule(0.1, 90)], [10]))
        longer = tx.replace(decay_steps=190)
        assert gc.hyperparams(longer)["scale_by_learning_rate.learning_rate.schedules.1.decay_steps"] == 190


class TestRestarts:
    def test_a_changed_length_moves_the_later_cycles(self):
        tx = gc.sgd(gc.sgdr_schedule(CYCLES)).replace(**{"cosine_kwargs.0.decay_steps": 7})
        assert tx == gc.sgd(gc.sgdr_schedule([CYCLES[0] | {"decay_steps": 7}, CYCLES[1]]))
        assert gc.hyperparams(tx, tx.init(jnp.zeros(())))["scale_by_learning_rate.learning_rate"] == np.float32(0.01)

    def test_takes_schedules_and_any_iterable(self):
        cycles = [gc.warmup_cosine_decay_schedule(**cycle) for cycle in CYCLES]
        assert gc.sgdr_schedule(iter(cycles)) == gc.sgdr_schedule(CYCLES)


class TestOperators:
    a, b = gc.linear_schedule(1.0, 2.0, 10), gc.exponential_decay(3.0, 5, 0.5)

    @pytest.mark.parametrize(
        ("combine", "text"),
        [
            (lambda a, b: a + b, "({a} + {b})"),
            (lambda a, b: a - b, "({a} - {b})"),
            (lambda a, b: a * b, "({a} * {b})"),
            (lambda a, b: a / b, "({a} / {b})"),
            (lambda a, b: 2 * a, "(2.0 * {a})"),
            (lambda a, b: a / 2, "({a} / 2.0)"),
            (lambda a, b: 1 - a, "(1.0 - {a})"),
            (lambda a, b: 1 + a, "(1.0 + {a})"),
            (lambda a, b: 1 / a, "(1.0 / {a})"),
            (lambda a, b: -a, "(-1.0 * {a})"),
            (lambda a, b: 2 * (a + b) - 0.5, "((2.0 * ({a} + {b})) - 0.5)"),
        ],
    )
    def test_acts_on_values_and_shows_itself(self, combine, text):
        combined = combine(self.a, self.b)
        np.testing.assert_allclose(combined(COUNTS), combine(self.a(COUNTS), self.b(COUNTS)), rtol=1e-6)
        assert repr(combined) == text.format(a=self.a, b=self.b)
        assert eval(repr(combined), public.NAMES) == combined == pickle.loads(pickle.dumps(combined))
        assert hash(combine(self.a, self.b)) == hash(combined)

    def test_a_schedule_may_be_a_number_of_another(self):
        inner = gc.linear_schedule(1.0, 0.0, 10)
        outer = gc.exponential_decay(inner, 5, 0.5)
        np.testing.assert_allclose(outer(COUNTS), inner(COUNTS) * 0.5 ** (COUNTS / 5), rtol=1e-5, atol=1e-8)


class TestOwnSchedule:
    def test_a_function_becomes_a_schedule(self):
        @gc.schedules.schedule
        def halving(count, init_value: gc.Hyper, every: gc.schedules.PositiveSteps):
            return init_value * 0.5 ** jnp.floor(count / every)

        assert halving(0.1, every=100)(250) == np.float32(0.025)
        assert repr(halving(0.1, 100)) == "halving(0.1, 100.0)"
        with pytest.raises(ValueError, match=r"halving: every must be in \(0, inf\), got 0"):
            halving(0.1, 0)


numbers = st.integers(0, 10**6).map(lambda n: n / 1e5)
lengths = st.integers(0, 200)
counts = st.lists(st.integers(0, 1000), min_size=5, max_size=5).map(sorted)


def check_monotone(schedule, counts, first, last):
    """The values go from first to last without turning, up to rounding."""
    values = np.asarray(schedule(np.array([0, *counts, 10**6])), np.float64)
    slack = 4e-7 * max(abs(first), abs(last))
    low, high = sorted(np.float32([first, last]).astype(np.float64))
    assert np.all(values >= low - slack)
    assert np.all(values <= high + slack)
    assert np.all(np.diff(values) * np.sign(last - first) >= -slack)


class TestMonotone:
    @hypothesis.given(numbers, numbers, lengths, lengths, counts)
    def test_linear(self, a, b, steps, begin, counts):
        check_monotone(gc.linear_schedule(a, b, steps, begin), counts, a, b)

    @hypothesis.given(numbers, numbers, st.floats(0.1, 8.0), st.integers(1, 200), counts)
    def test_polynomial(self, a, b, power, steps, counts):
        check_monotone(gc.polynomial_schedule(a, b, power, steps), counts, a, b)

    @hypothesis.given(numbers, numbers, st.floats(0.1, 8.0), lengths, counts)
    def test_cosine(self, a, b, exponent, steps, counts):
        check_monotone(gc.warmup_cosine_decay_schedule(0.0, a, 0, steps, b, exponent), counts, a if steps else b, b)

    @hypothesis.given(numbers, st.floats(0.01, 1.0), st.integers(1, 200), st.booleans(), counts)
    def test_exponential(self, a, rate, steps, staircase, counts):
        check_monotone(gc.exponential_decay(a, steps, rate, 0, staircase), counts, a, 0.0)

    @hypothesis.given(numbers, numbers, lengths, st.sampled_from(["linear", "cosine", "1-sqrt"]), counts)
    def test_decays_of_warmup_stable_decay(self, a, b, steps, kind, counts):
        schedule = gc.warmup_stable_decay_schedule(0.0, a, 0, 20, steps, b, kind)
        check_monotone(schedule, counts, a, b)


def test_the_power_cooldown_is_a_late_polynomial_schedule():
    """As the records of modded-nanogpt's optimizer track write it: min(peak, c (T - t)^p)."""
    peak, total, part, power = 0.0375, 2900, 0.823, 1.2
    late = gc.polynomial_schedule(peak, 0.0, power, part * total, (1 - part) * total)
    stable = gc.warmup_stable_decay_schedule(0.0, peak, 0, (1 - part) * total, part * total, exponent=power)
    steps = np.array([0, 500, 513, 514, 1000, 2000, 2750, 2899])
    expected = np.minimum(peak, 3.317e-6 * (total - steps) ** power)
    np.testing.assert_allclose(late(steps), expected, rtol=1e-3)
    np.testing.assert_allclose(stable(steps), late(steps), rtol=1e-5)


def test_fast_slow_decay_passes_the_points_of_its_record():
    rate = gc.fast_slow_decay_schedule(0.0003, 0.03, 0.006, 99, 101, 1550, 1375, end_value=0.0005)
    found = rate(np.array([0, 49, 99, 200, 975, 1750, 3125]))
    np.testing.assert_allclose(found[jnp.array([0, 1, 2, 3, 5, 6])], [3e-4, 0.015, 0.03, 0.03, 0.006, 5e-4], rtol=1e-5)
    np.testing.assert_allclose(found[4], 0.03 - 0.024 * 0.5**0.6, rtol=1e-5)


def test_a_linear_half_life_is_half_as_long_halfway():
    decay = gc.linear_half_life_schedule(0.9, 0.9999, 1000)(jnp.array([0, 500, 1000]))
    lengths = np.log(0.5) / np.log(np.asarray(decay, float))
    np.testing.assert_allclose(lengths[[0, 2]], np.log(0.5) / np.log([0.9, 0.9999]), rtol=1e-3)
    np.testing.assert_allclose(lengths[1], lengths[[0, 2]].mean(), rtol=1e-3)
    with pytest.raises(ValueError, match=r"linear_half_life_schedule: init_value must be in \(0, 1\), got 0"):
        gc.linear_half_life_schedule(0, 0.99, 10)


LATE = 20_000_000
"""Beyond the whole numbers that float32 holds one by one."""
CYCLE = {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 2}


@pytest.mark.parametrize(
    ("late", "early"),
    [
        (gc.linear_schedule(1.0, 0.0, 4, LATE), gc.linear_schedule(1.0, 0.0, 4)),
        (gc.polynomial_schedule(1.0, 0.0, 2.0, 4, LATE), gc.polynomial_schedule(1.0, 0.0, 2.0, 4)),
        (gc.exponential_decay(1.0, 2, 0.5, LATE, True), gc.exponential_decay(1.0, 2, 0.5, 0, True)),
        (gc.piecewise_constant_schedule(1.0, {LATE + 2: 0.5}), gc.piecewise_constant_schedule(1.0, {2: 0.5})),
        (gc.join_schedules([1.0, gc.cosine_decay_schedule(1.0, 4)], [LATE]), gc.cosine_decay_schedule(1.0, 4)),
        (
            gc.warmup_stable_decay_schedule(1.0, 1.0, LATE, 1, 3, 0.0),
            gc.warmup_stable_decay_schedule(1.0, 1.0, 0, 1, 3, 0.0),
        ),
        (gc.warmup_cosine_decay_schedule(1.0, 1.0, LATE, LATE + 4), gc.warmup_cosine_decay_schedule(1.0, 1.0, 0, 4)),
        (
            gc.sgdr_schedule([{**CYCLE, "decay_steps": n} for n in (LATE, 4)]),
            gc.warmup_cosine_decay_schedule(0.0, 1.0, 2, 4),
        ),
    ],
    ids=lambda schedule: schedule.name,
)
def test_no_step_is_lost_beyond_two_to_the_24(late, early):
    steps = jnp.arange(6)
    np.testing.assert_array_equal(jax.jit(late)(LATE + steps), early(steps))


def test_whole_boundaries_may_be_traced_beyond_two_to_the_24():
    @jax.jit
    def value(begin, count):
        return gc.join_schedules([0.0, lambda k: k], [begin])(count)

    assert [int(value(jnp.int32(LATE + 1), jnp.int32(LATE + k))) for k in range(4)] == [0, 0, 1, 2]


@pytest.mark.parametrize("far", [2.0**31 - 1, 1e12])
def test_steps_beyond_all_whole_counts_are_never_reached(far):
    for schedule in (
        gc.linear_schedule(0.25, 1.0, far, far),
        gc.exponential_decay(0.25, 10, 0.5, far),
        gc.warmup_stable_decay_schedule(0.25, 0.25, far, far, far, 1.0),
        gc.join_schedules([0.25, 1.0], [far]),
    ):
        np.testing.assert_array_equal(schedule(jnp.array([0, 2**30])), 0.25)


def test_before_its_beginning_a_schedule_has_its_first_value():
    for schedule in (
        gc.join_schedules([0.25, 1.0], [3]),
        gc.sgdr_schedule([{"init_value": 0.25, "peak_value": 1.0, "warmup_steps": 2, "decay_steps": 4}]),
        gc.linear_schedule(0.25, 1.0, 3),
    ):
        assert schedule(-2) == 0.25


def test_a_piece_of_no_steps_is_a_jump():
    for schedule in (gc.linear_schedule(1.0, 0.25, 0, 3), gc.polynomial_schedule(1.0, 0.25, 2.0, 0, 3)):
        np.testing.assert_array_equal(schedule(jnp.arange(6)), [1, 1, 1, 0.25, 0.25, 0.25])
        np.testing.assert_array_equal(schedule(jnp.arange(6.0)), [1, 1, 1, 0.25, 0.25, 0.25])


@pytest.mark.slow
def test_no_value_lies_beyond_the_ends_by_rounding():
    values = gc.warmup_cosine_decay_schedule(0.3, 0.7, 0, 1000, 0.7)(jnp.arange(1000))
    assert np.all(values == np.float32(0.7))
    slope = jax.grad(lambda end: gc.warmup_cosine_decay_schedule(0.3, 0.7, 0, 1000, end)(500))(0.7)
    np.testing.assert_allclose(slope, 0.5, rtol=1e-6)

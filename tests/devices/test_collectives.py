"""The compiled step holds no collective that the algorithm doesn't need."""

import math
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import gradchain as gc
from gradchain.core.hyperparams import walk
from gradchain.core.rule import Rule
from tests.devices.layouts import REPLICATED, SHAPES, WAYS, mesh, model, shardings
from tests.registry import OPTIMIZERS

COLLECTIVE = re.compile(r"= (.*?) (all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all)(?:-start)?\(")
SHAPE = re.compile(r"\w+\[([\d,]*)\]")
SPLIT = WAYS["model"].specs
LAYERS = {"layers": jnp.ones((8, 6, 4))}


def collectives(tx, specs, *, zero=False, params=None, extra=None, axes=AxisType.Auto):
    """Return the collectives of a compiled step, as pairs of a kind and the shape that one moves."""
    on = mesh(axes)
    layout = shardings(on, specs)
    params = jax.device_put(model() if params is None else params, layout)
    state_layout = (gc.zero_shardings if zero else gc.state_shardings)(tx, params)

    def step(grads, state, params):
        updates, state = tx.update(grads, state, params, **(extra or {}))
        return gc.apply_updates(params, updates), state

    state = jax.jit(tx.init, out_shardings=state_layout)(params)
    compiled = jax.jit(step, out_shardings=(layout, state_layout)).lower(params, state, params).compile()
    return [
        (kind, tuple(int(n) for n in dims.split(",") if n))
        for types, kind in COLLECTIVE.findall(compiled.as_text())
        for dims in SHAPE.findall(types)
    ]


def kinds(found):
    return {kind for kind, _ in found}


def by_number(row):
    """Tell whether all that an optimizer does, it does with each number by itself."""
    rules = [part.transform for part in walk(row.build())]
    return all(isinstance(rule, Rule) and rule.spec.kind == "elementwise" and not rule.spec.whole for rule in rules)


def firsts(rows):
    """Return the first row of each sequence of rules."""
    found = {}
    for row in rows:
        found.setdefault(tuple(part.transform.name for part in walk(row.build())), row)
    return list(found.values())


ELEMENTWISE = firsts(row for row in OPTIMIZERS if by_number(row))


@pytest.mark.parametrize(
    "row",
    [pytest.param(r, id=str(r), marks=[] if r.name == "adamw" else [pytest.mark.slow]) for r in ELEMENTWISE],
)
def test_elementwise_optimizers_hold_none(row):
    assert collectives(row.build(), SPLIT) == []


def test_a_pattern_that_found_nothing_would_fail():
    on = mesh()
    x = jax.device_put(model()["kernel"], NamedSharding(on, P("data")))
    text = jax.jit(lambda x: x.sum(0)).lower(x).compile().as_text()
    assert len(COLLECTIVE.findall(text)) == 1


def test_zero_collects_each_update_once():
    found = collectives(gc.adamw(0.1), REPLICATED, zero=True)
    assert sorted(found) == [("all-gather", SHAPES["bias"]), ("all-gather", SHAPES["kernel"])]


@pytest.mark.parametrize(
    "tx",
    [gc.clip_by_global_norm(1.0), gc.lamb(0.1), gc.prodigy(), gc.lbfgs(0.1, linesearch=None)],
    ids=["clip_by_global_norm", "lamb", "prodigy", "lbfgs"],
)
def test_norms_and_products_move_single_numbers(tx):
    found = collectives(tx, SPLIT)
    assert found
    assert {*found} == {("all-reduce", ())}


def test_global_norm_is_right_and_moves_single_numbers():
    params = jax.device_put(model(), shardings(mesh(), SPLIT))
    compiled = jax.jit(gc.tree.global_norm).lower(params).compile()
    found = kinds(COLLECTIVE.findall(compiled.as_text()))
    assert found
    assert {array for kind in found for array in re.findall(r"\w+\[[^]]*\]", kind)} == {"f32[]"}
    assert jnp.isclose(compiled(params), gc.tree.global_norm(model()), rtol=1e-6)


def test_adafactor_moves_rows_and_columns():
    found = collectives(gc.adafactor(0.1, 4), {"w": P("data", "model")}, params={"w": jnp.ones((16, 8))})
    assert kinds(found) == {"all-reduce"}
    assert {len(shape) for _, shape in found} == {0, 1}


@pytest.mark.parametrize("zero", [False, True])
def test_stacked_matrices_stay_where_they_are(zero):
    muon = gc.muon(0.1, muon_weight_dimension_numbers=gc.MuonDimensionNumbers(1, 2))
    for tx in (muon, gc.per_layer(gc.lamb(0.1), 0)):
        found = collectives(tx, {"layers": P() if zero else P("data")}, zero=zero, params=LAYERS)
        assert found == ([("all-gather", (8, 6, 4))] if zero else [])


DIMS = gc.MuonDimensionNumbers
MATRIX_RULES = {
    "muon": lambda dims: gc.muon(0.1, muon_weight_dimension_numbers=dims),
    "normuon": lambda dims: gc.normuon(0.1, weight_dimension_numbers=dims),
    "lmo": lambda dims: gc.scale_by_lmo("spectral", weight_dimension_numbers=dims),
    "dion2": lambda dims: gc.dion2(0.1, moment_decay=0.9, weight_dimension_numbers=dims),
}
APART = {
    "layers": (DIMS(1, 2), (8, 6, 4), P("data")),
    "heads of queries": (DIMS(0, 2), (12, 8, 4), P(None, "data")),
    "heads of outputs": (DIMS(1, 2), (8, 4, 12), P("data")),
    "gate and up of experts": (DIMS(1, 2, output_blocks=2), (8, 4, 12), P("data")),
}
TOGETHER = {
    "layers": (DIMS(1, 2), (8, 6, 4), P("data", None, "model"), (2, 6, 4)),
    "layers by rows": (DIMS(1, 2), (8, 6, 4), P("data", "model"), (2, 6, 4)),
    "matrix": (DIMS(), (16, 8), P("data"), (16, 8)),
}
"""How matrices lie that are spread themselves, and the shape of what each device gathers."""


def on_both(cases):
    """Parametrise over rules, kinds of mesh axes and cases, fast for Muon."""
    return pytest.mark.parametrize(
        ("rule", "axes", "case"),
        [
            pytest.param(
                rule, axes, case, id=f"{name}-{axes}-{case}", marks=[] if name == "muon" else [pytest.mark.slow]
            )
            for name, rule in MATRIX_RULES.items()
            for axes in (AxisType.Auto, AxisType.Explicit)
            for case in cases
        ],
    )


@on_both(APART)
def test_matrices_side_by_side_stay_where_they_are(rule, axes, case):
    dims, shape, spec = APART[case]
    assert collectives(rule(dims), {"w": spec}, params={"w": jnp.ones(shape)}, axes=axes) == []


@on_both(TOGETHER)
def test_a_matrix_is_gathered_once_and_by_those_who_have_a_part(rule, axes, case):
    dims, shape, spec, gathered = TOGETHER[case]
    found = collectives(rule(dims), {"w": spec}, params={"w": jnp.ones(shape)}, axes=axes)
    assert [moved for _, moved in found if math.prod(moved) > math.prod(gathered) / 2] == [gathered]
    assert ("all-gather", gathered) in found

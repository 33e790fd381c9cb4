"""Rules and optimizers that estimate their step size."""

import functools

import optax

import gradchain as gc
from tests import oracles
from tests.registry.row import (
    HALF_MOMENT,
    MASK,
    Row,
    descent,
    is_matrix,
    loss,
    ramp,
    ramp_value,
    twin,
    with_value,
)

contrib = functools.partial(twin, theirs=optax.contrib, needs_params=True)


def downhill(oracle: oracles.Oracle) -> oracles.Oracle:
    """Return an oracle with its sign turned."""
    return oracles.chain(oracle, oracles.scale(-1.0))


ESTIMATED = [
    twin("scale_by_polyak", lambda: oracles.polyak(loss, 4.0, 0.3, 0.1), "", 4.0, 0.3, 0.1, extra=with_value),
    twin(
        "scale_by_polyak",
        lambda: oracles.polyak(loss, 4.0, positive=True),
        *("positive", 4.0),
        kwargs={"variant": "sps+"},
        extra=with_value,
    ),
    Row(
        "scale_by_distance_over_gradients",
        lambda: gc.scale_by_distance_over_gradients(0.1, 0.01, global_scale=-0.5),
        lambda: oracles.layerwise_dog(0.1, 0.01, -0.5),
        needs_params=True,
    ),
    Row(
        "scale_by_distance_over_gradients_half",
        lambda: gc.scale_by_distance_over_gradients(param_dtype="bfloat16"),
        smooth=False,
        needs_params=True,
        excludes=HALF_MOMENT,
    ),
]

FROM_THE_LOSS = [
    Row(
        "polyak_sgd",
        lambda: gc.polyak_sgd(0.5, ramp(), -1.0, 0.1),
        lambda: oracles.chain(oracles.polyak(loss, -1.0, 0.5, 0.1), oracles.learning_rate(ramp_value)),
        extra=with_value,
    ),
    Row(
        "momo",
        lambda: gc.momo(ramp(), 0.8, -1.0, 0.1),
        lambda: downhill(oracles.momo(loss, ramp_value, 0.8, -1.0, 0.1)),
        needs_params=True,
        extra=with_value,
    ),
    Row(
        "momo_mask",
        lambda: gc.momo(ramp(), 0.8, -1.0, 0.1, mask=MASK),
        lambda: downhill(oracles.momo(loss, ramp_value, 0.8, -1.0, 0.1, on=is_matrix)),
        needs_params=True,
        any_tree=False,
        extra=with_value,
    ),
    Row("momo_adapted", lambda: gc.momo(adapt_lower_bound=True), needs_params=True, extra=with_value),
    Row(
        "momo_adam",
        lambda: gc.momo_adam(0.1, 0.8, 0.9, 1e-3, -1.0, 0.1),
        lambda: downhill(oracles.momo_adam(loss, 0.1, 0.8, 0.9, 1e-3, -1.0, 0.1)),
        needs_params=True,
        extra=with_value,
    ),
    Row(
        "momo_adam_mask",
        lambda: gc.momo_adam(0.1, 0.8, 0.9, 1e-3, -1.0, 0.1, mask=MASK),
        lambda: downhill(oracles.momo_adam(loss, 0.1, 0.8, 0.9, 1e-3, -1.0, 0.1, on=is_matrix)),
        needs_params=True,
        any_tree=False,
        extra=with_value,
    ),
    Row("momo_adam_adapted", lambda: gc.momo_adam(1.0, adapt_lower_bound=True), needs_params=True, extra=with_value),
]
"""With the parameters at rest an adapted bound runs into the loss, where the rule jumps: it has tests of its own."""

FROM_DISTANCES = [
    contrib("dog", lambda: descent(oracles.dog(0.1), rate=0.5), "", 0.5, ("heuristic", 0.1)),
    contrib(
        "dog",
        lambda: descent(oracles.weight_decay(0.1, is_matrix), oracles.dog(0.1, 1e-3, "distance"), rate=0.5),
        *("distance", 0.5, ("distance", 0.1), 1e-3, 0.1, MASK),
        any_tree=False,
    ),
    contrib(
        "dog",
        lambda: descent(oracles.dog(0.1, kind="learning_rate"), rate=0.5),
        *("learning_rate", 0.5, ("learning_rate", 0.1)),
    ),
    contrib(
        "dowg",
        lambda: descent(oracles.weight_decay(0.1), oracles.dowg(0.1, 0.01), rate=0.5),
        *("", 0.5, 0.1, 0.01, 0.1),
    ),
    contrib(
        "dadapt_adamw",
        lambda: downhill(oracles.dadapt_adam(ramp_value, 0.8, 0.9, 1e-3, 0.01, 0.1)),
        *("", ramp(), (0.8, 0.9), 1e-3, 0.01, 0.1),
        optax_complex=False,
    ),
    Row(
        "dadapt_adamw_mask",
        lambda: gc.dadapt_adamw(ramp(), (0.8, 0.9), 1e-3, 0.01, 0.1, MASK),
        lambda: downhill(oracles.dadapt_adam(ramp_value, 0.8, 0.9, 1e-3, 0.01, 0.1, is_matrix)),
        needs_params=True,
        any_tree=False,
    ),
    Row(
        "prodigy_mask",
        lambda: gc.prodigy(ramp(), (0.8, 0.9), 0.95, 1e-3, 0.01, 0.5, 0.1, True, MASK),
        lambda: downhill(oracles.prodigy(ramp_value, 0.8, 0.9, 0.95, 1e-3, 0.01, 0.5, 0.1, True, is_matrix)),
        needs_params=True,
        any_tree=False,
    ),
    contrib(
        "prodigy",
        lambda: downhill(oracles.prodigy(first=0.01)),
        kwargs={"estim_lr0": 0.01},
        optax_complex=False,
    ),
    contrib(
        "prodigy",
        lambda: downhill(oracles.prodigy(ramp_value, 0.8, 0.9, 0.95, 1e-3, 0.01, 0.5, 0.1, True)),
        *("safeguarded", ramp(), (0.8, 0.9), 0.95, 1e-3, 0.01, 0.5, 0.1, True),
        optax_complex=False,
    ),
]

BETS = [
    contrib(
        "cocob",
        lambda: oracles.chain(oracles.weight_decay(0.1), oracles.scale(ramp_value), oracles.cocob(10.0, 0.1)),
        *("", ramp(), 10.0, 0.1, 0.1),
        optax_complex=False,
    ),
]

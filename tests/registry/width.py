"""Factors of hyperparameters for single arrays, and what makes updates suit every width."""

import gradchain as gc
from tests import oracles
from tests.oracles import Oracle
from tests.registry.row import Row, ramp, ramp_value

RATES, DECAYS = {"kernel": 10.0, "bias": 1.0, "scale": 0.5}, {"kernel": 1.0, "bias": 0.0, "scale": 1.0}


def adamw_by_array() -> Oracle:
    """Return the oracle of AdamW with a learning rate, a decay and an eps for each array."""

    def one(name: str) -> Oracle:
        rate = RATES[name]
        decay = oracles.weight_decay(0.1 * DECAYS[name])
        eps = 1e-4 if name == "kernel" else 1e-3
        mine = oracles.chain(oracles.adam(eps=eps), decay, oracles.learning_rate(0.01 * rate))
        return oracles.routed(mine, lambda other, w: other == name)

    return oracles.chain(*map(one, RATES))


WIDTH = [
    Row(
        "scale_hyperparams",
        lambda: gc.scale_hyperparams(
            gc.adamw(0.01, eps=1e-3, weight_decay=0.1),
            {
                "learning_rate": [("kernel", 10.0), ("scale", 0.5)],
                "weight_decay": {**DECAYS, "kernel": None},
                "scale_by_adam:eps": [("kernel", 0.1)],
            },
        ),
        adamw_by_array,
        needs_params=True,
        any_tree=False,
    ),
    Row(
        "scale_by_path",
        lambda: gc.chain(gc.trace(0.9), gc.scale_by_path(gc.by_path([("kernel", ramp())], default=2.0))),
        lambda: oracles.chain(
            oracles.trace(0.9),
            oracles.routed(oracles.scale(ramp_value), lambda name, w: name == "kernel"),
            oracles.routed(oracles.scale(2.0), lambda name, w: name != "kernel"),
        ),
        any_tree=False,
    ),
]

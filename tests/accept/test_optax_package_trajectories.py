"""Every optimizer of the package gradchain.optax, with each of its arguments set, against the installed Optax."""

import inspect
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradchain import optax as ours
from tests.trees import normal

pytestmark = pytest.mark.accept

STEPS = 100


def falling(count):
    return 0.01 / (1 + 0.1 * count)


def matrices(params):
    return jax.tree.map(lambda x: x.ndim > 1, params)


MASK = {"w": True, "b": False}
ADAM = {"b1": 0.8, "b2": 0.95, "eps": 1e-4, "eps_root": 1e-5}
DECAY = ({"weight_decay": 0.1}, {"weight_decay": falling}, {"weight_decay": 0.1, "mask": MASK})
TABLE = {
    "adabelief": [*({name: x} for name, x in ADAM.items()), {"nesterov": True}],
    "adadelta": [{"rho": 0.8}, {"eps": 1e-3}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "weight_decay_mask": MASK}],
    "adafactor": [
        *({"min_dim_size_to_factor": 2}, {"decay_rate": 0.6}, {"multiply_by_parameter_scale": False}, {"eps": 1e-8}),
        *({"clipping_threshold": None}, {"clipping_threshold": 0.3}, {"momentum": 0.9}, {"decay_offset": -3}),
        *({"momentum": 0.9, "dtype_momentum": jnp.float64}, {"factored": False, "min_dim_size_to_factor": 2}),
        {"weight_decay_rate": 0.1},
        {"weight_decay_rate": falling, "weight_decay_mask": matrices},
    ],
    "adagrad": [{"initial_accumulator_value": 0.5}, {"eps": 1e-3}],
    "adam": [*({name: x} for name, x in ADAM.items()), {"mu_dtype": "float64"}, {"nesterov": True}],
    "adamax": [{"b1": 0.8}, {"b2": 0.95}, {"eps": 1e-4}],
    "adamaxw": [{"b1": 0.8}, {"b2": 0.95}, {"eps": 1e-4}, *DECAY],
    "adamw": [*({name: x} for name, x in ADAM.items()), {"mu_dtype": "float64"}, {"nesterov": True}, *DECAY],
    "adan": [*({name: x} for name, x in (ADAM | {"b3": 0.9}).items()), *DECAY],
    "amsgrad": [
        *({name: x} for name, x in ADAM.items()),
        *({"mu_dtype": "float64"}, {"bias_correction_mu": False}, {"bias_correction_nu": False}),
    ],
    "fromage": [{"min_norm": 0.1}],
    "lamb": [*({name: x} for name, x in ADAM.items()), *DECAY],
    "lars": [
        *({"weight_decay": 0.1}, {"weight_decay": falling, "weight_decay_mask": MASK}, {"trust_coefficient": 0.1}),
        *({"eps": 0.01}, {"trust_ratio_mask": matrices}, {"momentum": 0.8}, {"nesterov": True}),
    ],
    "lion": [{"b1": 0.8}, {"b2": 0.95}, {"mu_dtype": "float64"}, *DECAY],
    "nadam": [{"b1": 0.8}],
    "nadamw": [{"b1": 0.8}],
    "noisy_sgd": [{"key": 1}, {"key": 1, "eta": 0.1}, {"key": 1, "gamma": 0.2}, {"seed": 1}],
    "novograd": [*({name: x} for name, x in ADAM.items()), {"weight_decay": 0.1}],
    "optimistic_adam": [
        {"optimism": 0.3},
        *({name: x} for name, x in ADAM.items()),
        *({"mu_dtype": "float64"}, {"nesterov": False}),
    ],
    "optimistic_adam_v2": [
        *({"alpha": 0.5}, {"beta": 0.5}),
        *({name: x} for name, x in ADAM.items()),
        *({"mu_dtype": "float64"}, {"nesterov": False}),
    ],
    "optimistic_gradient_descent": [{"alpha": 0.5}, {"beta": 0.5}],
    "polyak_sgd": [
        *({"max_learning_rate": 0.1}, {"scaling": 0.5}, {"scaling": falling}, {"f_min": -1.0}, {"eps": 0.1}),
        {"variant": "sps+"},
    ],
    "radam": [*({name: x} for name, x in ADAM.items()), {"threshold": 4.5}, {"nesterov": True}],
    "rmsprop": [
        *({"decay": 0.8}, {"eps": 1e-3}, {"initial_scale": 0.5}, {"eps_in_sqrt": False}, {"centered": True}),
        *({"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}, {"bias_correction": True}),
    ],
    "rprop": [{"eta_minus": 0.4}, {"eta_plus": 1.5}, {"min_step_size": 1e-3}, {"max_step_size": 0.02}],
    "sgd": [{"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}, {"momentum": 0.9, "accumulator_dtype": "float64"}],
    "sign_sgd": [],
    "signum": [{"beta": 0.8}, {"accumulator_dtype": "float64"}],
    "sm3": [{"momentum": 0.8}],
    "yogi": [{"b1": 0.8}, {"b2": 0.95}, {"eps": 1e-2}],
}
"""Optimizers with sets of arguments, besides the defaults and a rate that falls."""
NO_SCHEDULE = {"optimistic_adam", "polyak_sgd", "rprop", "sm3"}


def sets_of_arguments(name):
    rate = {} if name == "polyak_sgd" else {"learning_rate": 0.01}
    first = [rate | {"key": 2}] if name == "noisy_sgd" else [rate]
    falls = [] if name in NO_SCHEDULE else [first[0] | {"learning_rate": falling}]
    return [*first, *falls, *(rate | row for row in TABLE[name])]


def gradients(params, number):
    """Return gradients that change with the parameters and with the step, as those of batches do."""
    return jax.tree.map(
        lambda x: x + 0.3 * jnp.sin(number + jnp.arange(x.size, dtype=x.dtype).reshape(x.shape)), params
    )


def run(library, name, arguments, params):
    tx = getattr(library, name)(**arguments)

    def body(carry, number):
        params, state = carry
        extra = {"value": sum(jnp.sum(x**2) for x in jax.tree.leaves(params))} if name == "polyak_sgd" else {}
        updates, state = tx.update(gradients(params, number), state, params, **extra)
        return (library.apply_updates(params, updates), state), params["w"]

    return jax.lax.scan(body, (params, tx.init(params)), jnp.arange(STEPS))


def names_of_states(state):
    """Return a state with each NamedTuple as its class's name and its fields."""
    if hasattr(state, "_fields"):
        return type(state).__name__, {name: names_of_states(x) for name, x in zip(state._fields, state, strict=True)}
    if isinstance(state, list | tuple):
        return [names_of_states(x) for x in state]
    if isinstance(state, dict):
        return {key: names_of_states(x) for key, x in state.items()}
    return str(state.dtype), state.shape


def without_keys(tree):
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, tree)


@pytest.mark.parametrize("name", sorted(TABLE))
def test_trajectories_and_states_are_those_of_optax(name, x64):
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(normal(rng, (3, 4), "float64")), "b": jnp.asarray(normal(rng, (4,), "float64"))}
    rows = sets_of_arguments(name)
    with warnings.catch_warnings(), jax.numpy_rank_promotion("allow"):
        warnings.simplefilter("ignore", (DeprecationWarning))
        runs = [jax.jit(lambda p, lib=lib: [run(lib, name, row, p) for row in rows])(params) for lib in (ours, optax)]
    for row, got, want in zip(rows, *runs, strict=True):
        assert names_of_states(got[0][1]) == names_of_states(want[0][1]), row
        assert np.all(np.isfinite(np.asarray(want[1]))), row
        for x, y in zip(jax.tree.leaves(without_keys(got)), jax.tree.leaves(without_keys(want)), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-10, err_msg=f"{name} {row}")


def test_the_table_sets_every_argument_of_every_optimizer():
    optimizers = {
        name for name, x in vars(optax._src.alias).items() if getattr(x, "__module__", "") == "optax._src.alias"
    }
    public = {name for name in optimizers & {*optax.__all__} if callable(getattr(optax, name))}
    assert public - {"lbfgs"} <= {*TABLE}
    for name, rows in TABLE.items():
        arguments = {*inspect.signature(getattr(optax, name)).parameters} - {"learning_rate"}
        of_adam = {*ADAM, "mu_dtype", "weight_decay", "mask", "nesterov"} if name.startswith("nadam") else set()
        assert arguments - of_adam <= {x for row in rows for x in row}, name

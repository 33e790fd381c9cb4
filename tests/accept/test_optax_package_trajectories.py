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
    "noisy_sgd": [{"key": 1}, {"key": 1, "eta": 0.1}, {"key": 1, "gamma": 0.2}, {"key": None, "seed": 1}],
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
CONTRIB = {
    "acprop": [*({name: x} for name, x in ADAM.items()), *DECAY],
    "ademamix": [
        *({name: x} for name, x in (ADAM | {"b3": 0.99, "alpha": 2.0, "mu_dtype": "float64"}).items()),
        *({"b3": falling}, {"alpha": falling}),
        *DECAY,
    ],
    "adopt": [
        *({"b1": 0.8}, {"b2": 0.95}, {"eps": 1e-3}, {"mu_dtype": "float64"}, {"nesterov": True}),
        *({"use_clipping": False}, {"clip_value_fn": lambda count: 1.0 + count}),
    ],
    "cocob": [{"alpha": 50.0}, {"eps": 1e-3}, *DECAY[::2]],
    "dadapt_adamw": [{"betas": (0.8, 0.95)}, {"eps": 1e-3}, {"estim_lr0": 1e-3}, {"weight_decay": 0.1}],
    "dog": [{"init_step": ("distance", 1e-3)}, {"init_step": ("learning_rate", 1e-3)}, {"eps": 1e-3}, *DECAY[::2]],
    "dowg": [{"init_estim_sq_dist": 1e-4}, {"eps": 1e-2}, *DECAY[::2]],
    "dpsgd": [{"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}],
    "galore": [
        *({"rank": 2}, {"rank": 2, "scale": 0.5}),
        *({"rank": 2, "update_proj_gap": 30}, {"rank": 2, "base_optimizer": True}),
        {"rank": 2, "weight_dimension_numbers": True},
        *({"rank": 2} | row for row in DECAY[::2]),
    ],
    "madgrad": [{"momentum": 0.8}, {"weight_decay": 0.1}, {"eps": 1e-3}],
    "momo": [{"beta": 0.8}, {"lower_bound": -1.0}, {"weight_decay": 0.1}, {"adapt_lower_bound": True}],
    "momo_adam": [
        *({"b1": 0.8}, {"b2": 0.95}, {"eps": 1e-3}, {"lower_bound": -1.0}, {"weight_decay": 0.1}),
        {"adapt_lower_bound": True},
    ],
    "muon": [
        *({"ns_coeffs": (3.0, -3.2, 1.2)}, {"ns_coeffs": "dion"}, {"ns_steps": 3}, {"beta": 0.8}, {"eps": 1e-3}),
        *({"weight_decay": 0.1}, {"weight_decay": 0.1, "weight_decay_mask": MASK}, {"mu_dtype": "float64"}),
        *({"nesterov": False}, {"adaptive": True}, {"preconditioning": "spectral"}, {"preconditioning": "aol"}),
        *({"preconditioning": "schatten"}, {"adam_b1": 0.8}, {"adam_b2": 0.95}, {"adam_eps_root": 1e-4}),
        *({"adam_weight_decay": 0.1}, {"adam_learning_rate": 0.1}, {"consistent_rms": 0.2}),
        {"muon_weight_dimension_numbers": True},
    ],
    "prodigy": [
        *({"betas": (0.8, 0.95)}, {"beta3": 0.9}, {"eps": 1e-3}, {"estim_lr0": 1e-3}, {"estim_lr_coef": 2.0}),
        *({"weight_decay": 0.1}, {"safeguard_warmup": True}),
    ],
    "schedule_free_adamw": [
        *({"warmup_steps": 5}, {"b1": 0.8}, {"b2": 0.95}, {"eps": 1e-3}, {"weight_decay": 0.1}),
        *({"weight_lr_power": 1.0}, {"state_dtype": "float64"}),
    ],
    "schedule_free_sgd": [
        *({"warmup_steps": 5}, {"b1": 0.8}, {"weight_decay": 0.1}, {"weight_lr_power": 1.0}),
        {"state_dtype": "float64"},
    ],
    "simplified_ademamix": [*({name: x} for name, x in ADAM.items()), {"alpha": 2.0}, {"alpha": falling}, *DECAY],
    "sophia": [
        *({"b1": 0.8}, {"b2": 0.95}, {"eps": 1e-3}, {"weight_decay": 0.1}, {"gamma": 0.1}, {"clip_threshold": None}),
        *({"clip_threshold": 0.5}, {"update_interval": 3}, {"mu_dtype": "float64"}),
        *({"weight_decay": 0.1, "weight_decay_mask": MASK}, {"verbose": True, "print_win_rate_every_n_steps": 99}),
    ],
}
"""The same of contrib."""
NO_SCHEDULE = {"optimistic_adam", "polyak_sgd", "rprop", "sm3", "schedule_free_adamw", "schedule_free_sgd"}
REQUIRED = {
    "polyak_sgd": {},
    "noisy_sgd": {"learning_rate": 0.01, "key": 2, "seed": None},
    "dpsgd": {"learning_rate": 0.01, "l2_norm_clip": 1.0, "noise_multiplier": 0.0, "seed": 1},
}
OF_A_LIBRARY = {
    "base_optimizer": lambda library: library.scale_by_adam(b1=0.8),
    "hessian_diagonal_fn": lambda library: library.stateless_with_tree_map(lambda g, w: g * g),
    "weight_dimension_numbers": lambda library: (
        lambda params: {
            "w": library.contrib.GaLoreDimensionNumbers(1, 0),
            "b": None,
        }
    ),
    "muon_weight_dimension_numbers": lambda library: {"w": library.contrib.MuonDimensionNumbers(1, 0), "b": None},
}
"""Arguments that each library makes of its own parts, where a row has True."""


def imprecise(name, row):
    """Whether Optax computes in single precision, as the page on it says: roots of counts, and schedules of warm-up."""
    return name == "madgrad" or "warmup_steps" in row


def sets_of_arguments(name, rows):
    """Return the optimizer's defaults, with a rate that falls, and with each row."""
    first = REQUIRED.get(name, {"learning_rate": 0.01}) | ({"hessian_diagonal_fn": True} if name == "sophia" else {})
    falls = [] if name in NO_SCHEDULE else [{"learning_rate": falling}]
    return [first | row for row in [{}, *falls, *rows]]


def build(library, name, row):
    """Return an optimizer of a library or of its ``contrib``."""
    given = {k: OF_A_LIBRARY[k](library) if k in OF_A_LIBRARY and x is True else x for k, x in row.items()}
    return getattr(library if name in TABLE else library.contrib, name)(**given)


def gradients(params, number):
    """Return gradients that change with the parameters and with the step, as those of batches do."""
    return jax.tree.map(
        lambda x: x + 0.3 * jnp.sin(number + jnp.arange(x.size, dtype=x.dtype).reshape(x.shape)), params
    )


def run(library, name, arguments, params):
    tx = build(library, name, arguments)
    takes_value = name in ("polyak_sgd", "momo", "momo_adam")

    def body(carry, number):
        params, state = carry
        extra = {"value": sum(jnp.sum(x**2) for x in jax.tree.leaves(params))} if takes_value else {}
        gradient = gradients(params, number)
        if name == "dpsgd":
            gradient = jax.tree.map(lambda g: jnp.stack([g, 2 * g, -g / 2]), gradient)
        updates, state = tx.update(gradient, state, params, **extra)
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


@pytest.mark.parametrize("name", sorted(TABLE | CONTRIB))
def test_trajectories_and_states_are_those_of_optax(name, x64):
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(normal(rng, (3, 4), "float64")), "b": jnp.asarray(normal(rng, (4,), "float64"))}
    rows = sets_of_arguments(name, (TABLE | CONTRIB)[name])
    with warnings.catch_warnings(), jax.numpy_rank_promotion("allow"):
        warnings.simplefilter("ignore", (DeprecationWarning))
        runs = [jax.jit(lambda p, lib=lib: [run(lib, name, row, p) for row in rows])(params) for lib in (ours, optax)]
    for row, got, want in zip(rows, *runs, strict=True):
        assert names_of_states(got[0][1]) == names_of_states(want[0][1]), row
        assert np.all(np.isfinite(np.asarray(want[1]))), row
        for x, y in zip(jax.tree.leaves(without_keys(got)), jax.tree.leaves(without_keys(want)), strict=True):
            tolerance = 1e-7 if imprecise(name, row) else 1e-10
            np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance, err_msg=f"{name} {row}")


def public_optimizers(library):
    """Return the names of what makes an optimizer, which begins with a learning rate or a weight."""
    made = {name for name, x in vars(library).items() if inspect.isfunction(x) and not name.startswith("_")}
    of = {name: [*inspect.signature(getattr(library, name)).parameters] for name in made}
    return {name for name, names in of.items() if "learning_rate" in names and not name.startswith("scale_by_")}


def test_the_tables_set_every_argument_of_every_optimizer():
    elsewhere = {"lbfgs", "make_fused_adam", "schedule_free"}
    assert public_optimizers(optax) - elsewhere <= {*TABLE}
    assert public_optimizers(optax.contrib) - elsewhere <= {*CONTRIB}
    for name, rows in (TABLE | CONTRIB).items():
        function = getattr(optax if name in TABLE else optax.contrib, name)
        arguments = {*inspect.signature(function).parameters} - {"learning_rate"}
        of_adam = {*ADAM, "mu_dtype", "weight_decay", "mask", "nesterov"} if name.startswith("nadam") else set()
        assert arguments - of_adam <= {x for row in sets_of_arguments(name, rows) for x in row}, name

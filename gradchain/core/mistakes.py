"""What people write by mistake or by habit, recognised once something has failed."""

from typing import Any, cast

import jax

from gradchain.core.value import Value

ELSEWHERE = {
    usual: f"; {cure}"
    for usuals, cure in (
        (
            "learning_rate lr param_groups hyperparams",
            "hyperparams(tx) lists the hyperparameters, and tx.replace changes them",
        ),
        ("zero_grad", "gradients are values, with nothing to reset"),
        (
            "minimize apply_gradients apply",
            "updates, state = tx.update(grads, state, params); params = apply_updates(params, updates)",
        ),
        ("state_dict load_state_dict", "see to_state_dict and from_state_dict"),
        ("get_config from_config", "see to_config and from_config"),
        ("state variables", "the state is a value of its own: state = tx.init(params)"),
    )
    for usual in usuals.split()
}
"""What other libraries' optimizers have as attributes, and where it is here."""


def misplaced(updates: Any, state: Any, params: Any) -> str:
    """Return what is wrong with the arguments of an ``update`` that failed, if they are in each other's places."""
    for name, value in (("updates", updates), ("state", state), ("params", params)):
        if type(value) is tuple and len(value) == 2 and holds_state(value[1]) and not holds_state(value[0]):
            return f"{name} is a pair of updates and state, as update returns them: unpack it"
    structure = jax.tree.structure
    if isinstance(updates, tuple) and len(updates) == 2 and structure(updates[1]) == structure(params):
        return "updates is a pair; of value_and_grad's (value, gradients), pass the gradients alone"
    if state is None or isinstance(state, Value):
        return "the first state is tx.init(params)"
    if (
        holds_state(updates)
        or holds_state(params)
        or (structure(state) == structure(updates) and jax.tree.leaves(state))
    ):
        return "the order is update(updates, state, params)"
    return ""


def holds_state(x: Any) -> bool:
    """Return whether ``x`` is a transform's state, or a container of such: NamedTuples that are called ``...State``."""
    if isinstance(x, dict):
        return any(map(holds_state, cast(dict[Any, Any], x).values()))
    named = hasattr(x, "_fields") and type(x).__name__.endswith("State")
    return named or (isinstance(x, tuple | list) and any(map(holds_state, cast(Any, x))))

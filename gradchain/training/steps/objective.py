"""The loss of a training step: how it is called, and what it returns."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Self, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gradchain.arguments import check_call, described, is_numeric, parameter_names
from gradchain.training.data.placement import Placement
from gradchain.training.steps.entrance import check_is_no_model
from gradchain.training.variables import Adapter, Variables
from gradchain.tree import Tree, match, show_path
from gradchain.tree.alignment import is_key
from gradchain.tree.construction import can_hold

TOLD = "training", "weights"
"""Parameters of a loss by which it is told more than parameters, batch and key."""

NEEDS_WEIGHTS = "remainder='pad' needs a loss_fn with a parameter called weights, which are 0 for padding"


class Objective(NamedTuple):
    """A loss function and how it is called, hashable."""

    loss_fn: Callable[..., Any]
    has_aux: bool = False
    takes_key: bool = False
    given: Literal["params", "variables", "model"] = "params"
    """As what the model is handed in and returned: parameters alone, ``Variables``, or a framework's model."""
    told: tuple[str, ...] = ()
    """Which of ``TOLD`` the loss has as parameters."""
    placement: Placement | None = None
    """How a batch is spread over devices, where it is."""

    @classmethod
    def of(cls, loss_fn: Callable[..., Any], has_aux: bool = False, takes_key: bool = False) -> Self:
        """Return the objective of a caller's loss."""
        return cls(loss_fn, has_aux, takes_key, told=_told(loss_fn))

    @property
    def has_state(self) -> bool:
        """Whether the loss is given the model's state, and returns it."""
        return self.given != "params"

    def enter(self, model: Any) -> tuple[Self, Variables[Any]]:
        """Return the objective of a model that is handed in in this way, and its variables."""
        if isinstance(model, Variables):
            return self._replace(given="variables"), cast(Variables[Any], model)
        if isinstance(self.loss_fn, Adapter):
            return self._replace(given="model"), self.loss_fn.split(model)
        check_is_no_model(model)
        return self, Variables(model)

    def leave(self, variables: Variables[Any]) -> Any:
        """Return variables as the model was handed in."""
        if self.given == "model":
            return cast(Adapter, self.loss_fn).merge(variables)
        return variables if self.has_state else variables.params

    def __call__(
        self, variables: Variables[Any], batch: Tree, key: Array | None, *, training: bool, weights: Any = None
    ) -> tuple[Array, Any, Any]:
        """Return (loss, aux, model_state), after checking that the loss is one real number."""
        if weights is not None and "weights" not in self.told:
            raise TypeError(NEEDS_WEIGHTS)
        batch = batch if self.placement is None else self.placement.batch(batch)
        arguments = (*variables, batch) if self.has_state else (variables.params, batch)
        facts = {"training": training, "weights": weights}
        told = {name: facts[name] for name in self.told}
        try:
            result: Any = self.loss_fn(*arguments, *([key] if self.takes_key else []), **told)
        except TypeError:
            self._check_call()  # raises an error of its own, if that is the cause
            raise
        loss, aux, model_state = self._unpacked(result)
        if not is_numeric(loss) or np.ndim(loss) or not jnp.issubdtype(jnp.result_type(loss), jnp.floating):
            several = is_numeric(loss) and np.ndim(loss)
            hint = "take the mean over the batch" if several else "return a floating-point number"
            raise TypeError(f"loss_fn must return one real number, got {described(loss)}; {hint}")
        if self.has_state:
            model_state = _as_before(model_state, variables.model_state)
        return jnp.asarray(loss), aux, model_state

    def _check_call(self) -> None:
        given = ["params", *(["model_state"] if self.has_state else []), "batch", *(["key"] if self.takes_key else [])]
        hint = "leave out takes_key=True, or take a key" if self.takes_key else "takes_key=True hands in a key"
        hint += ", and a batch is one argument, whatever it is made of: x, y = batch"
        check_call("loss_fn", self.loss_fn, given, self.told, hint)

    def _unpacked(self, result: Any) -> tuple[Any, Any, Any]:
        wanted = {
            (False, False): "the loss alone (has_aux=True allows a pair (loss, aux))",
            (False, True): "a pair (loss, aux)",
            (True, False): "a pair (loss, model_state)",
            (True, True): "a pair (loss, (model_state, aux))",
        }[self.has_state, self.has_aux]
        found = "a pair" if _is_pair(result) else described(result)
        if _is_pair(result) != (self.has_aux or self.has_state):
            raise TypeError(f"loss_fn must return {wanted}, got {found}")
        if not self.has_state:
            return (*result, None) if self.has_aux else (result, None, None)
        loss, rest = result
        if not self.has_aux:
            return loss, None, rest
        if not _is_pair(rest):
            raise TypeError(f"loss_fn must return {wanted}, got a pair whose second part is {described(rest)}")
        model_state, aux = rest
        return loss, aux, model_state

    def measure(self, function: Callable[..., Any], variables: Variables[Any], batch: Tree) -> Any:
        """Call a function of the model and a batch, such as metrics, as the loss is called in evaluation."""
        if isinstance(self.loss_fn, Adapter):
            return self.loss_fn.measure(function, variables, batch)
        return function(*variables, batch) if self.has_state else function(variables.params, batch)


def _is_pair(x: Any) -> bool:
    return isinstance(x, tuple) and len(x) == 2  # pyright: ignore[reportUnknownArgumentType]


def _told(loss_fn: Callable[..., Any]) -> tuple[str, ...]:
    """Return which facts a loss asks for by the names of its parameters."""
    names = parameter_names(loss_fn)
    return tuple(name for name in TOLD if name in names)


def _as_before(new: Tree, old: Tree) -> Tree:
    """Return the model state that a loss returned, in the structure and dtypes of the one that it was given.

    Raises:
      ValueError: if it has another structure, or an array of another shape.
      TypeError: if an array can't be stored in the dtype that it had.
    """
    new = match(new, old, "loss_fn", "the model_state that it returned", "the one that it was given")

    def leaf(path: Any, x: Any, before: Any) -> Any:
        if is_key(x) or jnp.result_type(x) == before.dtype:
            return x
        if not can_hold(before.dtype, jnp.result_type(x)):
            raise TypeError(
                f"loss_fn: model_state {show_path(path)} was {before.dtype}, and {jnp.result_type(x)} came back"
            )
        return jnp.asarray(x, before.dtype)

    return jax.tree_util.tree_map_with_path(leaf, new, old)

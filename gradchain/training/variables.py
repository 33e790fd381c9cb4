"""What a training step carries of the model: what is trained, and what isn't."""

from typing import Any, Generic, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array

from gradchain.arguments import as_arrays, described, is_numeric
from gradchain.signatures import public
from gradchain.tree import Tree, show_path
from gradchain.tree.alignment import T, is_key


@public
class Variables(NamedTuple, Generic[T]):
    """A model's parameters, and what it carries besides: running statistics, random streams, counters.

    Wherever the training loops take ``params``, they take ``Variables`` too, and then return ``Variables``. The
    optimizer sees ``params`` alone. The loss gets both, and returns the model state as it is after the step:
    ``loss_fn(params, model_state, batch) -> (loss, model_state)``, or ``(loss, (model_state, aux))`` with
    ``has_aux=True``.

    Example:
      >>> def loss_and_count(params, model_state, batch):
      ...     return loss_fn(params, batch), {"steps": model_state["steps"] + 1}
      >>> variables = Variables(params, {"steps": 0})
      >>> result = fit(loss_and_count, variables, adam(1e-3), data, epochs=2, batch_size=32)
      >>> print(result.params.model_state["steps"] == result.steps_done)
      True
    """

    params: T
    """What is trained: a tree of floating-point or complex arrays."""
    model_state: Any = None
    """What isn't: a tree of arrays of any dtype, PRNG keys included."""


@runtime_checkable
class Adapter(Protocol):
    """A loss of a framework's model, to be handed in as ``loss_fn``; see :mod:`gradchain.training.adapters`."""

    def split(self, model: Any) -> Variables[Any]:
        """Return what is trained, and what isn't, of a model as users have it."""
        ...

    def merge(self, variables: Variables[Any]) -> Any:
        """Return the model again."""
        ...

    def settle(self, variables: Variables[Any]) -> Variables[Any]:
        """Return variables whose running means are those of a whole pass, in the form in which the framework reads it.

        Some store a mean times 1 - decay^count, which they divide by when they read it, or the result as well.
        """
        ...

    def measure(self, function: Any, variables: Variables[Any], batch: Any) -> Any:
        """Call ``function(model, batch)`` with the model in evaluation."""
        ...

    def __call__(
        self, params: Any, model_state: Any, batch: Any, key: Array | None = None, *, training: bool = False
    ) -> Any:
        """Return ``(loss, model_state)``, or ``(loss, (model_state, aux))`` if the user's loss has aux."""
        ...


def checked(variables: Variables[Any], what: str = "params") -> Variables[Any]:
    """Return the variables as JAX arrays of their own, as a scan's carry needs them.

    Raises:
      TypeError: naming the path of what isn't an array, or can't be trained; if nothing can be.
    """
    if not jax.tree.leaves(variables.params):
        raise TypeError(f"{what} has no arrays: there is nothing to train")
    return Variables(as_arrays(variables.params, what), _state_arrays(variables.model_state))


def _state_arrays(state: Tree) -> Tree:
    def leaf(path: Any, x: Any) -> Array:
        if is_key(x):
            return x
        if not is_numeric(x):
            raise TypeError(f"model_state {show_path(path)} is {described(x)}, expected an array")
        return jnp.asarray(x, jnp.result_type(x))

    return jax.tree_util.tree_map_with_path(leaf, state)


def for_evaluation(tx: Any, state: Any, variables: Variables[Any]) -> Variables[Any]:
    """Return the variables with evaluation weights in the place of the parameters."""
    return variables._replace(params=tx.eval_params(state, variables.params))

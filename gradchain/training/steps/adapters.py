"""Models of Flax linen, Flax NNX, Equinox and Haiku in the training loops: adapters, handed in as ``loss_fn``.

A framework's own model goes in, and comes out trained. The loss calls the model in the framework's usual way, and masks
and labels see the paths that its users know. An adapter splits the model into :class:`~gradchain.training.Variables`:
what is trained, and what the model carries besides. In a step the model is in training mode and what it carries
changes; in an evaluation it is in evaluation mode and nothing changes.

A framework is imported when its adapter is used.
"""

import contextlib
import inspect
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from gradchain.arguments import check_call, described
from gradchain.signatures import public
from gradchain.training.steps.objective import NEEDS_WEIGHTS
from gradchain.training.variables import Variables


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Carried:
    """What a model carries besides its parameters, together with the part of it that isn't arrays."""

    arrays: Any
    static: Any = field(metadata={"static": True})


def _call(function: Callable[..., Any], arguments: dict[str, Any], facts: dict[str, Any]) -> Any:
    """Call a loss or metrics with a model and a batch, and with those facts that it has parameters for.

    Args:
      function: the function.
      arguments: what it is given in any case, by the names that messages use.
      facts: what it may ask for.

    Raises:
      TypeError: if it takes other arguments, or needs a fact that nobody knows.
    """
    parameters = inspect.signature(function).parameters
    if facts.get("weights") is not None and "weights" not in parameters:
        raise TypeError(NEEDS_WEIGHTS)
    asked = {name: fact for name, fact in facts.items() if name in parameters}
    if (
        facts["training"]
        and "key" in asked
        and asked["key"] is None
        and parameters["key"].default is inspect.Parameter.empty
    ):
        raise TypeError("loss_fn has a parameter called key, but there is no key; hand one in by takes_key=True")
    try:
        return function(*arguments.values(), **asked)
    except TypeError:
        hint = "it may also have parameters called training, key and weights; a batch is one argument: x, y = batch"
        check_call(getattr(function, "__name__", "loss_fn"), function, [*arguments], asked, hint)
        raise


@contextlib.contextmanager
def _hints_at_keys(facts: dict[str, Any]) -> Generator[None]:
    """Say what to do where a model needs random numbers and has no key."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ in ("InvalidRngError", "MissingRNGError") and facts["key"] is None:
            training = "write takes_key=True, and each step hands the model a key"
            error.add_note(
                training if facts["training"] else "in an evaluation there is no key: turn dropout off there"
            )
        raise


def _check_loss(where: str, loss_fn: Any, *models: type) -> None:
    """Raise TypeError for what is no function, such as the model itself."""
    if not callable(loss_fn) or isinstance(loss_fn, (type, *models)):
        raise TypeError(f"{where}: loss_fn must be a function that returns the loss, got {described(loss_fn)}")


def _with_state(result: Any, model_state: Any) -> Any:
    """Return a loss, or a loss and its aux, with the model state that belongs to it."""
    if not isinstance(result, tuple):
        return result, model_state
    loss, aux = result
    return loss, (model_state, aux)


class Linen(NamedTuple):
    """See :func:`linen`."""

    module: Any
    loss_fn: Callable[..., Any]

    def split(self, model: Any) -> Variables[Any]:
        if not isinstance(model, Mapping) or "params" not in model:
            raise TypeError(
                f"training.linen: the variables are what module.init(key, x) returns, with the collection 'params', "
                f"got {described(model)}"
            )
        from flax.core import FrozenDict

        collections: dict[str, Any] = {**(model.unfreeze() if isinstance(model, FrozenDict) else model)}
        return Variables(collections.pop("params"), collections)

    def merge(self, variables: Variables[Any]) -> Any:
        return {"params": variables.params, **variables.model_state}

    def settle(self, variables: Variables[Any]) -> Variables[Any]:
        return variables

    def measure(self, function: Any, variables: Variables[Any], batch: Any) -> Any:
        return self._apply(function, variables, batch, None, False)[0]

    def __call__(
        self, params: Any, model_state: Any, batch: Any, key: Array | None = None, *, training: bool = False,
        weights: Any = None,
    ) -> Any:  # fmt: skip
        result, changed = self._apply(self.loss_fn, Variables(params, model_state), batch, key, training, weights)
        return _with_state(result, {**model_state, **changed})

    def _apply(
        self, function: Any, variables: Variables[Any], batch: Any, key: Any, training: bool, weights: Any = None
    ) -> tuple[Any, Any]:
        import flax.linen as nn

        facts = {"key": key, "training": training, "weights": weights}
        mutable = [*variables.model_state] if training else []

        def measure(module: Any) -> Any:
            return _call(function, {"module": module, "batch": batch}, facts)

        with _hints_at_keys(facts):
            return nn.apply(measure, self.module, mutable)(self.merge(variables), rngs=key)


@public
def linen(module: Any, loss_fn: Callable[..., Any]) -> Linen:
    """Return an adapter for a Flax linen module: hand it in as ``loss_fn``, and the module's variables as ``params``.

    The collection ``params`` is trained, under the paths that ``module.init`` gives (``Dense_0/kernel``). All other
    collections among the variables, such as ``batch_stats``, are the model's state: mutable in a step, and only read
    in an evaluation. Variables come out, in plain dicts.

    Args:
      module: the module.
      loss_fn: ``loss_fn(module, batch) -> loss``, or ``(loss, aux)`` with ``has_aux=True``. The module that it is
        given has its variables: call it, or its methods. A loss with a parameter called ``training`` is told whether
        it is called in a step; hand it on to the module. With ``takes_key=True`` all streams of random numbers, such
        as ``"dropout"``, start from the step's key, as in ``module.apply(..., rngs=key)``.

    Example:
      >>> import flax.linen as nn
      >>> net = nn.BatchNorm(momentum=0.9)
      >>> def loss_fn(net, batch, training):
      ...     return jnp.mean((net(batch["x"], use_running_average=not training) - batch["y"]) ** 2)
      >>> variables = net.init(jax.random.key(0), data["x"], use_running_average=False)
      >>> result = fit(training.linen(net, loss_fn), variables, adam(1e-3), data, epochs=5, batch_size=32)
      >>> sorted(result.params)
      ['batch_stats', 'params']
    """
    import flax.linen as nn

    if not isinstance(module, nn.Module):
        is_class = isinstance(module, type)
        found = f"the class {module.__name__}; write {module.__name__}(...)" if is_class else described(module)
        raise TypeError(f"training.linen: the first argument is the module, got {found}")
    _check_loss("training.linen", loss_fn, nn.Module)
    return Linen(module, loss_fn)


class NNX(NamedTuple):
    """See :func:`nnx`."""

    loss_fn: Callable[..., Any]
    wrt: Any

    def split(self, model: Any) -> Variables[Any]:
        from flax import nnx

        if not isinstance(model, nnx.Module):
            raise TypeError(f"training.nnx: params is the module itself, an nnx.Module, got {described(model)}")
        graphdef, params, sown, rest = nnx.split(model, self.wrt, nnx.Intermediate, ...)
        if sown:
            model = nnx.clone(model)
            nnx.pop(model, nnx.Intermediate)
            return self.split(model)
        if not params:
            raise TypeError(
                f"training.nnx: wrt={self.wrt!r} selects none of the module's variables; nothing would be trained"
            )
        return Variables(nnx.to_pure_dict(params), Carried(nnx.to_pure_dict(rest), graphdef))

    def merge(self, variables: Variables[Any]) -> Any:
        from flax import nnx

        carried = variables.model_state
        return nnx.merge(carried.static, variables.params, carried.arrays)

    def settle(self, variables: Variables[Any]) -> Variables[Any]:
        return variables

    def measure(self, function: Any, variables: Variables[Any], batch: Any) -> Any:
        model = self.merge(variables)
        model.eval()
        return _call(function, {"module": model, "batch": batch}, {"training": False})

    def __call__(
        self, params: Any, model_state: Any, batch: Any, key: Array | None = None, *, training: bool = False,
        weights: Any = None,
    ) -> Any:  # fmt: skip
        from flax import nnx

        model = self.merge(Variables(params, model_state))
        model.train() if training else model.eval()
        facts = {"key": key, "training": training, "weights": weights}
        result = _call(self.loss_fn, {"module": model, "batch": batch}, facts)
        nnx.pop(model, nnx.Intermediate)
        rest = nnx.to_pure_dict(nnx.state(model, nnx.Not(self.wrt)))
        return _with_state(result, Carried(rest, model_state.static))


@public
def nnx(loss_fn: Callable[..., Any], *, wrt: Any = None) -> NNX:
    """Return an adapter for Flax NNX: hand it in as ``loss_fn``, and the module itself as ``params``.

    A trained module comes out; the one that went in isn't modified. ``nnx.Param`` is trained, under the paths of the
    module's attributes (``conv/kernel``). All other variables are the model's state: running statistics, counters, and
    the streams of random numbers of ``nnx.Dropout``, which are the module's own, so that no key is needed.
    Intermediates, which ``sow`` leaves in a module, are dropped. In a step
    the loss gets the module as after ``module.train()``, in an evaluation as after ``module.eval()``.

    Args:
      loss_fn: ``loss_fn(module, batch) -> loss``, or ``(loss, aux)`` with ``has_aux=True``. It may also have parameters
        called ``training`` (whether it is called in a step) and ``key`` (the step's key, with ``takes_key=True``).
      wrt: which variables are trained, a filter as in ``nnx.Optimizer(model, tx, wrt=...)``; by default ``nnx.Param``.

    Example:
      >>> from flax import nnx
      >>> def loss_fn(net, batch):
      ...     return jnp.mean((net(batch["x"]) - batch["y"]) ** 2)
      >>> net = nnx.BatchNorm(4, rngs=nnx.Rngs(0))
      >>> result = fit(training.nnx(loss_fn), net, adam(1e-3), data, epochs=5, batch_size=32)
      >>> result.params.mean.shape
      (4,)
    """
    from flax import nnx

    _check_loss("training.nnx", loss_fn, nnx.Module)
    return NNX(loss_fn, nnx.Param if wrt is None else wrt)


class Equinox(NamedTuple):
    """See :func:`equinox`."""

    loss_fn: Callable[..., Any]

    def split(self, model: Any) -> Variables[Any]:
        import equinox as eqx

        model, state = model if isinstance(model, tuple) else (model, None)
        params, rest = eqx.partition(model, eqx.is_inexact_array)
        return Variables(params, _carried(rest, state))

    def merge(self, variables: Variables[Any]) -> Any:
        model, state = self._parts(variables)
        return model if state is None else (model, state)

    def settle(self, variables: Variables[Any]) -> Variables[Any]:
        """Return the variables with means as ``BatchNorm(mode="batch")`` stores them: times 1 - momentum^count."""
        import equinox as eqx

        model, state = self._parts(variables)
        for layer in jax.tree.leaves(model, is_leaf=lambda x: isinstance(x, eqx.nn.BatchNorm)):
            if isinstance(layer, eqx.nn.BatchNorm) and layer.batch_counter is not None:
                weights = 1 - layer.momentum ** state.get(layer.batch_counter)
                means = jax.tree.map(lambda x: x * weights, state.get(layer.batch_state_index))  # noqa: B023
                state = state.set(layer.batch_state_index, means)
        return self.split((model, state))

    def measure(self, function: Any, variables: Variables[Any], batch: Any) -> Any:
        return self._call(function, variables, batch, training=False)

    def __call__(
        self, params: Any, model_state: Any, batch: Any, key: Array | None = None, *, training: bool = False,
        weights: Any = None,
    ) -> Any:  # fmt: skip
        variables = Variables(params, model_state)
        result = self._call(self.loss_fn, variables, batch, key=key, training=training, weights=weights)
        rest, state = self._rest(variables)
        if state is None:
            return _with_state(result, model_state)
        if not isinstance(result, tuple):
            raise TypeError(f"training.equinox: loss_fn must return (loss, state), got {described(result)}")
        loss, (state, *aux) = result[0], result[1] if isinstance(result[1], tuple) else (result[1],)
        return _with_state((loss, *aux) if aux else loss, _carried(rest, state))

    def _call(self, function: Any, variables: Variables[Any], batch: Any, **facts: Any) -> Any:
        import equinox as eqx

        model, state = self._parts(variables)
        model = eqx.nn.inference_mode(model, value=not facts["training"])
        before = {"model": model} if state is None else {"model": model, "state": state}
        return _call(function, before | {"batch": batch}, facts)

    def _parts(self, variables: Variables[Any]) -> tuple[Any, Any]:
        import equinox as eqx

        rest, state = self._rest(variables)
        return eqx.combine(variables.params, rest), state

    def _rest(self, variables: Variables[Any]) -> tuple[Any, Any]:
        import equinox as eqx

        leaves, structure = variables.model_state.static
        return eqx.combine(variables.model_state.arrays, structure.unflatten(leaves))


def _carried(rest: Any, state: Any) -> Carried:
    """Return what of an Equinox model isn't trained, and its state."""
    import equinox as eqx

    arrays, static = eqx.partition((rest, state), lambda x: eqx.is_array(x) or isinstance(x, np.ndarray))
    leaves, structure = jax.tree.flatten(static)
    return Carried(arrays, (tuple(leaves), structure))


@public
def equinox(loss_fn: Callable[..., Any]) -> Equinox:
    """Return an adapter for Equinox: hand it in as ``loss_fn``, and as ``params`` the model or ``(model, state)``.

    Arrays of floating-point or complex numbers in the model are trained, under the paths of its fields. All else is
    carried along: functions and other parts that aren't arrays, arrays of whole numbers, and the ``eqx.nn.State`` of
    ``eqx.nn.make_with_state``. What went in comes out, trained. In an evaluation the loss gets the model as
    ``eqx.nn.inference_mode`` returns it.

    Args:
      loss_fn: ``loss_fn(model, batch) -> loss``, or ``(loss, aux)`` with ``has_aux=True``. For a pair ``(model,
        state)`` it is ``loss_fn(model, state, batch) -> (loss, state)``, or ``(loss, (state, aux))``. A loss with a
        parameter called ``key`` is given the step's key (with ``takes_key=True``), and ``None`` in an evaluation; one
        with a parameter called ``training`` is told whether it is called in a step.

    Example:
      >>> import equinox as eqx
      >>> def loss_fn(model, state, batch):
      ...     run = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
      ...     outputs, state = run(batch["x"], state)
      ...     return jnp.mean((outputs - batch["y"]) ** 2), state
      >>> start = eqx.nn.make_with_state(eqx.nn.BatchNorm)(4, "batch", mode="batch")
      >>> model, state = fit(training.equinox(loss_fn), start, adam(1e-3), data, epochs=5, batch_size=32).params
    """
    import equinox as eqx

    _check_loss("training.equinox", loss_fn, eqx.Module)
    return Equinox(loss_fn)


class Haiku(NamedTuple):
    """See :func:`haiku`."""

    transformed: Any
    loss_fn: Callable[..., Any]

    @property
    def _has_state(self) -> bool:
        import haiku as hk

        return isinstance(self.transformed, hk.TransformedWithState | hk.MultiTransformedWithState)

    def split(self, model: Any) -> Variables[Any]:
        if not self._has_state:
            return Variables(model, {})
        if not isinstance(model, tuple) or len(model) != 2:
            raise TypeError(
                f"training.haiku: params is the pair (params, state) that transformed.init returns, got "
                f"{described(model)}"
            )
        return Variables(*model)

    def merge(self, variables: Variables[Any]) -> Any:
        return tuple(variables) if self._has_state else variables.params

    def settle(self, variables: Variables[Any]) -> Variables[Any]:
        """Return the variables with means as ``hk.ExponentialMovingAverage`` reads them."""

        def read(x: Any) -> Any:
            return {**x, "average": x["hidden"]} if x.keys() == {"counter", "hidden", "average"} else x

        return variables._replace(model_state={name: read(x) for name, x in variables.model_state.items()})

    def measure(self, function: Any, variables: Variables[Any], batch: Any) -> Any:
        return self._apply(function, variables, batch, None, training=False)[0]

    def __call__(
        self, params: Any, model_state: Any, batch: Any, key: Array | None = None, *, training: bool = False,
        weights: Any = None,
    ) -> Any:  # fmt: skip
        variables = Variables(params, model_state)
        return _with_state(*self._apply(self.loss_fn, variables, batch, key, training=training, weights=weights))

    def _apply(
        self, function: Any, variables: Variables[Any], batch: Any, key: Array | None, **facts: Any
    ) -> tuple[Any, Any]:
        """Return what ``function(apply, batch)`` returns, and the state after its calls of ``apply``."""
        params, state, next_key, has_state = *variables, key, self._has_state

        def bound(pure: Any) -> Any:
            takes_key = "rng" in [*inspect.signature(pure).parameters][: 2 + has_state]

            def apply(*args: Any, **kwargs: Any) -> Any:
                nonlocal state, next_key
                before = (params, state) if has_state else (params,)
                outputs = pure(*before, *([next_key] if takes_key else []), *args, **kwargs)
                next_key = None if next_key is None else jax.random.fold_in(next_key, 1)
                if has_state:
                    outputs, state = outputs
                return outputs

            return apply

        facts |= {"key": key}
        with _hints_at_keys(facts):
            apply = jax.tree.map(bound, self.transformed.apply)
            return _call(function, {"apply": apply, "batch": batch}, facts), state


@public
def haiku(transformed: Any, loss_fn: Callable[..., Any]) -> Haiku:
    """Return an adapter for Haiku: hand it in as ``loss_fn``, and what ``transformed.init`` returns as ``params``.

    The parameters are trained, under the paths that Haiku gives them (``net/~/linear/w``). The state is the model's
    state: it changes in a step, and is only read in an evaluation. ``(params, state)`` comes out, or the parameters
    alone for a function without state.

    Args:
      transformed: what ``hk.transform_with_state`` or ``hk.transform`` returns, ``hk.multi_transform`` and
        ``hk.without_apply_rng`` included.
      loss_fn: ``loss_fn(apply, batch) -> loss``, or ``(loss, aux)`` with ``has_aux=True``. ``apply`` is
        ``transformed.apply`` without the arguments for parameters, state and key: a function, or the tree of functions
        that ``hk.multi_transform`` returns. A loss with a parameter called
        ``training`` is told whether it is called in a step; hand it on. With ``takes_key=True`` the first call of
        ``apply`` gets the step's key, and further ones keys made from it.

    Example:
      >>> import haiku as hk
      >>> net = hk.transform_with_state(lambda x, is_training: hk.BatchNorm(True, True, 0.9)(x, is_training))
      >>> def loss_fn(apply, batch, training):
      ...     return jnp.mean((apply(batch["x"], is_training=training) - batch["y"]) ** 2)
      >>> start = net.init(jax.random.key(0), data["x"], is_training=True)
      >>> params, state = fit(training.haiku(net, loss_fn), start, adam(1e-3), data, epochs=5, batch_size=32).params
    """
    import haiku as hk

    kinds = hk.Transformed, hk.TransformedWithState, hk.MultiTransformed, hk.MultiTransformedWithState
    if not isinstance(transformed, kinds):
        raise TypeError(
            "training.haiku: the first argument is what hk.transform_with_state(function) or hk.transform(function) "
            f"returns, got {described(transformed)}"
        )
    _check_loss("training.haiku", loss_fn, *kinds)
    return Haiku(transformed, loss_fn)

"""PyTorch's optimizer ``state_dict``s as states here: a run continues on the same trajectory. PyTorch isn't
imported."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from gradchain.combinators.labels import path_name
from gradchain.core.foreign import Child, as_transform
from gradchain.core.hyper import Schedule
from gradchain.core.hyperparams import hyperparams
from gradchain.introspect.entries import Missing, Unexpected, load
from gradchain.introspect.paths import abstract_state, places
from gradchain.signatures import public
from gradchain.tree import Tree

SLOTS = {
    ("trace", "trace"): "momentum_buffer",
    ("scale_by_rms", "nu"): "square_avg",
    ("scale_by_stddev", "nu"): "square_avg",
    ("scale_by_stddev", "mu"): "grad_avg",
    ("scale_by_rss", "sum_of_squares"): "sum",
    ("scale_by_adam", "mu"): "exp_avg",
    ("scale_by_adam", "nu"): "exp_avg_sq",
    ("scale_by_amsgrad", "mu"): "exp_avg",
    ("scale_by_amsgrad", "nu"): "exp_avg_sq",
    ("scale_by_amsgrad", "nu_max"): "max_exp_avg_sq",
}
"""What PyTorch calls a rule's slots: those of SGD, RMSprop, Adagrad, Adam and AdamW."""


@public
def from_torch_state(
    tx: Child,
    params: Tree,
    state_dict: Mapping[str, Any],
    names: Sequence[str] | Mapping[str, str],
    *,
    convert: Callable[[str, Any], Any] | None = None,
    count: int | None = None,
    missing: Missing = "error",
    unexpected: Unexpected = "error",
) -> Any:
    """Return the state of ``tx`` that continues the run of a PyTorch optimizer.

    It reads the ``state_dict()`` of PyTorch's SGD, RMSprop, Adagrad, Adam and AdamW, with tensors or NumPy arrays in
    it. The hyperparameters in its ``param_groups`` aren't read: ``tx`` has its own. For the same updates as in PyTorch:

    - SGD is :func:`sgd`, after :func:`add_decayed_weights` if there is a ``weight_decay``; with ``dampening`` put
      ``scale(1 - dampening)`` before :func:`trace`.
    - RMSprop is :func:`rmsprop_torch`, Adagrad :func:`adagrad` with ``eps=0``, AdamW :func:`adamw`.
    - Adam is :func:`adam`, after :func:`add_decayed_weights` if there is a ``weight_decay``.
    - For ``amsgrad`` see :doc:`/state_and_config`.

    Args:
      tx: any transform that contains these rules, in any combinators.
      params: the parameters, or their shapes.
      state_dict: the optimizer's.
      names: the paths of the parameters (``"body/kernel"``), in the order of the parameters of the PyTorch optimizer;
        or a dict from PyTorch's names to paths, if the optimizer was made from ``named_parameters()``.
      convert: ``convert(path, array)`` converts a parameter's slots (NumPy arrays) to the layout of the JAX parameter,
        for example by transposing the weights of a linear layer.
      count: how many updates there were; PyTorch's SGD doesn't store it.
      missing: ``"init"`` takes what PyTorch doesn't keep from ``tx.init(params)``.
      unexpected: ``"drop"`` ignores entries that have no counterpart.

    Raises:
      ValueError: if names and parameters don't fit each other, if parameters have had different numbers of updates, if
        ``count`` is needed by a schedule, or if something can't be converted, with a complete list.

    Example:
      >>> params = {"dense": {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}}
      >>> slots = lambda *shape: {"step": 5, "exp_avg": np.ones(shape), "exp_avg_sq": np.ones(shape)}
      >>> saved = {"state": {0: slots(2, 3), 1: slots(2)}, "param_groups": [{"params": [0, 1]}]}  # by state_dict()
      >>> paths = ["dense/kernel", "dense/bias"]
      >>> transpose = lambda path, x: x.T if path.endswith("kernel") else x
      >>> state = from_torch_state(adamw(1e-3, weight_decay=0.01), params, saved, paths, convert=transpose)
      >>> print(state[0].count, state[0].mu["dense"]["kernel"].shape)
      5 (3, 2)
    """
    where, tx = "from_torch_state", as_transform(tx)
    slots = {path: dict(own) for path, own in _slots(where, params, state_dict, names, convert)}
    steps = _steps(where, slots)
    if steps is None and count is None and any(isinstance(x, Schedule) for x in hyperparams(tx).values()):
        raise ValueError(f"{where}: PyTorch's state holds no step, which a schedule depends on; give count=...")
    entries = dict[str, Any]()
    for place in places(where, tx, abstract_state(tx, params)):
        own = slots.get(place.path, {})
        slot = SLOTS.get((place.transform, place.slot))
        if place.slot == "count":
            entries[place.address] = jnp.asarray(count or 0 if steps is None else steps, jnp.int32)
        elif slot in own:
            entries[place.address] = own.pop(slot)
    entries |= {f"PyTorch's {slot} of {path}": x for path, own in slots.items() for slot, x in own.items()}
    return load(where, tx, params, entries, missing, unexpected, settled=None)


def _slots(
    where: str, params: Tree, state_dict: Any, names: Any, convert: Callable[[str, Any], Any] | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each parameter's path here with its slots by PyTorch's names."""
    if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= cast(Any, state_dict).keys():
        raise ValueError(f"{where}: this isn't the state_dict of an optimizer: it must hold 'state' and 'param_groups'")
    groups: list[Any] = state_dict["param_groups"]
    keys = [key for group in groups for key in group["params"]]
    paths = [path_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    for key, path in zip(keys, _paths(where, groups, len(keys), names, paths), strict=True):
        stored = state_dict["state"].get(key, state_dict["state"].get(str(key), {}))  # JSON makes keys strings
        own = {name: _array(x) for name, x in stored.items() if x is not None}
        if convert is not None:
            own = {name: x if name == "step" else convert(path, x) for name, x in own.items()}
        yield path, own


def _paths(where: str, groups: list[Any], size: int, names: Any, known: list[str]) -> list[str]:
    """Return the path here of each of PyTorch's parameters."""
    if isinstance(names, Mapping):
        theirs = [name for group in groups for name in group.get("param_names", [])]
        if len(theirs) != size:
            raise ValueError(f"{where}: the state_dict has no names; give the paths in PyTorch's order")
        if lost := [name for name in theirs if name not in names]:
            raise ValueError(f"{where}: names has no path for PyTorch's {', '.join(lost)}")
        names = [cast(Any, names)[name] for name in theirs]
    paths: list[str] = list(names)
    if len(paths) != size:
        raise ValueError(f"{where}: PyTorch's optimizer has {size} parameters, but names has {len(paths)}")
    if wrong := [path for path in paths if path not in known]:
        raise ValueError(f"{where}: no parameter is called {wrong[0]!r}; there are {', '.join(known)}")
    if twice := [path for path in known if paths.count(path) > 1]:
        raise ValueError(f"{where}: names has {twice[0]!r} twice")
    return paths


def _array(x: Any) -> Any:
    """Return a tensor, on whatever device, as a NumPy array."""
    if hasattr(x, "detach"):
        x = x.detach().cpu()
        x = x.float() if str(x.dtype) == "torch.bfloat16" else x
    return np.asarray(x)


def _steps(where: str, slots: Mapping[str, dict[str, Any]]) -> int | None:
    """Take the numbers of updates out of the slots, and return the one that all parameters agree on."""
    steps = {path: int(own.pop("step")) for path, own in slots.items() if "step" in own}
    if len({*steps.values()}) > 1:
        shown = ", ".join(f"{path}: {step}" for path, step in steps.items())
        raise ValueError(f"{where}: parameters have had different numbers of updates: {shown}")
    return next(iter(steps.values()), None)

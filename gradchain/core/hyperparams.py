"""Hyperparameters by name: list them, read their current values, change them, batch them."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from gradchain.core.foreign import as_transform
from gradchain.core.hyper import Schedule, value_at
from gradchain.core.transform import Part, Transform, count_of
from gradchain.core.value import Value
from gradchain.signatures import did_you_mean, public
from gradchain.tree import Tree
from gradchain.tree.state import Names

LEAF = jax.tree.structure(0)


def named_parts(
    tx: Transform, state: Any = None, params: Tree | None = None, label: str = "", taken: Iterable[str] = ()
) -> list[Part]:
    """Return ``tx`` and every transform in it by name, from the outside inward.

    A name is the constructor's (``trace``), after the labels of the combinators around it; the second of one name is
    ``trace_2``. Inserting a stage leaves the other names alone unless it has the same one.

    Args:
      tx: any transform.
      state: its state, or None; each part comes with its own.
      params: the parameters, or None; each part comes with its share.
      label: what all names begin with.
      taken: names that are not to be given again.
    """
    names = Names(taken)

    def visit(label: str, part: Part) -> Iterator[Part]:
        yield part._replace(name=names.add(f"{label}{part.transform.name}"))
        for child in part.transform.parts(part.state, part.params):
            yield from visit(f"{label}{child.name}." if child.name else label, child)

    return list(visit(label, Part("", tx, state, params)))


def walk(tx: Transform, state: Any = None, params: Tree | None = None) -> list[Part]:
    """Return every transform in ``tx`` that has numbers or no parts, by the name that :func:`named_parts` gives it."""
    return [part for part in named_parts(tx, state, params) if part.transform.settings() or not part.transform.parts()]


@public
def hyperparams(tx: Transform, state: Any = None) -> dict[str, Any]:
    """Return the numeric hyperparameters of ``tx`` by dotted name.

    Args:
      tx: any transform.
      state: its state. If given, schedules are evaluated at the state's counts, so that
        ``hyperparams(tx, state)["scale_by_learning_rate.learning_rate"]`` is the rate that the next update uses.

    Returns:
      A dict in the order of the chain. A schedule is listed under its hyperparameter's name, followed by its own
      parameters (``scale_by_learning_rate.learning_rate.decay_steps``). Hyperparameters that are ``None`` are left out.

    Example:
      >>> hyperparams(sgd(0.1, momentum=0.9))
      {'trace.decay': 0.9, 'scale_by_learning_rate.learning_rate': 0.1}
    """
    return {f"{part.name}.{name}": value for part in walk(as_transform(tx), state) for name, value in _present(part)}


def _present(part: Part) -> Iterator[tuple[str, Any]]:
    """Yield a part's numbers by name: the same names with and without a state, which may have evaluated schedules."""
    count, now = count_of(part.state), part.transform.settings(part.state)
    for field, declared in part.transform.settings().items():
        is_evaluated = isinstance(declared, Schedule) and not isinstance(now[field], Schedule)
        numbers = dict(numbers_in(field, declared if is_evaluated else now[field], count))
        yield from (numbers | {field: now[field]} if is_evaluated else numbers).items()


def numbers_in(name: str, value: Any, count: Any) -> Iterator[tuple[str, Any]]:
    """Yield the numbers in a field by name: itself, those in a tuple, a dict or a value, a schedule and its own.

    Schedules are evaluated where ``count`` isn't ``None``.
    """
    if isinstance(value, tuple | dict):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:  # pyright: ignore[reportUnknownVariableType]
            yield from numbers_in(f"{name}.{key}", item, count)
    elif isinstance(value, Schedule) or (value is not None and jax.tree.structure(value) == LEAF):
        yield name, value if count is None else value_at(value, count)
    if isinstance(value, Value):
        for field, kind, stored in value.fields():
            if kind.data:
                yield from numbers_in(f"{name}.{field}", stored, count)


@public
def set_hyperparams(tx: Transform, values: Mapping[str, Any]) -> Transform:
    """Return ``tx`` with hyperparameters changed by name.

    Args:
      tx: any transform.
      values: new numbers, arrays or schedules by name. A name may be shortened to its last parts
        (``learning_rate``, ``trace.decay``) as long as that is unambiguous.

    Raises:
      ValueError: for a name that matches none or several, listing the known names; for a value out of range, or values
        that are inconsistent; for two names of which one contains the other.
    """
    tx = as_transform(tx)
    parts = walk(tx)
    changes: dict[int, Changes] = {}
    for name, value in values.items():
        index, path = _find(name, parts)
        changes.setdefault(index, Changes()).add(name, path.split("."), value)
    position = iter(range(len(parts)))

    def rewrite(node: Transform) -> Transform:
        if not node.parts() or node.settings():
            node = changes.get(next(position), Changes()).apply(node)
        if not node.parts():
            return node
        leaves, treedef = jax.tree.flatten(node, is_leaf=lambda x: x is not node and isinstance(x, Transform))
        return treedef.unflatten([rewrite(x) if isinstance(x, Transform) else x for x in leaves])

    return rewrite(tx)


class Changes(dict[str, Any]):
    """New values by field; those of fields inside a field in ``Changes`` of their own, so that all are set at once."""

    def add(self, name: str, path: list[str], value: Any) -> None:
        """Add the value at ``path``; ``name`` is what the caller wrote."""
        head, *rest = path
        if head in self and not (rest and isinstance(self[head], Changes)):
            raise ValueError(f"hyperparameter {name!r} is given twice: by itself, and as a part of another")
        if rest:
            self.setdefault(head, Changes()).add(name, rest, value)
        else:
            self[head] = value

    def apply(self, value: Any) -> Any:
        """Return ``value`` (a Value, tuple or dict) with the changes made, checked as by its constructor."""
        if isinstance(value, Value):
            own = value.settings() if isinstance(value, Transform) else {}
            now = own or {name: stored for name, _, stored in value.fields()}
            return value.with_fields(**{key: self._new(key, now.get(key)) for key in self}) if self else value
        if isinstance(value, dict):
            return {k: self._new(str(k), v) for k, v in value.items()}  # pyright: ignore[reportUnknownVariableType]
        return tuple(self._new(str(i), v) for i, v in enumerate(value))

    def _new(self, key: str, old: Any) -> Any:
        if key not in self:
            return old
        return self[key].apply(old) if isinstance(self[key], Changes) else self[key]


def _find(name: str, parts: list[Part]) -> tuple[int, str]:
    known: dict[str, tuple[int, str]] = {}
    for index, part in enumerate(parts):
        static = {field: None for field, kind, _ in part.transform.fields() if not kind.data}
        for field, stored in (part.transform.settings() | static).items():
            known[f"{part.name}.{field}"] = (index, field)
            for inner, _ in numbers_in(field, stored, None):
                known[f"{part.name}.{inner}"] = (index, inner)
    fits = [full for full in known if full == name] or [full for full in known if full.endswith(f".{name}")]
    if len(fits) != 1:
        hint = did_you_mean(name, dict.fromkeys((*(full.rpartition(".")[2] for full in known), *known)))
        problem = f"is unknown{f'{hint} Known' if hint else '; known'} are: {', '.join(known) or 'none'}"
        problem = f"fits several: {', '.join(fits)}" if fits else problem
        raise ValueError(f"hyperparameter {name!r} {problem}")
    return known[fits[0]]


@public
def batch_axes(tx: Transform) -> Any:
    """Return the ``in_axes`` under which ``jax.vmap`` maps over a batched transform: 0 for arrays, else ``None``.

    Args:
      tx: a transform, some of whose hyperparameters are arrays with one leading axis, such as
        ``adam(jnp.logspace(-4, 0, 64))``.

    Returns:
      A transform of the same structure, with axes in place of its hyperparameters.

    Example:
      >>> tx = adam(jnp.logspace(-4, 0, 64))
      >>> losses = jax.vmap(run, in_axes=(batch_axes(tx),))(tx)
    """
    return jax.tree.map(lambda x: 0 if np.ndim(x) else None, as_transform(tx))

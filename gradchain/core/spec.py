"""What a rule declares, and what it sees when it is called."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, cast

from jax import Array

from gradchain.eager import as_dtype
from gradchain.signatures import did_you_mean, public


@public
class Slot(NamedTuple):
    """One array (or small pytree) of state for each parameter."""

    init: Callable[[Array, Any], Any] | None = None
    """``init(param, hyper)`` gives the first value, ``hyper`` the hyperparameters at count 0; zeros if ``None``."""
    real: bool = False
    """Store the real dtype for complex parameters (second moments)."""
    nonnegative: bool = False
    """Holds nothing below zero: a storage codec may use an unsigned map."""
    exact: bool = False
    """Can't do with fewer bits than the dtype's, as bases, roots, and the factors that they are made of:
    :func:`store` leaves it as it is."""
    dtype: str | None = None
    """Name of the static field that overrides the dtype, such as ``"mu_dtype"``."""
    counted: bool = False
    """The rule takes it to hold as many gradients as it counts (``debiased`` ones needn't say so): where an array is
    added to a saved state, ``from_state_dict`` warns of it."""
    each: str | None = None
    """Name of a static field, a tuple: the slot is then a tuple as long, of arrays that start at zero."""


@public
class Slots:
    """A parameter's slots by name; calling it makes the next ones: ``slot(mu=mu, nu=nu)``."""

    def __init__(self, values: Mapping[str, Any]):
        self.values = dict(values)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["values"][name]
        except KeyError:
            known = ", ".join(self.values) or f"none; write slots=({name!r},)"
            raise AttributeError(f"no slot {name!r}; the rule declares {known}") from None

    def __call__(self, **values: Any) -> "Slots":
        if values.keys() != self.values.keys():
            raise TypeError(f"the rule declares slots {sorted(self.values)} but returns {sorted(values)}")
        return Slots(values)


class Sums(NamedTuple):
    """The sum of the weights in a moving average: :func:`gradchain.numerics.sum_of_weights`."""

    before: Array
    """After the update before this one."""
    now: Array
    """After this update."""
    ahead: Array
    """After the next one, should it use the same decay."""


@public
class At:
    """The context of one call of a rule, with what the rule declared (``param``, ``random``, ``whole``, ``extra``).

    Declared extra arguments are attributes under their own names.

    Attributes:
      t: the number of this update, 1 on the first, in the compute dtype.
      count: the number of updates before this one, 0 on the first, an integer.
      param: the parameter, in the compute dtype (for ``@treewise`` the tree); ``None`` if missing and optional.
      whole: the result of the declared function ``whole`` on all incoming updates, such as their global norm.
      key: a PRNG key for this array and update.
      turn: a pair: the index of this array, from 0, and the number of arrays that the rule applies to; see
        :func:`gradchain.matrices.due`.
    """

    def __init__(
        self,
        count: Array | None,
        param: Any,
        whole: Any,
        key: Array | None,
        extra: Mapping[str, Any],
        dtype: Any,
        sums: Mapping[str, "Sums"],
        turn: tuple[Any, Any] | None = None,
    ):
        self.count: Any = count
        self.param: Any = param
        self.whole: Any = whole
        self.key: Any = key
        self.extra = extra
        self.dtype = dtype
        self.sums = sums
        self.turn: Any = turn

    def weight_sum(self, decay: str, ahead: Literal[-1, 0, 1] = 0) -> Array:
        """Return the sum of the weights in the moving average of the decay called ``decay``, to divide it by.

        Args:
          decay: the name of a hyperparameter declared as ``debiased``.
          ahead: after this update, or after the one before (0 on the first) or the next one.
        """
        if decay not in self.sums:
            raise AttributeError(f"the rule doesn't declare debiased=({decay!r},)")
        return as_dtype(self.sums[decay][ahead + 1], self.dtype)

    @functools.cached_property
    def t(self) -> Array:
        return self.count.astype(self.dtype) + 1

    def __getattr__(self, name: str) -> Any:
        extra = self.__dict__.get("extra", {})
        if name in extra:
            return extra[name]
        known = (*DECLARATIONS, *extra)
        cure = DECLARATIONS.get(name) or f"declare extra=({name!r},){did_you_mean(name, known)}"
        raise AttributeError(f"the rule reads at.{name}: {cure}")

    def restrict(self, spec: "Spec") -> "At":
        """Take away what the rule doesn't declare, so that reading it is an error and not ``None``."""
        own = vars(self)
        for name in spec.undeclared if self.count is not None else (*spec.undeclared, "count"):
            own.pop(name, None)
        return self


DECLARATIONS = {
    "param": "declare param=True, or param='optional' where it may be missing",
    "whole": "declare whole=function, whose result for the whole tree of updates it is",
    "key": "declare random=True, and annotate one of its parameters Key",
    "turn": "declare turn=True",
    "t": "declare count=True; a rule without numbers doesn't count its updates otherwise",
    "count": "declare count=True; a rule without numbers doesn't count its updates otherwise",
}
"""What a rule declares to read what is there for those that do."""


class Spec(NamedTuple):
    """What a rule declares. One object a rule, compared by identity of its function."""

    function: Callable[..., Any]
    name: str
    kind: Literal["elementwise", "leafwise", "treewise"]
    slots: Mapping[str, Slot]
    scalars: Mapping[str, Any]
    param: bool | Literal["optional"]
    random: bool
    extra: tuple[str, ...]
    whole: Callable[[Any], Any] | None
    per_example: bool
    debiased: tuple[str, ...]
    turn: bool
    counts: bool

    def __hash__(self) -> int:
        return hash(self.function)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spec) and self.function is other.function

    @property
    def undeclared(self) -> tuple[str, ...]:
        """What of ``At`` the rule doesn't ask for."""
        return _undeclared(self)

    def call(self, g: Any, slots: Mapping[str, Any], at: At, fields: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Call the rule and return (update, next slots and scalars), checking what it returns."""
        result = self.function(g, Slots(slots), at.restrict(self), **fields)
        if not slots:
            return result, {}
        if not (isinstance(result, tuple) and len(cast(Any, result)) == 2 and isinstance(result[1], Slots)):
            raise TypeError(f"{self.name}: a rule with slots returns (update, slot(...))")
        return cast(Any, result[0]), result[1].values


@functools.lru_cache(maxsize=1024)  # asked for each array
def _undeclared(spec: Spec) -> tuple[str, ...]:
    declared = {"param": spec.param, "whole": spec.whole, "key": spec.random, "turn": spec.turn}
    return tuple(name for name, there in declared.items() if not there)

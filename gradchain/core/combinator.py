"""``combinator``: a class whose fields are declared once becomes a transform with a constructor."""

from typing import Any, TypeVar, cast

import jax

from gradchain.core.transform import Transform
from gradchain.core.value import constructor, register
from gradchain.signatures import brief, public

T = TypeVar("T", bound=Transform)


@public
def combinator(cls: type[T]) -> type[T]:
    """Turn a class into a constructor of transforms: a class decorator.

    Args:
      cls: a class that derives from :class:`Transform`, declares its fields, and defines ``init`` and ``step``. A field
        is an annotation, with or without a default: ``tx: Child`` is an inner transform (Optax's too), ``rate: Decay =
        0.9`` a number or schedule, ``flag: bool = False`` static. The kinds are those of rules' parameters, and
        ``Child``, ``Children`` (a sequence) and ``NamedChildren`` (a dict). Put ``_: KW_ONLY`` before fields that are
        passed by keyword only.

    Returns:
      A function with the class's name and docstring and a parameter for each field, which checks its arguments. The
      class is its attribute ``Value``. (To type checkers it is the class, so that they know its signature.)

    Raises:
      TypeError: for an invalid class: a field with the name of a method, an attribute without annotation, a missing
        ``init`` or ``step``. When a transform is made: if ``parts`` are out of order.

    Example:
      >>> from typing import Any, NamedTuple
      >>> class NegatedState(NamedTuple):
      ...     tx_state: Any
      >>> @combinator
      ... class negated(Transform):
      ...     '''Turn the updates of a transform around.'''
      ...     tx: Child
      ...     def init(self, params):
      ...         return NegatedState(self.tx.init(params))
      ...     def step(self, updates, state, params, extra):
      ...         updates, inner = self.tx.step(updates, state.tx_state, params, extra)
      ...         return tree.scale(-1, updates), NegatedState(inner)
      >>> tx = chain(negated(sgd(0.1)), scale(0.5))
    """
    if not (isinstance(cls, type) and issubclass(cls, Transform)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"combinator decorates a class that derives from Transform, got {brief(cls)}")
    made = register(cls)
    _check(made)
    return cast(Any, constructor(made, Transform))


def _check(cls: type[Transform]) -> None:
    """Raise ``TypeError`` for a class that could not work."""
    where = cls.__name__
    if cls.step is Transform.step:
        instead = " in the place of update, which calls it" if cls.update is not Transform.update else ""
        raise TypeError(f"{where} must define step(self, updates, state, params, extra){instead}")
    if cls.init is Transform.init:
        raise TypeError(f"{where} must define init(self, params)")
    if cls.parts is Transform.parts and (several := [n for n, k in cls.kinds.items() if k.child and k.several]):
        raise TypeError(f"{where} must define parts(self, state=None, params=None), for the states of {several[0]}")
    for name, parameter in cls.signature.parameters.items():
        if parameter.annotation in (float.__name__, jax.Array.__name__):
            raise TypeError(
                f"{where}: {name} is annotated {parameter.annotation}; declare a number by its range: Hyper for any, "
                "NonNegative, Positive, Fraction, Decay or Count"
            )

"""To and from optax. optax is imported when it is needed, and never required."""

from typing import Any

from gradchain.core.foreign import Child, as_transform
from gradchain.core.transform import Transform
from gradchain.signatures import public


@public
def to_optax(tx: Child) -> Any:
    """Return a transform as an ``optax.GradientTransformationExtraArgs``.

    Most code takes any object with ``init`` and ``update``, and needs no conversion. Two kinds do: code that checks
    for optax's class (NumPyro), and ``optax.chain`` and its relatives, which drop extra arguments such as ``value`` for
    foreign types. Flax NNX refuses array leaves in a transform, but not inside these functions.

    Args:
      tx: any transform.

    Raises:
      ImportError: if optax isn't installed.
    """
    try:
        import optax  # pyright: ignore[reportMissingTypeStubs]
    except ImportError:
        raise ImportError("to_optax needs optax: pip install optax") from None
    init, update = as_transform(tx)
    return optax.GradientTransformationExtraArgs(init, update)


@public
def from_optax(tx: Child) -> Transform:
    """Return any object with ``init`` and ``update``, optax's above all, as a gradchain transform.

    Combinators do this by themselves. The foreign transform gets updates in the parameters' dtype, and extra arguments
    as far as its ``update`` takes them; its hyperparameters stay hidden.

    Args:
      tx: an ``optax.GradientTransformation``, or any object like it.

    Raises:
      TypeError: if ``tx`` has no ``init`` and ``update``.
    """
    return as_transform(tx)

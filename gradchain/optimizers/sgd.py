"""Gradient descent, with and without momentum."""

from gradchain.combinators.chain import chain
from gradchain.core.hyper import DType, Fraction, NonNegative
from gradchain.core.transform import Transform
from gradchain.transforms.momentum import trace
from gradchain.transforms.scaling import identity, scale_by_learning_rate


def sgd(
    learning_rate: NonNegative,
    momentum: Fraction | None = None,
    nesterov: bool = False,
    accumulator_dtype: DType | None = None,
) -> Transform:
    r"""Gradient descent: :math:`w \leftarrow w - \eta\,u`, with :math:`u` the gradient or its momentum trace.

    The learning rate is applied after the momentum, as in PyTorch: a changed rate acts at once on the whole trace.

    Args:
      learning_rate: :math:`\eta \ge 0`, or a schedule. On a quadratic, plain descent needs :math:`\eta < 2/L`.
      momentum: :math:`\mu` of :func:`~gradchain.trace`; ``None`` means no trace at all, 0.0 a trace that
        equals the gradient.
      nesterov: Nesterov's form instead of the heavy ball.
      accumulator_dtype: dtype of the trace.
    """
    return chain(
        identity() if momentum is None else trace(momentum, nesterov, accumulator_dtype),
        scale_by_learning_rate(learning_rate),
    )

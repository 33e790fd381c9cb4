"""Projected steps: Levitin and Polyak 1966."""

import numpy as np

from tests.oracles.core import Arrays, Oracle


def project_on_ball(radius: float) -> Oracle:
    """The update to the nearest parameters in a Euclidean ball, all arrays taken together."""

    def update(gradients: Arrays, state: None, params: Arrays) -> tuple[Arrays, None]:
        moved = {name: params[name] + g for name, g in gradients.items()}
        length = np.sqrt(sum(np.sum(np.abs(x) ** 2) for x in moved.values()))
        shrink = min(1.0, radius / length) if length > 0 else 1.0
        return {name: shrink * x - params[name] for name, x in moved.items()}, None

    return Oracle(lambda params: None, update)

"""Transforms that count or measure something worth logging."""

from typing import Any

from gradchain.core.transform import Transform


class Reports(Transform):
    """A transform with numbers in its state that :func:`gradchain.metrics` lists."""

    @property
    def title(self) -> str:
        """What stands before the names of the numbers; nothing if empty."""
        return self.name

    def report(self, state: Any) -> dict[str, Any]:
        """Return the numbers by name."""
        raise TypeError(f"{type(self).__name__} must define report")

"""A field that takes one of a few words."""

from typing import Any

from gradchain.core.value import Kind


class Choice(Kind):
    """One of the given strings; static."""

    def __init__(self, *words: str):
        self.words = words
        self.label = "str"

    def normalize(self, where: str, value: Any) -> Any:
        if value not in self.words:
            raise ValueError(f"{where} must be one of {', '.join(map(repr, self.words))}, got {value!r}")
        return value

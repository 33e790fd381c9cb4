"""Placeholder until streams are merged."""

from typing import Any

Stream = Feed = Any


def as_stream(data, batch_size, remainder, what="data"):
    return None

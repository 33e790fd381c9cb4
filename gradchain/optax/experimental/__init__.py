"""Experimental parts of Optax."""

from gradchain.optax.experimental import aggregating

__all__ = ["aggregating"]

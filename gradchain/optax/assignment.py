"""Optimal assignment, under Optax's names: the functions of :mod:`gradchain.assignment`."""

from gradchain.assignment import base_hungarian_algorithm, hungarian_algorithm

__all__ = ["base_hungarian_algorithm", "hungarian_algorithm"]

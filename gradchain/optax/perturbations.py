"""Averages over random perturbations, under Optax's names: those of :mod:`gradchain.perturbations`."""

from gradchain.perturbations import Gumbel, Normal, make_perturbed_fun

__all__ = ["Gumbel", "Normal", "make_perturbed_fun"]

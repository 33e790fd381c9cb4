"""Solvers: from a function and a start to a solution, with tests of convergence and the reason why the run ended."""

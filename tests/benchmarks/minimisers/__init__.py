"""Minimisers and least-squares solvers on test problems, compared by evaluations: ``make minimisers``.

Times say little on a busy machine, evaluations are the same everywhere. Every solver is given one JAX function that
asks the host for values and gradients, and the host counts; what a solver reports about itself isn't trusted.

- ``suite``: what a problem is; ``classics`` and ``problems``: the 70 problems; ``nist``: NIST's nonlinear regressions.
- ``counting``: the host, and a run of one solver on one problem; ``scoring``: what counts as solved, and the table.
- ``solvers`` and ``fitting``: gradchain, SciPy, Optax, and others where they are installed.
"""

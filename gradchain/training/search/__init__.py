"""Many runs at once: sweeps, halvings, populations, range tests, and their results."""

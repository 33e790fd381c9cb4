"""These tests need eight devices: ``tests/unit/test_eight_devices.py`` runs them in a process that shows as many."""

import jax

collect_ignore_glob = [] if jax.device_count() >= 8 else ["test_*"]

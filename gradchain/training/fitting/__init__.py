"""``fit``: one run with validation, early stopping, checkpoints and a history."""

"""One step, one epoch, one block of batches: pure functions of what a run carries."""

"""What is told of a run while it trains: callbacks, logs, progress bars."""

"""Where batches come from: arrays, streams, hosts; their order, and where they lie on devices."""

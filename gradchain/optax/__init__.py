"""Optax's names, signatures and states, made of gradchain."""

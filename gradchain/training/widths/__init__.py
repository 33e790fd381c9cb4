"""The same model at several widths: whether activations and the best learning rate stay what they are."""

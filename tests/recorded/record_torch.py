"""Record PyTorch's optimizers on a small regression in float64, for tests/unit/test_against_torch.py, and the losses
of examples/side_by_side/with_torch.py, for tests/unit/test_side_by_side.py.

Run it by hand with torch installed (recorded with torch 2.13.0, CPU)::

    python tests/recorded/record_torch.py
"""

import json
import pathlib
import sys

import numpy as np
import torch

STEPS = 100
EVERY = 10
RUNS = {
    "sgd": (torch.optim.SGD, {"lr": 0.01}),
    "sgd_momentum": (torch.optim.SGD, {"lr": 0.01, "momentum": 0.9}),
    "sgd_nesterov": (torch.optim.SGD, {"lr": 0.01, "momentum": 0.9, "nesterov": True}),
    "sgd_weight_decay": (torch.optim.SGD, {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1}),
    "rmsprop": (torch.optim.RMSprop, {"lr": 0.01}),
    "rmsprop_momentum": (torch.optim.RMSprop, {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1}),
    "rmsprop_centered": (torch.optim.RMSprop, {"lr": 0.01, "centered": True}),
    "adagrad": (torch.optim.Adagrad, {"lr": 0.1, "initial_accumulator_value": 0.1, "eps": 0.0}),
    "adagrad_decay": (
        torch.optim.Adagrad,
        {"lr": 0.1, "initial_accumulator_value": 0.1, "eps": 0.0, "lr_decay": 0.1, "weight_decay": 0.1},
    ),
    "adam": (torch.optim.Adam, {"lr": 0.01}),
    "adam_weight_decay": (torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.1}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
}
"""Name, as the registry refers to it: optimizer and arguments. All others are PyTorch's defaults."""
CONTINUED = RUNS | {
    "sgd_dampening": (torch.optim.SGD, {"lr": 0.01, "momentum": 0.9, "dampening": 0.5}),
    "rmsprop_centered_momentum": (torch.optim.RMSprop, {"lr": 0.01, "momentum": 0.9, "centered": True}),
    "adagrad_defaults": (torch.optim.Adagrad, {"lr": 0.1}),
    "adam_amsgrad": (torch.optim.Adam, {"lr": 0.1, "betas": (0.5, 0.9), "amsgrad": True}),
    "adamw_amsgrad": (torch.optim.AdamW, {"lr": 0.1, "betas": (0.5, 0.9), "amsgrad": True}),
}
"""Runs of which the state halfway is recorded, for tests/unit/test_torch_states.py to go on from there."""


def record(optimizer, arguments, inputs, targets, start):
    """Return the weights after every ``EVERY`` steps on mean((tanh(inputs @ kernel + bias) - targets)^2).

    With them comes the optimizer's ``state_dict`` halfway.
    """
    weights = {name: torch.tensor(value, dtype=torch.float64, requires_grad=True) for name, value in start.items()}
    steps = optimizer(weights.values(), **arguments)
    path, halfway = [], None
    for k in range(1, STEPS + 1):
        steps.zero_grad()
        predictions = torch.tanh(inputs @ weights["kernel"] + weights["bias"])
        torch.mean((predictions - targets) ** 2).backward()
        steps.step()
        if k % EVERY == 0:
            path.append({name: w.detach().tolist() for name, w in weights.items()})
        if k == STEPS // 2:
            halfway = plain(steps.state_dict())
    return path, halfway


def plain(x):
    """Return a state_dict with lists for tensors."""
    if isinstance(x, dict):
        return {str(key): plain(value) for key, value in x.items()}
    return x.tolist() if isinstance(x, torch.Tensor) else x


def continued(optimizer, arguments, tensors, start):
    """Return what is recorded of a run to go on with: its state and weights halfway, and the weights at its end."""
    path, halfway = record(optimizer, arguments, *tensors, start)
    return {"arguments": arguments, "halfway": path[len(path) // 2 - 1], "state_dict": halfway, "end": path[-1]}


def record_side_by_side():
    """Return the loss of each step of the program in examples/side_by_side."""
    sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "examples" / "side_by_side"))
    import with_torch

    return with_torch.train()


def main():
    """Write torch.json and side_by_side.json next to this script."""
    rng = np.random.default_rng(0)
    inputs, targets = rng.standard_normal((12, 3)).round(3), rng.uniform(-0.9, 0.9, (12, 2)).round(3)
    start = {"bias": rng.standard_normal(2).round(3).tolist(), "kernel": rng.standard_normal((3, 2)).round(3).tolist()}
    tensors = torch.tensor(inputs), torch.tensor(targets)
    recorded = {
        "torch": torch.__version__,
        "steps": STEPS,
        "every": EVERY,
        "inputs": inputs.tolist(),
        "targets": targets.tolist(),
        "start": start,
        "runs": {
            name: {"arguments": arguments, "path": record(optimizer, arguments, *tensors, start)[0]}
            for name, (optimizer, arguments) in RUNS.items()
        },
        "continued": {
            name: continued(optimizer, arguments, tensors, start) for name, (optimizer, arguments) in CONTINUED.items()
        },
    }
    path = pathlib.Path(__file__).with_name("torch.json")
    path.write_text(json.dumps(recorded, indent=1) + "\n")
    losses = {"torch": torch.__version__, "losses": record_side_by_side()}
    path.with_name("side_by_side.json").write_text(json.dumps(losses, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Run the three programs and print their losses: ``python examples/side_by_side/compare.py`` (needs torch)."""

import numpy as np
import with_gradchain
import with_numpy
import with_torch

PROGRAMS = {"NumPy": with_numpy, "PyTorch": with_torch, "gradchain": with_gradchain}


def main():
    losses = {name: np.array(program.train()) for name, program in PROGRAMS.items()}
    print("step  " + "".join(f"{name:>12}" for name in losses))
    for k in (0, 1, 4, 9, 24, 49, 99):
        print(f"{k + 1:4d}  " + "".join(f"{values[k]:12.6f}" for values in losses.values()))
    largest = max(np.abs(values - losses["NumPy"]).max() for values in losses.values())
    print(f"largest difference in 100 steps: {largest:.1e}")
    return losses


if __name__ == "__main__":
    main()

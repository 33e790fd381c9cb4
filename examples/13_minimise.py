"""Minimise a function from many starts at once, and see how each run ended.

The Himmelblau function has four minima, all of value 0. Which one a run finds depends on its start.
"""

import collections

import jax

import gradchain as gc


def himmelblau(w):
    return (w["x"] ** 2 + w["y"] - 11) ** 2 + (w["x"] + w["y"] ** 2 - 7) ** 2


def main(starts=64):
    keys = jax.random.split(jax.random.key(0))
    points = {
        name: jax.random.uniform(key, (starts,), minval=-5, maxval=5) for name, key in zip("xy", keys, strict=True)
    }
    runs = jax.vmap(gc.minimize, (None, 0))(himmelblau, points)
    found = [(round(float(x), 2), round(float(y), 2)) for x, y in zip(runs.params["x"], runs.params["y"], strict=True)]
    ends = collections.Counter(gc.Reason(int(reason)).name for reason in runs.reason)
    for minimum, times in sorted(collections.Counter(found).items()):
        print(f"{minimum} from {times} starts")
    print(f"evaluations: {int(runs.evals.min())} to {int(runs.evals.max())}; ended by {dict(ends)}")
    return {"minima": set(found), "worst": float(runs.value.max())}


if __name__ == "__main__":
    main()

"""The runs: search with equal numbers of trials, then train the best with fresh seeds.

What is finished is kept in a folder, one file for each problem and optimizer, so that an
interrupted contest goes on where it stopped, and optimizers can be added.
"""

import itertools
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from entrants import DECOMPOSING, ENTRANTS, Entrant, Trial, trials
from problems import Problem

from gradchain import training

REFERENCE = "adamw"


class Plan(NamedTuple):
    """How much is tried and measured: the same for all optimizers."""

    trials: int = 16
    tuning: tuple[int, ...] = (0, 1)
    """Seeds of the search."""
    seeds: tuple[int, ...] = tuple(range(100, 108))
    """Fresh seeds, for what the search chose."""
    control: tuple[int, ...] = tuple(range(200, 208))
    """Others, for AdamW against itself."""
    length: int = 5
    """Length of the runs at whose end AdamW's loss is the target, in the problem's parts."""
    horizons: tuple[int, ...] = (2, 3, 4, 5, 6)
    """Lengths of runs, likewise; each has a schedule of its own."""


def known_or_run(
    name: str,
    problem: Problem,
    optimizer: str,
    entrant: Entrant,
    plan: Plan,
    folder: Path,
) -> dict[str, Any]:
    """Return what :func:`compete` found, now or earlier on the same terms."""
    file = folder / name / f"{optimizer}.json"
    points = [numbers.tolist() for numbers in trials(entrant, plan.trials)]
    terms = json.loads(json.dumps([problem.batch_size, problem.part, points, plan]))
    known = json.loads(file.read_text()) if file.exists() else {}
    if known.get("terms") != terms:
        known = {
            "terms": terms,
            **compete(problem, entrant, plan, optimizer == REFERENCE),
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(known))
    return known


def compete(
    problem: Problem, entrant: Entrant, plan: Plan, control: bool
) -> dict[str, Any]:
    """Search, then train with fresh seeds over all horizons.

    Returns:
      ``trials``, rows of learning rate, decay, third number and a loss for each seed;
      ``chosen``, the number of the best trial; ``runs``, rows of seed, steps and loss; and
      ``control``, such rows for the seeds of the control.
    """
    points = trials(entrant, plan.trials)
    each = [Trial(*map(float, point)) for point in zip(*points, strict=True)]
    jobs = list(itertools.product(each, [plan.length], plan.tuning))
    losses = np.reshape(
        [row[-1] for row in train(problem, entrant, jobs)], (len(each), -1)
    )
    chosen = int(losses.mean(1).argmin())

    def runs(seeds: tuple[int, ...]) -> list[list[float]]:
        return train(
            problem,
            entrant,
            list(itertools.product([each[chosen]], plan.horizons, seeds)),
        )

    rows = [
        [*point, *map(float, found)] for point, found in zip(each, losses, strict=True)
    ]
    fresh = {"runs": runs(plan.seeds), "control": runs(plan.control) if control else []}
    return {"trials": rows, "chosen": chosen, **fresh}


def train(
    problem: Problem, entrant: Entrant, jobs: list[tuple[Trial, int, int]]
) -> list[list[float]]:
    """Train one run for each trial, length and seed, as many at a time as there are cores.

    Runs of one seed begin at the same weights and see the same batches. All of them are
    made by one compiled program, a part.

    Returns:
      Rows of seed, steps and the held-out loss at the end; infinity if the run diverged.
    """
    examples, held_out = jax.tree.map(jnp.asarray, problem.data())

    def one(job: tuple[Trial, int, int]) -> list[float]:
        trial, parts, seed = job
        result = training.fit(
            problem.loss,
            problem.init(jax.random.key(seed)),
            lambda total_steps: entrant.make(trial, total_steps),
            examples,
            steps=parts * problem.part,
            batch_size=problem.batch_size,
            seed=seed,
            validation=held_out,
            validate_every=training.Steps(problem.part),
        )
        loss = (
            result.history["val_loss"][-1] if result.stopped != "diverged" else np.inf
        )
        return [
            seed,
            parts * problem.part,
            float(loss) if np.isfinite(loss) else np.inf,
        ]

    first = one(jobs[0])  # compiles
    alone = any(entrant is ENTRANTS[name] for name in DECOMPOSING)
    cores = getattr(os, "process_cpu_count", os.cpu_count)()
    with ThreadPoolExecutor(1 if alone else cores) as pool:
        return [first, *pool.map(one, jobs[1:])]

"""The contest of docs/contest: its search, its measures, and that the page says what its numbers say."""

import importlib
import inspect
import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradchain as gc

PAGE = Path(__file__).parents[2] / "docs" / "which_optimizer.md"
FOLDER = PAGE.parent / "contest"
MODULES = "costs", "entrants", "measures", "pictures", "problems", "published", "results", "runs", "words"
LENGTHS = np.array([400.0, 600, 800, 1000, 1200])


@pytest.fixture(scope="module")
def contest():
    """The scripts' modules; they import each other by these names."""
    sys.path.insert(0, str(FOLDER))
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    sys.path.remove(str(FOLDER))
    for name in MODULES:
        del sys.modules[name]


@pytest.fixture(scope="module")
def results(contest):
    return contest.results.Results.read()


@pytest.fixture(scope="module")
def small(contest):
    """A problem of a moment: to copy four numbers."""
    x = np.float32(np.random.default_rng(0).normal(size=(32, 4)))

    def init(key):
        return {"hidden": contest.problems.dense(key, 4, 4), "head": contest.problems.dense(key, 4, 4)}

    def loss(params, batch):
        return jnp.mean(
            (contest.problems.apply(params["head"], contest.problems.apply(params["hidden"], batch)) - batch) ** 2
        )

    return contest.problems.Problem("copy", init, loss, lambda: (x, x[:8]), 8, 4)


def faster(factor, noise=0.0, seeds=4):
    """Losses that fall with the logarithm of the steps, of an optimizer faster by a factor."""
    return 1 - np.log(factor * LENGTHS)[:, None] + noise * np.arange(seeds)[None]


def test_page_and_pictures_say_what_the_numbers_say(contest, results):
    every = contest.results.findings(results)
    assert (contest.results.FOLDER / "contest.md").read_text() == contest.words.page(every)
    assert (contest.results.FOLDER / "published.md").read_text() == contest.words.published(every)
    for name, wide in (("wide", True), ("narrow", False)):
        assert (contest.results.FOLDER / f"{name}.svg").read_text() == contest.pictures.draw(every, wide)


def test_page_shows_all_of_it():
    page = PAGE.read_text()
    files = "contest.md", "published.md", "wide.svg", "narrow.svg", "trials.csv", "runs.csv"
    shown = [f"contest/results/{name}" for name in files]
    assert not [name for name in shown if name not in page]
    images = re.findall(r"```{image} \S+\n:alt: .{30,}\n:class: (wide|narrow)\n", page)
    assert images == ["wide", "narrow"]


def default(function, name):
    return inspect.signature(function).parameters[name].default


def test_what_the_page_says_of_the_rules_is_so(contest, results):
    refreshing = {
        "soap": gc.scale_by_soap, "kl_soap": gc.scale_by_soap, "kl_shampoo": gc.scale_by_kl_shampoo,
        "shampoo": gc.scale_by_shampoo, "splus": gc.splus,
    }  # fmt: skip
    probability = default(gc.scale_by_kron, "update_probability")
    plan, spans, problems = contest.runs.Plan(), contest.entrants.SPANS, contest.problems
    facts = {
        "sixteen trials": plan.trials == 16,
        "with a 95 % interval from a bootstrap over eight seeds": len(plan.seeds) == 8,
        "16 trials, of two seeds each": len(plan.tuning) == 2,
        "trained for 0.4 to 1.2 times": [n / plan.length for n in plan.horizons[:: len(plan.horizons) - 1]]
        == [0.4, 1.2],
        "The learning rate spans two powers of ten": spans["learning rate"] == 2,
        "spans two powers of ten in the others": spans["decay"] == 2,
        "hyperparameter spans one and a half": spans["third"] == 1.5,
        "a warm-up for a twentieth": contest.entrants.scheduled(1.0, 1000)(50) == 1,
        "two blocks of width 48 predict each of 32": (problems.BLOCKS, problems.WIDTH, problems.LENGTH) == (2, 48, 32),
        "from the eight before it": problems.CONTEXT == 8,
        "Preconditioners are refreshed every tenth step, the default": all(
            default(rule, "update_interval") == 10 == contest.entrants.ENTRANTS[name].interval
            for name, rule in refreshing.items()
        ),
        "those of `kron` at every step": contest.entrants.ENTRANTS["kron"].interval == 1,
        "every one of the first 500 steps, and after 1,000 still at more than half": probability(499) == 1
        and 0.5 < probability(1000) < 1,
        "matrices weigh heavily": max(row["operations"] for row in results.costs) > 3,
    }
    page = PAGE.read_text()
    assert all(facts.values()), facts
    assert not [phrase for phrase in facts if phrase not in page]
    every = contest.results.findings(results)
    at_end = [name for name, found in every.items() for line in found.lines if not line.is_rival and line.at_end]
    assert not at_end  # AdamW's best is well inside


def line_of(contest, optimizer, value, low, high, at_end=False):
    """A line of which only the ratio counts."""
    ratio = contest.measures.Ratio(value, low, high)
    return contest.results.Line(optimizer, ratio, 1.0, 0.5, 0.01, 3, 16, 1e-2, 1e-2, at_end, 8.0, 1.0)


def found_of(contest, *lines):
    return contest.results.Found(list(lines), 1000, 0.5, 0.4, 1.2)


def test_sentences_tell_fewer_steps_from_more_and_from_no_difference(contest):
    said = contest.words.headline("Copy", found_of(
        contest,
        line_of(contest, "soap", 0.4, 0.4, 0.5),
        line_of(contest, "muon", 0.9, 0.8, 0.99),
        line_of(contest, "nadamw", 0.97, 0.9, 1.01),
        line_of(contest, "adamw", 1.0, 0.9, 1.1),
        line_of(contest, "lion", math.inf, 1.01, math.inf),
        line_of(contest, "adopt", 1.1, 1.05, 1.2),
    ))  # fmt: skip
    assert said == (
        "- **Copy.** Of 5 other optimizers, 2 need fewer steps than AdamW. "
        "The lowest ratios: `soap` ≤ 0.4 (≤ 0.4 to 0.50) and `muon` 0.90 (0.80 to 0.99). "
        "`lion` and `adopt` need more. Not distinguishable from AdamW: `nadamw`."
    )
    said = contest.words.headline("Copy", found_of(contest, line_of(contest, "lion", math.inf, 1.01, math.inf)))
    assert said == "- **Copy.** Of 1 other optimizer, none needs fewer steps than AdamW. `lion` needs more."


def test_only_what_ran_on_all_problems_is_compared_across_them(contest):
    muon, soap = line_of(contest, "muon", 0.9, 0.8, 0.99), line_of(contest, "soap", 0.9, 0.8, 0.99)
    slower = line_of(contest, "muon", 0.99, 0.9, 1.1)

    def said(*fields):
        return contest.words.everywhere({str(i): found_of(contest, *field) for i, field in enumerate(fields)})

    assert said([muon, soap], [muon]) == [
        "- **Across the problems.** `muon` ran on all of them, and `muon` needs fewer steps than AdamW each time."
    ]
    assert "`muon` and `soap` ran on all of them, and all need fewer" in said([muon, soap], [soap, muon])[0]
    assert "and `soap` needs fewer" in said([muon, soap], [soap, slower])[0]
    assert "and none needs fewer" in said([slower], [slower])[0]
    assert said([muon]) == said([muon], [soap]) == []


def test_rates_near_the_end_of_their_range_are_named(contest):
    lines = line_of(contest, "muon", 1, 1, 1), line_of(contest, "soap", 1, 1, 1, at_end=True)
    assert "No chosen learning rate" in contest.words.ends({"signals": found_of(contest, lines[0])})
    assert ": `soap` (MNIST-1D). " in contest.words.ends({"signals": found_of(contest, *lines)})


def test_published_ratios_stand_below_those_found_here(contest):
    table = contest.words.published({"signals": found_of(contest, line_of(contest, "kl_soap", 0.51, 0.5, 0.52))})
    header, _, ours, *others = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()]
    column = header.index('`soap(factors="kl")`')
    assert ours[0] == "here: MNIST-1D"
    assert [cell for cell in ours[1:] if cell] == [ours[column]] == ["0.51"]
    by_source = dict(zip(contest.published.PUBLISHED, others, strict=True))
    for source, ratios in contest.published.PUBLISHED.items():
        assert [cell for cell in by_source[source][1:] if cell] == [
            ratios[n] for n in contest.entrants.ENTRANTS if n in ratios
        ]


def test_every_entrant_has_all_its_runs(contest, results):
    plan = contest.runs.Plan()
    for problem, field in contest.entrants.FIELD.items():
        for name in field:
            trials = contest.results.picked([r for r in results.trials if r["problem"] == problem], name, "loss_0")
            runs = contest.results.picked([r for r in results.runs if r["problem"] == problem], name, "seed", "steps")
            assert len(trials) == plan.trials, (problem, name)
            assert {seed for seed, _ in runs} == set(plan.seeds), (problem, name)
            assert len(runs) == len(plan.seeds) * len(plan.horizons), (problem, name)


def test_trials_are_the_same_for_all_but_for_the_middle(contest):
    entrants = contest.entrants
    adamw, lion = (entrants.trials(entrants.ENTRANTS[name], 16) for name in ("adamw", "lion"))
    np.testing.assert_allclose(adamw.rate, 10 * lion.rate)
    np.testing.assert_array_equal(adamw.decay, lion.decay)
    places = (np.arange(16) + 0.5) / 16 - 0.5
    np.testing.assert_allclose(np.sort(np.log10(adamw.rate)), -2 + 2 * places)
    np.testing.assert_allclose(np.sort(np.log10(adamw.third)), -2 + 1.5 * places)
    assert (np.sort(adamw.decay)[:5] == 0).tolist() == [True] * 4 + [False]
    assert 1e-5 < np.sort(adamw.decay)[4] < 2e-5 < 5e-4 < adamw.decay.max() < 1e-3


@pytest.mark.parametrize("factor", [1.0, 1.25, 2.0])
def test_a_faster_optimizer_needs_as_many_times_fewer_steps(contest, factor):
    reference = faster(1.0)[3]
    found = contest.measures.ratio(contest.measures.Curve(LENGTHS, faster(factor)), reference, 1000)
    np.testing.assert_allclose(found, 1 / factor, rtol=1e-12)


def test_beyond_the_lengths_that_were_run_there_are_bounds(contest):
    ratio, curve = contest.measures.ratio, contest.measures.Curve
    np.testing.assert_allclose(ratio(curve(LENGTHS, faster(4.0)), faster(1.0)[3], 1000), 0.4)
    assert ratio(curve(LENGTHS, faster(0.7)), faster(1.0)[3], 1000) == (math.inf,) * 3


def test_what_seeds_share_cancels_in_the_interval(contest):
    measures = contest.measures
    curve, reference = measures.Curve(LENGTHS, faster(1.25, noise=0.05)), faster(1.0, noise=0.05)[3]
    together, apart = measures.ratio(curve, reference, 1000), measures.ratio(curve, reference, 1000, paired=False)
    np.testing.assert_allclose(together, 0.8, rtol=1e-12)
    assert apart.low < 0.77 < 0.83 < apart.high


def test_a_diverged_run_is_never_below_the_target(contest):
    losses = faster(2.0)
    losses[:, 0] = math.inf
    found = contest.measures.ratio(contest.measures.Curve(LENGTHS, losses), faster(1.0)[3], 1000)
    assert found.value == found.high == math.inf


def test_formally_asks_for_more_than_a_lower_mean(contest):
    curve = contest.measures.Curve(LENGTHS, faster(1.25, noise=0.2))
    mean = curve.losses.mean(1)[2]
    error = np.std(0.2 * np.arange(4), ddof=1) / 2
    assert contest.measures.formally(curve, mean + 1.65 * error) == 800
    assert contest.measures.formally(curve, mean + 1.60 * error) == 1000


def test_trials_near_the_best_are_counted(contest):
    assert contest.measures.within([[1.0, 1.0], [1.03, 1.0], [1.05, 1.0], [math.inf, 1.0]]) == 2


@pytest.mark.slow
def test_search_then_fresh_seeds(contest, small, tmp_path):
    runs = contest.runs
    plan = runs.Plan(trials=4, seeds=(5, 6), control=(7,), length=2, horizons=(1, 2))
    entrant = contest.entrants.ENTRANTS["sgd"]
    found = runs.known_or_run("copy", small, "adamw", entrant, plan, tmp_path)
    losses = np.array(found["trials"])[:, 3:]
    assert losses.shape == (4, 2)
    assert found["chosen"] == losses.mean(1).argmin()
    assert [row[:2] for row in found["runs"]] == [[5, 4], [6, 4], [5, 8], [6, 8]]
    assert [row[:2] for row in found["control"]] == [[7, 4], [7, 8]]
    best = contest.entrants.Trial(*found["trials"][found["chosen"]][:3])
    direct = gc.training.sweep(
        small.loss, None, lambda total_steps: entrant.make(best, total_steps), small.data()[0], epochs=2, batch_size=8,
        init=small.init, seeds=[5, 6], validation=small.data()[1],
    )  # fmt: skip
    np.testing.assert_allclose([row[2] for row in found["runs"][2:]], direct.final[0], rtol=1e-5)


def test_finished_runs_are_kept_on_equal_terms(contest, tmp_path, monkeypatch):
    runs, entrant = contest.runs, contest.entrants.ENTRANTS["sgd"]
    calls = []
    monkeypatch.setattr(runs, "compete", lambda *a: calls.append(a[-1]) or {"runs": [[0, 1, math.inf]]})
    problem = contest.problems.PROBLEMS["signals"]
    terms = [("adamw", runs.Plan()), ("adamw", runs.Plan()), ("sgd", runs.Plan()), ("adamw", runs.Plan(trials=8))]
    found = [runs.known_or_run("signals", problem, name, entrant, plan, tmp_path) for name, plan in terms]
    assert calls == [True, False, True]
    assert all(one["runs"] == [[0, 1, math.inf]] for one in found)


def test_numbers_survive_their_files(contest, tmp_path):
    trial = {"problem": "signals", "optimizer": "sgd", "learning_rate": 0.125, "decay": 0.0, "third": 0.5}
    tables = contest.results.Results([{**trial, "loss_0": math.inf, "loss_1": 0.25}], [], [])
    tables.write(tmp_path)
    assert contest.results.Results.read(tmp_path) == tables


def test_operations_are_counted_in_loops_and_rare_branches(contest):
    def function(x, n):
        for_each = jax.lax.fori_loop(0, 3, lambda i, y: y @ x, x)
        return jax.lax.cond(n == 0, lambda: jax.jit(jnp.matmul)(for_each, x), lambda: for_each)

    traced = jax.make_jaxpr(function)(jnp.ones((16, 16)), 0)
    assert contest.costs.count(traced.jaxpr, 10) == pytest.approx(2 * 16**3 * 3.1, rel=0.01)


def test_state_is_counted_for_each_parameter(contest):
    params = {"kernel": jnp.ones((20, 50))}
    assert contest.costs.state_bytes(gc.adam(0.1), params) == pytest.approx(8, abs=0.02)
    assert contest.costs.state_bytes(gc.lion(0.1), params) == pytest.approx(4, abs=0.02)


@pytest.mark.slow
def test_every_entrant_learns(contest, small):
    for name, entrant in contest.entrants.ENTRANTS.items():
        trials = contest.entrants.trials(entrant, 4)
        jobs = [(contest.entrants.Trial(*map(float, point)), 5, 0) for point in zip(*trials, strict=True)]
        start = float(small.loss(small.init(jax.random.key(0)), small.data()[1]))
        losses = [loss for *_, loss in contest.runs.train(small, entrant, jobs)]
        assert min(losses) < 0.9 * start, name

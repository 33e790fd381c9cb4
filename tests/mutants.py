"""Change the library in small wrong ways, one at a time, and see whether the tests notice: ``make mutants``.

A sample of mutants of the named files is drawn, each is tried on a copy of the project, first with the unit tests that
mention what its file defines, then with the contract tests of a few rows, then with everything that ``make test`` runs.
What no test notices is printed as a patch: it is either equivalent to the original, or a test is missing.
"""

import argparse
import ast
import collections
import concurrent.futures
import dataclasses
import difflib
import os
import queue
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
OPERATORS = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"), ast.NotIn: ("not in", "in"), ast.And: ("and", "or"), ast.Or: ("or", "and"),
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"),
    ast.Pow: ("**", "*"), ast.FloorDiv: ("//", "*"), ast.Mod: ("%", "*"),
}  # fmt: skip
"""How each operator is written, and what it is replaced by."""


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One file with one change."""

    path: Path
    line: int
    source: str
    mutated: str

    def __str__(self) -> str:
        path = str(self.path.relative_to(ROOT))
        lines = difflib.unified_diff(self.source.splitlines(), self.mutated.splitlines(), path, path, lineterm="", n=1)
        return "\n".join(lines)


def mutants(path: Path) -> Iterator[Mutant]:
    """Yield every mutant of a file."""
    source = path.read_text()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line.encode()))
    raw = source.encode()

    def at(line: int, column: int) -> int:
        return starts[line - 1] + column

    def text(node: ast.AST) -> str:
        return raw[at(node.lineno, node.col_offset) : at(node.end_lineno, node.end_col_offset)].decode()

    def put(start: int, end: int, new: str, line: int) -> Iterator[Mutant]:
        mutated = (raw[:start] + new.encode() + raw[end:]).decode()
        try:
            ast.parse(mutated)
        except SyntaxError:
            return
        yield Mutant(path, line, source, mutated)

    def between(left: ast.AST, right: ast.AST, op: ast.AST) -> Iterator[Mutant]:
        start, end = at(left.end_lineno, left.end_col_offset), at(right.lineno, right.col_offset)
        gap = raw[start:end].decode()
        if type(op) in OPERATORS and gap.count(OPERATORS[type(op)][0]) == 1:
            yield from put(start, end, gap.replace(*OPERATORS[type(op)]), left.end_lineno)

    def replaced(node: ast.AST, new: str) -> Iterator[Mutant]:
        yield from put(at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset), new, node.lineno)

    for node in _code(ast.parse(source)):
        match node:
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                for a, op, b in zip([left, *comparators], ops, comparators, strict=False):
                    yield from between(a, b, op)
            case ast.BinOp(left=left, op=op, right=right):
                yield from between(left, right, op)
            case ast.BoolOp(op=op, values=values):
                yield from between(values[0], values[1], op)
            case ast.UnaryOp(op=ast.USub() | ast.Not(), operand=operand):
                yield from replaced(node, f"({text(operand)})")
            case ast.Constant(value=bool() as value):
                yield from replaced(node, str(not value))
            case ast.Constant(value=int() | float() as value):
                yield from replaced(node, repr(value + 1))
            case ast.IfExp(test=test) | ast.If(test=test):
                yield from replaced(test, f"(not ({text(test)}))")
            case ast.Call(args=[ast.expr() as only], keywords=[], func=ast.Attribute() | ast.Name()):
                yield from replaced(node, f"({text(only)})")
            case ast.Expr(value=ast.Call()):
                yield from replaced(node, "pass")
            case _:
                pass


def _code(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that compute: no annotations, no decorators, no text of errors, no tables of kinds."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for node in value if isinstance(value, list) else [value]:
            if isinstance(node, ast.AST) and not isinstance(node, ast.Raise | ast.JoinedStr | ast.Import):
                yield node
                yield from _code(node)


def chosen_for(path: Path) -> list[str]:
    """Return the unit test files that mention most of what a file and those that import it define, its own name first.

    A name counts by how few files mention it: every test has a ``state``.
    """
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    importing = re.compile(rf"^from {re.escape(module)} import ", re.M)
    users = [user for user in (ROOT / "gradchain").rglob("*.py") if importing.search(user.read_text())]
    named = {name for file in (path, *users) for name in _defined(file)}
    texts = {test: test.read_text() for test in (ROOT / "tests" / "unit").glob("test_*.py")}
    mentioned = {test: named & set(re.findall(r"\w+", text)) for test, text in texts.items()}
    files = collections.Counter(name for names in mentioned.values() for name in names)
    scores = {}
    for test, text in texts.items():
        own = 5 * (module in text) + 5 * (path.stem.strip("_") in test.stem)
        scores[str(test.relative_to(ROOT))] = own + sum(1 / files[name] for name in mentioned[test])
    return [name for name in sorted(scores, key=lambda n: -scores[n]) if scores[name]][:6]


def _defined(path: Path) -> Iterator[str]:
    """Yield the public names of functions and classes that a file defines."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name


ROWS = "adamw or scale_by_trace or partition or accumulate or scale_by_factored_rms or clip_by_global_norm"
HANGS = 900.0
"""Seconds after which a stage is taken to hang, which is a failure."""
SLOW_TO_RUN = ("test_docs.py", "test_eight_devices.py", "test_gallery.py", "test_examples.py", "test_traffic.py")


def _notices(mutant: Mutant, copy: Path, deadline: float) -> str:
    """Return which stage's tests fail on a mutant, or nothing."""
    target = copy / mutant.path.relative_to(ROOT)
    target.write_text(mutant.mutated)
    ignored = [f"--ignore=tests/unit/{name}" for name in SLOW_TO_RUN]
    stages = {
        "unit": [*(name for name in chosen_for(mutant.path) if not name.endswith(SLOW_TO_RUN))],
        "rows": ["tests/contract", "-k", ROWS],
        "all": ["tests/unit", "tests/contract", "tests/devices", *ignored],
    }
    try:
        for stage, chosen in stages.items():
            left = deadline - time.monotonic()
            if chosen and left > 0 and _fails(chosen, copy, left):
                return stage
        return "" if time.monotonic() < deadline else "out of time"
    finally:
        target.write_text(mutant.source)


def _fails(chosen: list[str], copy: Path, seconds: float) -> bool:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-m", "not slow", *chosen]
    environment = os.environ | {"PYTHONPATH": str(copy)}
    try:
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, timeout=min(seconds, HANGS))
    except subprocess.TimeoutExpired:
        return seconds > HANGS
    return done.returncode not in (0, 5)


def _changed(since: str) -> dict[Path, set[int]]:
    """Return the lines of the library that differ from a commit, by file."""
    diff = subprocess.run(
        ["git", "diff", "-U0", since, "--", "gradchain"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines: dict[Path, set[int]] = {}
    path = None
    for line in diff.stdout.splitlines():
        if line.startswith("+++ b/"):
            path = ROOT / line.removeprefix("+++ b/")
        elif path and (hunk := re.match(r"@@ .* \+(\d+)(?:,(\d+))? @@", line)):
            first, size = int(hunk[1]), int(hunk[2] or 1)
            lines.setdefault(path, set()).update(range(first, first + size))
    return {p: found for p, found in lines.items() if p.suffix == ".py" and p.exists()}


def _drawn(options: argparse.Namespace) -> list[Mutant]:
    """Return the sample of mutants, the same for the same seed."""
    if options.since:
        found = [m for p, lines in sorted(_changed(options.since).items()) for m in mutants(p) if m.line in lines]
    else:
        paths = [ROOT / name for name in options.paths]
        files = [file for p in paths for file in (sorted(p.rglob("*.py")) if p.is_dir() else [p])]
        found = [m for file in files for m in mutants(file)]
    return random.Random(options.seed).sample(found, min(options.number, len(found)))


def main() -> None:
    """Try a sample of mutants, and exit with 1 if more than a tenth go unnoticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", default=["gradchain/core"], help="files or folders, gradchain/core if none")
    parser.add_argument("--since", help="mutate only lines that differ from this commit")
    parser.add_argument("--number", type=int, default=20, help="size of the sample")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    deadline = time.monotonic() + 60 * options.minutes
    sample = _drawn(options)
    results: dict[Mutant, str] = {}
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(options.workers) as pool:
        copies: queue.Queue[Path] = queue.Queue()
        for i in range(options.workers):
            copy = Path(folder) / str(i)
            shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", ".cache", "_build", "demo"))
            copies.put(copy)

        def tried(mutant: Mutant) -> None:
            copy = copies.get()
            try:
                results[mutant] = _notices(mutant, copy, deadline)
            finally:
                copies.put(copy)
            print(f"{results[mutant] or 'SURVIVES':12} {mutant.path.relative_to(ROOT)}:{mutant.line}", flush=True)

        list(pool.map(tried, sample))
    tested = [m for m in sample if results[m] != "out of time"]
    surviving = [m for m in tested if not results[m]]
    for mutant in surviving:
        print(f"\n{mutant}")
    print(f"\n{len(surviving)} of {len(tested)} mutants survive ({len(sample) - len(tested)} were not tried in time)")
    sys.exit(len(surviving) > len(tested) / 10)


if __name__ == "__main__":
    main()

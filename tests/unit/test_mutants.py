"""The mutation check makes the changes that it says, in code and nowhere else."""

from tests.mutants import ROOT, chosen_for, mutants

SOURCE = '''"""One + two."""
def f(x: int = 1, *, on: bool = True) -> "a < b":
    if x < 3 and on:
        raise ValueError(f"{x + 1}")
    g(x, -x)
    return abs(x) * 2
'''


def test_every_kind_of_code_is_changed_and_annotations_and_errors_are_not(tmp_path):
    path = tmp_path / "source.py"
    path.write_text(SOURCE)
    changed = set()
    for mutant in mutants(path):
        before, after = SOURCE.splitlines(), mutant.mutated.splitlines()
        assert len(before) == len(after)
        (line,) = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
        assert line + 1 == mutant.line
        changed.add(after[line].strip())
    assert changed == {
        'def f(x: int = 2, *, on: bool = True) -> "a < b":',
        'def f(x: int = 1, *, on: bool = False) -> "a < b":',
        "if x <= 3 and on:",
        "if x < 4 and on:",
        "if x < 3 or on:",
        "if (not (x < 3 and on)):",
        "pass",
        "g(x, (x))",
        "return abs(x) / 2",
        "return (x) * 2",
        "return abs(x) * 3",
    }


def test_tests_that_mention_what_a_file_defines_come_first():
    assert chosen_for(ROOT / "gradchain" / "compiled.py")[0] == "tests/unit/test_compiled.py"


def test_tests_of_what_imports_a_file_are_near_it():
    """Nobody names ``Members`` or ``Trainer`` but the searches that are made of them."""
    near = chosen_for(ROOT / "gradchain" / "training" / "search" / "members.py")
    assert {"tests/unit/test_halving.py", "tests/unit/test_population.py"} <= {*near[:3]}

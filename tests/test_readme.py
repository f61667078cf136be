"""The README's first example runs as it stands there."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


@pytest.mark.real
def test_example_runs_verbatim(real_features):
    code = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    scope = {}
    exec(code[0], scope)
    assert scope["pipe"].predict(scope["X_new"]).tolist() == [-1, -1, -1]
    assert scope["pipe"].predict_map(scope["X_new"]).shape == scope["X_new"].shape[:3]


def test_it_is_short():
    assert len(README.read_text().split()) <= 500


def test_the_order_of_colours_is_said():
    guide = README.parent / "doc" / "user_guide.rst"
    for page in (README, guide):
        assert "Colours come in the order RGB" in page.read_text()


def test_pictures_and_pages_exist():
    text = README.read_text()
    named = re.findall(r"\]\(([^)]+)\)|`(doc/[^`]+)`", text)
    for path in map("".join, named):
        assert (README.parent / path).is_file(), path


def test_verdicts_are_the_measured_ones():
    results = README.parent / "benchmarks" / "results"
    measured = (results / "verdicts_means.md").read_text().splitlines()
    start = README.read_text().index("| method |")
    table = README.read_text()[start:].split("\n\n")[0].splitlines()
    assert len(table) >= 4 + 2
    for line in table:
        without_ms = line.rsplit("|", 2)[0] + "|"
        assert without_ms in measured

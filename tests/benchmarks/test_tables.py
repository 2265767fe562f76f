"""benchmarks/tables.py and record.py: the numbers of a page are those of the tables."""

import json
import sys
from pathlib import Path

import pytest
import yaml

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import tables

    yield tables
    for name in ("tables", "record"):
        sys.modules.pop(name, None)


@pytest.fixture
def scores(tables, monkeypatch):
    """Two recipes of three seeds; the second seed of one is drawn twice."""

    def row(recipe, seed, value, draw="0"):
        rest = {"fd_floor": "0.5", "fd_low": "0.1", "fd_high": "9", "nfe": "5"}
        return {"study": "s", "recipe": recipe, "seed": seed, "samples_seed": draw, "fd": value, **rest}

    ours = [row("a", "1", "1.0"), row("a", "2", "1.5"), row("a", "2", "2.5", draw="1"), row("a", "3", "3.0")]
    theirs = [row("b", seed, value) for seed, value in (("1", "1000"), ("2", "1001.5"), ("3", "1003"))]
    monkeypatch.setattr(tables, "scores", lambda: {("s", "a"): ours, ("s", "b"): theirs})
    monkeypatch.setattr(tables, "blocks", lambda: {("s", "b", "1", "0", "fd"): {"samples": [-1.0, 1.0, -1.0, 1.0]}})
    monkeypatch.setattr(tables, "metrics", lambda: {"fd", "nfe"})
    return tables


@pytest.mark.parametrize(
    ("words", "old", "new"),
    [
        ("s a", "9.99", "2.00"),
        ("s a", "9 ± 9.99", "2 ± 0.58"),
        ("s a", "9 [0.0, 0.0]", "2 [0.1, 9.0]"),
        ("s a floor", "9.9", "0.5"),
        ("s b", "9,999.9", "1,001.5"),
        ("s a minus s b", "9.9 ± 9.99", "−999.5 ± 3.07"),
        ("s a minus s b", "9.9 [0.0,\n9.9]", "−999.5 [−1002.6,\n−996.4]"),
        ("s b minus s a paired", "9.9 ± 9.99", "999.5 ± 1.24"),
    ],
)
def test_a_number_keeps_its_form(scores, words, old, new):
    """Decimals, errors and intervals are those that the page has."""
    assert scores.quantity(scores._QUANTITY.fullmatch(old), words, "fd") == new


def test_only_numbers_of_the_tables_change(scores):
    page = """Before 9.9 ± 9.9.

<!-- scores
columns fd nfe -
s {a,a}
-->

| | distance | evaluations | else |
|---|---|---|---|
| **ours** | **9.9** in 50 steps | 9 | 7.7 |

<!-- scores
s a fd
-->

- Not from a table: 7.7, with 4 of `x 5`.
  From it: 9.9 ± 9.9.

After 9.9 ± 9.9.
"""
    new = page.replace("**9.9** in", "**2.0** in").replace("| 9 |", "| 5 |").replace("it: 9.9 ± 9.9", "it: 2.0 ± 0.6")
    assert scores.written(page) == new
    assert scores.written(new) == new


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ("s c fd\n-->\n\n1 ± 1", "s c"),
        ("s a kd\n-->\n\n1 ± 1", "no kd"),
        ("s a fd\n-->\n\n1 ± 1 and 2 ± 2", "2 ± 2"),
        ("s a fd\ns a fd\n-->\n\n1 ± 1", "left"),
        ("s a\n-->\n\n| | fd |\n|---|---|\n| a | 1 |\n| b | 2 |", "2 rows"),
        ("s a nfe\n-->\n\n1 [1, 2]", "nfe_low"),
        ("columns kd\ns a\n-->\n\n| | a |\n|---|---|\n| b | 1 |", "no score has kd"),
        ("columns fd fd\ns {a}\n-->\n\n| | a | b |\n|---|---|---|\n| c | 1 | 2 |", "nothing for column 2"),
    ],
)
def test_what_has_no_score_is_refused(scores, block, said):
    with pytest.raises(ValueError, match=said):
        scores.written(f"<!-- scores\n{block}\n")


def test_pages_quote_their_tables(tables, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tables.py", "--check"])
    tables.main()


def test_a_run_is_recorded_once(tables, tmp_path, monkeypatch):
    """Its values, protocol and blocks, and bits/dim by steps; again, it replaces itself."""
    import record

    run = tmp_path / "run"
    run.mkdir()
    values = {"fd_digits_cnn": 0.25, "kd_digits_cnn": 1.0, "bits_even_50": 2.5}
    protocol = {"data": {"name": "digits", "identity": "0" * 64}, "samples": {"seed": 0}, "versions": {"torch": "2"}}
    blocks = {"fd_digits_cnn": {"samples": [0.5, -0.5]}}
    (run / "metrics.json").write_text(json.dumps({"values": values, "protocol": protocol, "sources": blocks}))
    (run / "config.yaml").write_text(yaml.safe_dump({"seed": 7, "trainer": {"max_steps": 10}}))
    for table in ("digits", "blocks", "bits_by_steps"):
        (tmp_path / f"{table}.csv").write_text((tables.RESULTS / f"{table}.csv").read_text())
    for module in (tables, record):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    before = len(tables.rows("digits"))
    arguments = ["new", "recipe", str(run), "--command", "a command", "--machine", "a machine"]
    monkeypatch.setattr(sys, "argv", ["record.py", *arguments])
    record.main()
    record.main()
    assert len(tables.rows("digits")) == before + 1
    score = tables.rows("digits")[-1]
    kept = ("study", "fd_digits_cnn", "seed", "training_steps", "machine")
    assert [score[column] for column in kept] == ["new", "0.25", "7", "10", "a machine"]
    assert "kd_digits_cnn" not in score
    assert tables.rows("bits_by_steps")[-1]["50"] == "2.5"
    assert tables.rows("blocks")[-1]["blocks"] == "0.5 -0.5"

"""benchmarks/own_images.py: a row of the table of how long one's own images take."""

import sys
from pathlib import Path

import pytest


@pytest.fixture
def own_images(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import own_images

    yield own_images
    sys.modules.pop("own_images", None)


def test_a_row_multiplies_steps_by_the_time_of_one(own_images, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["own_images", "--sides", "8", "--numbers", "20"])
    monkeypatch.setattr(own_images.torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(own_images.duration, "time_step_and_evaluation", lambda *_: (60.0, 0.0))
    own_images.main()
    *_, row = capsys.readouterr().out.splitlines()
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:5] == ["8×8", "20", "16", "125", "100"]
    assert cells[6] == "125", "minutes, of a minute each"


def test_the_estimate_stands_beside_what_training_took(own_images, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["own_images", "--sides", "8", "--numbers", "20", "40", "--train", "1"])
    monkeypatch.setattr(own_images.duration, "time_step_and_evaluation", lambda *_: (60.0, 0.0))
    monkeypatch.setattr(own_images, "trained", lambda side, seconds: 90.0)
    own_images.main()
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows == [["8×8", "20", "125", "125.0", "187.5", "1.50"], ["8×8", "40", "125", "125.0", "187.5", "1.50"]]

import csv

import pytest

from diffusion_lab.training.record import CSVRecord


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_rows_are_appended_and_new_columns_are_added(tmp_path):
    record = CSVRecord(tmp_path / "metrics.csv")
    record.log_metrics({"loss": 1.0}, step=10)
    record.log_metrics({"loss": 0.5}, step=20)
    record.log_metrics({"loss": 0.25, "grad": 3.0}, step=30)
    assert list(rows(record.path)[0]) == ["step", "loss", "grad"]
    assert [row["loss"] for row in rows(record.path)] == ["1.0", "0.5", "0.25"]
    assert [row["grad"] for row in rows(record.path)] == ["", "", "3.0"]


def test_a_resumed_run_replaces_what_came_after_its_checkpoint(tmp_path):
    first = CSVRecord(tmp_path / "metrics.csv")
    for step in (10, 20, 30):
        first.log_metrics({"loss": float(step)}, step=step)
    resumed = CSVRecord(tmp_path / "metrics.csv")
    resumed.log_metrics({"loss": -20.0}, step=20)
    resumed.log_metrics({"loss": -30.0}, step=30)
    assert [tuple(row.values()) for row in rows(first.path)] == [("10", "10.0"), ("20", "-20.0"), ("30", "-30.0")]


@pytest.mark.parametrize("edit", ["step;loss\n10;1,0\n", "step,loss\n,1.0\nmine\n", "\0\xff"])
def test_a_record_that_was_edited_goes_on(tmp_path, edit):
    """As by a spreadsheet program, between two starts of a training; rows without a step are left out."""
    record = CSVRecord(tmp_path / "metrics.csv")
    record.path.write_text(edit, encoding="latin-1")
    record.log_metrics({"loss": 0.5}, step=20)
    record.log_metrics({"loss": 0.25}, step=30)
    assert rows(record.path) == [{"step": "20", "loss": "0.5"}, {"step": "30", "loss": "0.25"}]

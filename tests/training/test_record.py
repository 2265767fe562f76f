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


@pytest.mark.parametrize("damaged", [b"20,0.", b"\xff\xfe", b"x,1.0,2.0\n", b"20,1,2,3,4\n", b'"20,1\n'])
def test_a_damaged_row_is_left_out(tmp_path, damaged):
    record = CSVRecord(tmp_path / "metrics.csv")
    record.log_metrics({"loss": 1.0, "lr": 0.1}, step=10)
    with record.path.open("ab") as file:
        file.write(damaged)
    CSVRecord(record.path).log_metrics({"loss": 0.5, "lr": 0.1}, step=30)
    assert [row["step"] for row in rows(record.path)] == ["10", "30"]
    record.path.write_bytes(b"\0\xff,\n1,2\n")  # without its header it begins again
    CSVRecord(record.path).log_metrics({"loss": 1.0}, step=40)
    assert rows(record.path) == [{"step": "40", "loss": "1.0"}]


@pytest.mark.parametrize(
    "edit", ["step;loss\n10;1,0\n", "\ufeffstep,loss\n10,1.0\n", "step,loss\n10,1.0\n20,9.0\nmine\n", "\0"]
)
def test_a_record_that_the_user_edits_goes_on(tmp_path, edit):
    """As a spreadsheet program may do while a model trains."""
    record = CSVRecord(tmp_path / "metrics.csv")
    record.log_metrics({"loss": 1.0}, step=10)
    record.path.write_bytes(edit.encode("utf-16" if edit == "\0" else "utf-8"))
    record.log_metrics({"loss": 0.5}, step=20)
    record.log_metrics({"loss": 0.25}, step=30)
    assert [(row["step"], row["loss"]) for row in rows(record.path)][-2:] == [("20", "0.5"), ("30", "0.25")]

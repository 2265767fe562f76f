"""The plan of a sweep, and what a job does with its part of it."""

from contextlib import suppress

import pytest

from diffusion_lab.store import model_directory, run_directory
from diffusion_lab.store.lock import hold
from diffusion_lab.store.own_files import sha256_of
from diffusion_lab.store.status_file import FAILED, INTERRUPTED, Announcement, Status, read_status
from diffusion_lab.sweeps.plan import (
    CELL,
    MODEL,
    Job,
    JobError,
    PlannedCell,
    Work,
    do,
    forget_failures,
    plan,
    sweep_content,
)


@pytest.fixture
def cells(tmp_path):
    """Two schedules of one network, two variances that share it, two samplers."""
    made = []
    for schedule, digit in (("linear", "1"), ("cosine", "2")):
        for variance in ("small", "large"):
            for sampler in ("ddpm", "ddim"):
                choices = {"schedule": schedule, "variance": variance, "sampler": sampler}
                overrides = tuple(f"{key}={value}" for key, value in choices.items())
                model = model_directory(tmp_path, "digits", "diffusion", digit * 64)
                made.append(PlannedCell(choices, overrides, model, run_directory(tmp_path, "-".join(choices.values()))))
    return made


def score_of(cell, text="a: 1\n"):
    """Write a score that has read a config of the model."""
    cell.model.path.mkdir(parents=True, exist_ok=True)
    cell.model.config.write_text(text)
    cell.run.write_metrics({"protocol": {"read": {"config.yaml": sha256_of(cell.model.config)}}})


def test_each_model_is_trained_once_with_the_options_of_one_of_its_cells(cells):
    planned = plan(cells, len(cells))
    trained, scored = planned.work[:2], planned.work[2:]
    assert [work.label for work in trained] == ["schedule=linear", "schedule=cosine"]
    assert [work.overrides for work in trained] == [(*cells[k].overrides, "score=false") for k in (0, 4)]
    assert [work.folder for work in scored] == [cell.run.path for cell in cells]
    assert [[work.folder for work in job.work] for job in planned.jobs] == [
        [cells[k].model.path, *(cell.run.path for cell in cells[k : k + 4])] for k in (0, 4)
    ]
    assert planned.summary() == ["2 models: 2 to train, 0 reused", "8 cells: 8 to score, 0 scored already"]


def test_what_is_there_is_left_alone(cells):
    cells[0].model.finish(1, 1.0, 1)
    score_of(cells[0])
    planned = plan(cells, len(cells))
    assert planned.work[0].label == "schedule=cosine"
    assert [len(job.work) for job in planned.jobs] == [3, 5]
    assert planned.summary() == ["2 models: 1 to train, 1 reused", "8 cells: 7 to score, 1 scored already"]
    unscored = plan(cells, len(cells), score=False)
    assert [work.label for work in unscored.work] == ["schedule=cosine"]
    assert unscored.summary()[1] == "8 cells: not scored (score=false)"


def test_a_score_of_other_weights_is_made_anew(cells):
    cells[0].model.finish(1, 1.0, 1)
    score_of(cells[0])
    assert not plan(cells[:1], 1).work
    cells[0].model.config.write_text("a: 2\n")
    (work,) = plan(cells[:1], 1).work
    assert work.what == CELL
    assert work.overrides[-1] == "rescore=false", "its files decide, so that what was drawn after a requeue is kept"


def test_a_model_that_is_only_used_counts_as_it_was(cells):
    """Another command may take it while a job that trains it again waits."""
    cells[0].model.finish(1, 1.0, 1)
    (work,) = plan(cells[:1], 1, retrain=True, score=False).work
    cells[0].model.make_newest()
    assert not work.done


def test_what_is_to_be_made_anew_is_done_when_it_has_changed(cells):
    score_of(cells[0])
    cells[0].model.finish(1, 1.0, 1)
    again = plan(cells[:1], 1, rescore=True).work
    assert not again[0].done
    cells[0].run.metrics.unlink()
    assert not again[0].done
    cells[0].run.write_metrics({"values": {}})
    assert again[0].done
    assert len(plan(cells, 8, retrain=True).work) == 2 + 8


def test_cells_that_are_one_run_are_one_cell(cells):
    alias = PlannedCell({**cells[0].choices, "variance": "tiny"}, ("variance=tiny",), cells[0].model, cells[0].run)
    planned = plan([*cells, alias], 9)
    assert planned.cells == tuple(cells)
    assert planned.summary()[1].startswith("8 cells from 9 combinations, some of them equal: ")


def test_the_record_says_where_each_cell_lies(cells):
    axes = {"schedule": ["linear", "cosine"]}
    content = sweep_content(plan(cells, 8), name="name", axes=axes)
    assert content["cells"][0] == {
        "choices": {"schedule": "linear", "variance": "small", "sampler": "ddpm"},
        "overrides": ["schedule=linear", "variance=small", "sampler=ddpm"],
        "model": f"digits-diffusion-{'1' * 12}",
        "run": "linear-small-ddpm",
    }


# ---- what a job does, and what becomes of the work of one that was killed, with stand-ins for processes ----


@pytest.fixture
def job(tmp_path):
    """A model m and its cells a, b, c."""
    kinds = {name: MODEL if name == "m" else CELL for name in "mabc"}
    work = [Work(kind, tmp_path / n, tmp_path / n / "result.json", (n,), n) for n, kind in kinds.items()]
    return Job("job", tuple(work))


class Process:
    """Does a job. does: label -> what happens to that work, one entry for each time; the rest succeeds."""

    def __init__(self, **does):
        self.does, self.tried = does, []

    def run(self, work):
        self.tried.append(work.label)
        what = (self.does.get(work.label) or ["work"]).pop(0)
        with hold(work.folder, print):
            if what == "killed":
                Status.begin().write(work.folder)
                raise ConnectionError
            if what == "raise":
                raise JobError("no such luck")
            if what == "interrupted":
                Status.begin().now(INTERRUPTED, reason="SIGTERM").write(work.folder)
                raise ConnectionError
            with Announcement(work.folder):
                work.result.write_text("{}")
        return


def done_by(process, job):
    """Folder -> reason, of what has failed after this job."""
    forget_failures(job.work)
    with suppress(ConnectionError, JobError):
        do(job, process.run)
    found = {work.folder.name: read_status(work.folder) for work in job.work}
    return {name: status.reason for name, status in found.items() if status and status.state == FAILED}


def test_a_job_trains_then_scores_and_a_failed_cell_stops_no_other(job):
    process = Process(a=["raise"])
    assert done_by(process, job) == {"a": "no such luck"}
    assert "".join(process.tried) == "mabc"
    assert read_status(job.work[1].folder).state == FAILED
    process.tried.clear()
    assert done_by(process, job) == {}
    assert "".join(process.tried) == "a", "the same command does what is missing"


def test_a_requeued_job_starts_at_its_first_missing_cell(job):
    process = Process(b=["interrupted"])
    with pytest.raises(ConnectionError):
        do(job, process.run)
    do(job, process.run)
    assert "".join(process.tried) == "mabbc"


def test_a_model_that_failed_is_not_scored(job):
    process = Process(m=["raise"])
    assert done_by(process, job) == {"m": "no such luck"}
    assert "".join(process.tried) == "m"


def test_what_a_killed_job_leaves_has_a_reason(job):
    found = done_by(Process(a=["killed"]), job)
    assert "ended without giving a reason" in found["a"]
    assert {*found} == {"a"}
    assert done_by(Process(), job) == {}


def test_several_processes_stop_at_the_first_failure(job):
    process = Process(a=["raise"])
    with pytest.raises(JobError, match="no such luck"):
        do(job, process.run, is_alone=False)
    assert "".join(process.tried) == "ma"


def test_a_reason_of_yesterday_does_not_count(job):
    job.work[0].folder.mkdir()
    Status.begin().now(FAILED, reason="yesterday").write(job.work[0].folder)
    assert done_by(Process(m=["raise"]), job)["m"] == "no such luck"

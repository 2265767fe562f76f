"""The plan of a sweep, and what a job does with its part of it."""

import pytest

from diffusion_lab.store import model_directory, run_directory
from diffusion_lab.store.lock import hold
from diffusion_lab.store.status_file import FAILED, INTERRUPTED, Announcement, Status, read_status
from diffusion_lab.sweeps.plan import CELL, MODEL, Job, PlannedCell, Work, do, plan, run_all, sweep_content


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


def test_each_model_is_trained_once_with_the_options_of_one_of_its_cells(cells):
    planned = plan(cells, len(cells))
    assert [job.label for job in planned.to_train] == ["schedule=linear", "schedule=cosine"]
    assert [job.overrides for job in planned.to_train] == [(*cells[k].overrides, "score=false") for k in (0, 4)]
    assert [job.folder for job in planned.to_score] == [cell.run.path for cell in cells]
    assert [[work.folder for work in job.work] for job in planned.jobs] == [
        [cells[k].model.path, *(cell.run.path for cell in cells[k : k + 4])] for k in (0, 4)
    ]
    assert planned.summary() == ["2 models: 2 to train, 0 reused", "8 cells: 8 to score, 0 scored already"]


def test_what_is_there_is_left_alone(cells):
    cells[0].model.finish(1, 1.0, 1)
    cells[0].run.write_metrics({})
    planned = plan(cells, len(cells))
    assert [job.label for job in planned.to_train] == ["schedule=cosine"]
    assert [len(job.work) for job in planned.jobs] == [3, 5]
    assert planned.summary() == ["2 models: 1 to train, 1 reused", "8 cells: 7 to score, 1 scored already"]
    unscored = plan(cells, len(cells), score=False)
    assert unscored.to_score == ()
    assert [job.work for job in unscored.jobs] == [planned.to_train]
    assert unscored.summary()[1] == "8 cells: 0 to score, 1 scored already"


def test_a_share_does_not_depend_on_what_is_missing(cells):
    def shares():
        planned = plan(cells[:4], 4, jobs_per_model=3).jobs
        return {job.name[-3:]: [work.folder.name for work in job.work] for job in planned}

    model, runs = cells[0].model.path.name, [cell.run.path.name for cell in cells[:4]]
    assert shares() == {"111": [model, runs[0], runs[3]], "1-2": [model, runs[1]], "1-3": [model, runs[2]]}
    cells[0].model.finish(1, 1.0, 1)
    for done in (0, 1):
        cells[done].run.write_metrics({})
    assert shares() == {"111": [runs[3]], "1-3": [runs[2]]}


def test_shares_that_wait_come_after_those_that_train(cells):
    """Else they would keep the places of models that could train meanwhile."""
    names = [job.name[-3:] for job in plan(cells, 8, jobs_per_model=2).jobs]
    assert names == ["111", "222", "1-2", "2-2"]


def test_what_is_to_be_made_anew_is_done_when_it_has_changed(cells):
    cells[0].run.write_metrics({})
    again = plan(cells[:1], 1, rescore=True).to_score
    assert not again[0].done
    cells[0].run.metrics.unlink()
    assert not again[0].done
    cells[0].run.write_metrics({"values": {}})
    assert again[0].done
    assert len(plan(cells, 8, retrain=True).to_train) == 2
    assert len(plan(cells, 8, retrain=True).to_score) == 8


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
        if what == "lost":
            raise ConnectionError  # before anything is written
        with hold(work.folder, print):
            if what == "killed":
                Status.begin().write(work.folder)
                raise ConnectionError
            if what == "raise":
                return "no such luck"
            if what == "interrupted":
                Status.begin().now(INTERRUPTED, reason="SIGTERM").write(work.folder)
                raise ConnectionError
            with Announcement(work.folder):
                work.result.write_text("{}")
        return None

    def __call__(self, jobs):
        """Launch: a process that is killed has no outcome."""
        reasons = []
        for job in jobs:
            try:
                reasons.append(do(job, self.run))
            except ConnectionError:
                reasons.append("its process was killed")
        return reasons

    def failures(self, job):
        return {folder.name: reason for folder, reason in run_all([job], self).items()}


def test_a_job_trains_then_scores_and_a_failed_cell_stops_no_other(job):
    process = Process(a=["raise"])
    assert process.failures(job) == {"a": "no such luck"}
    assert "".join(process.tried) == "mabc"
    assert read_status(job.work[1].folder).state == FAILED
    process.tried.clear()
    assert process.failures(job) == {}
    assert "".join(process.tried) == "a", "the same command does what is missing"


def test_a_requeued_job_starts_at_its_first_missing_cell(job):
    process = Process(b=["interrupted"])
    with pytest.raises(ConnectionError):
        do(job, process.run)
    assert do(job, process.run) is None
    assert "".join(process.tried) == "mabbc"


def test_the_cells_of_a_model_that_failed_fail_with_it(job):
    process = Process(m=["raise"])
    assert process.failures(job) == {"m": "no such luck", **dict.fromkeys("abc", "its model failed: no such luck")}
    assert "".join(process.tried) == "m"
    assert read_status(job.work[2].folder).reason == "its model failed: no such luck"


def test_what_a_killed_job_has_not_begun_is_done_by_another(job):
    process = Process(a=["killed"], b=["raise"])
    assert process.failures(job) == {"a": "its process was killed", "b": "no such luck"}
    assert "".join(process.tried) == "mabc"


@pytest.mark.parametrize(("end", "tried"), [({"m": ["killed"]}, "m"), ({"m": ["lost"]}, "m"), ({"a": ["lost"]}, "ma")])
def test_what_would_end_in_the_same_way_is_not_tried_again(job, end, tried):
    process = Process(**end)
    failures = process.failures(job)
    assert len(failures) == 5 - len(tried)
    assert all("its process was killed" in reason for reason in failures.values())
    assert "".join(process.tried) == tried


def test_what_was_cancelled_is_not_launched_again(job):
    process = Process(a=["raise"], b=["interrupted"])
    assert process.failures(job) == {"a": "no such luck", "b": "SIGTERM", "c": "its process was killed"}
    assert "".join(process.tried) == "mab"


def test_several_processes_stop_at_the_first_failure(job):
    process = Process(a=["raise"])
    assert do(job, process.run, is_alone=False) == "no such luck"
    assert "".join(process.tried) == "ma"


def test_a_reason_of_yesterday_does_not_count(job):
    job.work[0].folder.mkdir()
    Status.begin().now(FAILED, reason="yesterday").write(job.work[0].folder)
    assert Process(m=["raise"]).failures(job)["m"] == "no such luck"


def test_a_job_that_did_nothing_failed(job):
    reasons = {folder.name: reason for folder, reason in run_all([job], lambda jobs: [None]).items()}
    assert reasons["m"] == "it ended without a result"

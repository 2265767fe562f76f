"""What a job does, and what becomes of the work of one that was killed, with stand-ins for processes."""

import pytest

from diffusion_lab.store.lease import hold
from diffusion_lab.store.status_file import FAILED, INTERRUPTED, Announcement, Status, read_status
from diffusion_lab.sweeps.plan import CELL, MODEL, Job, Work, do, run_all


@pytest.fixture
def job(tmp_path):
    """A model m and its cells a, b, c."""
    kinds = {name: MODEL if name == "m" else CELL for name in "mabc"}
    return Job(
        "job", tuple(Work(kind, tmp_path / n, tmp_path / n / "result.json", (n,), n) for n, kind in kinds.items())
    )


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

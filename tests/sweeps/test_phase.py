"""Launchers that lose jobs, in the ways in which real ones do."""

import json
import threading
import time

import pytest

from diffusion_lab.status import FAILED, Announcement, Status, read_status
from diffusion_lab.store.lease import hold
from diffusion_lab.sweeps.phase import run_all
from diffusion_lab.sweeps.plan import CELL, MODEL, Job


@pytest.fixture
def jobs(tmp_path):
    return [Job(MODEL, tmp_path / name, tmp_path / name / "result.json", (f"x={name}",), f"x={name}") for name in "abc"]


class Pool:
    """A launcher. does: job label -> what happens to it, one entry for each time that it is launched."""

    def __init__(self, **does):
        self.does, self.launched = does, []

    def __call__(self, jobs):
        self.launched.append([job.label[-1] for job in jobs])
        reasons, broken = [], None
        for job in jobs:
            plan = self.does.get(job.label[-1], ["work"])
            what = plan.pop(0) if len(plan) > 1 else plan[0]
            reason = None
            if what == "work":
                with hold(job.folder, print), Announcement(job.folder):
                    job.result.write_text("{}")
            elif what == "silent":
                pass
            elif what == "raise":
                reason = "no such luck"
            elif what == "killed":
                Status.begin().write(make(job.folder))
                broken = RuntimeError("a worker was killed")
            elif what == "never":
                broken = RuntimeError("the pool is gone")
            reasons.append(reason)
        if broken:
            raise broken
        return reasons


def make(folder):
    folder.mkdir(exist_ok=True)
    return folder


def reasons(failures):
    return {folder.name: reason for folder, reason in failures.items()}


def test_all_is_well(jobs):
    pool = Pool()
    assert run_all(jobs, pool, keeps_order=False) == {}
    assert pool.launched == [["a", "b", "c"]]
    assert run_all([], pool, keeps_order=False) == {}
    assert len(pool.launched) == 1


def test_one_that_fails_is_marked_and_the_others_are_done(jobs):
    assert reasons(run_all(jobs, Pool(b=["raise"], c=["silent"]), keeps_order=False)) == {
        "b": "no such luck",
        "c": "it ended without a result",
    }
    assert jobs[0].done
    assert read_status(jobs[1].folder).state == FAILED
    assert read_status(jobs[1].folder).reason == "no such luck"


def test_its_own_word_stands(jobs):
    def launch(some):
        for job in some:
            with pytest.raises(ValueError, match="my own"), hold(job.folder, print), Announcement(job.folder):
                raise ValueError("my own reason")
        return ["the launcher's reason"] * len(some)

    assert set(reasons(run_all(jobs, launch, keeps_order=False)).values()) == {"my own reason"}


def test_a_reason_of_yesterday_does_not_count(jobs):
    Status.begin().now(FAILED, reason="yesterday").write(make(jobs[0].folder))
    assert reasons(run_all(jobs, Pool(a=["silent"]), keeps_order=False)) == {"a": "it ended without a result"}


def test_a_killed_one_is_marked_and_those_that_were_not_begun_are_launched_again(jobs):
    pool = Pool(b=["killed"], c=["never", "work"])
    failures = reasons(run_all(jobs, pool, keeps_order=False))
    assert list(failures) == ["b"]
    assert "ended without giving a reason" in failures["b"]
    assert json.loads((jobs[1].folder / "status.json").read_text())["state"] == FAILED
    assert pool.launched == [["a", "b", "c"], ["c"]]
    assert jobs[2].done


def test_where_several_were_killed_together_each_gets_another_try_alone(jobs):
    pool = Pool(a=["killed"], b=["killed", "work"])
    assert list(reasons(run_all(jobs, pool, keeps_order=False))) == ["a"]
    assert pool.launched == [["a", "b", "c"], ["a"], ["b"]]
    assert jobs[1].done


def test_who_is_still_at_work_is_awaited(jobs):
    """A launcher that raises at the first lost job, while the others run on in processes of their own."""
    begun = threading.Event()

    def slow():
        with hold(jobs[1].folder, print), Announcement(jobs[1].folder):
            begun.set()
            time.sleep(1)
            jobs[1].result.write_text("{}")

    thread = threading.Thread(target=slow)

    def launch(some):
        thread.start()
        begun.wait()
        Status.begin().write(make(jobs[0].folder))
        raise RuntimeError("the first one is gone")

    assert list(reasons(run_all(jobs[:2], launch, keeps_order=False))) == ["a"]
    assert jobs[1].done
    thread.join()


def needing(jobs):
    """A cell for the first of the models."""
    folder = jobs[0].folder.parent / "d"
    return [*jobs, Job(CELL, folder, folder / "result.json", (), "x=d", depends_on=jobs[0].folder)]


@pytest.mark.parametrize("keeps_order", [False, True])
def test_a_cell_is_launched_after_its_model_and_fails_with_it(jobs, keeps_order):
    pool = Pool()
    assert run_all(needing(jobs), pool, keeps_order) == {}
    assert pool.launched == ([["a", "b", "c", "d"]] if keeps_order else [["a", "b", "c"], ["d"]])
    for job in needing(jobs):
        job.result.unlink()
    failures = reasons(run_all(needing(jobs), Pool(a=["raise"], d=["raise"]), keeps_order))
    assert failures == {"a": "no such luck", "d": "its model failed: no such luck"}
    assert read_status(jobs[0].folder.parent / "d").reason == failures["d"]


def test_a_launcher_that_cannot_launch_says_so(jobs):
    with pytest.raises(RuntimeError, match="the pool is gone"):
        run_all(jobs, Pool(a=["never"], b=["silent"], c=["silent"]), keeps_order=False)

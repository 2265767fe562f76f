import pytest

from diffusion_lab.store import RunError
from diffusion_lab.store.places import log_file, outcome_file
from diffusion_lab.sweeps import jobs
from diffusion_lab.sweeps.jobs import Call, Outcome, Queue, Submitted, run_jobs


class StubCall(Call):
    """A call that ends as it is told."""

    def __init__(self, name, *outcomes, resources=None):
        self.makes, self.outcomes, self.resources = tuple(name), outcomes, resources or {}

    def __call__(self):
        raise AssertionError("the queue below does not run calls")


class StubQueue(Queue):
    """A queue whose jobs end when its active jobs are listed: with an outcome each, or without any.

    batches: what was submitted together.
    """

    may_be_left = True

    def __init__(self, folder, tasks=1, room=100):
        self.folder, self.num_tasks, self.most = folder, tasks, room
        self.running, self.submitted, self.batches, self.most_at_once = {}, [], [], 0

    def room(self, waiting):
        return min(len(waiting), self.most - len(self.running))

    def submit(self, calls):
        names = [str(len(self.submitted) + number) for number in range(len(calls))]
        self.submitted += calls
        self.batches.append("".join(call.makes[0] for call in calls))
        self.running |= dict(zip(names, calls, strict=True))
        self.most_at_once = max(self.most_at_once, len(self.running))
        return names

    def tasks(self, call):
        return self.num_tasks

    def place(self, job):
        return f"device {job}" if self.num_tasks == 1 else None

    def active_jobs(self):
        alive = list(self.running)
        for name, call in self.running.items():
            for rank, outcome in enumerate(call.outcomes):
                outcome.write(self.folder, name, rank)
        self.running.clear()
        return alive

    def failure_reason(self, job):
        return f"{job} was killed"

    def close(self):
        assert not self.running


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(jobs, "_POLL_SECONDS", 0.001)
    monkeypatch.setattr(jobs, "_ASK_SECONDS", (0.001, 0.001))


def test_outcomes_come_in_the_order_of_the_calls(tmp_path):
    calls = [StubCall("a", Outcome(1.5)), StubCall("b", Outcome(reason="it broke")), StubCall("c", Outcome())]
    said = []
    assert run_jobs(calls, StubQueue(tmp_path), said.append) == [Outcome(1.5), Outcome(reason="it broke"), Outcome()]
    assert said[0].startswith("submitted as 0 (device 0), 1 (device 1), 2 (device 2)")
    assert said[1:] == ["job 1 failed: it broke"]


def test_a_job_that_vanishes_fails_alone_with_what_the_queue_knows(tmp_path):
    lost, well = run_jobs([StubCall("lost"), StubCall("well", Outcome(1.0))], StubQueue(tmp_path), print)
    assert lost == Outcome(reason=f"0 was killed; its log is {log_file(tmp_path, '0')}")
    assert well == Outcome(1.0)


def test_a_queue_that_does_not_answer_loses_nothing(tmp_path, monkeypatch):
    queue, silent = StubQueue(tmp_path), [None] * 6
    active_jobs = queue.active_jobs
    monkeypatch.setattr(queue, "active_jobs", lambda: silent.pop() if queue.running and silent else active_jobs())
    assert run_jobs([StubCall("a", Outcome(2.0))], queue, print) == [Outcome(2.0)]


def test_one_process_that_fails_makes_a_failed_job_and_the_first_gives_the_value(tmp_path):
    calls = [
        StubCall("a", Outcome(1.0), Outcome()),
        StubCall("b", Outcome(1.0), Outcome(reason="rank 1 broke")),
        StubCall("c", Outcome(1.0)),
    ]
    good, broken, incomplete = run_jobs(calls, StubQueue(tmp_path, tasks=2), print)
    assert good == Outcome(1.0)
    assert broken == Outcome(reason="rank 1 broke")
    assert "was killed" in incomplete.reason


def test_no_more_run_at_a_time_than_there_is_room_for(tmp_path):
    queue = StubQueue(tmp_path, room=2)
    calls = [StubCall(str(number), Outcome(float(number))) for number in range(5)]
    assert [outcome.value for outcome in run_jobs(calls, queue, print)] == [0, 1, 2, 3, 4]
    assert queue.most_at_once == 2


def test_what_an_earlier_command_submitted_and_still_runs_is_not_submitted_again(tmp_path):
    queue = StubQueue(tmp_path)
    earlier = StubCall("a", Outcome(7.0))
    queue.running["0"] = earlier
    queue.submitted = [earlier]
    Submitted(("a", "x"), "", "", 1).write(tmp_path, "0")  # of which x is done by now
    said = []
    outcomes = run_jobs([StubCall("b", Outcome(8.0)), StubCall("a", Outcome(9.0))], queue, said.append)
    assert [outcome.value for outcome in outcomes] == [8.0, 7.0]
    assert [call.makes for call in queue.submitted] == [("a",), ("b",)]
    assert said[0].startswith("job 0 is already running")


def test_a_queue_that_may_be_left_is_given_everything_at_once(tmp_path):
    queue = StubQueue(tmp_path)
    assert run_jobs([StubCall(name, Outcome(1.0)) for name in "abc"], queue, print, wait=False) == []
    assert queue.batches == ["abc"]
    assert len(queue.running) == 3


def test_jobs_that_ask_for_the_same_are_submitted_together(tmp_path):
    queue = StubQueue(tmp_path)

    def room(waiting):  # as for an array
        return min(3, sum(call.resources == waiting[0].resources for call in waiting))

    queue.room = room
    run_jobs([StubCall(name, Outcome(), resources={"time": 1 + (name in "cf")}) for name in "abcdefg"], queue, print)
    assert queue.batches == ["abd", "eg", "cf"]


def test_the_paths_of_a_job_are_read_as_written(tmp_path):
    """A no-break space in the name of a folder is not printable."""
    job = Submitted(("model",), "/home/a\u00a0b/log", "/home/a\u00a0b/code", 1)
    job.write(tmp_path, "7")
    assert jobs.submitted(tmp_path) == {"7": job}


def test_a_damaged_outcome_is_one_sentence(tmp_path):
    queue = StubQueue(tmp_path)
    queue.active_jobs = lambda: [outcome_file(tmp_path, "0", 0).write_text("{")][:0]
    with pytest.raises(RunError, match="0_0_outcome"):
        run_jobs([StubCall("a")], queue, print)

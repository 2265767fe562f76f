import json

import pytest

from diffusion_lab.sweeps import jobs
from diffusion_lab.sweeps.jobs import Call, Outcome, Queue, log_file, run_jobs


class Asked(Call):
    """A call that ends as it is told."""

    def __init__(self, name, *outcomes):
        self.options, self.outcomes = (name,), outcomes

    def __call__(self):
        raise AssertionError("the queue below does not run calls")


class Pretended(Queue):
    """A queue whose jobs end when it is asked who lives: with their outcomes, or without a word."""

    def __init__(self, folder, tasks=1, room=100):
        self.folder, self.tasks, self.most = folder, tasks, room
        self.running, self.submitted, self.most_at_once = {}, [], 0

    def room(self, waiting):
        return min(len(waiting), self.most - len(self.running))

    def submit(self, calls):
        names = [str(len(self.submitted) + number) for number in range(len(calls))]
        self.submitted += calls
        self.running |= dict(zip(names, calls, strict=True))
        self.most_at_once = max(self.most_at_once, len(self.running))
        return names

    def place(self, job):
        return f"device {job}" if self.tasks == 1 else None

    def living(self):
        alive = list(self.running)
        for name, call in self.running.items():
            for rank, outcome in enumerate(call.outcomes):
                outcome.write(self.folder, name, rank)
        self.running.clear()
        return alive

    def fate(self, job):
        return f"{job} was killed"

    def close(self):
        assert not self.running


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(jobs, "_POLL_SECONDS", 0.001)
    monkeypatch.setattr(jobs, "_ASK_SECONDS", (0.001, 0.001))


def test_outcomes_come_in_the_order_of_the_calls(tmp_path):
    calls = [Asked("a", Outcome(1.5)), Asked("b", Outcome(reason="it broke")), Asked("c", Outcome())]
    said = []
    assert run_jobs(calls, Pretended(tmp_path), said.append) == [Outcome(1.5), Outcome(reason="it broke"), Outcome()]
    assert said == [
        f"submitted as 0 (device 0), 1 (device 1), 2 (device 2); logs in {tmp_path}",
        "job 1 failed: it broke",
    ]


def test_a_job_that_vanishes_fails_alone_with_what_the_queue_knows(tmp_path):
    lost, well = run_jobs([Asked("lost"), Asked("well", Outcome(1.0))], Pretended(tmp_path), print)
    assert lost == Outcome(reason=f"0 was killed; its log is {log_file(tmp_path, '0')}")
    assert well == Outcome(1.0)


def test_a_queue_that_does_not_answer_loses_nothing(tmp_path, monkeypatch):
    queue, answers = Pretended(tmp_path), iter([None] * 6)
    living = queue.living
    monkeypatch.setattr(
        queue, "living", lambda: next(answers, ()) if queue.running and answers.__length_hint__() else living()
    )
    assert run_jobs([Asked("a", Outcome(2.0))], queue, print) == [Outcome(2.0)]


def test_one_process_that_fails_makes_a_failed_job_and_the_first_gives_the_value(tmp_path):
    calls = [
        Asked("a", Outcome(1.0), Outcome()),
        Asked("b", Outcome(1.0), Outcome(reason="rank 1 broke")),
        Asked("c", Outcome(1.0)),
    ]
    good, broken, incomplete = run_jobs(calls, Pretended(tmp_path, tasks=2), print)
    assert good == Outcome(1.0)
    assert broken == Outcome(reason="rank 1 broke")
    assert "was killed" in incomplete.reason


def test_no_more_run_at_a_time_than_there_is_room_for(tmp_path):
    queue = Pretended(tmp_path, room=2)
    calls = [Asked(str(number), Outcome(float(number))) for number in range(5)]
    assert [outcome.value for outcome in run_jobs(calls, queue, print)] == [0, 1, 2, 3, 4]
    assert queue.most_at_once == 2


def test_what_an_earlier_command_submitted_and_still_runs_is_not_submitted_again(tmp_path):
    queue = Pretended(tmp_path)
    earlier = Asked("a", Outcome(7.0))
    queue.running["0"] = earlier
    queue.submitted = [earlier]
    (tmp_path / "0_job.json").write_text(json.dumps({"options": ["a"]}))
    said = []
    outcomes = run_jobs([Asked("b", Outcome(8.0)), Asked("a", Outcome(9.0))], queue, said.append)
    assert [outcome.value for outcome in outcomes] == [8.0, 7.0]
    assert [call.options for call in queue.submitted] == [("a",), ("b",)]
    assert said[0].startswith("job 0 runs already")

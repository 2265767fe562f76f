import io

import pytest
from rich.console import Console

from diffusion_lab.store import write_json
from diffusion_lab.store.status_file import FAILED, INTERRUPTED, Announcement, Status
from diffusion_lab.sweeps.plan import CELL, Work
from diffusion_lab.sweeps.watch import watching
from tests.metrics.stand_ins import described

SCORE = {
    "values": {"fd_pixels": 12.3456, "fd_pixels_floor": 1.0, "bits_per_dim": 3.5, "seconds_per_1000_samples": 7},
    "protocol": {"features": {"name": "pixels"}},
}
SCORE["measures"] = described(SCORE)


@pytest.fixture
def jobs(tmp_path):
    return [Work(CELL, tmp_path / name, tmp_path / name / "result.json", (), f"x=[{name}]") for name in "abc"]


def lines_of(jobs, events, terminal=False):
    console = Console(file=io.StringIO(), width=120, force_terminal=terminal)
    with watching(jobs, console) as watch:
        for event in events:
            event()
            watch.update()
    return console.file.getvalue().splitlines()


def fails(job, state, reason):
    job.folder.mkdir()
    Status.begin().now(state, reason=reason).write(job.folder)


def test_each_job_is_told_of_once_when_it_ends(jobs):
    lines = lines_of(
        jobs,
        [
            lambda: write_json(jobs[1].result, SCORE),
            lambda: fails(jobs[0], FAILED, "no [memory]"),
            lambda: write_json(jobs[2].result, {"steps": 7, "seconds": 3.2}),
        ],
    )
    assert lines == [
        "cell 1 of 3  x=[b]  → fd_pixels 12.346  bits/dim 3.500  s / 1000 7.0",
        "cell 2 of 3  x=[a]  → failed: no [memory]",
        "cell 3 of 3  x=[c]  → trained, 7 steps in 3 s",
    ]


def test_one_that_was_interrupted_may_go_on_before_the_end(jobs):
    events = [lambda: fails(jobs[0], INTERRUPTED, "preempted"), lambda: write_json(jobs[0].result, SCORE)]
    (line,) = lines_of(jobs[:1], events)
    assert "fd_pixels" in line
    (line,) = lines_of(jobs[1:2], [lambda: fails(jobs[1], INTERRUPTED, "preempted")])
    assert line == "cell 1 of 1  x=[b]  → interrupted: preempted"


def test_a_terminal_shows_how_far_they_are(jobs):
    jobs[0].folder.mkdir()
    with Announcement(jobs[0].folder, steps=40):
        assert any("x=[a]" in line and "0/40" in line for line in lines_of(jobs, [lambda: None], terminal=True))

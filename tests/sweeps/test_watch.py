"""What is told of a sweep that runs: each job when it ends, and where all stand."""

import io
import os
import time
from itertools import product
from pathlib import Path

import pytest
from rich.console import Console

from diffusion_lab.store import sweep_directory, write_json
from diffusion_lab.store.lock import hold
from diffusion_lab.store.status_file import DONE, FAILED, INTERRUPTED, RUNNING, Status
from diffusion_lab.sweeps import watch
from diffusion_lab.sweeps.plan import CELL, Work
from diffusion_lab.sweeps.slurm import Queued
from diffusion_lab.sweeps.watch import is_over, job_progress, seconds_left, table, watching
from tests.metrics.stand_ins import described

SCORE = {
    "values": {"fd_pixels": 12.3456, "fd_pixels_floor": 1.0, "bits_per_dim": 3.5, "seconds_per_1000_samples": 7},
    "protocol": {"features": {"name": "pixels"}},
}
SCORE["measures"] = described(SCORE)


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "_POLL_SECONDS", 60)
    return [Work(CELL, tmp_path / name, tmp_path / name / "result.json", (), f"x=[{name}]") for name in "abc"]


def lines_of(jobs, events):
    console = Console(file=io.StringIO(), width=120)
    with watching(jobs, console) as report:
        for event in events:
            event()
            report()
    return console.file.getvalue().splitlines()


def fails(job, state, reason):
    job.folder.mkdir()
    Status.begin().now(state, reason=reason).write(job.folder)


def test_each_job_is_told_of_once_when_it_ends(jobs):
    events = [
        lambda: write_json(jobs[1].result, SCORE),
        lambda: fails(jobs[0], FAILED, "no [memory]"),
        lambda: write_json(jobs[2].result, {"steps": 7, "seconds": 3.2}),
    ]
    assert lines_of(jobs, events) == [
        "cell 1 of 3  x=[b]  → fd_pixels 12.346  bits/dim 3.500  s per 1000 samples 7.0",
        "cell 2 of 3  x=[a]  → failed: no [memory]",
        "cell 3 of 3  x=[c]  → trained, 7 steps in 3 s",
    ]


def test_one_that_was_interrupted_may_go_on_before_the_end(jobs):
    events = [lambda: fails(jobs[0], INTERRUPTED, "preempted"), lambda: write_json(jobs[0].result, SCORE)]
    (line,) = lines_of(jobs[:1], events)
    assert "fd_pixels" in line
    (line,) = lines_of(jobs[1:2], [lambda: fails(jobs[1], INTERRUPTED, "preempted")])
    assert line == "cell 1 of 1  x=[b]  → interrupted: preempted"


# ---- progress ----


@pytest.fixture
def sweep(tmp_path):
    """Two models of two cells each; nothing has begun."""
    directory = sweep_directory(tmp_path, "mine")
    axes = {"seed": ["1", "2"], "sampler": ["ddpm", "ddim"]}
    cells = [
        {"choices": {"seed": k, "sampler": name}, "overrides": [], "model": f"m{k}", "run": f"r{k}{name}"}
        for k, name in product(*axes.values())
    ]
    created = "2026-01-01T00:00:00"
    directory.write_sweep({"name": "mine", "command": [], "axes": axes, "created": created, "cells": cells})
    return directory


def states(sweep, **in_queue):
    """in_queue: model -> the state of its job in a cluster; None: it has left the queue."""
    jobs = {model: Queued("7", state, Path("7_0_log.out")) for model, state in in_queue.items()}
    return {standing.folder.name: standing.state for standing in job_progress(sweep, jobs)}


def shown(sweep):
    console = Console(file=io.StringIO(), width=150)
    console.print(table(job_progress(sweep)))
    return console.file.getvalue()


def refuse(holder):
    raise AssertionError(holder)


def test_what_has_not_begun_is_queued(sweep):
    assert set(states(sweep).values()) == {"queued"}
    assert "models: 2 queued; cells: 4 queued" in shown(sweep)
    assert not is_over(job_progress(sweep))


def test_each_state_is_told_with_its_reason(sweep, tmp_path):
    write_json(tmp_path / "models" / "m1" / "training.json", {})
    write_json(tmp_path / "runs" / "r1ddpm" / "metrics.json", {})
    Status.begin().now(FAILED, reason="out of memory").write(tmp_path / "runs" / "r1ddim")
    Status.begin(steps=100).now(INTERRUPTED, 40, reason="SIGTERM").write(tmp_path / "models" / "m2")
    assert states(sweep) == {
        "m1": DONE, "m2": INTERRUPTED, "r1ddpm": DONE, "r1ddim": FAILED, "r2ddpm": INTERRUPTED, "r2ddim": INTERRUPTED,
    }  # fmt: skip
    assert states(sweep, m2="PENDING")["r2ddim"] == "queued"
    lines = shown(sweep).splitlines()
    assert any("seed=1 sampler=ddim" in line and "out of memory" in line for line in lines)
    assert any("seed=2" in line and "SIGTERM" in line for line in lines)


def test_a_sweep_that_scores_nothing_has_no_cells_to_wait_for(sweep, tmp_path):
    sweep.write_sweep(sweep.read_sweep() | {"score": False})
    for model in ("m1", "m2"):
        write_json(tmp_path / "models" / model / "training.json", {})
    assert states(sweep) == {"m1": DONE, "m2": DONE}
    assert is_over(job_progress(sweep))


def test_what_a_cluster_has_in_its_queue_is_queued_or_requeued(sweep, tmp_path):
    models, runs = tmp_path / "models", tmp_path / "runs"
    Status.begin().now(INTERRUPTED, reason="SIGTERM").write(models / "m1")
    Status.begin().write(models / "m2")  # its node is gone
    write_json(runs / "r1ddpm" / "metrics.json", {})  # to be scored anew
    assert states(sweep, m1="PENDING", m2="PENDING") == {
        "m1": "requeued", "m2": "requeued", "r1ddpm": "queued", "r1ddim": "queued", "r2ddpm": "queued", "r2ddim": "queued",
    }  # fmt: skip
    with hold(models / "m1", refuse):
        Status.begin().write(models / "m1")
        assert states(sweep, m1="RUNNING")["m1"] == RUNNING
    assert states(sweep, m1="RUNNING")["m1"] == FAILED


def test_what_has_left_the_queue_undone_has_failed(sweep, tmp_path):
    assert set(states(sweep, m1=None).values()) == {"failed", "queued"}
    (model, *_) = job_progress(sweep, {"m1": Queued("7", None, Path("7_0_log.out"))})
    assert model.reason == "job 7 has left the queue; its log is 7_0_log.out"
    write_json(tmp_path / "models" / "m1" / "training.json", {})
    assert states(sweep, m1=None)["m1"] == DONE


def test_the_cells_of_a_model_that_failed_have_failed(sweep, tmp_path):
    Status.begin().now(FAILED, reason="out of memory").write(tmp_path / "models" / "m1")
    assert states(sweep)["r1ddim"] == FAILED
    assert "its model failed: out of memory" in shown(sweep)
    assert states(sweep, m1="PENDING")["r1ddim"] == "queued"
    assert states(sweep)["r2ddim"] == "queued"


def test_a_running_one_is_running_as_long_as_its_process_lives(sweep, tmp_path):
    folder = tmp_path / "models" / "m1"
    with hold(folder, refuse):
        now = time.time()
        Status(RUNNING, 25, 100, None, "here", os.getpid(), now - 50, now, first=0).write(folder)
        assert states(sweep)["m1"] == RUNNING
        (line,) = [line for line in shown(sweep).splitlines() if "running" in line and "models:" not in line]
        assert "25/100" in line
        assert "2:30" in line or "2:29" in line
    assert states(sweep)["m1"] == FAILED
    assert "ended without giving a reason" in shown(sweep)


def test_the_pace_of_a_resumed_training_is_that_of_this_process():
    now = time.time()
    resumed = Status(RUNNING, 910, 1000, None, "here", 1, now - 10, now, first=900)
    assert seconds_left(resumed) == pytest.approx(90, abs=1)
    assert seconds_left(Status(RUNNING, None, None)) is None
    begun = Status.begin(1000).now(RUNNING, 900)
    assert (begun.now(RUNNING, 910).first, seconds_left(begun)) == (900, None)


def test_it_is_over_when_all_is_done_or_failed(sweep, tmp_path):
    for model in ("m1", "m2"):
        write_json(tmp_path / "models" / model / "training.json", {})
    for run in ("r1ddpm", "r1ddim", "r2ddpm"):
        write_json(tmp_path / "runs" / run / "metrics.json", {})
    assert not is_over(job_progress(sweep))
    Status.begin().now(FAILED, reason="killed").write(tmp_path / "runs" / "r2ddim")
    assert is_over(job_progress(sweep))

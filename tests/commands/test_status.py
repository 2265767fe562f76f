import time

from diffusion_lab.commands import status
from diffusion_lab.store import sweep_directory
from diffusion_lab.store.lock import hold
from diffusion_lab.store.status_file import Status

from .conftest import files


def write_sweep(folder, name):
    cells = [{"choices": {"seed": seed}, "overrides": [], "model": f"m{seed}", "run": f"r{seed}"} for seed in "12"]
    content = {"name": name, "command": [], "axes": {"seed": ["1", "2"]}, "created": "now", "cells": cells}
    sweep_directory(folder / "outputs", name).write_sweep(content)


def test_the_newest_sweep_or_the_named_one(lab):
    write_sweep(lab.folder, "old")
    time.sleep(0.01)
    write_sweep(lab.folder, "new")
    before = files(lab.folder)
    out = lab.done("status")
    assert "outputs/sweeps/new" in out
    assert "models: 2 queued; cells: 2 queued" in out
    for old in ("old", "sweep=outputs/sweeps/old"):
        assert "outputs/sweeps/old" in lab.done("status", old)
    assert files(lab.folder) == before


def test_trainings_outside_a_sweep(lab):
    for name, state in (("a", "running"), ("b", "done")):
        folder = lab.folder / "outputs" / "models" / name
        folder.mkdir(parents=True)
        Status.begin(10).now(state, 5).write(folder)
    out = lab.done("status")
    assert "models: 1 done, 1 failed" in out  # nobody holds the folder of a
    assert "ended without giving a reason" in out
    write_sweep(lab.folder, "mine")
    with hold(lab.folder / "outputs" / "models" / "a", print):
        out = " ".join(lab.done("status").split())
        assert "models: 2 queued; cells: 2 queued; outside the sweep: models: 1 running" in out
        assert "models: 2 queued;" in lab.done("status", "mine")


def test_a_terminal_does_not_watch_a_stopped_sweep_for_ever(lab, monkeypatch):
    write_sweep(lab.folder, "mine")
    monkeypatch.setattr(status, "_QUIET_SECONDS", 0.2)
    monkeypatch.setattr(status, "_REFRESH_SECONDS", 0.05)
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes the output for a terminal
    assert "queued" in lab.done("status")

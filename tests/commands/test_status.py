import time

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
        assert "models: 2 queued, 1 running; cells: 2 queued" in " ".join(lab.done("status").split())
        assert "models: 2 queued;" in lab.done("status", "mine")

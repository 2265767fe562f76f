import time

from diffusion_lab.store import sweep_directory

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
    assert "seed=1" in out
    assert "outputs/sweeps/old" in lab("status", "old")[1]
    assert "outputs/sweeps/old" in lab("status", "sweep=outputs/sweeps/old")[1]
    assert files(lab.folder) == before


def test_a_sweep_that_is_not_there(lab):
    lab.refused("status", said="there is no sweep in outputs/sweeps")
    write_sweep(lab.folder, "mine")
    lab.refused("status", "yours", said="sweep=yours: there is no such sweep; there are mine")

"""Folders that earlier versions wrote stay readable through 0.x; docs/extend/maintaining.md says how a version's are made."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import get_object

from diffusion_lab import load

RELEASED = Path(__file__).parents[1] / "released"
SCORED = [
    "features=pixels",
    "evaluation.num_samples=16",
    "sampler=strided",
    "sampler.spacing.num_steps=3",
    "rescore=true",
]
METRICS = ["metrics=[frechet_distance,bits_per_dim]", "metrics.bits_per_dim.num_images=4"]


VERSIONS = sorted(path.name for path in RELEASED.iterdir())


@pytest.mark.parametrize("version", VERSIONS)
def test_names_of_the_api_stay(version):
    for name in (RELEASED / version / "names.txt").read_text().split():
        assert get_object(name) is not None


@pytest.mark.parametrize("version", VERSIONS)
def test_a_released_folder_is_read(lab, version):
    """A model is drawn from, loaded and scored, with the numbers that its version found; a sweep is reported."""
    outputs = lab.folder / "outputs"
    shutil.copytree(RELEASED / version, outputs)
    then = [json.loads(path.read_text())["values"] for path in outputs.glob("runs/*/metrics.json")]
    lab.done("report", "sweep=first")
    cells = (outputs / "sweeps" / "first" / "report" / "cells.csv").read_text().splitlines()
    assert len(cells) == 1 + len(then) == 3

    lab.done("sample", "num_images=3", "format=npz")
    with np.load(lab.folder / "samples" / "samples.npz") as archive:
        assert archive["arr_0"].shape == (3, 8, 8, 1)
    assert load(outputs=outputs).sample(3).shape == (3, 1, 8, 8)

    assert "metrics.csv" not in lab.done("evaluate", *SCORED, *METRICS)  # the folder has none
    newest = max(outputs.glob("runs/*/metrics.json"), key=lambda path: path.stat().st_mtime_ns)
    now = json.loads(newest.read_text())["values"]
    (same,) = [values for values in then if values["bits_per_dim"] == pytest.approx(now["bits_per_dim"], 1e-3)]
    assert now["fd_pixels"] == pytest.approx(same["fd_pixels"], 1e-2)

"""Data of every shape: refused before training if they cannot be sampled; how they were read is printed; pictures may fail."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from .conftest import STRIDED, TINY

OWN = """
import torch
from diffusion_lab.data.in_memory import InMemoryDataModule, Split

class Own(InMemoryDataModule):
    name, num_classes, num_levels = "own", None, None

    def __init__(self, batch_size, seed, shape):
        super().__init__(batch_size, seed)
        self._of = tuple(shape)

    def _read(self):
        return Split(torch.rand(20, *self._of), None), Split(torch.rand(10, *self._of), None)
"""
YAML = """# @package _global_
# Data of my own.
data: {_target_: own.Own, batch_size: 8, seed: 1, shape: [8]}
"""


@pytest.mark.parametrize("shape", ["[2,128]", "[1,6,6,6]"])
def test_series_and_volumes_are_refused_before_training(lab, shape):
    (lab.folder / "own.py").write_text(OWN)
    (lab.folder / "mine" / "data").mkdir(parents=True)
    (lab.folder / "mine" / "data" / "own.yaml").write_text(YAML)
    lab.refused(
        "train",
        "--config-dir",
        "mine",
        "data=own",
        f"data.shape={shape}",
        said="is not that of images (C, H, W) or points (D,)",
    )
    assert not (lab.folder / "outputs").exists()


def test_it_is_said_how_an_array_was_read(lab):
    np.save(lab.folder / "a.npy", np.random.default_rng(0).integers(256, size=(20, 4, 12), dtype=np.uint8))
    out = lab.done("train", "data=arrays", "data.train=a.npy", *TINY, *STRIDED, "score=false")
    (said,) = [line for line in out.splitlines() if line.startswith("data.train=a.npy")]
    assert all(part in said for part in ("(20, 4, 12)", "uint8", "20 grey images", "4 × 12 pixels", "256 levels"))


@pytest.mark.parametrize(
    "where", ["diffusion_lab.commands.scoring.picture", "diffusion_lab.metrics.score.latent_pictures"]
)
def test_a_picture_that_fails_costs_a_sentence(lab, monkeypatch, caplog, where):
    def fail(*_, **__):
        raise ValueError("no ink")

    monkeypatch.setattr(where, fail)
    lab.done("train", *TINY, *STRIDED, "metrics=quick")
    assert "could not be drawn (no ink)" in caplog.text
    (run,) = (lab.folder / "outputs" / "runs").iterdir()
    assert "fd_pixels" in json.loads((run / "metrics.json").read_text())["values"]


def drawn_images(folder, count, side):
    random = np.random.default_rng(0)
    folder.mkdir()
    for i in range(count):
        first, last = random.integers(256, size=(2, 3))
        slope = first + (last - first) * np.linspace(0, 1, side)[:, None] * np.ones((side, 1, 1))
        image = Image.fromarray(slope.round().astype(np.uint8))
        x, y, radius = random.integers(side // 4, 3 * side // 4, 3)
        ImageDraw.Draw(image).ellipse([x - radius // 2, y - radius // 2, x + radius // 2, y + radius // 2], fill="red")
        image.save(folder / f"{i:03}.png")


# Prints the peak memory of a command in KiB. A child of the test process would begin with the test process's own peak.
MEASURED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=sys.stderr)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


@pytest.mark.thorough
@pytest.mark.parametrize("side", [64, 256])
def test_large_images_take_little_memory(tmp_path, side):
    """Train, sample and evaluate with the default network, sizes of batches and features; few steps and samples."""
    drawn_images(tmp_path / "images", 60, side)
    own = ("data=image_folder", "data.root=images", f"data.image_size={side}", "trainer.max_steps=2")
    few = ("sampler.spacing.num_steps=2", "evaluation.num_samples=64", "metrics.bits_per_dim.num_images=16")
    program = Path(sys.executable).parent / "diffusion-lab"
    for arguments in (("train", *own, *few), ("sample",), ("evaluate", "evaluation.seed=1")):
        command = [sys.executable, "-c", MEASURED, program, *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) < 4 * 2**20

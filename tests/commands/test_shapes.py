"""Data of every shape go through every command; how they were read is printed; pictures may fail."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_lab import load
from diffusion_lab.diffusion import SampleNoise

from .conftest import STRIDED, TINY, scored

FIELD = [
    *("data=gaussian_field", "data.num_train=40", "data.num_test=20", "network.padding=circular"),
    *TINY,
    *("trainer=cpu", "ema.decays=[0.9]", "val.every_n_steps=0", "snapshots.averages=0"),
]
# Of a score on every shape: features of pixels, patches, and the bound beside the entropy.
MEASURED_ON_ALL = ["fd_pixels", "kd_pixels", "precision", "sliced_wasserstein", "bits_per_dim"]
METRICS = "[frechet_distance,kernel_distance,precision_recall,sliced_wasserstein,bits_per_dim,copying]"


@pytest.mark.parametrize(
    "shape",
    [pytest.param((2, 8, 12), marks=pytest.mark.thorough), (1, 8, 7, 8)],
    ids=str,
)
def test_every_command_takes_every_shape(lab, shape):
    of = f"[{','.join(map(str, shape))}]"
    lab.done("train", *FIELD, *STRIDED, f"data.shape={of}", f"metrics={METRICS}")
    (values,) = (score["values"] for score in scored(lab.folder))
    assert {*MEASURED_ON_ALL} <= {*values}
    assert "inception" not in lab.done("evaluate")  # it takes images of levels only
    (run,) = (lab.folder / "outputs" / "runs").iterdir()
    assert {"samples.png", "nearest.png", "interpolation.png"} <= {file.name for file in run.iterdir()}
    lab.done("report", "runs=outputs/runs", "to=page")

    lab.done("sample", "num_images=3", "format=npz", "trajectory=true", "to=npz")
    lab.done("sample", "num_images=3", "format=png", "to=png")
    x = np.load(lab.folder / "npz" / "samples.npz")["arr_0"]
    assert (x.dtype, x.shape) == (np.float32, (3, *shape))
    model = load()
    assert np.array_equal(model.sample(3, format="numpy"), x)
    assert len(model.sample(3, format="pil")) == len(list((lab.folder / "png").glob("*.png"))) == 3
    assert model.edit(3, interpolate=(0, 1)).shape == (3, *shape)

    refused = "network.padding" if len(shape) == 3 else "samples of shape"
    lab.refused("export", "format=diffusers", said=[refused, "format=program"])


@pytest.mark.thorough
def test_a_program_draws_every_shape(lab):
    shape = (1, 12)
    of = f"[{','.join(map(str, shape))}]"
    lab.done("train", *FIELD, *STRIDED, f"data.shape={of}", "score=false")
    lab.done("export", "format=program", "batch_size=2", "sampler=ddim", "sampler.spacing.num_steps=2")
    draw = torch.export.load("export/sampler.pt2").module()
    x_T = SampleNoise(3, torch.arange(2)).initial(shape)
    ours = load().sample(2, seed=3, sampler="ddim", num_steps=2)
    assert torch.allclose(draw(x_T), ours, atol=1e-3)


@pytest.mark.parametrize("model", ["gan", "flow"])
def test_families_of_images_refuse_real_numbers(lab, model):
    few = ("data=gaussian_field", "data.num_train=9", "data.num_test=9")
    lab.refused("train", f"model={model}", *few, said=["real numbers", "model=diffusion"])


def test_it_is_said_how_an_array_was_read(lab):
    np.save(lab.folder / "a.npy", np.random.default_rng(0).integers(256, size=(20, 4, 12), dtype=np.uint8))
    out = lab.done("train", "data=arrays", "data.train=a.npy", *TINY, *STRIDED, "score=false")
    (said,) = [line for line in out.splitlines() if line.startswith("data.train=a.npy")]
    assert all(
        part in said for part in ("(20, 4, 12)", "uint8", "20 samples of (1, 4, 12)", "height, width", "256 levels")
    )


@pytest.mark.parametrize(
    "where", ["diffusion_lab.commands.evaluate.picture", "diffusion_lab.metrics.score.latent_pictures"]
)
def test_a_picture_that_fails_costs_a_sentence(lab, monkeypatch, where):
    def fail(*_, **__):
        raise ValueError("no ink")

    monkeypatch.setattr(where, fail)
    code, _, err = lab("train", *TINY, *STRIDED, "metrics=quick")
    assert code == 0
    assert "could not be drawn (no ink)" in err
    (run,) = (lab.folder / "outputs" / "runs").iterdir()
    assert "fd_pixels" in json.loads((run / "metrics.json").read_text())["values"]


# Prints the peak memory of a command in KiB. A child of the test process would begin with the test process's own peak.
MEASURED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=sys.stderr)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


@pytest.mark.thorough
def test_large_images_take_little_memory(tmp_path):
    """Train, score and sample with the default network, sizes of batches and features; few steps and samples."""
    (tmp_path / "images").mkdir()
    for i in range(60):
        Image.effect_noise((256, 256), 60).save(tmp_path / "images" / f"{i}.png")
    own = ("data=image_folder", "data.root=images", "data.image_size=256", "trainer.max_steps=1")
    few = ("sampler.spacing.num_steps=2", "evaluation.num_samples=24")  # three batches
    few += ("metrics.bits_per_dim.num_images=16", "metrics.bits_per_dim.max_terms=8")
    program = Path(sys.executable).parent / "diffusion-lab"
    for arguments in (("train", *own, *few), ("sample", "num_images=16")):
        command = [sys.executable, "-c", MEASURED, program, *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) < 4 * 2**20

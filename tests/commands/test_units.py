"""Real data: samples leave in their units, and the mask of missing values reaches the loss and the scores."""

import numpy as np
import pytest
import torch

from diffusion_lab import load

from .conftest import STRIDED, TINY, scored

POINTS = ["data=arrays", "data.train=a.npy", "network=diffusion/points", "network.hidden=8"]
POINTS += [option for option in TINY if not option.startswith("network.")] + STRIDED


@pytest.fixture
def points(lab):
    x = np.random.default_rng(0).standard_normal((40, 2)) * [5, 0.01] + [280, -3]
    np.save(lab.folder / "a.npy", x)
    return x


def test_samples_are_in_the_units_of_the_data(lab, points):
    lab.done("train", *POINTS, "data.channel_names=[t,q]", "score=false")
    lab.done("sample", "format=npz", "num_images=6")
    lab.done("sample", "format=npy", "num_images=6", "to=array")
    with np.load("samples/samples.npz") as file:
        found = dict(file)
    assert found["channel_names"].tolist() == ["t", "q"]
    assert np.array_equal(np.load("array/samples.npy"), found["arr_0"])
    model = load()
    assert np.array_equal(model.sample(6).numpy(), found["arr_0"])
    assert np.array_equal(model.sample(6, format="numpy"), found["arr_0"])
    z = model.module.generator().sample(torch.tensor([0, 1]), 0)
    assert z.abs().max() < 100 < found["arr_0"][:, 0].min()
    assert np.abs(found["arr_0"][:, 1] + 3).max() < 1


def test_a_density_states_what_its_units_add(lab, points):
    lab.done("train", *POINTS)
    (run,) = scored(lab.folder)
    assert run["protocol"]["bound"]["log2_scale"] == pytest.approx(np.log2([5, 0.01]).mean(), abs=0.4)


@pytest.mark.parametrize("family", ["diffusion", "gan"])
def test_points_need_a_network_of_points(lab, points, family):
    options = ["data=arrays", "data.train=a.npy", f"model={family}", "seed=3"]
    lab.refused("train", *options, said="use network=…/points")
    lab.refused("train", "-m", *options, "trainer.max_steps=1,2", said="use network=…/points")


def test_missing_values_are_left_out_and_said(lab, points):
    points[::3, 0] = np.nan
    np.save(lab.folder / "a.npy", points)
    lab.refused("train", *POINTS, said=r"has 14 missing values (NaN) in 14 of 40 rows")
    with_vae = ["data=arrays", "data.train=a.npy", "model=vae", "network=vae/points", "data.missing=mask"]
    lab.refused("train", *with_vae, said="only model=diffusion leaves missing values out")
    lab.done("train", *POINTS, "data.missing=mask")
    (run,) = scored(lab.folder)
    assert all("have missing values" in run["protocol"]["absent"][name] for name in ("bits_per_dim", "fd_pixels"))
    lab.done("sample", "format=npy", "num_images=6", "to=array")
    assert np.isfinite(np.load("array/samples.npy")).all()

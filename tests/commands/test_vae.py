"""model=vae as a user asks for it: trained, scored, sampled and edited."""

import json

import numpy as np
import pytest

from .conftest import scored

TINY = [
    "model=vae",
    "network.base_channels=8",
    "network.channel_multipliers=[1,2]",
    "network.latent_dim=4",
    "data.batch_size=8",
    "trainer.max_steps=2",
    "trainer.log_every_n_steps=1",
    "callbacks.sample_grid.every_n_steps=0",
    "evaluation.num_samples=8",
    "metrics.bits_per_dim.num_images=4",
    "features=pixels",
]


def score_of(lab):
    (path,) = (lab.folder / "outputs" / "runs").glob("*/metrics.json")
    return json.loads(path.read_text()), path.parent


@pytest.mark.thorough
def test_means_or_draws_are_a_choice_of_scoring(lab):
    lab.given("train", *TINY)
    assert "this model is already trained" in lab.done("train", *TINY, "sampling=draws")
    assert lab("evaluate", "sampling=draws")[0] == 0
    scores = scored(lab.folder)
    drawn = {score["protocol"]["model"]["samples_are"]: score["values"] for score in scores}
    assert set(drawn) == {"means of the decoder's likelihood", "draws of the decoder's likelihood"}
    assert len({values["bits_per_dim"] for values in drawn.values()}) == 1
    assert len({values["fd_pixels"] for values in drawn.values()}) == 2


def test_images_are_interpolated_through_its_latents(lab):
    """Images are interpolated through its latents and not edited along steps."""
    lab.given("train", *TINY, "score=false")
    lab.done("sample", "interpolate.images=[5,6]", "num_images=4", "batch_size=3", "format=npz")
    with np.load(lab.folder / "samples" / "samples.npz") as archive:
        assert archive["arr_0"].shape == (4, 8, 8, 1)
    for options in (["denoise.image=5", "denoise.t=3"], ["inpaint.image=5", "inpaint.mask=mask.png"]):
        lab.refused("sample", *options, "to=other", said="a VAE has no steps to take between noise and image")


def test_on_clusters_each_end_of_an_interpolation(lab):
    """On clusters each end of an interpolation has its own.

    Nobody has to name clusters, so images are interpolated without a label, as without clusters.
    """
    lab.given("train", *TINY, "labels=clusters", "labels.num_clusters=3", "score=false")
    lab.done("sample", "interpolate.images=[5,6]", "num_images=4", "format=npz")
    ends = {}
    for name, images in (("first", "[5,5]"), ("second", "[6,6]")):
        lab.done("sample", f"interpolate.images={images}", "num_images=2", "format=npz", f"to={name}")
        with np.load(lab.folder / name / "samples.npz") as archive:
            ends[name] = archive["arr_0"][0]
    with np.load(lab.folder / "samples" / "samples.npz") as archive:
        assert (archive["arr_0"][0] == ends["first"]).all()
        assert (archive["arr_0"][-1] == ends["second"]).all()


def test_given_the_class(lab):
    lab.done("train", *TINY, "conditional=true")
    assert score_of(lab)[0]["protocol"]["bound"]["kind"] == "ELBO given the class"
    assert lab("sample", "label=3", "num_images=3")[0] == 0
    assert lab("sample", "label=3", "interpolate.images=[5,6]", "num_images=3")[0] == 0
    lab.refused("sample", "interpolate.images=[5,6]", "num_images=3", said="set label=…")
    lab.refused("sample", "label=10", "interpolate.images=[5,6]", said="0 … 9")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["data=mixture", "decoder_likelihood=logistic_mixture"], "decoder_likelihood=gaussian"),
        (["model.beta=-1"], "model.beta=-1"),
        (["model.free_bits=0.1"], "model.free_bits=0.1 needs prior=standard_normal"),
        (["prior.network.num_bins=1"], "prior.network.num_bins=1"),
        (["sampling=temperature"], "sampling: this model needs means"),
        (["network.channel_multipliers=[1,1,1,1,1]"], "8-pixel images can have 1 to 4 levels"),
        (["schedule=cosine"], "schedule"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(lab, options, said):
    lab.refused("train", "model=vae", *options, said=said)

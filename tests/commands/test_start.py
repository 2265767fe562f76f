"""start=data_moments as a user meets it: a choice of scoring and of drawing, from the training images of the model."""

from .conftest import TINY, files
from .test_scoring import scores

CUT = ["sampler=strided", "sampler/spacing=log_snr", "sampler.spacing.num_steps=3", "sampler.spacing.log_snr_min=-3"]


def test_a_short_chain_starts_from_the_moments_of_the_data(lab):
    lab.given("train", *TINY, *CUT, "conditional=true")
    lab.done("evaluate", *CUT, "start=data_moments")
    by_start = {run["protocol"]["model"]["start"].partition("(")[0]: run for run in scores(lab.folder / "outputs")}
    noise, moments = by_start["NoiseStart"], by_start["MomentsStart"]
    assert moments["values"]["bits_per_dim"] < noise["values"]["bits_per_dim"]
    assert moments["values"]["fd_pixels"] != noise["values"]["fd_pixels"]
    said = moments["protocol"]["model"]["start"]
    assert said.startswith("MomentsStart(moments=DataMoments(of='1437 training images, ")
    assert "by class" in said
    drawn = {}
    for start in ("noise", "data_moments"):
        lab.done("sample", *CUT, "num_images=2", "format=png", f"start={start}", f"to={start}")
        drawn[start] = [(lab.folder / start / name).read_bytes() for name in files(lab.folder / start)]
    assert drawn["noise"] != drawn["data_moments"]

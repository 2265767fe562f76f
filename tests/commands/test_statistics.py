"""Statistics that are written are those that scoring uses, in the words of published evaluators."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.utils import cache_lookup_one_recompute_on_miss

from diffusion_lab.interop.given_statistics import read_reference
from diffusion_lab.metrics.features import inception
from tests.metrics.random_inception import write_random_weights

from .conftest import scored


def write(lab, *options: str) -> tuple[dict, str]:
    (lab.folder / "digits.npz").unlink(missing_ok=True)  # a file that is there is not overwritten
    out = lab.done("statistics", "data=digits", "to=digits.npz", *options)
    with np.load(lab.folder / "digits.npz", allow_pickle=False) as archive:
        return dict(archive), " ".join(out.split())


def test_images_and_moments_are_those_of_the_split(lab):
    found, out = write(lab, "features=pixels", "num_images=2000")
    assert sorted(found) == ["arr_0", "mu", "sigma"]
    assert found["arr_0"].shape == (1437, 8, 8, 3)
    assert found["arr_0"].dtype == np.uint8
    x = found["arr_0"][..., 0].reshape(1437, -1) / 127.5 - 1  # levels of 17 fall on whole numbers of 255, up to 1/2
    np.testing.assert_allclose(found["mu"], x.mean(0), atol=0.5 / 127)
    np.testing.assert_allclose(found["sigma"], np.cov(x, rowvar=False), atol=0.01)
    assert "these are moments of features=pixels, but the evaluators of ADM and EDM and clean-fid compare" in out


def test_the_images_are_the_data(lab):
    options = ["split=test", "moments=false", "num_images=100", "features=inception"]  # whose weights are not there
    found, _ = write(lab, *options)
    assert list(found) == ["arr_0"]
    assert found["arr_0"].shape == (100, 8, 8, 3)
    whole = {np.round(image * 255 / 16).astype(np.uint8).tobytes() for image in load_digits().images}
    assert {np.ascontiguousarray(image[..., 0]).tobytes() for image in found["arr_0"]} <= whole


@pytest.mark.thorough
@pytest.mark.needs("clean-fid")
@pytest.mark.filterwarnings("ignore:The `disp` argument is deprecated:DeprecationWarning")
def test_clean_fid_reads_what_is_written(lab, monkeypatch):
    cleanfid = pytest.importorskip("cleanfid")
    from cleanfid import features, fid

    monkeypatch.setattr(cleanfid, "__file__", str(lab.folder / "cleanfid.py"))  # beside which it keeps statistics
    (lab.folder / "stats").mkdir()
    moments = []
    for split in ("train", "test"):
        found, _ = write(lab, "features=digits_cnn", f"split={split}")
        (lab.folder / "digits.npz").rename(lab.folder / "stats" / f"{split}_clean_custom_na.npz")
        moments.append(features.get_reference_statistics(split, "na", mode="clean", split="custom"))
        for ours, theirs in zip((found["mu"], found["sigma"]), moments[-1], strict=True):
            np.testing.assert_allclose(theirs, ours, rtol=1e-6)
    theirs = fid_statistics_to_metric(*({"mu": mu, "sigma": sigma} for mu, sigma in moments), verbose=False)
    assert fid.frechet_distance(*moments[0], *moments[1]) == pytest.approx(
        theirs["frechet_inception_distance"], rel=1e-6
    )


def test_torch_fidelity_reads_what_is_written(lab):
    """A .pt in its folder of statistics: it reads the moments of the npz, as `reference=` does, and compares with them."""
    written, _ = write(lab, "features=digits_cnn")
    lab.done("statistics", "data=digits", "features=digits_cnn", "to=digits.pt")
    miss = pytest.fail
    theirs = cache_lookup_one_recompute_on_miss("digits", miss, cache=True, cache_root=str(lab.folder), verbose=False)
    assert theirs.keys() == {"mu", "sigma"}
    found = read_reference(lab.folder / "digits.pt").moments[""]
    for name, ours in (("mu", found.mean), ("sigma", found.covariance)):
        np.testing.assert_allclose(theirs[name], written[name], rtol=1e-6)
        np.testing.assert_allclose(ours, written[name], rtol=1e-6)
    drawn = fid_features_to_statistics(torch.randn(100, 64, generator=torch.Generator().manual_seed(0)))
    assert fid_statistics_to_metric(theirs, drawn, verbose=False)["frechet_inception_distance"] > 0


def test_torch_fidelity_makes_the_same_distance(lab):
    """Test images against all training images: from two files, from the data themselves, and with a file as the reference."""
    found = []
    for split in ("test", "train"):
        write(lab, "features=digits_cnn", f"split={split}")
        with np.load(lab.folder / "digits.npz") as archive:
            found.append({name: archive[name] for name in ("mu", "sigma")})
    assert lab("statistics", "data=digits", "to=test.npz", "split=test", "moments=false")[0] == 0
    options = ["samples=test.npz", "features=digits_cnn", "metrics=[frechet_distance]"]
    lab.done("evaluate", *options, "data=digits")
    lab.done("evaluate", *options, "reference=digits.npz", "outputs=by_file/outputs")
    (values,), (by_file,) = ([run["values"] for run in scored(at)] for at in (lab.folder, lab.folder / "by_file"))
    theirs = fid_statistics_to_metric(*found, verbose=False)["frechet_inception_distance"]
    assert values["fd_digits_cnn"] == pytest.approx(theirs, rel=1e-5)
    assert values["fd_digits_cnn_floor"] == pytest.approx(theirs, rel=1e-5)
    # The data have 17 levels and the file 256, on which 14 of the 17 do not lie exactly.
    assert by_file["fd_digits_cnn"] == pytest.approx(theirs, rel=0.02)


@pytest.fixture
def few(lab, monkeypatch):
    """few("inception"): options of features with random weights, which pass for the published ones.

    Four training and two test images in colours lie in few/.
    """
    for i, image in enumerate(np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)):
        folder = lab.folder / "few" / ("train" if i < 4 else "test")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.png")
    sha256 = write_random_weights(lab.folder / "random.pth")
    monkeypatch.setattr(inception, "SHA256", sha256)

    def options(*names: str) -> list[str]:
        weights = {"path": "random.pth", "sha256": sha256}
        options = [f"++features.{name}.{key}={value}" for name in names for key, value in weights.items()]
        return [f"features=[{','.join(names)}]", *options]

    return options


@pytest.mark.thorough
def test_statistics_of_inception_have_all_that_adm(lab, few):
    """And give both distances as the data themselves do."""
    data = ["data=image_folder", "data.root=few", "data.image_size=8"]
    out = lab.done("statistics", *data, *few("inception"), "to=adm.npz")
    assert "mu_s, sigma_s: 2023 features of 4 train images, features=inception_spatial" in " ".join(out.split())
    assert "compare moments of features=inception" not in out
    with np.load(lab.folder / "adm.npz") as archive:
        assert {name: archive[name].shape for name in archive} == {
            "arr_0": (4, 8, 8, 3),
            "mu": (2048,),
            "sigma": (2048, 2048),
            "mu_s": (2023,),
            "sigma_s": (2023, 2023),
        }
        np.savez(lab.folder / "edm.npz", mu=archive["mu"], sigma=archive["sigma"])
    said = "to=adm.pt: torch-fidelity does not store spatial features; write an .npz"
    lab.refused("statistics", *data, *few("inception_spatial"), "to=adm.pt", said=said)
    evaluate = ["evaluate", "samples=few/test", "metrics=[frechet_distance]"]
    both = few("inception", "inception_spatial")
    lab.done(*evaluate, "reference=adm.npz", *both)
    (run,) = scored(lab.folder)
    found = run["values"]
    lab.done(*evaluate, *data, *both, "outputs=by_data/outputs")
    (by_data,) = scored(lab.folder / "by_data")
    for name in ("fid", "sfid"):
        assert found[name] == pytest.approx(by_data["values"][name], rel=1e-4), name
        assert found[name] > 1e-3
    lab.refused(*evaluate, "reference=edm.npz", *both, said="edm.npz has no mu_s and sigma_s, so remove features=")


def test_a_covariance_that_no_memory_holds_is_refused(lab):
    for number in range(3):
        Image.new("RGB", (8, 8)).save(lab.folder / f"{number}.png")
    options = ["data=image_folder", f"data.root={lab.folder}", "data.image_size=256", "to=x.npz"]
    lab.refused("statistics", *options, said="features=pixels: sigma of 196,608 features is too large")

"""Other people's samples are scored as ours are: the same images, in whatever files, have the same numbers."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_lab.interop.given_images import read_images

from ..data.test_files_from_others import png
from .conftest import STRIDED, TINY

NUM = 8  # of TINY
SAMPLED = [f"num_images={NUM}", "batch_size=128", "seed=1"]
OURS = ["fd_digits_cnn", "kd_digits_cnn", "precision", "recall", "fd_digits_cnn_floor", "class_entropy"]
LIGHT = ["evaluation.seed=1", "features=digits_cnn", "metrics.kernel_distance.num_subsets=2"]


def scores(outputs: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(outputs.glob("runs/*/metrics.json"))]


def given(outputs: Path) -> dict:
    (metrics,) = [found for found in scores(outputs) if "given" in found["protocol"]["samples"]]
    return metrics


@pytest.fixture
def drawn(lab):
    """A model, its score, and its samples as each of the forms."""
    lab.given("train", *TINY, *STRIDED)
    assert lab("evaluate", *LIGHT)[0] == 0
    for form in ("npz", "png"):
        lab.done("sample", *SAMPLED, f"format={form}", f"to={form}")
    with zipfile.ZipFile(lab.folder / "samples.zip", "w") as archive:
        for path in (lab.folder / "png").iterdir():
            archive.write(path, f"deep/{path.name}")
    (scored,) = [metrics for metrics in scores(lab.folder / "outputs") if "fd_digits_cnn" in metrics["values"]]
    return scored


def test_samples_of_a_model_have_its_distances(lab, drawn):
    """In whatever files they are; their score is made once."""
    out = lab.done("evaluate", "samples=samples.zip", "data=digits", *LIGHT)
    found = given(lab.folder / "outputs")
    assert "already scored" in lab.done("evaluate", "samples=samples.zip", "data=digits", *LIGHT)
    for samples in ("npz/samples.npz", "png"):
        lab.done("evaluate", f"samples={samples}", "data=digits", *LIGHT, f"outputs={samples}.out")
        other = given(lab.folder / f"{samples}.out")
        assert other["values"] == pytest.approx(found["values"], rel=1e-9)
        assert other["protocol"]["samples"]["given"]["digest"] == found["protocol"]["samples"]["given"]["digest"]
    for name in OURS:
        assert found["values"][name] == pytest.approx(drawn["values"][name], rel=1e-6), name
    assert found["protocol"]["samples"]["num_images"] == NUM
    for name in ("nfe", "bits_per_dim", "seconds_per_1000_samples"):
        assert name not in found["values"]
        assert found["protocol"]["absent"][name] == "needs a model, but these samples are images"
    assert "bits/dim" not in out


def test_labels_say_whether_each_sample_shows_its_class(lab):
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    pixels = np.round(x[:200] * 255 / 16).astype(np.uint8).reshape(-1, 8, 8, 1)
    for name, labels in (("right", y[:200]), ("wrong", (y[:200] + 1) % 10)):
        np.savez(lab.folder / f"{name}.npz", arr_0=pixels, arr_1=labels)
        lab.done("evaluate", f"samples={name}.npz", "data=digits", "metrics=[class_accuracy]", f"outputs={name}")
    assert given(lab.folder / "right")["values"]["accuracy_digits_cnn"] > 0.95
    assert given(lab.folder / "right")["protocol"]["absent"] == {}, "features without classes need no reason then"
    assert given(lab.folder / "wrong")["values"]["accuracy_digits_cnn"] < 0.05
    assert given(lab.folder / "right")["protocol"]["samples"]["labels"] == "as given"


def test_grey_images_in_three_equal_channels_are_grey(lab):
    (lab.folder / "rgb").mkdir()
    for i in range(5):
        Image.fromarray(np.full((8, 8), 40 * i, np.uint8)).convert("RGB").save(lab.folder / "rgb" / f"{i}.png")
    assert lab("evaluate", "samples=rgb", "data=digits", "features=pixels", "metrics=[frechet_distance]")[0] == 0


def write_pngs(folder: Path, pixels: np.ndarray) -> None:
    folder.mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{i:04d}.png")


@pytest.fixture
def coloured(lab):
    """Samples, and real images in every form that a reference may have; features=pixels have 48 dimensions."""
    draw = np.random.default_rng(0)
    real, samples = draw.integers(0, 256, (80, 4, 4, 3), np.uint8), draw.integers(0, 200, (50, 4, 4, 3), np.uint8)
    x = real.transpose(0, 3, 1, 2).reshape(80, -1) / 127.5 - 1
    found = {"mu": x.mean(0), "sigma": np.cov(x, rowvar=False)}
    np.savez(lab.folder / "samples.npz", arr_0=samples)
    np.savez(lab.folder / "real.npz", arr_0=real)
    write_pngs(lab.folder / "real", real)
    np.savez(lab.folder / "edm.npz", **found)
    np.savez_compressed(lab.folder / "adm.npz", arr_0=real[:20], mu_s=np.zeros(7), sigma_s=np.eye(7), **found)
    torch.save(found, lab.folder / "fidelity.pt")
    torch.save({name: torch.from_numpy(array) for name, array in found.items()}, lab.folder / "tensors.pt")
    return real, samples


REFERENCES = ["real.npz", "real", "edm.npz", "adm.npz", "fidelity.pt", "tensors.pt"]


def test_every_form_of_a_reference_gives_one_distance(lab, coloured):
    quick = ["samples=samples.npz", "metrics.kernel_distance.num_subsets=2"]
    for reference in REFERENCES:
        assert reference in lab.done("evaluate", *quick, f"reference={reference}", f"outputs={reference}.out")
    found = {reference: given(lab.folder / f"{reference}.out") for reference in REFERENCES}
    for metrics in found.values():
        assert metrics["values"]["fd_pixels"] == pytest.approx(found["real"]["values"]["fd_pixels"], rel=1e-6)
    assert found["real.npz"]["values"] == found["real"]["values"]
    assert found["real"]["values"]["fd_pixels_floor"] > 0, "of halves of the reference"
    few = ["metrics=[frechet_distance]", "evaluation.reference_features=10", "outputs=few"]
    lab.done("evaluate", "samples=samples.npz", "reference=real", *few)
    assert given(lab.folder / "few")["protocol"]["floor"]["num_images"] == 5, "of those that are kept"
    for reference in ("edm.npz", "fidelity.pt"):
        absent = found[reference]["protocol"]["absent"]
        assert "needs real images besides the reference" in absent["fd_pixels_floor"]
        assert absent["precision"] == absent["kd_pixels"] == f"needs real images, but {reference} holds only statistics"
        assert found[reference]["protocol"]["reference"]["form"] == "mu and sigma"
    assert found["adm.npz"]["protocol"]["precision_recall"]["num_reference"] == 20
    assert "precision" in found["adm.npz"]["values"]


def test_what_makes_a_distance_incomparable_stands(lab):
    """Another number than models are scored on, and a format that changes pixels."""
    (lab.folder / "jpeg").mkdir()
    for i in range(4):
        Image.fromarray(np.full((8, 8), 60 * i, np.uint8)).save(lab.folder / "jpeg" / f"{i}.jpg")
    options = ["samples=jpeg", "data=digits", "features=pixels", "metrics=[frechet_distance]"]
    said = " ".join(lab.done("evaluate", *options).split())
    assert "some are JPEG or WebP, whose compression artefacts count as differences" in said
    assert "models are scored on 360 samples by default, and the distance falls with n" in said
    lab.done("evaluate", *options, "evaluation.num_samples=3", "outputs=fewer")
    assert given(lab.folder / "fewer")["protocol"]["samples"]["num_images"] == 3
    assert "jpeg has only 4 images" in lab("evaluate", *options, "evaluation.num_samples=5")[2]


def png16(pixels: np.ndarray) -> bytes:
    """Of uint16 (H, W, C): grey, colours, or colours and alpha."""
    height, width, channels = pixels.shape
    return png(width, height, 16, {1: 0, 3: 2, 4: 6}[channels], (row.astype(">u2").tobytes() for row in pixels))


def deep(folder: Path, seed: int, channels: int) -> np.ndarray:
    """uint16 (12, 4, 5, channels), written as PNG too."""
    pixels = np.random.default_rng(seed).integers(0, 65536, (12, 4, 5, channels), np.uint16)
    folder.mkdir()
    for i, image in enumerate(pixels):
        (folder / f"{i:02d}.png").write_bytes(png16(image))
    return pixels


@pytest.mark.parametrize("channels", [1, 3])
def test_png_of_sixteen_bits_keep_them(lab, channels):
    """As samples and as reference; the same numbers as an npz of uint16 has, and not those of 8 bits."""
    for seed, name in enumerate(("samples", "real")):
        pixels = deep(lab.folder / name, seed, channels)
        np.savez(lab.folder / f"{name}.npz", arr_0=pixels)
    values = []
    for samples, reference in (("samples", "real"), ("samples.npz", "real.npz")):
        of = [f"samples={samples}", f"reference={reference}", f"outputs={samples}.out"]
        assert "levels" not in lab.done("evaluate", *of, "metrics=[frechet_distance]")
        values.append(given(lab.folder / f"{samples}.out")["values"]["fd_pixels"])
    assert values[0] == pytest.approx(values[1], rel=1e-9)
    found = read_images(lab.folder / "samples").pixels.permute(0, 2, 3, 1).numpy()
    assert np.array_equal(found, np.load(lab.folder / "samples.npz")["arr_0"])


def test_transparent_colours_of_sixteen_bits_are_shown(tmp_path):
    """Transparent colours of sixteen bits are shown on white."""
    pixels = np.zeros((4, 5, 4), np.uint16)
    pixels[..., 1], pixels[:2, :, 3] = 40_000, 65535
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(png16(pixels))
    found = read_images(tmp_path).pixels[0].numpy()
    assert found[:, 0, 0].tolist() == [0, 40_000, 0]
    assert found[:, 3, 0].tolist() == [65535] * 3


@pytest.mark.parametrize(
    ("samples", "data", "said"),
    [
        ("eight.npz", "deep", "they have 256 levels and image_folder has 65536: this counts as a difference"),
        ("deep", "eight", "they have 65536 levels and were rounded to the 256 of image_folder"),
        ("spread.npz", "eight", None),
    ],
)
def test_other_levels_than_those_of_the_data(lab, samples, data, said):
    pixels = deep(lab.folder / "deep", 0, 1)
    eight = (pixels // 257).astype(np.uint8)
    np.savez(lab.folder / "eight.npz", arr_0=eight)
    np.savez(lab.folder / "spread.npz", arr_0=eight.astype(np.uint16) * 257)
    write_pngs(lab.folder / "eight", eight[..., 0])
    own = ["data=image_folder", f"data.root={data}", "data.image_size=[4,5]", "data.channels=1"]
    if data == "deep":
        own.append("data.num_levels=65536")
    out = lab.done("evaluate", f"samples={samples}", *own, "features=pixels", "metrics=[frechet_distance]")
    out = " ".join(out.split())
    assert said in out if said else "levels" not in out

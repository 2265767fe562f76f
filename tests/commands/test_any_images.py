"""Images of any channels, height, width and number of levels, through the commands: trained, drawn, scored, looked at."""

import json

import numpy as np
import pytest
from PIL import Image

from .conftest import STRIDED, TINY

SHAPE = (2, 8, 10)  # channels, height, width


def write(lab, dtype=np.uint16, most=65535):
    random = np.random.default_rng(0)
    y = np.arange(40) % 2
    base = random.integers(most // 4, size=(40, *SHAPE[1:], SHAPE[0])) + (most // 2 * y)[:, None, None, None]
    np.savez(lab.folder / "train.npz", images=base.astype(dtype), labels=y)


ARRAYS = ["data=arrays", "data.train=train.npz", "conditional=true"]


@pytest.mark.thorough
def test_sixteen_bit_images_of_two_channels(lab):
    """Sixteen bit images of two channels that are no squares are trained drawn and scored."""
    write(lab)
    lab.done("train", *ARRAYS, *TINY, *STRIDED)
    (run,) = (lab.folder / "outputs" / "runs").iterdir()
    content = json.loads((run / "metrics.json").read_text())
    assert content["protocol"]["data"]["shape"] == list(SHAPE)
    assert content["protocol"]["samples"]["num_levels"] == 65536
    assert {"fd_pixels", "bits_per_dim", "sliced_wasserstein"} <= content["values"].keys()
    (said,) = [measure["detail"] for measure in content["measures"] if measure["name"] == "sliced_wasserstein"]
    assert "bands 8x10 " in said
    assert "use features=inception" in said
    assert content["values"]["bits_per_dim"] > 8  # an 8-bit image would need less
    for name in ("samples.png", "interpolation.png", "reconstructions.png"):
        with Image.open(run / name) as picture:
            assert picture.mode == "RGB"
            assert (picture.height - 2) % (8 * 5 + 2) == 0  # 10 pixels enlarged to 50
            assert (picture.width - 2) % 52 == 0

    lab.done("sample", "num_images=5", "format=npz")
    with np.load(lab.folder / "samples" / "samples.npz") as drawn:
        assert (drawn["arr_0"].dtype, drawn["arr_0"].shape) == (np.uint16, (5, 8, 10, 2))
    lab.done("evaluate", "samples=samples/samples.npz", *ARRAYS[:2], "features=pixels", "metrics=[frechet_distance]")

    code, _, err = lab("sample", "num_images=2", "format=png")
    assert (code, "the samples have 2 channels of 65536 levels" in err) == (1, True), err
    code, _, err = lab("sample", "inpaint.image=train.png", "inpaint.mask=mask.png")
    assert (code, "this model draws 2 channels; give the number of a test image" in err) == (1, True), err
    lab.done("sample", "num_images=2", "interpolate.images=[0,1]", "trajectory=false")


def test_another_folder_and_another_file(lab):
    """Another folder and another file with the same content are the same training."""
    write(lab)
    train = ["train", "data=arrays", *TINY, *STRIDED, "score=false"]
    assert lab(*train, "data.train=train.npz")[0] == 0
    (lab.folder / "elsewhere").mkdir()
    (lab.folder / "train.npz").rename(lab.folder / "elsewhere" / "train.npz")
    out = lab.done(*train, "data.train=train.npz", "data.root=elsewhere")
    assert len(list((lab.folder / "outputs" / "models").iterdir())) == 1
    assert "this model is already trained" in out
    lab.done("evaluate", "metrics=[frechet_distance]", "data.root=elsewhere")


def test_sixteen_bit_grey_files_stay_so(lab):
    random = np.random.default_rng(0)
    (lab.folder / "own").mkdir()
    for i in range(12):
        Image.fromarray(random.integers(65536, size=(8, 12), dtype=np.uint16)).save(lab.folder / "own" / f"{i}.png")
    own = ["data=image_folder", "data.root=own", "data.image_size=[8,12]", "data.channels=1", "data.num_levels=65536"]
    lab.done("train", *own, *TINY, *STRIDED, "data.num_workers=0", "score=false")
    lab.done("sample", "num_images=2", "format=png")
    with Image.open(lab.folder / "samples" / "000000.png") as picture:
        assert (picture.mode, picture.size) == ("I;16", (12, 8))

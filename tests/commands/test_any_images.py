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
def test_sixteen_bit_images_of_two_channels_that_are_no_squares_are_trained_drawn_and_scored(lab):
    write(lab)
    code, _, err = lab("train", *ARRAYS, *TINY, *STRIDED)
    assert code == 0, err
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

    code, _, err = lab("sample", "num_images=5", "format=npz")
    assert code == 0, err
    with np.load(lab.folder / "samples" / "samples.npz") as drawn:
        assert (drawn["arr_0"].dtype, drawn["arr_0"].shape) == (np.uint16, (5, 8, 10, 2))
    code, _, err = lab(
        "evaluate", "samples=samples/samples.npz", *ARRAYS[:2], "features=pixels", "metrics=[frechet_distance]"
    )
    assert code == 0, err

    code, _, err = lab("sample", "num_images=2", "format=png")
    assert code == 1
    assert "the samples have 2 channels of 65536 levels" in err
    code, _, err = lab("sample", "inpaint.image=train.png", "inpaint.mask=mask.png")
    assert code == 1
    assert "this model draws 2 channels; give the number of a test image" in err
    code, _, err = lab("sample", "num_images=2", "interpolate.images=[0,1]", "trajectory=false")
    assert code == 0, err


def test_another_folder_and_another_file_with_the_same_content_are_the_same_training(lab):
    write(lab)
    train = ["train", "data=arrays", *TINY, *STRIDED, "score=false"]
    assert lab(*train, "data.train=train.npz")[0] == 0
    (lab.folder / "elsewhere").mkdir()
    (lab.folder / "train.npz").rename(lab.folder / "elsewhere" / "train.npz")
    code, out, err = lab(*train, "data.train=train.npz", "data.root=elsewhere")
    assert code == 0, err
    assert len(list((lab.folder / "outputs" / "models").iterdir())) == 1
    assert "this model is already trained" in out
    code, _, err = lab("evaluate", "metrics=[frechet_distance]", "data.root=elsewhere")
    assert code == 0, err


@pytest.mark.thorough
@pytest.mark.parametrize("model", ["gan", "vae", "flow"])
def test_the_other_families_take_them_too(lab, model):
    write(lab)
    smaller = {
        "gan": ["network.base_channels=8", "network.channel_multipliers=[1]"],
        "vae": ["network.base_channels=8", "network.channel_multipliers=[1,2]"],
        "flow": ["network.hidden=8", "network.num_scales=1", "network.num_steps=1"],
    }[model]
    few = [option for option in TINY if not option.startswith(("network", "schedule"))]
    code, _, err = lab("train", f"model={model}", *ARRAYS[:2], *few, *smaller)
    assert code == 0, err
    (run,) = (lab.folder / "outputs" / "runs").iterdir()
    values = json.loads((run / "metrics.json").read_text())["values"]
    assert "fd_pixels" in values
    assert (model == "gan") != ("bits_per_dim" in values)


def test_sixteen_bit_grey_files_stay_so(lab):
    random = np.random.default_rng(0)
    (lab.folder / "own").mkdir()
    for i in range(12):
        Image.fromarray(random.integers(65536, size=(8, 12), dtype=np.uint16)).save(lab.folder / "own" / f"{i}.png")
    own = ["data=image_folder", "data.root=own", "data.image_size=[8,12]", "data.channels=1", "data.num_levels=65536"]
    code, _, err = lab("train", *own, *TINY, *STRIDED, "data.num_workers=0", "score=false")
    assert code == 0, err
    code, _, err = lab("sample", "num_images=2", "format=png")
    assert code == 0, err
    with Image.open(lab.folder / "samples" / "000000.png") as picture:
        assert (picture.mode, picture.size) == ("I;16", (12, 8))


def test_floats_are_refused_with_what_to_do(lab):
    np.save(lab.folder / "a.npy", np.random.default_rng(0).random((9, 4, 4)))
    code, _, err = lab("train", "data=arrays", "data.train=a.npy", *TINY)
    assert code == 1
    assert (
        "data.train=a.npy is float64, but levels are whole numbers from 0: save (255 * x).round().astype(np.uint8)"
        in err
    )
    assert len(err.strip().splitlines()) == 1

"""sample, starting from images that the user gives."""

import numpy as np
import pytest
from PIL import Image

from diffusion_lab.data.digits import Digits
from diffusion_lab.report.drawing import to_uint8

from .conftest import STRIDED, TINY


def images(lab):
    with np.load(lab.folder / "samples" / "samples.npz") as archive:
        return archive["arr_0"][..., 0]


def held_out(index):
    data = Digits(batch_size=8, seed=0)
    x, _ = next(data.batches("test", 1, start=index))
    return to_uint8(x, 17)[0, 0].numpy()


@pytest.fixture
def hole(lab):
    """A mask whose right half is to be painted."""
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 4:] = 255
    Image.fromarray(mask).save(lab.folder / "mask.png")
    return "inpaint.mask=mask.png"


def test_inpainting_keeps_what_is_known(lab, hole):
    """The rest is painted anew each time."""
    lab.given("train", *TINY, *STRIDED)
    options = ["num_images=3", "batch_size=2", "format=npz", hole, "inpaint.repeats=2"]
    lab.done("sample", "inpaint.image=5", *options)
    filled, given = images(lab), held_out(5)
    assert (filled[:, :, :4] == given[:, :4]).all()
    assert len({image.tobytes() for image in filled}) == 3
    Image.fromarray(given).save(lab.folder / "given.png")
    lab.done("sample", "inpaint.image=given.png", *options)
    assert (images(lab) == filled).all()


def test_denoising_from_0_is_the_image(lab):
    """From further up it is not."""
    lab.given("train", *TINY, *STRIDED)
    options = ["denoise.image=2", "num_images=2", "format=npz"]
    assert lab("sample", "denoise.t=0", *options)[0] == 0
    assert (images(lab) == held_out(2)).all()
    assert lab("sample", "denoise.t=12", *options)[0] == 0
    assert (images(lab) != held_out(2)).any(axis=(1, 2)).all()


@pytest.mark.thorough
def test_an_interpolation_has_as_many_images_as_asked(lab):
    """A picture begins with what was given."""
    lab.given("train", *TINY, *STRIDED, "condition=classes")
    lab.done("sample", "interpolate.images=[0,1]", "num_images=5", "batch_size=2", "format=npz", "condition=3")
    assert images(lab).shape == (5, 8, 8)
    one_class = images(lab)
    lab.done("sample", "interpolate.images=[0,1]", "num_images=5", "format=npz", "condition=[3,3]")
    assert (images(lab) == one_class).all()
    lab.done("sample", "interpolate.images=[0,1]", "num_images=2", "to=grid")
    with Image.open(lab.folder / "grid" / "samples.png") as picture:
        shown = np.asarray(picture.convert("L"))
    side = (shown.shape[1] - 2) // 2  # two columns, two rows: the given images, then the samples
    assert (shown[2:side:6, 2:side:6][:8, :8] == held_out(0)).all()

"""sample, starting from images that the user gives."""

import numpy as np
import pytest
from PIL import Image

from diffusion_lab.data.digits import Digits
from diffusion_lab.data.pictures import to_uint8

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
    """Inpainting keeps what is known and paints the rest anew each time."""
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
    """Denoising from 0 is the image and from further up no longer."""
    lab.given("train", *TINY, *STRIDED)
    options = ["denoise.image=2", "num_images=2", "format=npz"]
    assert lab("sample", "denoise.t=0", *options)[0] == 0
    assert (images(lab) == held_out(2)).all()
    assert lab("sample", "denoise.t=24", *options)[0] == 0
    assert (images(lab) != held_out(2)).any(axis=(1, 2)).all()


@pytest.mark.thorough
def test_an_interpolation_has_as_many_images_as_asked(lab):
    """An interpolation has as many images as asked and a picture begins with what was given."""
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


MISTAKES = [
    (["inpaint.image=0"], "inpaint.mask=FILE is needed"),
    (["inpaint.image=nowhere.png", "inpaint.mask=nowhere.png"], "nowhere.png: there is no such file"),
    (["inpaint.image=360", "inpaint.mask=mask.png"], "test image of digits from 0 to 359"),
    (["inpaint.image=0", "inpaint.mask=mask.png", "inpaint.repeats=0"], "inpaint.repeats=0"),
    (["denoise.image=0"], "denoise.t=None"),
    (["denoise.image=0", "denoise.t=25"], "denoise.t=25: choose a step from 0 (the image) to 24"),
    (["interpolate.images=[1]"], "[first,second]"),
    (["interpolate.images=[0,1]", "num_images=1"], "an interpolation needs at least 2 images"),
    (["interpolate.images=[0,1]", "denoise.image=0"], "give only one of them"),
    (["denoise.image=0", "denoise.t=3", "trajectory=true"], "trajectory=true"),
]


@pytest.mark.thorough
def test_what_cannot_be_edited_is_said_in_one_sentence(lab, hole):
    lab.given("train", *TINY, *STRIDED, "score=false")
    for options, said in MISTAKES:
        lab.refused("sample", *options, said=said)

import io

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_lab.report.drawing import (
    animation,
    columns_of,
    frames,
    images,
    nearly_square,
    numbers,
    picture,
    png,
    rows_of,
)


def test_a_grid_shows_images_in_reading_order_on_their_own_levels():
    x = torch.stack([torch.full((1, 8, 8), v) for v in (-1.0, 0.0, 1.0, -1.0)])
    image = picture(x, 17).convert("L")
    assert image.size == (2 + 2 * 50, 2 + 2 * 50)  # enlarged to 48 pixels, two a row, framed by 2
    assert [image.getpixel((26 + 50 * (i % 2), 26 + 50 * (i // 2))) for i in range(4)] == [0, 128, 255, 0]


@pytest.mark.parametrize(("number", "classes", "columns"), [
    (36, None, 6), (36, 10, 6), (40, 10, 10), (50, None, 10), (12, None, 4), (7, None, 3), (1, None, 1), (360, None, 20),
])  # fmt: skip
def test_a_grid_has_no_empty_places_where_it_can(number, classes, columns):
    """Classes stand in columns of their own only where these are all full."""
    assert (columns_of(classes, number) or nearly_square(number)) == columns


@pytest.mark.parametrize(
    ("values", "colour"),
    [
        ([1.0], (255, 255, 255)),
        ([1.0, -1.0], (255, 0, 255)),
        ([-1.0, 1.0], (0, 255, 0)),
        ([1.0, 1.0], (255, 255, 255)),
        ([1.0, -1.0, -1.0], (255, 0, 0)),
        ([1.0, -1.0, -1.0, 1.0], (255, 0, 0)),
        ([-1.0, -1.0, 1.0, 1.0, 1.0], (0, 0, 255)),
    ],
)
def test_any_number_of_channels_is_shown_in_colours(values, colour):
    x = torch.tensor(values)[None, :, None, None].expand(2, len(values), 6, 48)
    image = picture(x, 256)
    assert image.size == (102, 10)
    assert image.convert("RGB").getpixel((10, 5)) == colour


def colours(image):
    return {colour for _, colour in image.convert("RGB").getcolors(2**20)}


@pytest.mark.parametrize("num_levels", [None, 17])
@pytest.mark.parametrize("sides", [(12,), (5, 8), (4, 5, 6)], ids=str)
def test_every_shape_has_a_picture(sides, num_levels):
    x = torch.rand(3, 2, *sides) * 2 - 1
    several = picture(x, num_levels, columns=3)
    assert picture(x, num_levels, columns=1).height > several.height
    assert len(colours(several)) > 4
    assert len({frame.size for frame in frames([3 * x, x], num_levels)}) == 1
    if num_levels is None or len(sides) != 2:
        assert len(images(x, num_levels)) == 3


def test_real_numbers_have_one_scale_of_colours():
    """The same number has the same colour wherever it is, and the scale ends at the smallest and the largest."""
    x = torch.tensor([-3.0, 7.0, 7.0, 2.0]).view(4, 1, 1, 1).expand(-1, -1, 8, 8)
    image = picture(x, None).convert("RGB")
    centres = [image.getpixel((50 + 98 * (i % 2), 50 + 98 * (i // 2))) for i in range(4)]
    assert centres[1] == centres[2]
    assert len({*centres}) == 3
    scale = [image.getpixel((place, 2 + 2 * 98 + 6)) for place in (3, image.width - 4)]
    assert scale == [pytest.approx(end, abs=5) for end in centres[:2]]


@pytest.mark.parametrize("sides", [(12,), (5, 8)], ids=str)
def test_channels_with_names_have_them_in_picture_and_files(sides):
    x = torch.rand(2, 2, *sides)
    plain, named = ([picture(x, None, names=names), *images(x, None, names)] for names in (None, ["u", "v"]))
    assert all(png(one) != png(other) for one, other in zip(plain, named, strict=True))


def test_a_volume_is_shown_by_its_middle_slices():
    x = torch.full((1, 1, 9, 9, 9), -1.0)
    x[0, 0, 4] = 1  # the middle slice across the first axis is white, of the two others a line
    shown = torch.from_numpy(np.array(picture(x, 2).convert("L")))[2:-2, 2:-2]
    thirds = [part.double().mean() / 255 for part in shown.tensor_split(3, dim=1)]
    assert thirds[0] > 0.8
    assert thirds[1] < 0.2
    assert thirds[2] < 0.2


def test_files_hold_levels_as_images_do_and_numbers_as_they_are():
    x = torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1).expand(2, 3, 5)
    assert numbers(x, 256)[0, 0].tolist() == [0, 128, 255]
    assert numbers(x, 256).shape == (2, 5, 3)
    assert np.array_equal(numbers(3 * x, None), 3 * x)
    with pytest.raises(ValueError, match="points"):
        images(torch.randn(3, 2), None)


def test_points_are_a_scatter_and_numbers_a_histogram():
    for dimensions in (1, 2):
        image = Image.open(io.BytesIO(png(picture(torch.randn(50, dimensions), None))))
        assert image.size == (500, 500)
        assert len(image.convert("L").getcolors(100000)) > 5


def test_an_animation_has_its_frames():
    frames = [Image.new("L", (4, 4), shade) for shade in (0, 128, 255)]
    gif = Image.open(io.BytesIO(animation(frames)))
    assert gif.n_frames == 3


def test_rows_of_shows_a_samples_states_side_by_side():
    first, second = torch.tensor([[1.0], [2.0]]), torch.tensor([[10.0], [20.0]])
    assert rows_of([first, second]).flatten().tolist() == [1.0, 10.0, 2.0, 20.0]


def test_four_channels_are_files_with_opacity():
    x = torch.tensor([1.0, -1.0, 0.0, -1.0]).view(1, 4, 1, 1).expand(2, 4, 3, 5)
    shown = [Image.open(io.BytesIO(png(image))) for image in images(x, 256)]
    assert [(image.mode, image.size, image.getpixel((0, 0))) for image in shown] == 2 * [
        ("RGBA", (5, 3), (255, 0, 128, 0))
    ]


@pytest.mark.parametrize("shape", [(4, 2, 8, 8), (4, 2, 32)])
def test_channels_of_different_ranges_are_all_seen(shape):
    """Each on its own scale: another second channel is another picture, however small its numbers are beside the first."""
    x = 280 + 5 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    other = x.clone()
    x[:, 1], other[:, 1] = 1e-4 * x[:, 1], 1e-4 * x[:, 1].flip(0)
    seen, changed = (np.asarray(picture(each, None).convert("RGB")).astype(int) for each in (x, other))
    assert np.abs(seen - changed).mean() > 1

import io

import pytest
import torch
from PIL import Image

from diffusion_lab.data.pictures import animation, images, picture, png, rows_of


def test_a_grid_shows_images_in_reading_order_on_their_own_levels():
    x = torch.stack([torch.full((1, 8, 8), v) for v in (-1.0, 0.0, 1.0, -1.0)])
    image = picture(x, 17).convert("L")
    assert image.size == (2 + 2 * 50, 2 + 2 * 50)  # enlarged to 48 pixels, two a row, framed by 2
    assert [image.getpixel((26 + 50 * (i % 2), 26 + 50 * (i // 2))) for i in range(4)] == [0, 128, 255, 0]


def test_colour_stays_colour():
    x = torch.tensor([1.0, -1.0, -1.0])[None, :, None, None].expand(1, 3, 32, 32)
    assert picture(x, 256).getpixel((10, 10)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("values", "colour"),
    [
        ([1.0], (255, 255, 255)),
        ([1.0, -1.0], (255, 0, 255)),
        ([-1.0, 1.0], (0, 255, 0)),
        ([1.0, 1.0], (255, 255, 255)),
        ([1.0, -1.0, -1.0, 1.0], (255, 0, 0)),
        ([-1.0, -1.0, 1.0, 1.0, 1.0], (0, 0, 255)),
    ],
)
def test_channels_that_are_no_colours_are_shown_in_colours(values, colour):
    x = torch.tensor(values)[None, :, None, None].expand(2, len(values), 6, 48)
    image = picture(x, 256)
    assert image.size == (102, 10)
    assert image.convert("RGB").getpixel((10, 5)) == colour


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

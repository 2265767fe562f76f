import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_lab.report.drawing import picture, png, shown_channels, to_uint8
from diffusion_lab.report.sprites import sprites


def pixels(sprite):
    content = base64.b64decode(sprite.src.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 28, 20), (1, 5, 30), (3, 64, 64), (2, 8, 8), (5, 8, 8)])
def test_samples_come_out_of_the_scored_picture_without_loss(tmp_path, shape):
    x = torch.rand(64, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    (tmp_path / "samples.png").write_bytes(png(picture(x, 256)))
    (sprite,) = sprites([(tmp_path / "samples.png", shape)])
    assert (sprite.columns, sprite.rows, sprite.width, sprite.height) == (8, 8, shape[2], shape[1])
    shown = pixels(sprite).reshape(8, shape[1], 8, shape[2], 3).transpose(0, 2, 4, 1, 3).reshape(64, 3, *shape[1:])
    expected = shown_channels(to_uint8(x, 256)).expand(64, 3, *shape[1:]).numpy()
    assert (shown == expected).all()


def test_points_are_one_picture(tmp_path):
    (tmp_path / "samples.png").write_bytes(png(picture(torch.randn(50, 2), None)))
    (sprite,) = sprites([(tmp_path / "samples.png", (2,))])
    assert (sprite.columns, sprite.rows) == (1, 1)
    assert pixels(sprite).shape[:2] == (sprite.height, sprite.width)


def test_missing_broken_and_too_large_pictures_are_none(tmp_path, monkeypatch):
    monkeypatch.setattr("diffusion_lab.report.sprites._MOST_PIXELS", 63)
    Image.new("L", (8, 8)).save(tmp_path / "bomb.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    assert sprites([(tmp_path / f"{name}.png", (1, 8, 8)) for name in ("bomb", "broken", "none")]) == [None] * 3


def test_many_large_pictures_show_fewer_samples_each(tmp_path):
    x = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    (tmp_path / "samples.png").write_bytes(png(picture(x, 256)))
    many = sprites([(tmp_path / "samples.png", (3, 32, 32))] * 200)
    assert {sprite.columns for sprite in many} == {8}
    assert {sprite.rows for sprite in many} == {2}
    assert sum(len(sprite.src) for sprite in many) <= 17 * 2**20

"""Every kind of image file is shown as it should be, or named in one sentence; or left out, if that is asked for."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from diffusion_lab.data import DataError
from diffusion_lab.data.image_files import read_image
from tests.data.files_from_others import FILES, folder_with, huge_png, shown


@pytest.mark.parametrize("what", FILES)
def test_a_file_is_shown_or_named(tmp_path: Path, what: str) -> None:
    name, content, expected = FILES[what]
    root = folder_with(tmp_path, name, content)
    if callable(expected):
        assert expected(shown(root, name))
        return
    with pytest.raises(DataError) as error:
        shown(root, name)
    said = str(error.value)
    assert said.startswith(f"{root / name} {expected}")
    assert said.endswith("or leave it out with data.on_error=skip.")
    assert "\n" not in said
    assert shown(root, name, on_error="skip") is None


def test_sixteen_bits_are_scaled_and_rounded(tmp_path: Path) -> None:
    from PIL import Image

    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(levels).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", 256, 1)[0].numpy()
    assert np.array_equal(image, (levels / 65535 * 255).round())


def test_a_large_image_is_let_in_by_raising_the_limit(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(huge_png(1000))
    with pytest.raises(DataError, match=r"1000×1000 pixels, more than data\.max_pixels=999999, .*raise that limit"):
        read_image(tmp_path / "a.png", 8, 1, max_pixels=999_999)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path / "a.png", 8, 1, max_pixels=1_000_000).shape == (1, 8, 8)

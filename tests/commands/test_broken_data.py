"""A file that breaks while a model trains on it ends the run: one sentence, a code, and no process left behind."""

import pytest
import torch.multiprocessing

from diffusion_lab.data.image_folder import ImageFolder
from tests.commands.conftest import STRIDED, TINY
from tests.data.small_sets import write_images


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_image_that_breaks_while_training_is_named(lab, monkeypatch, num_workers):
    root = write_images(lab.folder / "own")
    load = ImageFolder._load

    def load_then_break(self):
        load(self)
        for path in root.rglob("*.png"):
            path.write_bytes(path.read_bytes()[:60])

    monkeypatch.setattr(ImageFolder, "_load", load_then_break)
    own = ["data=image_folder", f"data.root={root}", "data.image_size=8", f"data.num_workers={num_workers}"]
    code, _, err = lab("train", *TINY, *STRIDED, *own, "trainer.max_steps=1000")
    assert code == 1
    assert len(err.strip().splitlines()) == 1, err
    assert err.startswith("diffusion-lab train: ")
    assert ".png is not an image that can be read" in err
    assert torch.multiprocessing.active_children() == []


def test_where_files_lie_is_no_other_training(lab):
    """Where the files lie and how they came there is not another training."""
    root = write_images(lab.folder / "own")
    own = ["data=image_folder", f"data.root={root}", "data.image_size=8", "data.num_workers=0"]
    assert lab("train", *TINY, *STRIDED, *own)[0] == 0
    out = lab.done("train", *TINY, *STRIDED, *own, "data.on_error=skip", "data.max_pixels=2000000")
    assert "this model is already trained" in out

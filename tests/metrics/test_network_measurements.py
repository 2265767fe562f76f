"""One pass for all who ask, which a fault only delays."""

import pytest
import torch

from diffusion_lab.metrics.network_measurements import SHARD_IMAGES, Measurements
from diffusion_lab.metrics.stored import silent
from diffusion_lab.store import CacheDirectory

from .stand_ins import GaussianModel, TinyImages


class Measuring(GaussianModel):
    """Says of each image what it is, and counts the images that it is asked about."""

    def __init__(self, num_classes=None, mean=0.0):
        super().__init__(num_classes, mean)
        self.asked = 0

    def measure(self, x_0, y, seed, indices):
        assert not torch.is_grad_enabled()
        assert (y is None) == (self.num_classes is None)
        self.asked += len(x_0)
        rows = [x_0.double().flatten(1).sum(dim=1), indices.double(), self.mean.double().expand(len(x_0))]
        return {"rows": torch.stack(rows, dim=1)}


def measured(tmp_path, model=None, num_images=40, identity="mine", data=None, facts=None):
    model, measurements = model or Measuring(), Measurements(False, None, False, num_images, identity, "tiny")
    about = facts or {}, model, data or TinyImages(), CacheDirectory(tmp_path), silent, "train"
    return measurements._means(type(model).measure, *about), model.asked


def shards(tmp_path):
    return sorted(tmp_path.glob("statistics/*/*.safetensors"))


@pytest.mark.parametrize("num_classes", [None, 3])
@pytest.mark.parametrize("num_images", [SHARD_IMAGES, 40, 300, 1000])
def test_the_means_are_those_of_the_first_training_images_each_with_its_index(tmp_path, num_images, num_classes):
    data = TinyImages()
    x_0, _ = next(data.batches("train", 300, limit=num_images))
    found, asked = measured(tmp_path, Measuring(num_classes), num_images)
    assert asked == len(x_0) == min(300, num_images)
    expected = torch.tensor([float(x_0.double().flatten(1).sum(1).mean()), (len(x_0) - 1) / 2, 0.0]).double()
    torch.testing.assert_close(found.means["rows"], expected, rtol=1e-12, atol=1e-6)
    assert found.about.startswith(f"{len(x_0)} training images, ")


def test_who_asks_again_measures_nothing(tmp_path):
    first, _ = measured(tmp_path)
    again, asked = measured(tmp_path)
    assert asked == 0
    assert again.about == first.about
    torch.testing.assert_close(again.means, first.means, rtol=0, atol=0)


def test_a_pass_that_was_stopped_goes_on(tmp_path):
    class Stopped(Measuring):
        def measure(self, x_0, y, seed, indices):
            if self.asked:
                raise KeyboardInterrupt
            return super().measure(x_0, y, seed, indices)

    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path, Stopped())
    assert len(shards(tmp_path)) == 1
    found, asked = measured(tmp_path)
    assert asked == 40 - SHARD_IMAGES
    torch.testing.assert_close(found.means, measured(tmp_path / "at once")[0].means, rtol=0, atol=0)


def test_other_weights_images_data_and_code_are_measured_for_themselves(tmp_path):
    before, _ = measured(tmp_path)
    changes = [{"model": Measuring(mean=1.0)}, {"facts": {"of": "x"}}, {"identity": "other"}, {"num_images": 64}]
    for number, change in enumerate([*changes, {"data": TinyImages(seed=1)}], start=2):
        found, asked = measured(tmp_path, **change)
        assert asked == change.get("num_images", 40)
        assert len(list((tmp_path / "statistics").iterdir())) == number
        assert float(found.means["rows"][2]) == ("model" in change)
    assert (tmp_path / "statistics").joinpath(shards(tmp_path)[0].parent.name).name.startswith("tiny-")
    assert measured(tmp_path)[0].about == before.about

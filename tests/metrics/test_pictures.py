import pytest
import torch

from diffusion_lab.metrics.pictures import PAIRS, PATH_IMAGES, PATHS, latent_pictures

from .stand_ins import GaussianModel, TinyImages


class Halving(GaussianModel):
    """Its latents are half the distance to the mean of the class."""

    def encode(self, x_0, y=None):
        self.labels.append(y)
        return (x_0 - self.decode(torch.zeros_like(x_0), y)) / 0.6


@pytest.fixture(scope="module")
def data():
    data = TinyImages()
    data.prepare()
    return data


def ways(data, **conditions):
    """The ways of a model, and samples that they lead between: (PATHS, PATH_IMAGES, …), (PATHS, 2, …)."""
    model = GaussianModel(**conditions)
    found, _ = latent_pictures(model, data, seed=5)
    classes = torch.arange(PATHS).repeat_interleave(2) % model.num_classes if model.num_classes else None
    with torch.no_grad():
        samples = model.sample(torch.arange(2 * PATHS), 5, classes)
    return found.unflatten(0, (PATHS, PATH_IMAGES)), samples.unflatten(0, (PATHS, 2))


@pytest.mark.parametrize("num_classes", [None, 3])
def test_ways_begin_and_end_at_samples_of_the_stream(data, num_classes):
    """And keep their class."""
    found, samples = ways(data, num_classes=num_classes)
    torch.testing.assert_close(found[:, [0, -1]], samples)
    assert len(found.flatten(0, 1).unique(dim=0)) == PATHS * PATH_IMAGES


@pytest.mark.parametrize("num_classes", [None, 3])
def test_test_images_stand_beside_the_images_of_their_latents(data, num_classes):
    model = Halving(num_classes)
    _, pairs = latent_pictures(model, data, seed=5)
    x_0, y = next(data.batches("test", PAIRS, limit=PAIRS))
    centre = 0.4 * (y - 1).view(-1, 1, 1, 1) if num_classes else 0
    assert model.labels[0] is None if num_classes is None else torch.equal(model.labels[0], y)
    assert torch.equal(pairs[::2], x_0)
    torch.testing.assert_close(pairs[1::2], (x_0 - centre) / 2 + centre)


def test_a_family_that_cannot_look_back_has_no_picture(data):
    assert latent_pictures(GaussianModel(), data, seed=5)[1] is None

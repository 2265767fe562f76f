import torch

from diffusion_lab.evaluation.reconstruction import PAIRS, reconstructions

from .stand_ins import GaussianModel, TinyImages


class Halving(GaussianModel):
    """Its latents are half the distance to the mean of the class."""

    def encode(self, x_0, y=None):
        self.labels.append(y)
        return (x_0 - self.decode(torch.zeros_like(x_0), y)) / 0.6


def test_test_images_stand_beside_the_images_of_their_latents():
    data, model = TinyImages(), Halving().eval()
    data.prepare()
    pairs = reconstructions(model, data).unflatten(0, (PAIRS, 2))
    x_0, _ = next(data.batches("test", PAIRS, limit=PAIRS))
    assert torch.equal(pairs[:, 0], x_0)
    torch.testing.assert_close(pairs[:, 1], x_0 / 2)
    assert model.labels == [None]


def test_a_conditional_model_is_told_the_class():
    data, model = TinyImages(), Halving(num_classes=3).eval()
    data.prepare()
    pairs = reconstructions(model, data).unflatten(0, (PAIRS, 2))
    x_0, y = next(data.batches("test", PAIRS, limit=PAIRS))
    assert torch.equal(model.labels[0], y)
    centre = 0.4 * (y - 1).view(-1, 1, 1, 1)
    torch.testing.assert_close(pairs[:, 1], (x_0 - centre) / 2 + centre)


def test_a_family_that_cannot_look_back_has_no_picture():
    data = TinyImages()
    data.prepare()
    assert reconstructions(GaussianModel().eval(), data) is None

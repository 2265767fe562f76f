import pytest
import torch

from diffusion_lab.diffusion.levels import from_levels
from diffusion_lab.metrics.draw import Stream, labels
from diffusion_lab.metrics.reference import quantise
from diffusion_lab.metrics.stopwatch import Stopwatch
from tests.metrics.stand_ins import GaussianModel

CPU = torch.device("cpu")


def drawn(batch_size=16, seed=0, prior=None, num_levels=17, n=50):
    model = GaussianModel(None if prior is None else len(prior)).eval()
    return torch.cat(list(Stream(seed, batch_size, num_levels, prior).draw(model, range(n), Stopwatch(CPU))))


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_the_batch_size_changes_no_image(batch_size):
    prior = torch.tensor([0.5, 0.25, 0.25]).double()
    assert torch.equal(drawn(batch_size, prior=prior), drawn(50, prior=prior))
    assert not torch.equal(drawn(50, seed=1), drawn(50, seed=0))


def test_samples_lie_on_the_levels_of_the_data():
    levels = from_levels(torch.arange(17), 17)
    assert torch.isin(drawn(), levels).all()
    assert not torch.isin(drawn(num_levels=None), levels).all()


def test_rounding_is_to_the_nearest_level_and_idempotent():
    x = torch.linspace(-1.2, 1.2, 1001)
    rounded = quantise(x, 17)
    assert (rounded - x.clamp(-1, 1)).abs().max() <= 1 / 16 + 1e-6
    assert torch.equal(quantise(rounded, 17), rounded)


def test_labels_are_independent_draws_from_the_prior():
    """Mean and variance of the counts in many runs of 200 are the multinomial's."""
    prior = torch.tensor([0.1, 0.0, 0.6, 0.3]).double()
    y = labels(torch.arange(200 * 400), 0, prior).reshape(400, 200)
    counts = torch.nn.functional.one_hot(y, 4).sum(1).double()
    torch.testing.assert_close(counts.mean(0), 200 * prior, rtol=0, atol=1.5)  # five standard errors of 0.35 at most
    torch.testing.assert_close(counts.var(0), 200 * prior * (1 - prior), rtol=0.3, atol=0)
    assert not (y == 1).any()


def test_a_label_depends_on_seed_and_index_only():
    prior = torch.full((10,), 0.1).double()
    y = labels(torch.arange(100), 3, prior)
    assert torch.equal(labels(torch.tensor([71, 5]), 3, prior), y[[71, 5]])
    assert not torch.equal(labels(torch.arange(100), 4, prior), y)


def test_in_bfloat16_products_are_rounded_and_images_stay_float32():
    class Product(GaussianModel):
        def decode(self, z, y=None):
            image = super().decode(z)
            self.computed_in = (rounded := image.flatten(1) @ torch.eye(4)).dtype
            return rounded.reshape(image.shape)

    images = {}
    for precision, dtype in (("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)):
        model = Product().eval()
        (images[precision],) = Stream(0, 50, precision=precision).draw(model, range(50), Stopwatch(CPU))
        assert model.computed_in == dtype
        assert images[precision].dtype == torch.float32
    assert 0 < (images["32-true"] - images["bf16-mixed"]).abs().max() <= 2**-8


def test_an_unconditional_model_is_given_no_labels():
    model = GaussianModel().eval()
    list(Stream(seed=0, batch_size=16, num_levels=17).draw(model, range(50), Stopwatch(CPU)))
    assert model.labels == [None] * 4


def test_a_part_of_the_stream_is_that_part():
    model = GaussianModel().eval()
    part = torch.cat(list(Stream(seed=0, batch_size=16, num_levels=17).draw(model, range(20, 45), Stopwatch(CPU))))
    assert torch.equal(part, drawn(50)[20:45])

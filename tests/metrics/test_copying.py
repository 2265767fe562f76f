import json

import pytest
import torch

from diffusion_lab.metrics.copying import Copying, NearestImages, nearer, within_held_out_quantile

from .stand_ins import GaussianModel, RawPixels, TinyImages
from .test_score import scored


def nearest(rows, images, block=64):
    found = NearestImages(rows, rows[:0])
    for first in range(0, len(images), block):
        found.see(images[first : first + block], first)
    return found


def test_the_nearest_image_is_found_block_by_block():
    generator = torch.Generator().manual_seed(0)
    images, rows = torch.randn(300, 5, generator=generator), torch.randn(1500, 5, generator=generator)
    rows[3] = images[257]
    found = nearest(rows, images)
    exact = torch.cdist(rows.double(), images.double())
    assert torch.equal(found.index, exact.argmin(dim=1))
    torch.testing.assert_close(found.distances()[0], exact.min(dim=1).values)
    assert found.index[3] == 257
    assert found.distances()[0][3] == 0


def test_a_distance_far_below_the_norm_is_exact():
    images = 100 + torch.randn(50, 40, generator=torch.Generator().manual_seed(0))
    rows = images[:9] + 1e-4
    torch.testing.assert_close(nearest(rows, images).distances()[0], (rows.double() - images[:9].double()).norm(dim=1))


class Simulation:
    """Training points, held-out points and samples in the plane, which are copies with a probability."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def points(self, size):
        return torch.randn(size, 2, generator=self.generator)

    def distances(self, n, m, copied):
        train, samples, held_out = self.points(100), self.points(n), self.points(m)
        copies = torch.rand(n, generator=self.generator) < copied
        samples[copies] = train[torch.randint(100, (n,), generator=self.generator)][copies] + 1e-5
        return nearest(samples, train).distances()[0], nearest(held_out, train).distances()[0]


@pytest.mark.parametrize("copied", [0.0, 0.3, 0.95])
def test_intervals_hold_the_true_probability(copied):
    """1/2 for samples of the density, and a copy is nearer than all others: ½ + copied/2 on average over training sets."""
    simulation, trials, held = Simulation(1), 120, 0
    for _ in range(trials):
        found = nearer(*simulation.distances(80, 60, copied))
        held += found.low <= 0.5 + copied / 2 <= found.high
    assert 0.9 <= held / trials <= 0.99


@pytest.mark.parametrize(("copied", "expected", "tolerance"), [(0.0, 0.01, 0.003), (0.1, 0.109, 0.01)])
def test_the_share_within_the_quantile_is_that_of_copies(copied, expected, tolerance):
    hits = [within_held_out_quantile(*Simulation(i).distances(500, 500, copied), 0.01).value for i in range(20)]
    assert float(sum(hits)) / 20 == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize(("n", "m"), [(360, 360), (2048, 1000)])
@pytest.mark.parametrize("copied", [0.0, 0.01, 0.05, 0.5])
def test_the_interval_of_copies_holds_their_share(n, m, copied):
    """Distances uniform in [0, 1], and 0 of copies: a share of copied + (1 − copied)·1 % is within the 1 % quantile."""
    generator = torch.Generator().manual_seed(0)
    held = 0
    for _ in range(400):
        of_samples, of_held_out = torch.rand(n, generator=generator), torch.rand(m, generator=generator)
        of_samples[torch.rand(n, generator=generator) < copied] = 0
        found = within_held_out_quantile(of_samples, of_held_out, 0.01)
        held += found.low <= copied + (1 - copied) * 0.01 <= found.high
    assert held / 400 >= 0.92


@pytest.mark.parametrize(("copied", "n", "m"), [(0.05, 2048, 360), (0.05, 1000, 1000), (0.01, 10_000, 10_000)])
def test_planted_copies_are_found(copied, n, m):
    """So many held-out images have digits, the default, and Fashion-MNIST: the interval of copies begins above 1 %."""
    trials = [within_held_out_quantile(*Simulation(i).distances(n, m, copied), 0.01) for i in range(20)]
    assert all(found.low > 0.01 for found in trials)


def test_what_each_image_adds_averages_to_the_probability_and_ties_count_half():
    found = nearer(torch.tensor([1.0, 2.0, 4.0]).double(), torch.tensor([2.0, 3.0]).double())
    assert found.value == pytest.approx((2 + 1.5 + 0) / 6)
    torch.testing.assert_close(found.of_samples, torch.tensor([1.0, 0.75, 0.0]).double())
    torch.testing.assert_close(found.of_real, torch.tensor([0.5, 2 / 3]).double())
    assert 0 <= found.low < found.value < found.high <= 1


class Copier(GaussianModel):
    """Shows training images, mirrored ones where it is told to."""

    def __init__(self, images):
        super().__init__()
        self.images = images

    def sample(self, indices, seed, y=None):
        return self.images[indices % len(self.images)]


def test_a_model_that_shows_training_images_is_caught_in_pixels_and_features_and_shown_beside_them(tmp_path):
    data = TinyImages()
    data.prepare()
    images = data.splits["train"][0]
    scores = scored(tmp_path, Copier(images), data, metrics=[Copying()], num_samples=60)
    assert scores.values["copies_pixels"] == scores.values["copies_raw"] == 1
    assert scores.values["copying_raw"] > 0.7  # test images of 17 levels are often training images too
    assert scores.nearest.shape == (36, 1, 2, 2)
    for row in scores.nearest.split(12):
        assert torch.equal(row, scores.nearest[:12])
    assert scores.protocol["copying"]["num_held_out"] == data.num_test
    json.dumps(scores.content())


def test_mirrored_images_count_where_training_shows_them(tmp_path):
    plain, mirrored = TinyImages(), TinyImages()
    mirrored.flip = True
    mirrored.prepare()
    model = Copier(mirrored.splits["train"][0].flip(-1))
    caught = scored(tmp_path / "a", model, mirrored, metrics=[Copying()], num_samples=60)
    assert torch.equal(caught.nearest[:12], caught.nearest[12:24])
    other = scored(tmp_path / "b", model, plain, metrics=[Copying()], num_samples=60)
    assert not torch.equal(other.nearest[:12], other.nearest[12:24])


def test_only_the_images_of_training_count(tmp_path):
    data = TinyImages()
    data.train_on(20)
    data.prepare()
    scores = scored(tmp_path, data=data, metrics=[Copying()], num_samples=60)
    shown = torch.cat([x for x, _ in data.batches("train", 20, limit=20)])
    assert all((image == shown).flatten(1).all(dim=1).any() for image in scores.nearest[12:])


def test_a_score_of_points_has_numbers_and_no_picture(tmp_path):
    class Points(TinyImages):
        shape, num_levels, num_classes = (4,), None, None

        def _show(self, split, picks):
            for x, _ in super()._show(split, picks):
                yield x.flatten(1), {}

    model = GaussianModel(shape=(4,), num_levels=None)
    scores = scored(tmp_path, model, Points(), [RawPixels()], [Copying()], num_samples=30)
    assert 0 <= scores.values["copying_pixels"] <= 1
    assert scores.nearest is None

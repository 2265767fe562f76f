import torch

from diffusion_lab.evaluation.interpolation import PATH_IMAGES, PATHS, interpolation

from .stand_ins import GaussianModel


def test_ways_begin_and_end_at_samples_of_the_stream():
    model = GaussianModel().eval()
    ways = interpolation(model, seed=5).unflatten(0, (PATHS, PATH_IMAGES))
    with torch.no_grad():
        samples = model.sample(torch.arange(2 * PATHS), 5).unflatten(0, (PATHS, 2))
    torch.testing.assert_close(ways[:, [0, -1]], samples)
    assert len(ways.flatten(0, 1).unique(dim=0)) == PATHS * PATH_IMAGES


def test_a_class_is_kept_all_the_way():
    ways = interpolation(GaussianModel(num_classes=3).eval(), seed=5).unflatten(0, (PATHS, PATH_IMAGES))
    with torch.no_grad():
        samples = (
            GaussianModel(num_classes=3)
            .eval()
            .sample(torch.arange(2 * PATHS), 5, torch.arange(PATHS).repeat_interleave(2) % 3)
        )
    torch.testing.assert_close(ways[:, [0, -1]], samples.unflatten(0, (PATHS, 2)))

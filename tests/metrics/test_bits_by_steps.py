from types import SimpleNamespace

import pytest
import torch

from diffusion_lab.metrics import bits_by_steps
from diffusion_lab.metrics.bits_by_steps import BitsBySteps
from diffusion_lab.metrics.reference import UnmeasurableError
from diffusion_lab.metrics.settings import Evaluation


def subject(num_timesteps, size=6):
    x_0, indices = torch.zeros(size, 1, 2, 2), torch.arange(size)
    return SimpleNamespace(
        diffusion=SimpleNamespace(process=SimpleNamespace(num_timesteps=num_timesteps)),
        data=None,
        settings=Evaluation(seed=3),
        batches=lambda split, batch_size, limit, task: [(x_0[:4], None, indices[:4]), (x_0[4:], None, indices[4:])],
    )


def test_each_spacing_and_number_has_the_mean_over_images(monkeypatch):
    """The bits of image i with chain c are i + 100·c here."""

    def bits(generator, x_0, y, seed, indices, chains):
        return (indices[:, None] + 100 * torch.arange(len(chains))).double()

    monkeypatch.setattr(bits_by_steps, "chain_bits", bits)
    metric = BitsBySteps(spacings=("even", "quadratic"), num_steps=(5, 10, 50))
    found = metric.score(subject(num_timesteps=20))
    assert found.values == {
        "bits_even_5": 2.5,
        "bits_even_10": 102.5,
        "bits_quadratic_5": 202.5,
        "bits_quadratic_10": 302.5,
    }
    assert found.curves["bits_by_steps"] == {"num_steps": [5, 10], "even": [2.5, 102.5], "quadratic": [202.5, 302.5]}
    assert found.protocol["absent"].keys() == {"bits_even_50", "bits_quadratic_50"}
    names = {measure.name for measure in metric.measures([])}
    assert names == found.values.keys() | found.protocol["absent"].keys()
    with pytest.raises(UnmeasurableError, match="4 steps"):
        metric.score(subject(num_timesteps=4))

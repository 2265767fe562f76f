import pytest
import torch

from diffusion_lab.commands.accuracy import accuracy_by_timestep
from diffusion_lab.data.densities import RingMixture
from diffusion_lab.diffusion import CosineSchedule, LearnedSchedule, StratifiedTimesteps
from diffusion_lab.models.noisy_classifier import NoisyClassifier
from diffusion_lab.models.optimization import Constant, Optimization
from diffusion_lab.networks import MLP
from tests.models.stand_ins import step


def classifier(num_classes=3, timesteps=None, schedule=None):
    torch.manual_seed(0)
    return NoisyClassifier(
        (2,),
        num_classes,
        schedule or CosineSchedule(40),
        lambda out_channels: MLP(2, out_channels, hidden=32, num_layers=2),
        timesteps or StratifiedTimesteps(40),
        Optimization(torch.optim.AdamW, Constant()),
        seed=1,
    )


def test_it_learns_and_is_surer_the_less_noise_there_is():
    data = RingMixture(256, 0, num_components=3, num_train=2000, num_test=500)
    model = classifier()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    batches = iter(data.train_dataloader())
    for k in range(150):
        x_0, y = next(batches)
        out = step(model, x_0, k, y=y)
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
    measured = accuracy_by_timestep(model, data, "raw", num_timesteps=3)
    assert measured["t"] == [1, 20, 40]
    first, middle, last = measured["accuracy"]
    assert first > 0.99
    assert first >= middle > last + 0.1
    assert last == pytest.approx(1 / 3, abs=0.12)
    assert measured == accuracy_by_timestep(model, data, "raw", num_timesteps=3)
    assert out["weighted"].keys() == {f"accuracy_quarter_{q}" for q in range(1, 5)}
    correct = sum(float((value * weight).sum()) for value, weight in out["weighted"].values())
    assert correct / 256 == pytest.approx(float(out["terms"]["accuracy"]))


def test_a_schedule_that_a_denoiser_trains_is_refused():
    with pytest.raises(ValueError, match="trained with a denoiser, which a classifier is not; use another schedule"):
        classifier(schedule=LearnedSchedule(40))

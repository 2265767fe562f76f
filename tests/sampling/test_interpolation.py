import pytest
import torch

from diffusion_lab.diffusion import (
    CosineSchedule,
    FixedSmall,
    GaussianDiffusion,
    PredictNoise,
    ReverseProcess,
    SampleNoise,
)
from diffusion_lab.sampling import DDIMSampler, EvenSpacing, slerp

from ..diffusion.oracles import ExactNetwork, GaussianData

START = SampleNoise(0, torch.arange(3)).initial((40,)).double()
END = SampleNoise(1, torch.arange(3)).initial((40,)).double()


def weights(w):
    return torch.full((3,), w, dtype=torch.float64)


def test_the_ends_of_an_arc_are_its_points():
    torch.testing.assert_close(slerp(START, END, weights(0.0)), START)
    torch.testing.assert_close(slerp(START, END, weights(1.0)), END)
    # in float32 too, where the arc of a vector to itself has no angle
    torch.testing.assert_close(slerp(START.float(), START.float(), weights(0.3)), START.float())


def test_an_arc_keeps_lengths():
    """An arc keeps lengths where a line does not and advances evenly."""
    end = END * (START.norm(dim=1) / END.norm(dim=1))[:, None]
    middle = slerp(START, end, weights(0.5))
    torch.testing.assert_close(middle.norm(dim=1), START.norm(dim=1))
    assert (((START + end) / 2).norm(dim=1) < 0.9 * START.norm(dim=1)).all()
    angle = lambda a, b: torch.cosine_similarity(a, b).acos()  # noqa: E731
    torch.testing.assert_close(angle(START, slerp(START, end, weights(0.25))), angle(START, end) / 4)


def test_interpolation_reproduces_both_images():
    """Interpolation reproduces both images and passes between them."""
    data, process = GaussianData(0.1, 0.4), GaussianDiffusion(CosineSchedule(1000))
    reverse = ReverseProcess(ExactNetwork(data, process, PredictNoise()), PredictNoise(), FixedSmall(), clip_x_0=False)
    a, b = 0.1 + 0.4 * START[:, :8], 0.1 + 0.4 * END[:, :8]
    way = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64).repeat_interleave(3)
    sampler = DDIMSampler(EvenSpacing(100))
    latents = (sampler.encode(process, reverse, x_0).repeat(3, 1) for x_0 in (a, b))
    first, middle, last = sampler(process, reverse, slerp(*latents, way)).chunk(3)
    torch.testing.assert_close(first, a, rtol=0, atol=0.05)
    torch.testing.assert_close(last, b, rtol=0, atol=0.05)
    # For Gaussian data x_T is x_0 moved and scaled, so the middle image is the middle of the arc.
    torch.testing.assert_close(middle - 0.1, slerp(a - 0.1, b - 0.1, weights(0.5)), rtol=0, atol=0.05)


def test_only_the_deterministic_sampler_can_encode():
    process = GaussianDiffusion(CosineSchedule(10))
    with pytest.raises(ValueError, match="eta = 1"):
        DDIMSampler(eta=1.0).encode(process, lambda *_: None, START)

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from diffusion_lab.diffusion import (
    CosineSchedule,
    DataMoments,
    GaussianDiffusion,
    MomentsStart,
    NoiseStart,
    PredictNoise,
    ReverseProcess,
    variational_bound,
)

from .oracles import ExactNetwork, GaussianData, OptimalVariance, SigmaPoints

PROCESS = GaussianDiffusion(CosineSchedule(1000))
CUT = PROCESS.respace(torch.tensor([100, 300, 500]))  # a third of the signal is left at its last step
MEANS = torch.tensor([[0.2, -0.4, 0.1], [-0.3, 0.5, 0.0]], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.30, 0.10, 0.02], [0.10, 0.20, -0.05], [0.02, -0.05, 0.10]], dtype=torch.float64)
START = MomentsStart(DataMoments.from_covariance(MEANS, COVARIANCE))
LAST = CUT.numbers(3)
NOISED = LAST.signal**2 * COVARIANCE + LAST.sigma**2 * torch.eye(3, dtype=torch.float64)


@pytest.mark.parametrize("label", [0, 1])
def test_a_draw_has_the_moments_of_the_noised_data(label):
    """A draw has the moments of the noised data of its class."""
    y = torch.full((4,), label)
    eps = torch.cat([torch.zeros(1, 3), torch.eye(3)]).double()
    x = START.draw(CUT, eps, y)
    torch.testing.assert_close(x[0], LAST.signal * MEANS[label])
    factor = x[1:] - x[0]  # a row for each ε_i: x is linear in ε
    torch.testing.assert_close(factor.T @ factor, NOISED)


def test_where_no_signal_is_left_it_is_the_noise_itself():
    """So a seed draws nearly the same images from either start."""
    eps = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(
        START.draw(PROCESS, eps, torch.zeros(8).long()), NoiseStart().draw(PROCESS, eps), atol=0.02, rtol=0
    )


def test_its_term_of_the_bound_is_the_divergence():
    """Its term of the bound is the divergence of two gaussians."""
    x_0, y = torch.tensor([[0.9, -0.1, 0.3], [0.0, 0.4, -0.7]], dtype=torch.float64), torch.tensor([1, 0])
    q = MultivariateNormal(LAST.signal * x_0, LAST.sigma**2 * torch.eye(3, dtype=torch.float64).expand(2, 3, 3))
    p = MultivariateNormal(LAST.signal * MEANS[y], NOISED.expand(2, 3, 3))
    torch.testing.assert_close(START.kl(CUT, x_0, y), kl_divergence(q, p) / 3)


def test_means_by_class_need_the_classes():
    x_0 = eps = torch.zeros(2, 3, dtype=torch.float64)  # as many as there are means
    for part in (lambda: START.kl(CUT, x_0), lambda: START.draw(CUT, eps)):
        with pytest.raises(
            ValueError, match="start=data_moments has a mean for each of 2 classes, but no classes were given"
        ):
            part()


def test_until_it_has_moments_it_is_noise():
    x_0 = eps = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(MomentsStart().draw(CUT, eps), NoiseStart().draw(CUT, eps))
    assert torch.equal(MomentsStart().kl(CUT, x_0), NoiseStart().kl(CUT, x_0))


@pytest.mark.parametrize("data", [GaussianData(0.0, 0.5), GaussianData(-0.6, 0.3)], ids=str)
def test_of_gaussian_data_a_chain_cut_short_has_the_entropy(data):
    """Nothing is lost by starting late: p(x_T) is q(x_T). From noise it is."""
    reverse = ReverseProcess(
        ExactNetwork(data, PROCESS, PredictNoise()), PredictNoise(), OptimalVariance(data), clip_x_0=False
    )
    moments = DataMoments(
        torch.full((1, 1), data.mean).double(), torch.tensor([data.std**2]).double(), torch.eye(1).double()
    )

    def bits(start):
        given = {"num_levels": None, "noise": SigmaPoints(), "start": start}
        return float(variational_bound(CUT, reverse, SigmaPoints.x_0(data), **given).bits_per_dim.mean())

    assert bits(MomentsStart(moments)) == pytest.approx(data.entropy_bits, abs=1e-6)
    assert bits(NoiseStart()) > data.entropy_bits + 0.01

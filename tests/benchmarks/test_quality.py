"""benchmarks/quality.py without the peers: a network with a peer's conventions draws what ours draws."""

import sys
from pathlib import Path

import pytest
import torch

from diffusion_lab.diffusion import (
    DDIMSampler,
    EvenSpacing,
    FixedLarge,
    GaussianDiffusion,
    LinearSchedule,
    PredictNoise,
    PredictVelocity,
    ReverseProcess,
    SampleNoise,
)

SHAPE, STEPS = (1, 2, 2), 7
MEAN, STD = 0.2, 0.3  # of the data, N(MEAN, STD²), of which the best prediction is known


@pytest.fixture(scope="module")
def shared():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        from contenders import shared

        yield shared
        for name in [name for name in sys.modules if name.partition(".")[0] == "contenders"]:
            del sys.modules[name]


def best(x_t, alpha_bar):
    """E[ε|x_t] and E[v|x_t]."""
    alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    eps = sigma * (x_t - alpha * MEAN) / (alpha_bar * STD**2 + 1 - alpha_bar)
    x_0 = (x_t - sigma * eps) / alpha
    return eps, alpha * eps - sigma * x_0


@pytest.mark.parametrize(("prediction", "part"), [(PredictNoise(), 0), (PredictVelocity(), 1)])
def test_a_peers_network_draws_what_ours_does(shared, prediction, part):
    """Its steps count from 0, its schedule is a float32 table of them, it calls neither t nor the variance by our names."""
    noise = SampleNoise(0, torch.arange(64))
    process = GaussianDiffusion(LinearSchedule(1000))

    def network(x_t, timesteps, y):
        return best(x_t, process.alpha_bar(timesteps + 1)[:, None, None, None].float())[0]

    mine = DDIMSampler(EvenSpacing(STEPS))(
        process, ReverseProcess(network, PredictNoise(), FixedLarge()), noise.initial(SHAPE)
    )

    alphas_cumprod = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    seen = []

    def peer(x_t, k):
        seen.append(int(k[0]))
        return best(x_t, alphas_cumprod[k][:, None, None, None])[part]

    theirs = shared.draw(*shared.in_our_terms(peer, alphas_cumprod, prediction), noise, SHAPE, STEPS)
    assert (seen[0], seen[-1], len(seen)) == (999, 0, STEPS)
    assert (theirs - mine).abs().max() < 1e-4

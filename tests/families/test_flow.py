"""The flow as a model: keyed randomness, likelihood, temperature, exact start on any number of ranks, exact resume."""

import math

import pytest
import torch
from torch import nn

from diffusion_lab.data.densities import GaussianDensity
from diffusion_lab.families.flow.flow import FlowModel
from diffusion_lab.families.flow.networks import SplineFlow, WaveletFlow
from diffusion_lab.models.optimization import Constant, Optimization
from tests.models import stand_ins
from tests.models.stand_ins import digits, woken

SHAPE = (1, 8, 8)


def model(num_classes=None, temperature=1.0, seed=1, awake=True, started=True):
    torch.manual_seed(0)

    def built(num_classes):
        network = WaveletFlow(1, 8, num_classes, num_steps=2, hidden=8, coarse_steps=2, embedding_dim=4)
        network.initialised.fill_(started)
        return woken(network, 0.05) if awake else network

    optimization = Optimization(torch.optim.AdamW, Constant())
    return FlowModel(SHAPE, 17, num_classes, built, optimization, temperature, seed).eval()


def step(flow, x_0, rank=0, ranks=1, y=None):
    """`flow` takes the first batch of all ranks to start from."""
    whole = {len(x_0) // ranks: (x_0 if ranks == 1 else x_0.unflatten(0, (ranks, -1)))}
    labels = None if y is None else (y if ranks == 1 else y.unflatten(0, (ranks, -1)))
    flow.all_gather = lambda own: whole[len(own)] if own.is_floating_point() else labels
    return stand_ins.step(flow, x_0, 0, rank, ranks, y)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("num_classes", [None, 10])
def test_ranks_start_alike_and_see_rows_of_the_global_batch(ranks, num_classes):
    x_0, y = digits(8), torch.arange(8)
    alone = model(num_classes, started=False)
    whole = float(step(alone, x_0, y=y)["loss"].detach())
    parts = []
    for rank in range(ranks):
        flow = model(num_classes, started=False)
        parts.append(float(step(flow, x_0, rank=rank, ranks=ranks, y=y)["loss"].detach()))
        assert all(torch.equal(a, b) for a, b in zip(flow.parameters(), alone.parameters(), strict=True))
    assert sum(parts) / ranks == pytest.approx(whole, rel=1e-5)
    assert len(set(parts)) == ranks


def test_actnorms_start_at_the_first_batch_and_only_there():
    flow = model(awake=False, started=False)
    before = flow.network.transform.transforms[1].scales[0].transforms[1].mean.clone()
    step(flow, digits(8))
    after = flow.network.transform.transforms[1].scales[0].transforms[1].mean.clone()
    assert not torch.equal(before, after)
    assert flow.state_dict()["network.initialised"]
    again = model(awake=False, started=False)
    again.load_state_dict(flow.state_dict())
    step(again, -digits(8))
    assert torch.equal(again.network.transform.transforms[1].scales[0].transforms[1].mean, after)


def test_the_loss_is_the_sum_of_its_parts():
    out = step(model(), digits(16))
    terms = {name: float(value) for name, value in out["terms"].items()}
    assert terms.pop("loss") == pytest.approx(float(out["loss"].detach()))
    assert set(terms) == {"prior", "log_det", "levels"}
    assert sum(terms.values()) == pytest.approx(float(out["loss"].detach()))
    assert terms["levels"] == pytest.approx(math.log2(17 / 2))


@torch.no_grad()
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_encoding_and_decoding_undo_each_other(temperature):
    flow, x_0 = model(temperature=temperature).generator(), digits(5)
    torch.testing.assert_close(flow.decode(flow.encode(x_0)), x_0, rtol=0, atol=1e-4)
    z = 0.05 * flow.latents(torch.arange(3), 0)
    again = flow.network(flow.network.inverse(temperature * z))[0] / temperature
    torch.testing.assert_close(again, z, rtol=0, atol=1e-4)


@torch.no_grad()
def test_temperature_shrinks_latents_alone():
    warm, cold = model().generator(), model(temperature=0.3).generator()
    z = warm.latents(torch.arange(4), 0)
    assert torch.equal(z, cold.latents(torch.arange(4), 0))
    assert torch.equal(cold.decode(z), warm.decode(0.3 * z))
    bits = [flow.likelihood(digits(4), None, 0, torch.arange(4), None).bits_per_dim for flow in (warm, cold)]
    assert torch.equal(*bits)
    assert warm.sampling_protocol() != cold.sampling_protocol()
    with pytest.raises(ValueError, match=r"sampling.temperature=0 must be above 0"):
        model(temperature=0)


@torch.no_grad()
@pytest.mark.thorough
def test_the_stated_error_is_that_of_repetitions():
    flow, x_0 = model().generator(), digits(4)
    repeated = [flow.likelihood(x_0, None, seed, torch.arange(4), None) for seed in range(60)]
    spread = torch.stack([one.bits_per_dim.mean() for one in repeated]).std()
    stated = sum(one.standard_error for one in repeated) / 60
    assert stated == pytest.approx(float(spread), rel=0.35)


@torch.no_grad()
def test_the_kind_says_what_the_number_is():
    told = model(num_classes=10).generator().likelihood(digits(4), torch.arange(4), 0, torch.arange(4), None)
    assert told.kind == "dequantised flow bound given the class"
    optimization = Optimization(torch.optim.AdamW, Constant())
    points = FlowModel((2,), None, None, lambda num_classes: SplineFlow(2, num_classes), optimization, 1.0, 1)
    exact = points.generator().likelihood(torch.randn(4, 2), None, 0, torch.arange(4), None)
    assert exact.kind == "exact density"
    assert exact.standard_error is None
    assert set(exact.parts) == {"prior", "log_det"}


class Scaled(nn.Module):
    """z = x/s: the flow that knows N(0, s²)."""

    def __init__(self, std):
        super().__init__()
        self.std = std
        self.register_buffer("initialised", torch.tensor(True))

    def forward(self, x, y=None):
        return x.flatten(1) / self.std, x.new_full((len(x),), -x[0].numel() * math.log(self.std))

    def inverse(self, z, y=None):
        return z * self.std


@torch.no_grad()
def test_the_true_density_has_the_bits_of_the_entropy():
    data = GaussianDensity(64, 1, dim=2, std=0.5, num_train=10, num_test=4000)
    x, _ = next(iter(data.batches("test", 4000)))
    optimization = Optimization(torch.optim.AdamW, Constant())
    flow = FlowModel((2,), None, None, lambda num_classes: Scaled(0.5), optimization, 1.0, 1)
    bits = flow.generator().likelihood(x, None, 0, torch.arange(4000), None).bits_per_dim
    torch.testing.assert_close(bits, -data.log_prob(x) / (2 * math.log(2)), rtol=1e-6, atol=1e-6)
    assert abs(float(bits.mean()) - data.entropy_bits()) < 3 * float(bits.std()) / 4000**0.5


def test_a_value_that_is_not_finite_stays_visible():
    flow = model().generator()
    flow.network.inverse = lambda z, y: torch.tensor([math.inf, math.nan, 3.0, -3.0]).reshape(1, 1, 2, 2)
    x = flow.decode(torch.zeros(1, 64)).flatten().tolist()
    assert x[0] == math.inf
    assert math.isnan(x[1])
    assert x[2:] == [1, -1]

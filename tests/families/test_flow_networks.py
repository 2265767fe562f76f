"""The wavelet flow and the spline flow, as networks: what they are at first, how they are told, which sizes they take."""

from functools import partial

import pytest
import torch

from diffusion_lab.families.flow.couplings import standard_normal_log_prob
from diffusion_lab.families.flow.networks import SplineCoupling, SplineFlow, WaveletFlow
from tests.models.stand_ins import woken

SMALL = {"coarse_hidden": 16, "embedding_dim": 3}
POINTS = {"hidden": 8, "embedding_dim": 3}
NETWORKS = {
    "wavelets": (partial(WaveletFlow, 1, 8, num_steps=2, hidden=8, coarse_steps=2, **SMALL), (1, 8, 8)),
    "wavelets of 28 pixels": (partial(WaveletFlow, 1, 28, num_steps=1, hidden=4, coarse_steps=1, **SMALL), (1, 28, 28)),
    "wavelets in colour": (partial(WaveletFlow, 3, 12, num_steps=1, hidden=8, coarse_steps=1, **SMALL), (3, 12, 12)),
    "splines": (partial(SplineFlow, 2, num_steps=3, **POINTS), (2,)),
    "splines of a line": (partial(SplineFlow, 1, num_steps=2, **POINTS), (1,)),
    "splines in 5 dimensions": (partial(SplineFlow, 5, num_steps=2, **POINTS), (5,)),
}


def made(name, awake=True, dtype=torch.float64, **options):
    """A network, its zeros woken, and a batch."""
    torch.manual_seed(0)
    build, shape = NETWORKS[name]
    network = woken(build(**options)) if awake else build(**options)
    x = torch.randn(4, *shape, dtype=dtype)
    return network.to(dtype), x.tanh() if len(shape) == 3 else x


@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-4), (torch.float64, 1e-10)], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_what_goes_in_comes_back(name, dtype, within):
    network, x = made(name, dtype=dtype)
    z, log_det = network(x)
    assert z.shape == (4, x[0].numel())
    assert log_det.shape == (4,)
    torch.testing.assert_close(network.inverse(z), x, rtol=0, atol=within)


@pytest.mark.parametrize("name", ["wavelets", "splines", "splines of a line", "splines in 5 dimensions"])
def test_the_log_determinant_of_the_whole_is_autograds(name):
    network, x = made(name, num_classes=3)
    y = torch.tensor([0, 1, 2, 1])
    _, log_det = network(x, y)
    for i in range(2):
        jacobian = torch.autograd.functional.jacobian(lambda one, i=i: network(one[None], y[i, None])[0][0], x[i])
        expected = torch.linalg.slogdet(jacobian.reshape(x[0].numel(), -1)).logabsdet
        torch.testing.assert_close(log_det[i], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_fresh_flow_only_turns_its_input(name):
    """Couplings begin as the identity, and the 1×1 convolutions as rotations: volume and length of points, or logits, stay."""
    network, x = made(name, awake=False)
    z, log_det = network(x)
    given, of_logits = network.transform.transforms[0](x) if x.ndim == 4 else (x, torch.zeros_like(log_det))
    torch.testing.assert_close(log_det, of_logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(z.square().sum(1), given.flatten(1).square().sum(1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_started_flow_has_latents_of_mean_0_variance_1(name):
    network, _ = made(name, awake=False)
    x = (0.3 + 0.1 * torch.randn(256, *NETWORKS[name][1], dtype=torch.float64)).clamp(-1, 1)
    assert not network.initialised
    network.initialise(x)
    z, _ = network(x)
    assert network.initialised
    assert abs(float(z.mean().detach())) < 0.02
    assert float(z.var().detach()) == pytest.approx(1, abs=0.02)
    assert "initialised" in network.state_dict()


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_learns_and_the_class_is_heard(name):
    network, x = made(name, num_classes=3)
    z, log_det = network(x, torch.tensor([0, 1, 2, 0]))
    (z.square().sum() - log_det.sum()).backward()
    unmoved = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert unmoved == []
    assert not torch.allclose(network(x, torch.tensor([1, 1, 2, 0]))[0][0], z[0])
    torch.testing.assert_close(network(x, torch.tensor([1, 1, 2, 0]))[0][1:], z[1:])


def test_a_spline_flow_of_the_plane_is_a_density():
    network, _ = made("splines")
    line = torch.linspace(-9, 9, 361, dtype=torch.float64)
    with torch.no_grad():
        z, log_det = network(torch.cartesian_prod(line, line))
    mass = (standard_normal_log_prob(z) + log_det).exp().sum() * (line[1] - line[0]) ** 2
    assert float(mass) == pytest.approx(1, abs=1e-3)


def test_splines_are_the_identity_beyond_their_end():
    coupling = SplineCoupling(lambda x, e: torch.randn(len(x), 8, generator=torch.Generator().manual_seed(0)), 3, 2.0)
    x = torch.tensor([[0.0, -2.5], [1.0, 3.0], [0.0, 0.7]])
    z, log_det = coupling(x)
    assert torch.equal(z[:2], x[:2])
    assert log_det[:2].tolist() == [0, 0]
    assert log_det[2] != 0


@pytest.mark.parametrize(("size", "scales"), [(4, 1), (6, 1), (8, 2), (28, 2), (32, 4), (64, 5), (50, 1)])
def test_a_side_is_halved_as_long_as_it_can_be(size, scales):
    with torch.device("meta"):
        assert len(WaveletFlow(1, size, num_steps=1, hidden=4).transform.transforms[1].scales) - 1 == scales


def test_low_precision_stays_in_the_couplings_networks():
    network, x = made("wavelets", dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        z, log_det = network(x)
        assert z.dtype == log_det.dtype == torch.float32
        torch.testing.assert_close(network.inverse(z), x, rtol=0, atol=1e-4)


def test_the_wavelet_flow_takes_a_height():
    """The wavelet flow takes a height and a width back and forth."""
    torch.manual_seed(0)
    flow = WaveletFlow(2, [8, 12], num_steps=1, hidden=8, coarse_steps=1, coarse_hidden=8).eval()
    x = torch.rand(4, 2, 8, 12) * 1.8 - 0.9
    with torch.no_grad():
        flow(x)  # actnorm looks at its first batch
        z, _ = flow(x)
        assert (flow.inverse(z) - x).abs().max() < 1e-3

"""Each map against its definition: the way back, the Jacobian's determinant by autograd, the density's integral."""

import math

import pytest
import torch
from torch import nn

from diffusion_lab.diffusion import Gaussian
from diffusion_lab.families.flow.couplings import (
    ActNorm,
    AffineCoupling,
    Chain,
    Flatten,
    Haar,
    InvertibleConv,
    Logit,
    Multiscale,
    OnRemainingChannels,
    fit_actnorms,
    standard_normal_log_prob,
)

CHANNELS, SIDE, TOLD = 6, 4, 3


class Conditioner(nn.Module):
    """Any function of x_a and e: every output depends on every input, by no special structure."""

    def __init__(self, inputs, outputs, told=TOLD):
        super().__init__()
        self.inputs, self.told = nn.Linear(inputs, outputs), nn.Linear(told, outputs)

    def forward(self, x, e):
        outputs = self.inputs(x.movedim(1, -1))
        if e is not None:
            outputs = outputs + self.told(e).reshape(len(e), *[1] * (x.ndim - 2), -1)
        return (2 * outputs.sin()).movedim(-1, 1)


def coupling(channels, bound=2.0, kept=None):
    known = channels // 2 if kept is None else kept
    return AffineCoupling(Conditioner(known, 2 * (channels - known)), bound, kept)


def steps(channels):
    return [ActNorm(channels), InvertibleConv(channels), coupling(channels)]


def whole():
    """Two scales and a vector: 2 × 8 × 8, of which 2 × 4 × 4 and then 2 × 2 × 2 go on."""

    def details(kept):
        mixed = [OnRemainingChannels(Chain([ActNorm(6), InvertibleConv(6)]), kept), coupling(8, kept=5)]
        return Chain([Haar(), *mixed, coupling(8, kept=kept)])

    scales = [details(2), details(2), Chain([Flatten((2, 2, 2)), *steps(8)])]
    return Multiscale(scales, [(8, 4, 4), (8, 2, 2), (8,)], kept=2)


MAPS = {
    "actnorm": (lambda: ActNorm(CHANNELS), (CHANNELS, SIDE, SIDE)),
    "1x1 convolution": (lambda: InvertibleConv(CHANNELS), (CHANNELS, SIDE, SIDE)),
    "matrix": (lambda: InvertibleConv(3), (3,)),
    "coupling": (lambda: coupling(CHANNELS), (CHANNELS, SIDE, SIDE)),
    "coupling of points": (lambda: coupling(3), (3,)),
    "coupling of odd channels": (lambda: coupling(5), (5, 2, 2)),
    "logit": (lambda: Logit(0.01), (CHANNELS, SIDE, SIDE)),
    "coupling that keeps one": (lambda: coupling(4, kept=1), (4, 2, 2)),
    "on remaining channels": (lambda: OnRemainingChannels(Chain(steps(4)), 2), (CHANNELS, SIDE, SIDE)),
    "Haar": (Haar, (CHANNELS, SIDE, SIDE)),
    "flatten": (lambda: Flatten((2, 3, 1)), (2, 3, 1)),
    "chain": (lambda: Chain([*steps(CHANNELS), *steps(CHANNELS)]), (CHANNELS, SIDE, SIDE)),
    "multiscale": (whole, (2, 8, 8)),
}


def made(name, dtype=torch.float64):
    """The map with no parameter left at its start, a batch x and an e."""
    torch.manual_seed(0)
    build, shape = MAPS[name]
    transform = build()
    for parameter in transform.parameters():
        nn.init.normal_(parameter, std=0.15)
    x, e = torch.randn(3, *shape, dtype=dtype), torch.randn(3, TOLD, dtype=dtype)
    return transform.to(dtype), x.tanh() if name == "logit" else x, e


@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-4), (torch.float64, 1e-10)], ids=str)
@pytest.mark.parametrize("name", MAPS)
def test_the_inverse_is_the_inverse(name, dtype, within):
    transform, x, e = made(name, dtype)
    z, _ = transform(x, e)
    torch.testing.assert_close(transform.inverse(z, e), x, rtol=0, atol=within)
    torch.testing.assert_close(transform(transform.inverse(z, e), e)[0], z, rtol=0, atol=10 * within)
    assert z.dtype == dtype


@pytest.mark.parametrize("name", MAPS)
def test_the_log_determinant_is_that_of_autograds_jacobian(name):
    transform, x, e = made(name)
    z, log_det = transform(x, e)
    assert log_det.shape == (3,)
    for i in range(len(x)):
        jacobian = torch.autograd.functional.jacobian(lambda one, i=i: transform(one[None], e[i, None])[0][0], x[i])
        expected = torch.linalg.slogdet(jacobian.reshape(z[0].numel(), x[0].numel())).logabsdet
        torch.testing.assert_close(log_det[i], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", MAPS)
def test_rows_do_not_see_each_other(name):
    transform, x, e = made(name)
    z, log_det = transform(x, e)
    one, one_log_det = transform(x[1:2], e[1:2])
    torch.testing.assert_close(one[0], z[1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(one_log_det[0], log_det[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("margin", [0.05, 1 / 256])
def test_logit_samples_overshoot_by_what_its_docstring_says(margin):
    reach = Logit(margin).inverse(torch.tensor([[-80.0, 80.0]], dtype=torch.float64)).abs() - 1
    assert "2α/(1 − 2α)" in Logit.__doc__
    torch.testing.assert_close(reach, torch.full_like(reach, 2 * margin / (1 - 2 * margin)))


def test_a_fitted_actnorm_gives_mean_zero_and_variance_one():
    x = 5 + torch.arange(1.0, 7).reshape(1, 6, 1, 1) * torch.randn(32, 6, 4, 4)
    norm = ActNorm(6)
    norm.fit(x)
    z, log_det = norm(x)
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(6), rtol=0, atol=1e-5)
    torch.testing.assert_close(z.var((0, 2, 3), correction=0), torch.ones(6), rtol=0, atol=1e-5)
    torch.testing.assert_close(log_det, -16 * x.std((0, 2, 3), correction=0).log().sum().expand(32))


def test_all_actnorms_fit_what_the_maps_before_make():
    transform, _, _ = made("multiscale")
    x, e = 2 + 3 * torch.randn(64, 2, 8, 8, dtype=torch.float64), torch.randn(64, TOLD, dtype=torch.float64)
    fit_actnorms(transform, x, e)
    seen = []
    for module in transform.modules():
        if isinstance(module, ActNorm):
            module.register_forward_hook(lambda norm, given, result: seen.append(result[0]))
    transform(x, e)
    assert len(seen) == 3
    for z in seen:
        values = z.transpose(0, 1).flatten(1)
        torch.testing.assert_close(values.mean(1), torch.zeros_like(values[:, 0]), rtol=0, atol=1e-10)
        torch.testing.assert_close(values.var(1, correction=0), torch.ones_like(values[:, 0]), rtol=0, atol=1e-10)


def test_a_channel_that_never_changes_starts_too():
    norm = ActNorm(2)
    norm.fit(torch.ones(4, 2, 3, 3))
    z, log_det = norm(torch.ones(4, 2, 3, 3))
    assert not z.any()
    assert log_det.isfinite().all()


def test_a_fresh_convolution_is_a_rotation():
    torch.manual_seed(0)
    conv = InvertibleConv(CHANNELS).double()
    x = torch.randn(2, CHANNELS, 3, 3, dtype=torch.float64)
    z, log_det = conv(x)
    torch.testing.assert_close(z.square().sum(1), x.square().sum(1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(log_det, torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-5)


@pytest.mark.parametrize("raw", [-1e6, 1e6])
def test_no_coupling_scales_by_more_than_its_bound(raw):
    layer = AffineCoupling(lambda x_a, e: torch.cat([torch.zeros_like(x_a), torch.full_like(x_a, raw)], 1), bound=1.5)
    x = torch.randn(2, 4, dtype=torch.float64)
    z, log_det = layer(x)
    torch.testing.assert_close(z[:, 2:], x[:, 2:] * math.exp(-math.copysign(1.5, raw)))
    torch.testing.assert_close(log_det, torch.full((2,), -2 * math.copysign(1.5, raw), dtype=torch.float64))


@pytest.mark.parametrize("num_levels", [2, 17, 256])
def test_the_logit_draws_the_first_bin_out_to_log_2(num_levels):
    ends = torch.tensor([[-1.0], [2 / num_levels - 1]], dtype=torch.float64)
    z, _ = Logit(1 / (num_levels + 2))(ends)
    assert float(z[1] - z[0]) == pytest.approx(math.log(2) + math.log((num_levels + 1) / num_levels))


def test_haars_means_are_doubled_and_lengths_kept():
    x = torch.arange(32.0, dtype=torch.float64).reshape(1, 2, 4, 4)
    z, log_det = Haar()(x.float())
    assert z.shape == (1, 8, 2, 2)
    torch.testing.assert_close(z[:, :2], 2 * nn.functional.avg_pool2d(x, 2).float())
    torch.testing.assert_close(z.square().sum(), x.square().sum().float())
    assert log_det.tolist() == [0]


@pytest.mark.parametrize(
    ("image", "details"),
    [([[1.0, 1], [1, 1]], [0.0, 0, 0]), ([[1.0, 0], [1, 0]], [1.0, 0, 0]), ([[1.0, 1], [0, 0]], [0.0, 1, 0])],
    ids=["flat", "left to right", "top to bottom"],
)
def test_haars_details_are_differences_along_each_axis(image, details):
    z, _ = Haar()(torch.tensor(image)[None, None])
    assert z[0, 1:, 0, 0].tolist() == details


def test_what_is_kept_is_not_seen_by_what_works_on_the_rest():
    transform, x, e = made("on remaining channels")
    z, log_det = transform(x, e)
    changed = torch.cat([x[:, :2] + 1, x[:, 2:]], 1)
    again, log_det_again = transform(changed, e)
    assert torch.equal(z[:, :2], x[:, :2])
    assert torch.equal(again[:, 2:], z[:, 2:])
    assert torch.equal(log_det_again, log_det)


def test_each_scale_is_a_density_of_its_details():
    """Each scale is a density of its details given the coarse image.

    The coarse image's latents come first and do not know the details: log p(x) = log p(coarse) + log p(details | coarse).
    """
    transform, x, e = made("multiscale")
    haar = Haar().double()
    z, _ = transform(x, e)
    squares, _ = haar(x)
    other = haar.inverse(torch.cat([squares[:, :2], squares[:, 2:] + 1], 1))
    again, _ = transform(other, e)
    torch.testing.assert_close(again[:, :32], z[:, :32])
    assert not torch.allclose(again[:, 32:], z[:, 32:])


def test_a_coupling_of_all_details_is_a_gaussian_of_them():
    """log N(x_b; t, e^{2s}) = log N(z_b; 0, I) + log|det|."""
    layer, x, e = coupling(4).double(), torch.randn(5, 4, dtype=torch.float64), torch.randn(5, TOLD).double()
    z, log_det = layer(x, e)
    shift, log_scale = layer._affine(x[:, :2], e)
    expected = Gaussian(shift, 2 * log_scale).log_prob(x[:, 2:]).sum(1)
    torch.testing.assert_close(standard_normal_log_prob(z[:, 2:]) + log_det, expected)


def test_an_affine_flow_of_the_plane_is_a_density():
    torch.manual_seed(0)
    flow = Chain([t for _ in range(3) for t in (ActNorm(2), InvertibleConv(2), coupling(2, bound=0.7))]).double()
    line = torch.linspace(-25, 25, 1201, dtype=torch.float64)
    z, log_det = flow(torch.cartesian_prod(line, line))
    mass = (standard_normal_log_prob(z) + log_det).exp().sum() * (line[1] - line[0]) ** 2
    assert float(mass.detach()) == pytest.approx(1, abs=1e-4)

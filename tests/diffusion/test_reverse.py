import pytest
import torch

from diffusion_lab.diffusion import (
    CosineSchedule,
    FixedSmall,
    GaussianDiffusion,
    LearnedRange,
    PredictNoise,
    PredictStart,
    ReverseProcess,
)
from diffusion_lab.sampling import ClassifierFree, EvenSpacing

from .oracles import ExactNetwork, GaussianData, steps

PROCESS = GaussianDiffusion(CosineSchedule(100))


def constant(*channels: float):
    """A network whose output channels are constants."""
    return lambda x_t, timesteps, y: torch.tensor(channels, dtype=x_t.dtype).expand(len(x_t), -1)


def test_the_mean_is_the_posterior_mean():
    """The mean is the posterior mean at the predicted x 0."""
    x_t = torch.randn(3, 2, dtype=torch.float64)
    step = ReverseProcess(constant(0.3, -0.4), PredictStart(), FixedSmall())(PROCESS, x_t, steps(40, 3))
    x_0 = torch.tensor([[0.3, -0.4]], dtype=torch.float64).expand(3, 2)
    torch.testing.assert_close(step.x_0, x_0)
    torch.testing.assert_close(step.distribution.mean, PROCESS.q_posterior(x_0, x_t, steps(40, 3)).mean)


def test_the_mean_of_a_noise_network_is_the_papers():
    """The mean of a noise network is the papers equation 11."""
    x_t = torch.randn(3, 2, dtype=torch.float64)
    t = steps(40, 3)
    step = ReverseProcess(constant(0.3, -0.4), PredictNoise(), FixedSmall(), clip_x_0=False)(PROCESS, x_t, t)
    beta, alpha_bar = float(PROCESS.beta(t)[0]), float(PROCESS.alpha_bar(t)[0])
    expected = (x_t - beta / (1 - alpha_bar) ** 0.5 * step.output) / (1 - beta) ** 0.5
    torch.testing.assert_close(step.distribution.mean, expected, rtol=1e-9, atol=1e-12)


def test_clipping_clamps_x_0():
    """Clipping clamps x 0 and takes eps from it but leaves the output."""
    x_t = torch.full((1, 1), 2.0, dtype=torch.float64)
    reverse = ReverseProcess(constant(7.0), PredictStart(), FixedSmall(), clip_x_0=True)
    step = reverse(PROCESS, x_t, steps(40, 1))
    alpha_bar = float(PROCESS.alpha_bar(steps(40, 1)))
    assert float(step.x_0) == 1.0
    assert float(step.eps) == pytest.approx((2.0 - alpha_bar**0.5) / (1 - alpha_bar) ** 0.5)
    assert float(step.output) == 7.0
    assert float(reverse.without_clipping()(PROCESS, x_t, steps(40, 1)).x_0) == 7.0


def test_the_channels_are_the_mean_part_then():
    """The channels are the mean part then the variance part."""
    x_t = torch.zeros(1, 2, dtype=torch.float64)
    step = ReverseProcess(constant(0.1, 0.2, -1.0, 1.0), PredictStart(), LearnedRange())(PROCESS, x_t, steps(40, 1))
    assert step.output.tolist() == [[0.1, 0.2]]
    log_beta_tilde, log_beta = PROCESS.beta_tilde(steps(40, 1)).log(), PROCESS.beta(steps(40, 1)).log()
    torch.testing.assert_close(step.distribution.log_variance, torch.stack([log_beta_tilde, log_beta], 1))


def test_a_network_of_the_wrong_width_is_named():
    reverse = ReverseProcess(constant(0.1), PredictNoise(), LearnedRange())
    with pytest.raises(ValueError, match="returns 1 channels; LearnedRange needs 2"):
        reverse(PROCESS, torch.zeros(1, 1, dtype=torch.float64), steps(1, 1))


def test_a_respaced_process_shows_the_network_original():
    """A respaced process shows the network original 0 based indices."""
    network = ExactNetwork(GaussianData(), PROCESS, PredictNoise())
    strided = PROCESS.respace(EvenSpacing(3)(100))
    for t in (1, 2, 3):
        ReverseProcess(network, PredictNoise(), FixedSmall())(
            strided, torch.zeros(2, 1, dtype=torch.float64), steps(t, 2)
        )
    assert network.seen == [0, 50, 99]  # t = 1 + 49.5, and halves round to even: 51


@pytest.mark.parametrize("t", [0, -1, 101])
@pytest.mark.parametrize("around", [lambda reverse: reverse, lambda reverse: ClassifierFree(2.0).around(reverse)])
def test_clean_data_have_no_reverse_step(t, around):
    """Clean data have no reverse step and no t wraps around."""
    reverse = around(ReverseProcess(constant(0.1), PredictNoise(), FixedSmall(), null=3))
    with pytest.raises(ValueError, match=r"is not within [01] … 100, the steps of this chain"):
        reverse(PROCESS, torch.zeros(1, 1, dtype=torch.float64), steps(t, 1), torch.tensor([1]))


def test_where_nothing_is_checked_what_is_unknown_at_t():
    """Where nothing is checked what is unknown at t 0 is not a number.

    As on a GPU, which is not waited for: no value of another step stands in.
    """
    x = torch.ones(1, 1, dtype=torch.float64)
    posterior = PROCESS.q_posterior(x, x, steps(0, 1))
    assert posterior.mean.isnan().all()
    assert posterior.log_variance.isnan().all()
    assert PROCESS.beta(steps(0, 1)).isnan()
    assert PROCESS.beta_tilde(steps(0, 1)).isnan()
    for t in (-1, 101):
        with pytest.raises(ValueError, match="is not within 0 … 100"):
            PROCESS.alpha_bar(steps(t, 1))


def test_a_look_keeps_the_raw_variance_part():
    step = ReverseProcess(constant(0.1, 0.7), PredictStart(), LearnedRange())(
        PROCESS, torch.zeros(1, 1).double(), steps(4, 1)
    )
    assert float(step.v) == 0.7
    assert (
        ReverseProcess(constant(0.1), PredictStart(), FixedSmall())(PROCESS, torch.zeros(1, 1).double(), steps(4, 1)).v
        is None
    )

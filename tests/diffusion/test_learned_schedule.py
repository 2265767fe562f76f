import math

import pytest
import torch

from diffusion_lab.diffusion import (
    ContinuousBound,
    FixedSmall,
    GaussianDiffusion,
    LearnedSchedule,
    LogSNRSchedule,
    PredictNoise,
    ReverseProcess,
)
from diffusion_lab.sampling import ClassifierFree

from .oracles import ExactNetwork, GaussianData, SigmaPoints

DATA = GaussianData(0.0, 0.5)
ENDS = {"log_snr_max": 7.0, "log_snr_min": -4.0}
LINE = LogSNRSchedule(100, **ENDS)  # whose clock the network reads


def learned(stretch=(0.0, 0.0), logits=(0.0, 0.0, 0.0, 0.0), num_timesteps=100):
    """Its parameters as training might leave them."""
    schedule = LearnedSchedule(num_timesteps, **ENDS, num_bins=len(logits))
    with torch.no_grad():
        schedule.trained.stretch.copy_(torch.tensor(stretch))
        schedule.trained.share.copy_(torch.tensor(logits))
    return schedule


MOVED = {"stretch": (0.2, -0.3), "logits": (1.0, -0.5, 0.3, -1.0)}


def time_shares(logits):
    """p_k: a hundredth of the time is shared out evenly."""
    return 0.99 * logits.double().softmax(dim=0) + 0.01 / len(logits)


def midpoints(schedule, num_t):
    """t of the midpoint rule in each bin, since the path bends between two, and the weights of their mean over [1, T]."""
    share = time_shares(schedule.trained.share.detach())
    within = (torch.arange(num_t, dtype=torch.float64) + 0.5) / num_t
    elapsed = (share.cumsum(0) - share)[:, None] + share[:, None] * within
    return 1 + elapsed.flatten() * (schedule.num_timesteps - 1), (share / num_t).repeat_interleave(num_t)


def terms(schedule, believed=DATA, num_t=200):
    """The objective's mean over (x_0, ε) and t: exactly, and by the midpoint rule."""
    reverse = ReverseProcess(ExactNetwork(believed, LINE, PredictNoise()), PredictNoise(), FixedSmall())
    points = SigmaPoints.x_0(DATA)
    t, weights = midpoints(schedule, num_t)
    x_0, eps = points.repeat(len(t), 1), SigmaPoints()(0, points).repeat(len(t), 1)
    drawn = ContinuousBound(num_levels=None)(schedule, reverse, x_0, t.repeat_interleave(4), eps)
    return {name: (weights.repeat_interleave(4) * term).sum() / 4 for name, term in drawn.items()}


def test_before_training_it_is_a_line_in_log_snr():
    t = torch.linspace(1, 100, 37, dtype=torch.float64)
    for ours, line in zip(learned().pair(t), LogSNRSchedule(100, **ENDS).pair(t), strict=True):
        torch.testing.assert_close(ours.detach(), line)


def test_each_bin_takes_its_share_of_the_time():
    schedule = learned(**MOVED)
    share = time_shares(torch.tensor(MOVED["logits"]))
    first, last = (float(end.detach()) for end in schedule.ends)
    assert first == pytest.approx(1.5 + 5.5 * math.exp(0.2))
    assert last == pytest.approx(1.5 - 5.5 * math.exp(-0.3))
    edges = torch.cat([torch.zeros(1).double(), share.cumsum(0).clamp(max=1)])
    at_edges = schedule.log_snr(1 + 99 * edges)
    torch.testing.assert_close(at_edges.detach(), torch.linspace(first, last, 5, dtype=torch.float64))


def test_a_time_is_found_by_its_log_snr():
    schedule = learned(**MOVED)
    t = torch.linspace(1, 100, 41, dtype=torch.float64)
    found = schedule.time_at(schedule.log_snr(t))
    torch.testing.assert_close(found.detach(), t)


def test_the_table_is_that_of_the_parameters():
    """The table is that of the parameters and needs no gradient."""
    schedule = learned(**MOVED)
    process = GaussianDiffusion(schedule)
    t = torch.tensor([1, 17, 100])
    assert not process.signal(t).requires_grad
    torch.testing.assert_close(process.signal(t), schedule.pair(t.double())[0].detach())


@pytest.mark.parametrize("end", [0, 1])
def test_the_bound_trains_its_ends(end):
    """Its gradient is the difference quotient of the bound between moved ends, at any path."""

    def bound(shift):
        stretch = list(MOVED["stretch"])
        stretch[end] += shift
        with torch.no_grad():
            return float(terms(learned(stretch, MOVED["logits"]), GaussianData(0.1, 0.4))["vlb"])

    schedule = learned(**MOVED)
    terms(schedule, GaussianData(0.1, 0.4))["loss"].backward()
    assert float(schedule.trained.stretch.grad[end]) == pytest.approx(
        (bound(0.01) - bound(-0.01)) / 0.02, rel=1e-3, abs=1e-6
    )


def second_moment(logits):
    """E[L_∞²]/2 of the estimate at one t: the loss without its ends, squared."""
    schedule = learned(MOVED["stretch"], logits)
    t, weights = midpoints(schedule, 200)
    points = SigmaPoints.x_0(DATA)
    t, weights = t.repeat_interleave(4), weights.repeat_interleave(4) / 4
    x_0, eps = points.repeat(len(t) // 4, 1), SigmaPoints()(0, points).repeat(len(t) // 4, 1)
    x_t = schedule.q_sample(x_0, t, eps)
    with torch.no_grad():
        guess = ExactNetwork(DATA, LINE, PredictNoise())(x_t, schedule.network_time(t), None)
        loss = -0.5 * 99 * schedule.log_snr_slope(t) * (guess - eps).square().mean(dim=1) / math.log(2)
    return float((weights * loss.square()).sum() / 2)


def test_its_path_is_trained_for_the_least_variance():
    """Its path is trained for the least variance of the estimate.

    The gradient of the path is that of E[L_∞²]/2, and the loss itself has none.
    """
    schedule = learned(**MOVED)
    mean = terms(schedule)
    torch.testing.assert_close(mean["loss"], mean["vlb"])
    mean["loss"].backward()
    for k in range(4):
        above, below = list(MOVED["logits"]), list(MOVED["logits"])
        above[k] += 0.01
        below[k] -= 0.01
        quotient = (second_moment(above) - second_moment(below)) / 0.02
        assert float(schedule.trained.share.grad[k]) == pytest.approx(quotient, rel=1e-3)


def test_where_each_bin_has_time_for_what_it_loses():
    """Where each bin has time for what it loses nothing moves. Σ_k E_k[f²]/p_k is least at p_k ∝ √E_k[f²]."""
    schedule = learned()
    loss = torch.tensor([3.0, 1.0, 0.5, 2.0], dtype=torch.float64)  # f of four t in the middle of the bins
    with torch.no_grad():
        share = loss / loss.sum()
        schedule.trained.share.copy_(((share - 0.01 / 4) / 0.99).log())
    t = 1 + 99 * (share.cumsum(0) - share / 2)
    (share * schedule.own_loss(t, loss / share)).sum().backward()  # a bin is drawn with p_k
    torch.testing.assert_close(schedule.trained.share.grad, torch.zeros(4), atol=1e-6, rtol=0)


def test_the_network_sees_log_snr_so_that_a_moved_path():
    """The network sees log snr so that a moved path is no other task.

    Of two schedules, what is shown at one log SNR is the same number: t − 1 of the schedule before training.
    """
    before, after = learned(), learned(**MOVED)
    log_snr = torch.linspace(-2.0, 6.0, 9, dtype=torch.float64)
    for schedule in (before, after):
        t = schedule.time_at(log_snr).detach()
        torch.testing.assert_close(schedule.network_time(t).detach(), before.time_at(log_snr).detach() - 1)
    whole = torch.tensor([1, 50, 100])
    chain = GaussianDiffusion(after)
    torch.testing.assert_close(chain.network_time(whole), after.network_time(whole.double()).detach())


def test_an_interval_of_a_guidance_still_counts_t():
    process, t, guidance = GaussianDiffusion(learned(**MOVED)), torch.arange(1, 101), ClassifierFree(interval=[10, 30])
    assert torch.equal(guidance.acts_at(process, t), (t >= 10) & (t <= 30))
    chain = process.respace(torch.tensor([1, 10, 30, 100]))
    assert guidance.acts_at(chain, torch.arange(1, 5)).tolist() == [False, True, True, False]
    assert [guidance.acts_at(chain, t) for t in range(1, 5)] == [False, True, True, False]


class Seen:
    """A network of x_t and of the time that it is given: an answer that no process adapts."""

    def __call__(self, x_t, network_time, y):
        return x_t * (network_time / 99)[:, None].clamp(0, 1) ** 0.5 + 0.1


def test_another_path_is_no_other_bound_for_any_network():
    def bound(logits):
        schedule = learned(logits=logits)
        t, weights = midpoints(schedule, 400)
        x_0, eps = (
            points.repeat(len(t), 1) for points in (SigmaPoints.x_0(DATA), SigmaPoints()(0, SigmaPoints.x_0(DATA)))
        )
        reverse = ReverseProcess(Seen(), PredictNoise(), FixedSmall())
        with torch.no_grad():
            drawn = ContinuousBound(num_levels=17)(schedule, reverse, x_0, t.repeat_interleave(4), eps)["vlb"]
        return float((weights.repeat_interleave(4) * drawn).sum() / 4)

    assert bound(MOVED["logits"]) == pytest.approx(bound((0.0,) * 4), abs=1e-3)


def test_with_levels_too_the_bound_trains_its_ends():
    def bound(shift):
        schedule = learned((0.1 + shift, -0.1), MOVED["logits"])
        generator = torch.Generator().manual_seed(0)
        x_0 = torch.randint(0, 17, (400, 1), generator=generator).double() / 8 - 1
        eps = torch.randn(400, 1, dtype=torch.float64, generator=generator)
        t = 1 + 99 * torch.rand(400, dtype=torch.float64, generator=generator)
        reverse = ReverseProcess(Seen(), PredictNoise(), FixedSmall())
        return schedule, ContinuousBound(num_levels=17)(schedule, reverse, x_0, t, eps)["loss"].mean()

    schedule, loss = bound(0.0)
    loss.backward()
    with torch.no_grad():
        quotient = (float(bound(1e-4)[1]) - float(bound(-1e-4)[1])) / 2e-4
    assert float(schedule.trained.stretch.grad[0]) == pytest.approx(quotient, rel=1e-3)


def test_a_bin_that_is_hardly_visited_keeps_the_noisy_end():
    schedule = learned(logits=(0.0, 0.0, 0.0, -400.0))
    assert float(GaussianDiffusion(schedule).log_snr(torch.tensor([100]))) == pytest.approx(-4.0)


def test_another_path_is_no_other_bound():
    with torch.no_grad():
        plain, bent = (float(terms(learned(logits=logits))["vlb"]) for logits in ((0.0,) * 4, MOVED["logits"]))
    assert bent == pytest.approx(plain, abs=1e-4)


def test_a_path_has_a_bin():
    with pytest.raises(ValueError, match=r"schedule\.num_bins=0 must be a whole number of at least 1"):
        LearnedSchedule(10, num_bins=0)

import math

import pytest
import torch

from diffusion_lab.diffusion import (
    CosineSchedule,
    EDMSchedule,
    GaussianDiffusion,
    LogSNRSchedule,
    LossAwareTimesteps,
    LowDiscrepancyTimesteps,
    NormalTimesteps,
    RectifiedSchedule,
    StratifiedTimesteps,
    UniformTimesteps,
)
from diffusion_lab.diffusion.timesteps import by_quarter

SAMPLERS = [UniformTimesteps, StratifiedTimesteps, LossAwareTimesteps]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", SAMPLERS, ids=lambda k: k.__name__)
def test_each_position_of_a_batch_is_uniform_on_1_to_t(kind):
    """Each position of a batch is uniform on 1 to t before anything is learned."""
    sampler, g = kind(7), generator()
    draws = torch.stack([sampler(4, g)[0] for _ in range(3000)])
    for position in range(4):
        counts = torch.bincount(draws[:, position], minlength=8)
        assert counts[0] == 0
        assert float((counts[1:] - 3000 / 7).abs().max()) < 5 * (3000 / 7) ** 0.5


@pytest.mark.parametrize("kind", SAMPLERS, ids=lambda k: k.__name__)
def test_the_draw_is_a_function_of_the_generator(kind):
    sampler = kind(100)
    (t, w), (t_again, w_again) = sampler(32, generator(3)), sampler(32, generator(3))
    assert torch.equal(t, t_again)
    assert torch.equal(w, w_again)
    assert t.dtype == torch.int64
    assert w.dtype == torch.float64


@pytest.mark.parametrize("num_timesteps", [3, 50, 1000])
def test_stratified_has_one_t_in_every_stratum(num_timesteps):
    t, w = StratifiedTimesteps(num_timesteps)(16, generator())
    assert (w == 1).all()
    for i, value in enumerate(t.sort().values.tolist()):
        assert num_timesteps * i / 16 < value <= num_timesteps * (i + 1) / 16 + 1
    assert not torch.equal(t, t.sort().values)


def warmed(losses, history=10):
    sampler = LossAwareTimesteps(len(losses), history_per_timestep=history)
    for _ in range(history):
        sampler.update(torch.arange(1, len(losses) + 1), torch.tensor(losses, dtype=torch.float64))
    return sampler


def test_loss_aware_is_uniform_until_every_t():
    """Loss aware is uniform until every t has its history."""
    sampler = LossAwareTimesteps(3, history_per_timestep=2)
    sampler.update(torch.tensor([1, 1, 2, 2, 3]), torch.tensor([9.0, 9.0, 1.0, 1.0, 1.0]))
    assert sampler.probabilities.tolist() == [1 / 3] * 3
    sampler.update(torch.tensor([3]), torch.tensor([1.0]))
    assert sampler.probabilities[0] > 0.8


def test_loss_aware_is_the_root_of_the_second_moment():
    """Loss aware is the root of the second moment with a uniform floor."""
    sampler = LossAwareTimesteps(2, history_per_timestep=2, uniform_probability=0.1)
    sampler.update(torch.tensor([1, 1, 2, 2]), torch.tensor([3.0, 5.0, 1.0, 1.0]))
    root = 17.0**0.5
    expected = torch.tensor([0.9 * root / (root + 1) + 0.05, 0.9 / (root + 1) + 0.05], dtype=torch.float64)
    torch.testing.assert_close(sampler.probabilities, expected)
    t, w = sampler(50, generator())
    torch.testing.assert_close(w, 1 / (2 * expected[t - 1]))


def test_the_history_keeps_the_newest_losses_in_order():
    """The history keeps the newest losses in order of arrival."""
    sampler = LossAwareTimesteps(1, history_per_timestep=3)
    sampler.update(torch.ones(5, dtype=torch.int64), torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert sorted(sampler.history[0].tolist()) == [3.0, 4.0, 5.0]


def test_the_history_is_what_remembering_one_loss():
    """The history is what remembering one loss after the other makes."""
    random, sampler = torch.Generator().manual_seed(3), LossAwareTimesteps(5, history_per_timestep=3)
    history, counts = torch.zeros(5, 3, dtype=torch.float64), [0] * 5
    for _ in range(6):
        t, loss = torch.randint(1, 6, (9,), generator=random), torch.randn(9, generator=random)
        loss[2] = torch.nan
        sampler.update(t, loss)
        for index, value in zip((t - 1).tolist(), loss.tolist(), strict=True):
            if value == value:
                history[index, counts[index] % 3] = value
                counts[index] += 1
        assert torch.equal(sampler.history, history)
        assert sampler.counts.tolist() == counts


def test_the_history_is_part_of_the_training_state():
    sampler = warmed([4.0, 1.0, 1.0])
    restored = LossAwareTimesteps(3)
    restored.load_state_dict(sampler.state_dict())
    assert torch.equal(restored.probabilities, sampler.probabilities)
    assert float(restored.probabilities[0]) == pytest.approx(4 / 6, abs=1e-3)


def test_losses_of_zero_everywhere_are_sampled_uniformly():
    assert warmed([0.0, 0.0]).probabilities.tolist() == [0.5, 0.5]


def test_a_loss_that_is_not_finite_is_not_remembered():
    sampler = LossAwareTimesteps(num_timesteps=2, history_per_timestep=1)
    sampler.update(torch.tensor([1, 2]), torch.tensor([1.0, 3.0]))
    before = sampler.probabilities
    sampler.update(torch.tensor([1, 2]), torch.tensor([torch.nan, torch.inf]))
    assert torch.equal(sampler.probabilities, before)


@pytest.mark.parametrize("kind", [UniformTimesteps, StratifiedTimesteps], ids=lambda k: k.__name__)
def test_real_t_is_uniform_between_1_and_t(kind):
    t, w = kind(7, real=True)(20_000, generator())
    assert t.dtype == torch.float64
    assert (w == 1).all()
    shares = (t - 1) / 6
    assert 0 <= float(shares.min()) < 1e-3
    assert 1 - 1e-3 < float(shares.max()) <= 1
    quantiles = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    torch.testing.assert_close(shares.quantile(quantiles), quantiles, rtol=0, atol=0.015)


def of_truncated_normal(low, high, mean, std, share):
    """The quantile of N(mean, std²) between two ends."""
    normal = torch.distributions.Normal(torch.tensor(mean).double(), std)
    below, above = normal.cdf(torch.tensor([low, high]).double())
    return normal.icdf(below + (above - below) * share)


SHARES = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)


@pytest.mark.parametrize(
    ("schedule", "mean", "std"),
    [
        (EDMSchedule(1000), -1.2, 1.2),
        (EDMSchedule(1000, sigma_min=0.1, sigma_max=2.0), -1.2, 1.2),  # cut at both ends
        (RectifiedSchedule(1000), 0.0, 1.0),
        (LogSNRSchedule(50), 0.5, 2.0),
        (CosineSchedule(1000), -1.2, 1.2),
    ],
    ids=str,
)
def test_the_noise_to_signal_ratio_is_log_normal(schedule, mean, std):
    """The noise to signal ratio is log normal between the ends of the schedule."""
    t, w = NormalTimesteps(schedule, mean, std, real=True)(20_000, generator())
    assert t.dtype == torch.float64
    assert (w == 1).all()
    assert 1 <= float(t.min()) < float(t.max()) <= schedule.num_timesteps
    low, high = (-schedule.log_snr(torch.tensor([1.0, schedule.num_timesteps]).double()) / 2).tolist()
    drawn = (-schedule.log_snr(t) / 2).quantile(SHARES)
    torch.testing.assert_close(drawn, of_truncated_normal(low, high, mean, std, SHARES), rtol=0, atol=0.05 * std)


def test_on_the_straight_path_u_is_logit_normal():
    schedule = RectifiedSchedule(1000, log_snr_min=-20.0)
    t, _ = NormalTimesteps(schedule, mean=0.0, std=1.0)(20_000, generator())
    logit = schedule.sigma(t).logit()
    assert float(logit.mean()) == pytest.approx(0, abs=0.03)
    assert float(logit.std()) == pytest.approx(1, abs=0.03)


def test_on_whole_t_each_step_is_as_likely():
    """On whole t each step is as likely as its share of log snr."""
    schedule = CosineSchedule(30)
    sampler = NormalTimesteps(schedule, mean=0.0, std=1.0)
    t, _ = sampler(50_000, generator())
    assert t.dtype == torch.int64
    log_ratio = -GaussianDiffusion(schedule).log_snr(torch.arange(1, 31)) / 2
    edges = torch.distributions.Normal(0.0, 1.0).cdf((log_ratio[1:] + log_ratio[:-1]) / 2)
    expected = torch.cat([edges[:1], edges.diff(), 1 - edges[-1:]])
    counts = torch.bincount(t, minlength=31)[1:] / len(t)
    torch.testing.assert_close(counts.double(), expected, rtol=0, atol=0.01)


def test_a_density_that_misses_the_schedule_is_refused():
    with pytest.raises(ValueError, match=r"timesteps.mean=50 and timesteps.std=1.0 give no share to"):
        NormalTimesteps(EDMSchedule(100), mean=50, std=1.0)
    with pytest.raises(ValueError, match=r"timesteps.std=0 must be"):
        NormalTimesteps(EDMSchedule(100), mean=0, std=0)


def test_even_shares_are_spread_as_t_is_drawn():
    """So a held-out loss, at one even share an image, is the loss that is trained."""
    share = (torch.arange(999, dtype=torch.float64) + 0.5) / 999
    for sampler in (NormalTimesteps(EDMSchedule(1000), -1.2, 1.2), UniformTimesteps(1000, real=True)):
        drawn, _ = sampler(20_000, generator())
        torch.testing.assert_close(sampler.spread(share).quantile(SHARES), drawn.quantile(SHARES), rtol=0, atol=15)


def test_a_loss_that_is_no_number_is_in_its_own_quarter():
    loss = torch.tensor([1.0, math.nan, 3.0, 5.0])
    found = by_quarter("loss", torch.tensor([1, 3, 5, 6]), 8, torch.ones(4).double(), loss)
    means = [float((w * value).sum() / w.sum()) for value, w in found.values()]
    assert means[0] == 1
    assert means[2] == 4
    assert math.isnan(means[1])
    assert float(found["loss_quarter_4"][1].sum()) == 0


def test_a_batch_of_low_discrepancy_is_an_even_grid():
    """A batch of low discrepancy is an even grid with one random number."""
    generator = torch.Generator().manual_seed(0)
    sampler = LowDiscrepancyTimesteps(101, real=True)
    shifts = []
    for _ in range(3):
        t, w = sampler(8, generator)
        assert bool((w == 1).all())
        ordered = t.sort().values
        torch.testing.assert_close(ordered.diff(), torch.full((7,), 12.5, dtype=torch.float64))
        assert not torch.equal(ordered, t)
        shifts.append(float(ordered[0]))
    assert len(set(shifts)) == 3
    assert all(1 <= shift < 13.5 for shift in shifts)
    whole, _ = LowDiscrepancyTimesteps(8)(8, generator)
    assert sorted(whole.tolist()) == list(range(1, 9))

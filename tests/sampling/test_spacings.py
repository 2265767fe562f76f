import math

import pytest
import torch

from diffusion_lab.diffusion import (
    CosineSchedule,
    EDMSchedule,
    GaussianDiffusion,
    LogSNRSchedule,
    RectifiedSchedule,
    StraightPath,
)
from diffusion_lab.sampling import (
    AllSteps,
    EvenSpacing,
    KarrasSpacing,
    LogSNRSpacing,
    QuadraticSpacing,
    StraightSpacing,
)
from diffusion_lab.sampling.spacings import whole_times

KINDS = [EvenSpacing, QuadraticSpacing]


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
@pytest.mark.parametrize("num_timesteps", [1, 2, 3, 10, 50, 97, 1000])
def test_every_k_works_ends_at_t_and_rises_strictly(kind, num_timesteps):
    for num_steps in range(1, num_timesteps + 1):
        kept = kind(num_steps)(num_timesteps)
        assert kept.dtype == torch.int64
        assert kept.shape == (num_steps,)
        assert kept[0] >= 1
        assert kept[-1] == num_timesteps
        assert (kept.diff() > 0).all()


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_t_steps_is_all_steps_and_one_step_is_the_noisiest(kind):
    assert torch.equal(kind(37)(37), AllSteps()(37))
    assert kind(1)(1000).tolist() == [1000]


def test_even_is_even_with_halves_rounded_to_even():
    assert EvenSpacing(5)(1000).tolist() == [1, 251, 501, 750, 1000]  # 249.75, 499.5 → 500, 749.25
    assert EvenSpacing(3)(4).tolist() == [1, 3, 4]  # 1.5 → 2
    assert EvenSpacing(3)(6).tolist() == [1, 3, 6]  # 2.5 → 2


def test_quadratic_is_dense_near_the_data():
    """Quadratic is dense near the data and moves collisions up."""
    assert QuadraticSpacing(5)(1601).tolist() == [1, 101, 401, 901, 1601]
    assert QuadraticSpacing(6)(10).tolist() == [1, 2, 3, 4, 7, 10]  # 0, .36, 1.44, 3.24, 5.76, 9 above 1


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
@pytest.mark.parametrize("num_steps", [0, 11])
def test_an_impossible_number_of_steps_is_named(kind, num_steps):
    with pytest.raises(ValueError, match=rf"num_steps={num_steps} must lie in 1 … 10"):
        kind(num_steps)(10)


@pytest.mark.parametrize("kind", [EvenSpacing, QuadraticSpacing, LogSNRSpacing, KarrasSpacing, StraightSpacing])
def test_a_spacing_is_asked_with_the_process(kind):
    process = GaussianDiffusion(CosineSchedule(60))
    for num_steps in (1, 2, 9, 40, 60):
        kept = kind(num_steps)(process)
        assert kept.shape == (num_steps,)
        assert kept[0] >= 1
        assert kept[-1] == 60
        assert (kept.diff() > 0).all()
        assert process.respace(kept).num_timesteps == num_steps
    with pytest.raises(ValueError, match="num_steps=61 must lie in 1 … 60"):
        kind(61)(process)


def test_steps_by_log_snr_are_even_in_it_or_in_a_power():
    """Steps by log snr are even in it or in a power of sigma."""
    process = GaussianDiffusion(LogSNRSchedule(1000))
    even = process.schedule.log_snr(LogSNRSpacing(12)(process))
    torch.testing.assert_close(even, torch.linspace(13.3, -5, 12, dtype=torch.float64))
    root = torch.exp(-process.schedule.log_snr(KarrasSpacing(12, rho=5.0)(process)) / 10)
    torch.testing.assert_close(root.diff(), root.diff()[:1].expand(11))
    edm = GaussianDiffusion(EDMSchedule(1000))
    torch.testing.assert_close(KarrasSpacing(9)(edm), torch.linspace(1, 1000, 9, dtype=torch.float64))
    assert LogSNRSpacing(2000)(process).shape == (2000,)  # real t has room for any number of steps


@pytest.mark.parametrize("num_steps", [1, 2, 5])
@pytest.mark.parametrize(
    "schedule",
    [CosineSchedule(1000), RectifiedSchedule(1000), EDMSchedule(1000)],
    ids=lambda s: type(s).__name__,
)
def test_straight_steps_are_even_with_the_clean_end(schedule, num_steps):
    """In σ/(α + σ), with the step from the first time that is visited to the clean end."""
    times = StraightSpacing(num_steps, real=True)(GaussianDiffusion(schedule))
    r = StraightPath(schedule).times(torch.cat([torch.ones(1, dtype=torch.float64), times]))
    torch.testing.assert_close(r.diff(), (r[-1:] - r[:1]).expand(num_steps) / num_steps)
    assert times[-1] == 1000


def test_steps_by_log_snr_stay_between_the_ends():
    """Steps by log snr stay between the ends that are given."""
    process = GaussianDiffusion(LogSNRSchedule(1000))
    wanted = torch.linspace(4, -3, 9, dtype=torch.float64)
    times = LogSNRSpacing(9, log_snr_max=4, log_snr_min=-3)(process)
    torch.testing.assert_close(process.schedule.log_snr(times), wanted)
    beyond = LogSNRSpacing(9, log_snr_max=50, log_snr_min=-50)(process)  # the schedule reaches no further than it does
    assert torch.equal(beyond, LogSNRSpacing(9)(process))
    whole = GaussianDiffusion(CosineSchedule(1000))
    kept = LogSNRSpacing(9, log_snr_max=4, log_snr_min=-3)(whole)
    assert (whole.log_snr(kept) - wanted).abs().max() < 0.05


@pytest.mark.parametrize(
    "schedule",
    [CosineSchedule(1), LogSNRSchedule(1), RectifiedSchedule(1), EDMSchedule(1)],
    ids=lambda s: type(s).__name__,
)
def test_a_chain_of_one_step_has_that_one(schedule):
    process = GaussianDiffusion(schedule)
    for spacing in (
        LogSNRSpacing(1),
        KarrasSpacing(1),
        StraightSpacing(1),
        LogSNRSpacing(1, log_snr_max=50, log_snr_min=-50),
    ):
        assert spacing(process).tolist() == [1]
    for ends in ({"log_snr_max": -50}, {"log_snr_min": 50}):
        with pytest.raises(ValueError, match="exclude all log SNRs of the schedule"):
            LogSNRSpacing(1, **ends)(process)
    for kind in (LogSNRSpacing, KarrasSpacing):
        with pytest.raises(ValueError, match=r"num_steps=2 must lie in 1 … 1"):
            kind(2)(process)


def test_ends_that_leave_no_steps_are_named():
    with pytest.raises(ValueError, match="log_snr_min=2 must lie below log_snr_max=1"):
        LogSNRSpacing(5, log_snr_max=1, log_snr_min=2)
    with pytest.raises(ValueError, match=r"log_snr_min=60 exclude all log SNRs of the schedule, which are -\S+ to \S+"):
        LogSNRSpacing(5, log_snr_min=60)(GaussianDiffusion(CosineSchedule(60)))


def test_a_chain_that_ends_early_begins_with_as_much():
    """A chain that ends early begins with as much noise as it has there."""
    process = GaussianDiffusion(EDMSchedule(100))
    chain = process.respace(LogSNRSpacing(6, log_snr_min=-4)(process))
    assert chain.prior_std == pytest.approx(math.exp(2))  # σ/α where log SNR = −4
    assert process.respace(LogSNRSpacing(6)(process)).prior_std == process.prior_std == 80


def test_whole_t_are_the_nearest_in_log_snr():
    process = GaussianDiffusion(CosineSchedule(1000))
    kept = LogSNRSpacing(6)(process)
    wanted = torch.linspace(*process.log_snr(torch.tensor([1, 1000])).tolist(), 6, dtype=torch.float64)
    gaps = (process.log_snr(kept) - wanted).abs()
    for neighbour in (kept - 1, kept + 1):
        inside = (neighbour >= 1) & (neighbour <= 1000)
        assert (gaps[inside] <= (process.log_snr(neighbour[inside]) - wanted[inside]).abs()).all()


def test_the_clock_of_a_spacing_is_chosen():
    """Real times are even in log SNR to the last digit, on a table too; whole ones are the default on a table only."""
    cosine, line = GaussianDiffusion(CosineSchedule(1000)), GaussianDiffusion(LogSNRSchedule(1000))
    for process in (cosine, line):
        real, whole = (LogSNRSpacing(6, real=choice)(process) for choice in (True, False))
        wanted = torch.linspace(*process.log_snr(torch.tensor([1, 1000])).tolist(), 6, dtype=torch.float64)
        torch.testing.assert_close(process.schedule.log_snr(real), wanted)
        assert whole.dtype == torch.int64
        assert real[-1] == whole[-1] == 1000
    assert LogSNRSpacing(6)(cosine).dtype == torch.int64
    assert LogSNRSpacing(6)(line).dtype == torch.float64


@pytest.mark.parametrize("kind", [LogSNRSpacing, KarrasSpacing, StraightSpacing])
@pytest.mark.parametrize("schedule", [RectifiedSchedule(1000), EDMSchedule(1000)], ids=lambda s: type(s).__name__)
def test_each_real_time_has_a_whole_one_of_its_own(schedule, kind):
    process = GaussianDiffusion(schedule)
    for num_steps in (1, 2, 50, 200, 1000, 1500):
        times = kind(num_steps)(process)
        whole = whole_times(process, times)
        assert whole.shape == (min(num_steps, 1000),)
        assert whole[0] >= 1
        assert whole[-1] == 1000
        assert (whole.diff() > 0).all()
        if num_steps == 2:
            assert torch.equal(whole, times.round().long())


@pytest.mark.parametrize("kind", [LogSNRSpacing, KarrasSpacing, StraightSpacing])
def test_a_number_of_steps_does_not_tell_log_snr(kind):
    with pytest.raises(ValueError, match="need the process: call spacing"):
        kind(5)(1000)

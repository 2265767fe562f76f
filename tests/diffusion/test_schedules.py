import math
import re
from dataclasses import dataclass

import pytest
import torch

from diffusion_lab.diffusion import (
    CleanEnd,
    CosineSchedule,
    EDMSchedule,
    GaussianDiffusion,
    LearnedSchedule,
    LinearSchedule,
    LogSNRSchedule,
    RealSchedule,
    RectifiedSchedule,
    SigmoidSchedule,
)

VALID = [
    *[LinearSchedule(T) for T in (21, 50, 1000, 4000)],
    *[CosineSchedule(T) for T in (1, 2, 10, 1000, 4000)],
    *[SigmoidSchedule(T) for T in (1, 2, 10, 1000, 4000)],
]


@pytest.mark.parametrize("schedule", VALID, ids=str)
def test_a_table_falls_strictly_from_one(schedule):
    """A table starts at one and falls strictly without reaching zero."""
    table = schedule.alpha_bar()
    assert table.dtype == torch.float64
    assert table.shape == (schedule.num_timesteps + 1,)
    assert table[0] == 1
    assert (table.diff() < 0).all()
    assert table[-1] > 0


@pytest.mark.parametrize(
    ("schedule", "root_alpha_bar_last"),
    [(CosineSchedule(1000), 4.928e-5), (CosineSchedule(4000), 1.232e-5), (LinearSchedule(1000), 6.353e-3)],
    ids=str,
)
def test_the_signal_left_at_the_end_is_the_papers(schedule, root_alpha_bar_last):
    assert float(schedule.alpha_bar()[-1].sqrt()) == pytest.approx(root_alpha_bar_last, rel=2e-4)


def test_linear_beta_is_the_papers_at_a_thousand_steps():
    process = GaussianDiffusion(LinearSchedule(1000))
    beta = process.beta(torch.arange(1, 1001))
    torch.testing.assert_close(beta, torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("num_timesteps", [25, 200, 4000])
def test_linear_is_rescaled_so_that_the_end(num_timesteps):
    """Linear is rescaled so that the end does not depend on the number of steps."""
    assert float(LinearSchedule(num_timesteps).alpha_bar()[-1]) < 1e-4
    process = GaussianDiffusion(LinearSchedule(num_timesteps))
    assert float(process.beta(torch.tensor([num_timesteps]))) == pytest.approx(20 / num_timesteps)


@pytest.mark.parametrize("num_timesteps", [1, 5, 20])
def test_linear_says_why_it_does_not_exist_below_21_steps(num_timesteps):
    with pytest.raises(ValueError, match=r"β_T = .* num_timesteps ≥ 21"):
        LinearSchedule(num_timesteps)


def test_cosine_is_the_formula_until_the_clip():
    """Cosine is the formula until the clip which touches one beta."""
    schedule = CosineSchedule(1000)
    table = schedule.alpha_bar()
    f = [math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(1000)]
    torch.testing.assert_close(table[:1000], torch.tensor(f, dtype=torch.float64) / f[0], rtol=1e-9, atol=0)
    beta = GaussianDiffusion(schedule).beta(torch.arange(1, 1001))
    assert (beta >= 0.999 - 1e-12).nonzero().flatten().tolist() == [999]


def test_sigmoid_is_the_formula_until_the_clip():
    table = SigmoidSchedule(1000).alpha_bar()
    sigmoid = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    t = torch.arange(999, dtype=torch.float64)
    formula = [(sigmoid(3.0) - sigmoid(-3 + 6 * float(s) / 1000)) / (sigmoid(3.0) - sigmoid(-3.0)) for s in t]
    torch.testing.assert_close(table[:999], torch.tensor(formula, dtype=torch.float64), rtol=1e-9, atol=0)
    assert float(table[500]) == pytest.approx(0.5)


def test_the_first_noise_level_of_a_long_cosine_keeps():
    """The first noise level of a long cosine keeps its digits."""
    first = float(1 - CosineSchedule(4000).alpha_bar()[1])
    f = lambda t: math.cos((t / 4000 + 0.008) / 1.008 * math.pi / 2) ** 2  # noqa: E731
    assert first == pytest.approx(1 - f(1) / f(0), rel=1e-9)
    assert abs(float(1 - CosineSchedule(4000).alpha_bar()[1].float()) / first - 1) > 1e-4  # why the table is float64


@pytest.mark.parametrize("schedule", [LinearSchedule, CosineSchedule, SigmoidSchedule])
def test_a_chain_needs_a_step(schedule):
    with pytest.raises(ValueError, match="num_timesteps = 0"):
        schedule(0)


def test_impossible_shapes_are_named():
    with pytest.raises(ValueError, match="beta_start"):
        LinearSchedule(1000, beta_start=0.0)
    with pytest.raises(ValueError, match="tau"):
        SigmoidSchedule(1000, tau=0.0)


def test_the_first_step_of_cosine_is_as_many_grey():
    """The first step of cosine is as many grey levels as its docstring says."""
    text = " ".join(CosineSchedule.__doc__.split())
    steps, bins = re.search(r"√β_1 is (.*?) bins of 256 grey levels at T = (.*?)\.", text).group(2, 1)
    for T, told in zip(re.findall(r"\d+", steps), re.findall(r"[\d.]+", bins), strict=True):
        beta_1 = 1 - float(CosineSchedule(int(T)).alpha_bar()[1])
        assert math.sqrt(beta_1) / (2 / 255) == pytest.approx(float(told), abs=0.05)


def log_snr(schedule):
    return GaussianDiffusion(schedule).log_snr(torch.arange(1, schedule.num_timesteps + 1))


@pytest.mark.parametrize("kind", [LinearSchedule, CosineSchedule, SigmoidSchedule])
@pytest.mark.parametrize("ends", [(7.0, None), (None, -4.0), (7.0, -4.0), (13.0, None)], ids=str)
def test_cut_ends_are_where_they_were_asked(kind, ends):
    """Cut ends are where they were asked and the others stay."""
    whole, cut = log_snr(kind(200)), log_snr(kind(200, log_snr_max=ends[0], log_snr_min=ends[1]))
    assert len(cut) == 200
    assert (cut.diff() < 0).all()
    assert float(cut[0]) == pytest.approx(ends[0] or float(whole[0]), abs=1e-6)
    assert float(cut[-1]) == pytest.approx(ends[1] or float(whole[-1]), abs=1e-6)


def test_a_cut_curve_is_a_part_of_the_whole_one():
    """Ends that lie on integer t, at every third step: the new steps are these t."""
    whole = log_snr(LinearSchedule(301))
    cut = LinearSchedule(301, log_snr_max=float(whole[0]), log_snr_min=float(whole[-1]))
    torch.testing.assert_close(log_snr(cut), whole)
    shorter = CosineSchedule(100, log_snr_max=float(log_snr(CosineSchedule(100))[33]), log_snr_min=None)
    curve = log_snr(shorter)
    torch.testing.assert_close(curve[::3], log_snr(CosineSchedule(100))[33:100:2][: len(curve[::3])])


def test_impossible_cuts_are_named():
    with pytest.raises(ValueError, match=r"cannot cut CosineSchedule at log SNR -40.0: it ends at -19.8"):
        GaussianDiffusion(CosineSchedule(1000, log_snr_min=-40.0))
    with pytest.raises(ValueError, match=r"log_snr_max = -3\.0 must lie above log_snr_min = 3\.0"):
        GaussianDiffusion(CosineSchedule(100, log_snr_max=-3.0, log_snr_min=3.0))
    for schedule in (LogSNRSchedule, RectifiedSchedule):
        with pytest.raises(ValueError, match="choose log_snr_max above log_snr_min"):
            schedule(100, log_snr_max=-3.0, log_snr_min=3.0)
    with pytest.raises(ValueError, match="sigma_min"):
        EDMSchedule(100, sigma_min=0.0)


@pytest.mark.parametrize(("num_levels", "log_snr"), [(17, 5.545), (256, 11.083)])
def test_the_clean_end_of_data_with_levels_has_a_noise(num_levels, log_snr):
    """The clean end of data with levels has a noise of a share of a level.

    σ_1/α_1 = bin/2, whatever the number of steps.
    """
    assert float(CleanEnd(num_levels)) == pytest.approx(log_snr, abs=5e-3)
    for schedule in (CosineSchedule, LinearSchedule, SigmoidSchedule, LogSNRSchedule, RectifiedSchedule):
        process = GaussianDiffusion(schedule(100, log_snr_max=CleanEnd(num_levels)))
        signal, noise = process.pair(torch.tensor([1]))
        assert float(noise / signal) == pytest.approx(2 / (num_levels - 1) / 2, rel=1e-5)


def test_more_than_256_levels_have_the_clean_end_of_256():
    assert float(CleanEnd(65536)) == float(CleanEnd(257)) == float(CleanEnd(256)) > float(CleanEnd(255))


def test_continuous_data_leave_the_clean_end():
    """Continuous data leave the clean end or have one of their own."""
    assert CosineSchedule(100, log_snr_max=CleanEnd(None)) == CosineSchedule(100)
    assert RectifiedSchedule(100, log_snr_max=CleanEnd(None)) == RectifiedSchedule(100)
    assert LogSNRSchedule(100, log_snr_max=CleanEnd(None, continuous=9.0)).log_snr_max == 9.0
    with pytest.raises(ValueError, match=r"must be a number for a linear log SNR; use log_snr_max=13\.3"):
        LogSNRSchedule(100, log_snr_max=CleanEnd(None))


def test_a_clean_end_that_is_none_is_refused():
    for wrong in (
        {"num_levels": 1},
        {"num_levels": 17, "ratio": 0.0},
        {"num_levels": None, "ratio": -1.0},
        {"num_levels": 17, "ratio": math.inf},
    ):
        with pytest.raises(ValueError, match="num_levels must be null or at least 2, and ratio above 0"):
            CleanEnd(**wrong)
    with pytest.raises(ValueError, match=r"log_snr_max = nan must be a number"):
        CosineSchedule(10, log_snr_max=math.nan)


@pytest.mark.parametrize("kind", [CosineSchedule, SigmoidSchedule, LogSNRSchedule, RectifiedSchedule, LearnedSchedule])
def test_a_chain_of_one_step_keeps_its_noisy_end(kind):
    whole, cut = (
        GaussianDiffusion(kind(1, **end)).log_snr(torch.tensor([1])) for end in ({}, {"log_snr_max": CleanEnd(17)})
    )
    torch.testing.assert_close(cut, whole)


class Halved(LogSNRSchedule):
    time_at = RealSchedule.time_at


REAL = [Halved(50), LogSNRSchedule(50), RectifiedSchedule(50), EDMSchedule(50)]
TABLES = [CosineSchedule(50), LinearSchedule(50), SigmoidSchedule(50), CosineSchedule(50, log_snr_max=4.0)]


@pytest.mark.parametrize("schedule", [*REAL, *TABLES], ids=str)
def test_a_time_is_found_by_its_log_snr(schedule):
    t = torch.linspace(1, 50, 30, dtype=torch.float64)
    torch.testing.assert_close(schedule.time_at(schedule.log_snr(t)), t)


@pytest.mark.parametrize("schedule", TABLES, ids=str)
def test_a_table_at_real_t(schedule):
    """At whole t the entries themselves; between them the signal decays at a constant rate."""
    whole = torch.arange(1, 51)
    signal, noise = schedule.pair(whole.double())
    alpha_bar = schedule.alpha_bar()[whole]
    assert torch.equal(signal, alpha_bar.sqrt())
    assert torch.equal(noise, (1 - alpha_bar).sqrt())
    middle = schedule.signal(whole[:-1].double() + 0.5)
    torch.testing.assert_close(middle.square(), signal[:-1] * signal[1:])
    assert bool((schedule.log_snr(torch.linspace(1, 50, 999, dtype=torch.float64)).diff() < 0).all())


@pytest.mark.parametrize("schedule", [*REAL, *TABLES], ids=str)
def test_the_slope_of_log_snr_is_its_difference_quotient(schedule):
    t, h = torch.linspace(1.1, schedule.num_timesteps - 0.1, 9).double(), 1e-4
    with torch.inference_mode():  # as in validation
        slope = schedule.log_snr_slope(t.clone())
    expected = (schedule.log_snr(t + h) - schedule.log_snr(t - h)) / (2 * h)
    torch.testing.assert_close(slope, expected, rtol=1e-6, atol=1e-8)


@dataclass(frozen=True)
class Table:
    num_timesteps: int

    def alpha_bar(self):
        return CosineSchedule(self.num_timesteps).alpha_bar().tolist()


def test_alpha_bar_alone_is_a_schedule():
    """Also of a class that derives from nothing; a table of another length is refused."""
    t = torch.arange(1, 51)
    own, ours = GaussianDiffusion(Table(50)), GaussianDiffusion(CosineSchedule(50))
    torch.testing.assert_close(own.beta_tilde(t), ours.beta_tilde(t))
    assert str(own.schedule) == "Table(num_timesteps=50)"
    assert GaussianDiffusion(Table(50)).schedule == own.schedule

    class Short(CosineSchedule):
        def alpha_bar(self):
            return super().alpha_bar()[1:]

    with pytest.raises(ValueError, match=r"alpha_bar\(\) must be ᾱ_0 = 1, .* for T = 50"):
        GaussianDiffusion(Short(50))

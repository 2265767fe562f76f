from dataclasses import dataclass

import pytest
import torch

from diffusion_lab.diffusion import (
    CosineSchedule,
    GaussianDiffusion,
    LinearSchedule,
    RectifiedSchedule,
    Schedule,
    SigmoidSchedule,
)
from diffusion_lab.sampling import EvenSpacing

from .oracles import CountOps, steps

PROCESSES = [GaussianDiffusion(s) for s in (LinearSchedule(50), CosineSchedule(50), SigmoidSchedule(50))]
RESPACED = [*PROCESSES, *[p.respace(EvenSpacing(7)(50)) for p in PROCESSES]]
IDS = ["linear", "cosine", "sigmoid", "linear respaced", "cosine respaced", "sigmoid respaced"]


def test_at_the_first_step_the_posterior_is_x_0():
    """At the first step the posterior is x 0 with the second steps variance."""
    process = GaussianDiffusion(LinearSchedule(1000))
    x_0, x_t = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    posterior = process.q_posterior(x_0, x_t, steps(1, 2))
    torch.testing.assert_close(posterior.mean, x_0)
    assert process.beta_tilde(steps(1, 1)) == 0
    assert float(posterior.log_variance[0]) == pytest.approx(float(process.beta_tilde(steps(2, 1)).log()), rel=1e-12)
    assert float(posterior.log_variance[0]) == pytest.approx(-9.817, abs=5e-4)


def test_a_chain_of_one_step_has_beta_for_its_clipped():
    """A chain of one step has beta for its clipped variance."""
    process = GaussianDiffusion(CosineSchedule(10)).respace(torch.tensor([10]))
    assert float(process.log_beta_tilde(steps(1, 1))) == pytest.approx(float(process.beta(steps(1, 1)).log()))


@pytest.mark.parametrize("process", PROCESSES, ids=IDS[:3])
def test_respacing_to_all_steps_is_the_identity(process):
    same = process.respace(torch.arange(1, 51))
    t = torch.arange(1, 51)
    assert torch.equal(same.timesteps, process.timesteps)
    assert torch.equal(same.beta(t), process.beta(t))
    assert torch.equal(same.alpha_bar(t), process.alpha_bar(t))


@pytest.mark.parametrize("process", PROCESSES, ids=IDS[:3])
def test_respaced_twice_equals_respaced_once(process):
    twice = process.respace(torch.tensor([2, 3, 10, 31, 40, 50])).respace(torch.tensor([1, 4, 6]))
    once = process.respace(torch.tensor([2, 31, 50]))
    t = torch.arange(1, 4)
    assert torch.equal(twice.timesteps, torch.tensor([1, 30, 49]))  # 0-based original indices
    assert torch.equal(twice.timesteps, once.timesteps)
    assert torch.equal(twice.alpha_bar(t), once.alpha_bar(t))
    assert torch.equal(twice.beta_tilde(t), once.beta_tilde(t))


def test_a_respaced_stride_has_the_variance():
    """A respaced stride has the variance of all the steps it covers."""
    process = GaussianDiffusion(LinearSchedule(50))
    strided = process.respace(torch.tensor([10, 50]))
    kept = 1 - process.beta(torch.arange(11, 51))
    assert float(strided.beta(steps(2, 1))) == pytest.approx(1 - float(kept.prod()), rel=1e-12)
    assert float(strided.beta(steps(1, 1))) == pytest.approx(1 - float(process.alpha_bar(steps(10, 1))), rel=1e-12)


@pytest.mark.parametrize("kept", [[], [0, 3], [3, 3], [5, 4], [1, 51]])
def test_an_impossible_subsequence_is_refused(kept):
    with pytest.raises(ValueError, match=r"strictly increasing within 1 … 50"):
        PROCESSES[0].respace(torch.tensor(kept, dtype=torch.int64))


def test_the_names_of_the_papers_follow_from_the_pair():
    process = GaussianDiffusion(CosineSchedule(60)).respace(EvenSpacing(9)(60))
    t = torch.arange(1, 10)
    alpha_bar, before = process.alpha_bar(t), process.alpha_bar(t - 1)
    torch.testing.assert_close(process.signal(t).square(), alpha_bar)
    torch.testing.assert_close(process.sigma(t).square(), 1 - alpha_bar)
    torch.testing.assert_close(process.beta(t), 1 - alpha_bar / before, rtol=1e-11, atol=0)
    torch.testing.assert_close(process.beta_tilde(t), (1 - before) / (1 - alpha_bar) * process.beta(t))
    torch.testing.assert_close(process.log_snr(t), (alpha_bar / (1 - alpha_bar)).log())


@pytest.mark.parametrize("schedule", [RectifiedSchedule(10), CosineSchedule(10), LinearSchedule(30)], ids=str)
def test_a_chain_over_real_times(schedule):
    real = torch.tensor([1.0, 2.5, 10.0], dtype=torch.float64)
    process = GaussianDiffusion(schedule)
    chain = process.respace(real)
    torch.testing.assert_close(chain.sigma(torch.arange(1, 4)), schedule.sigma(real))
    assert chain.network_time(torch.arange(1, 4)).tolist() == [0.0, 1.5, 9.0] == chain.timesteps.tolist()
    assert process.network_time(torch.arange(1, 4)).tolist() == [0, 1, 2]
    beyond = schedule.num_timesteps + 0.5
    with pytest.raises(ValueError, match=r"strictly increasing within 1 … "):
        process.respace(torch.tensor([2.0, beyond], dtype=torch.float64))


def test_one_step_is_looked_up_once():
    """One look-up serves all that is computed at one t; another tensor is looked up anew."""
    process = GaussianDiffusion(CosineSchedule(50))
    t, other = torch.tensor([3, 50]), torch.tensor([4, 2])
    with CountOps() as count:
        for of in (
            process.signal,
            process.sigma,
            process.beta,
            process.log_beta_tilde,
            process.beta_tilde,
            process.snr,
        ):
            of(t)
        process.q_posterior(torch.zeros(2, 1).double(), torch.zeros(2, 1).double(), t)
    assert count.gathers == 1
    for _ in range(2):
        assert process.beta(other).tolist() == [process.numbers(int(step)).beta for step in other]
        other += 1


def test_where_log_snr_does_not_fall():
    """Where log snr does not fall there is no gaussian step."""

    @dataclass(frozen=True)
    class Rising(Schedule):
        def alpha_bar(self):
            return torch.tensor([1.0, 0.5, 0.6], dtype=torch.float64)

    with pytest.raises(ValueError, match="log SNR does not decrease at step 2, so the step is not Gaussian"):
        GaussianDiffusion(Rising(2))


def test_a_step_changed_in_place_is_looked_up_anew():
    process = GaussianDiffusion(CosineSchedule(10))
    for mode in (torch.inference_mode(), torch.no_grad()):
        with mode:
            t = torch.full((2,), 5)
            process.alpha_bar(t)
            t -= 4
            assert torch.equal(process.alpha_bar(t), process.alpha_bar(torch.tensor([1, 1])))


def test_what_inference_looked_up_is_not_kept_for_training():
    process, t = GaussianDiffusion(CosineSchedule(10)), torch.tensor([3, 7])
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    with torch.inference_mode():
        process.q_sample(torch.zeros(2, 3), t, torch.zeros(2, 3))
    process.q_sample(x, t, torch.zeros(2, 3, dtype=torch.float64)).sum().backward()


def test_chains_of_each_sample_have_no_step_before_the_first():
    process = GaussianDiffusion(CosineSchedule(10), torch.tensor([[1, 5], [2, 9]]))
    assert process.network_time(torch.tensor([1, 2])).tolist() == [0, 8]
    for wrong in (torch.tensor([0, 1]), torch.tensor([1, 3])):
        with pytest.raises(ValueError, match="is not within"):
            process.network_time(wrong)

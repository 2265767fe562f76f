import pytest
import torch

from diffusion_lab.diffusion import LossAwareTimesteps, StratifiedTimesteps, UniformTimesteps

SAMPLERS = [UniformTimesteps, StratifiedTimesteps, LossAwareTimesteps]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", SAMPLERS, ids=lambda k: k.__name__)
def test_each_position_of_a_batch_is_uniform_on_1_to_t_before_anything_is_learned(kind):
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


def test_loss_aware_is_uniform_until_every_t_has_its_history():
    sampler = LossAwareTimesteps(3, history_per_timestep=2)
    sampler.update(torch.tensor([1, 1, 2, 2, 3]), torch.tensor([9.0, 9.0, 1.0, 1.0, 1.0]))
    assert sampler.probabilities.tolist() == [1 / 3] * 3
    sampler.update(torch.tensor([3]), torch.tensor([1.0]))
    assert sampler.probabilities[0] > 0.8


def test_loss_aware_is_the_root_of_the_second_moment_with_a_uniform_floor():
    sampler = LossAwareTimesteps(2, history_per_timestep=2, uniform_probability=0.1)
    sampler.update(torch.tensor([1, 1, 2, 2]), torch.tensor([3.0, 5.0, 1.0, 1.0]))
    root = 17.0**0.5
    expected = torch.tensor([0.9 * root / (root + 1) + 0.05, 0.9 / (root + 1) + 0.05], dtype=torch.float64)
    torch.testing.assert_close(sampler.probabilities, expected)
    t, w = sampler(50, generator())
    torch.testing.assert_close(w, 1 / (2 * expected[t - 1]))


def test_the_history_keeps_the_newest_losses_in_order_of_arrival():
    sampler = LossAwareTimesteps(1, history_per_timestep=3)
    sampler.update(torch.ones(5, dtype=torch.int64), torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert sorted(sampler.history[0].tolist()) == [3.0, 4.0, 5.0]


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

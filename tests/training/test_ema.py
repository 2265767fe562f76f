"""Averages of weights: the recursion, averages along powers of time, and those that are built from what was kept."""

import copy
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.config.weight_files import build_average, plan_of_average
from diffusion_lab.models.trainable import TrainableModel
from diffusion_lab.store import ModelDirectory, RunError
from diffusion_lab.training.ema import EMA, PowerAverages, average_name, default_weights
from diffusion_lab.training.profiles import Profile, combination, wanted_length


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(2))
        self.averages = {}

    def averaged_parameters(self):
        return dict(self.named_parameters())


def trained(ema, values, start=0.0):
    trainer, model = SimpleNamespace(global_step=0), Model()
    model.w.data.fill_(start)
    ema.on_fit_start(trainer, model)
    for value in values:
        model.w.data.fill_(value)
        trainer.global_step += 1
        ema.on_train_batch_end(trainer, model, {}, None, 0)
    return trainer, model


def test_an_average_is_the_recursion_with_its_warm_up():
    values = [1.0, 4.0, -2.0, 3.0, 3.0]
    _, model = trained(EMA([0.3, 0.999]), values, start=1000.0)
    for decay in (0.3, 0.999):
        expected = 1000.0
        for n, value in enumerate(values, start=1):
            d = min(decay, (1 + n) / (10 + n))
            expected = d * expected + (1 - d) * value
        assert float(model.averages[average_name(decay)]["w"][0]) == pytest.approx(expected, rel=1e-6)
    assert model.w.tolist() == [3.0, 3.0], "raw weights stay what they are"


def test_an_accumulated_gradient_is_no_step():
    ema = EMA([0.5])
    trainer, model = trained(ema, [2.0])
    before = model.averages["ema_0.5"]["w"].clone()
    model.w.data.fill_(50.0)
    ema.on_train_batch_end(trainer, model, {}, None, 1)
    assert torch.equal(model.averages["ema_0.5"]["w"], before)


def test_averages_go_through_a_checkpoint():
    ema = EMA([0.5, 0.9])
    trainer, model = trained(ema, [1.0, 2.0, 3.0])
    checkpoint = {}
    ema.on_save_checkpoint(trainer, model, checkpoint)
    resumed, fresh = EMA([0.5, 0.9]), Model()
    resumed.on_load_checkpoint(trainer, fresh, checkpoint)
    resumed.on_fit_start(trainer, fresh)
    for a, m in ((ema, model), (resumed, fresh)):
        m.w.data.fill_(7.0)
        trainer.global_step = 4
        a.on_train_batch_end(trainer, m, {}, None, 0)
    assert torch.equal(fresh.averages["ema_0.9"]["w"], model.averages["ema_0.9"]["w"])


def test_bfloat16_weights_have_an_average_that_small_steps_move():
    """(1 − d)·(θ − θ̄) = 1e-4/128 a step, a 1000th of what bfloat16 can tell from 1."""
    ema, trainer, model = EMA([0.9999]), SimpleNamespace(global_step=0), Model().bfloat16()
    model.w.data.fill_(1.0)
    ema.on_fit_start(trainer, model)
    model.w.data.fill_(1 + 2**-7)
    trainer.global_step = 1_000_000  # long after the warm-up
    for _ in range(10_000):
        trainer.global_step += 1
        ema.on_train_batch_end(trainer, model, {}, None, 0)
    average = model.averages["ema_0.9999"]["w"]
    assert average.dtype == torch.float32
    assert float(average[0]) == pytest.approx(1 + 2**-7 * (1 - 0.9999**10_000), rel=1e-5)


def test_a_name_is_of_one_decay_or_length():
    names = [average_name(decay) for decay in (0.9999, 0.9999999, 0.99999991, 0.5)]
    assert names == ["ema_0.9999", "ema_0.9999999", "ema_0.99999991", "ema_0.5"]
    assert list(EMA([0.9999999, 0.99999991]).decays) == names[1:3]
    with pytest.raises(ValueError, match="remove the repeated decay"):
        EMA([0.9, 0.9])
    assert wanted_length("ema_rel_0.07") == 0.07
    assert [wanted_length(name) for name in ("ema_0.999", "raw", "ema_rel_", "ema_rel_-1", "at_0.1")] == [None] * 5


def test_the_weights_that_suit_the_length_of_training():
    names = ["raw", "ema_0.9999", "ema_0.999"]
    assert default_weights(names, 100) == "ema_0.999"  # none has warmed up: all are alike
    assert default_weights(names, 9_000) == "ema_0.999"
    assert default_weights(names, 100_000) == "ema_0.9999"
    assert default_weights(["raw"], 100_000) == "raw"
    assert default_weights(["raw", "ema_0.5", "ema_rel_0.05", "at_0.2"], 1000) == "ema_0.5"


def test_what_serves_training_only_has_no_average():
    class Adversaries(Model):
        def __init__(self):
            super().__init__()
            self.critic = torch.nn.Parameter(torch.ones(3))

        def averaged_parameters(self):
            return {"w": self.w}

    ema, trainer, model = EMA([0.5]), SimpleNamespace(global_step=0), Adversaries()
    ema.on_fit_start(trainer, model)
    model.w.data.fill_(2.0)
    trainer.global_step += 1
    ema.on_train_batch_end(trainer, model, {}, None, 0)
    assert list(model.averages["ema_0.5"]) == ["w"]
    assert float(model.averages["ema_0.5"]["w"][0]) == pytest.approx(2.0 * 9 / 11)


# ---- averages along powers of time: their profiles in closed form, and one built of others ----


def weights_of(sigma_rel: float, steps: int) -> np.ndarray:
    """What each step weighs in the average after so many, by its recursion."""
    profile, weights = Profile(1, sigma_rel), np.zeros(steps)
    for step in range(1, steps + 1):
        beta = profile.decay(step)
        weights *= beta
        weights[step - 1] = 1 - beta
    return weights


@pytest.mark.parametrize(("sigma_rel", "gamma"), [(0.05, 16.97), (0.10, 6.94)])
def test_gamma_is_that_of_the_paper(sigma_rel, gamma):
    assert Profile(1, sigma_rel).gamma == pytest.approx(gamma, abs=0.005)


@pytest.mark.parametrize("sigma_rel", [0.01, 0.13, 0.28])
def test_gamma_is_the_root_of_its_length(sigma_rel):
    g = Profile(1, sigma_rel).gamma
    assert g >= 0
    assert np.sqrt((g + 1) / (g + 3)) / (g + 2) == pytest.approx(sigma_rel, rel=1e-9)


@pytest.mark.parametrize("sigma_rel", [0.05, 0.1, 0.2])
def test_the_recursion_weighs_steps_as_the_closed_form_says(sigma_rel):
    steps, power = 1000, Profile(1, sigma_rel).gamma + 1
    i = np.arange(1, steps + 1) / steps
    expected = i**power - (i - 1 / steps) ** power
    found = weights_of(sigma_rel, steps)
    assert found == pytest.approx(expected, rel=1e-9)
    mean = found @ i
    assert np.sqrt(found @ (i - mean) ** 2) == pytest.approx(sigma_rel, rel=2e-3)


def test_overlap_is_the_integral_of_the_product():
    short, long = Profile(0.4, 0.1), Profile(1.0, 0.05)
    tau = (np.arange(200_000) + 0.5) / 200_000
    p = [(q.gamma + 1) * tau**q.gamma / q.steps ** (q.gamma + 1) * (tau <= q.steps) for q in (short, long)]
    assert short.overlap(long) == pytest.approx((p[0] * p[1]).mean(), rel=1e-4) == long.overlap(short)


def kept(moments: int, steps: int) -> list[Profile]:
    return [Profile(steps * i / moments, sigma) for i in range(1, moments + 1) for sigma in (0.05, 0.10)]


def test_a_kept_average_is_itself():
    x, error = combination(kept(8, 1000), Profile(1000, 0.10))
    assert x == pytest.approx([0.0] * 15 + [1.0], abs=1e-6)
    assert error < 1e-6


# ---- the averages that others are built from: what is kept, that it is bounded, and that a resumed training keeps the same ----


STEPS = 400
OWN = {"w": torch.zeros(64)}


class Walker(TrainableModel):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(64))


WALK = torch.randn(STEPS + 1, 64, generator=torch.Generator().manual_seed(0)).cumsum(0)


def walked(folder, moments=8, until=STEPS, saved=None):
    """A training whose weights walk at random, up to a step, from the beginning or from a checkpoint; its averages."""
    folder.mkdir(exist_ok=True)
    first = 0 if saved is None else saved["step"]
    trainer = SimpleNamespace(global_step=first, max_steps=STEPS, callbacks=(), is_global_zero=True)
    model, averages = Walker(), PowerAverages(moments, ModelDirectory(folder).weights)
    model.w.data = WALK[first].clone()
    if saved is not None:
        averages.on_load_checkpoint(trainer, model, copy.deepcopy(saved))
    averages.on_fit_start(trainer, model)
    averages.on_train_start(trainer, model)
    for step in range(first + 1, until + 1):
        model.w.data, trainer.global_step = WALK[step].clone(), step
        for _ in range(2):  # gradients are accumulated over two batches
            averages.on_train_batch_end(trainer, model, {}, None, 0)
    state = {"step": until}
    averages.on_save_checkpoint(trainer, model, state)
    return averages, copy.deepcopy(state)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def direct(sigma_rel):
    average, profile = torch.zeros(64, dtype=torch.float64), Profile(1, sigma_rel)
    for step in range(1, STEPS + 1):
        average.lerp_(WALK[step].double(), 1 - profile.decay(step))
    return average


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    walked(folder)
    return folder


@pytest.mark.parametrize("sigma_rel", [0.05, 0.07, 0.10, 0.14])
def test_an_average_that_was_never_tracked_is_built_after_training(whole, sigma_rel):
    """Files are of float16, and its rounding is all that is wrong with an average that was tracked."""
    name = f"ema_rel_{sigma_rel}"
    found, expected = build_average(ModelDirectory(whole), name, OWN)["w"].double(), direct(sigma_rel)
    tracked = sigma_rel in (0.05, 0.10)
    allowed = 1e-3 * expected.norm() if tracked else 0.1 * (expected - direct(2 * sigma_rel)).norm()
    assert (found - expected).norm() < allowed
    assert plan_of_average(ModelDirectory(whole), name)[2] < (1e-4 if tracked else 0.04)


def test_the_files_are_bounded_by_the_moments_and_two_weights_in_half_precision(tmp_path):
    for moments in (1, 4):
        folder = tmp_path / str(moments)
        walked(folder, moments)
        files = content(folder)
        assert len(files) == moments
        assert all(len(file) < 2 * 64 * 2 + 400 for file in files.values())


def test_a_training_that_was_stopped_and_goes_on_keeps_the_same_bits(tmp_path, whole):
    for stop in (49, 50, 399):
        folder = tmp_path / str(stop)
        _, saved = walked(folder, until=stop)
        walked(folder, until=min(stop + 60, STEPS))  # killed after its last checkpoint
        walked(folder, saved=saved)
        assert content(folder) == content(whole)


def test_a_training_that_ends_before_its_budget_ends_with_a_file(tmp_path):
    averages, _ = walked(tmp_path, until=120)
    assert sorted(content(tmp_path)) == ["power_0.125.safetensors", "power_0.25.safetensors"]
    averages.finish()
    assert sorted(content(tmp_path))[-1] == "power_1.0.safetensors"
    averages.finish()
    assert len(content(tmp_path)) == 3


def test_what_cannot_be_built_is_said(tmp_path, whole):
    with pytest.raises(MistakeError, match=r"^ema_rel_0.02: .* with an error of \d+% .*; choose a length from"):
        build_average(ModelDirectory(whole), "ema_rel_0.02", OWN)
    with pytest.raises(MistakeError, match=r"has no averages to build it from; train with snapshots.averages=8"):
        build_average(ModelDirectory(tmp_path), "ema_rel_0.07", OWN)
    (tmp_path / "power_0.5.safetensors").write_bytes(b"not one")
    with pytest.raises(RunError, match=r"power_0.5.safetensors is not a file of weights"):
        build_average(ModelDirectory(tmp_path), "ema_rel_0.07", OWN)


@pytest.mark.parametrize("place", ["0.05/w", "0.1/w"])
@pytest.mark.parametrize("wrong", [None, torch.zeros(3), torch.zeros(64).bool(), torch.full((64,), torch.inf)])
def test_each_kept_file_must_be_whole(tmp_path, whole, place, wrong):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "power_0.5.safetensors"
    tensors = {name: tensor for name, tensor in load_file(file).items() if name != place}
    save_file(tensors if wrong is None else tensors | {place: wrong}, file, {"step": "200"})
    with pytest.raises(RunError, match=rf"power_0.5.safetensors .*{place}"):
        build_average(ModelDirectory(tmp_path), "ema_rel_0.07", OWN)

"""The averages that others are built from: what is kept, that it is bounded, and that a resumed training keeps the same."""

import copy
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.config.weight_files import build_average, profile_error
from diffusion_lab.models.trainable import TrainableModel
from diffusion_lab.store import ModelDirectory, RunError
from diffusion_lab.training.ema import PowerAverages, default_weights
from diffusion_lab.training.profiles import Profile

STEPS = 400
OWN = {"w": torch.zeros(64)}


class Model(TrainableModel):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(64))


WALK = torch.randn(STEPS + 1, 64, generator=torch.Generator().manual_seed(0)).cumsum(0)


def trained(folder, moments=8, until=STEPS, saved=None):
    """A training whose weights walk at random, up to a step, from the beginning or from a checkpoint; its averages."""
    folder.mkdir(exist_ok=True)
    first = 0 if saved is None else saved["step"]
    trainer = SimpleNamespace(global_step=first, max_steps=STEPS, callbacks=(), is_global_zero=True)
    model, averages = Model(), PowerAverages(moments, ModelDirectory(folder).weights)
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
    trained(folder)
    return folder


@pytest.mark.parametrize("sigma_rel", [0.05, 0.07, 0.10, 0.14])
def test_an_average_that_was_never_tracked_is_built_after_training(whole, sigma_rel):
    """Files are of float16, and its rounding is all that is wrong with an average that was tracked."""
    name = f"ema_rel_{sigma_rel}"
    found, expected = build_average(ModelDirectory(whole), name, OWN)["w"].double(), direct(sigma_rel)
    tracked = sigma_rel in (0.05, 0.10)
    allowed = 1e-3 * expected.norm() if tracked else 0.1 * (expected - direct(2 * sigma_rel)).norm()
    assert (found - expected).norm() < allowed
    assert profile_error(ModelDirectory(whole), name) < (1e-4 if tracked else 0.04)


def test_the_files_are_bounded_by_the_moments_and_two_weights_in_half_precision(tmp_path):
    for moments in (1, 4):
        folder = tmp_path / str(moments)
        trained(folder, moments)
        files = content(folder)
        assert len(files) == moments
        assert all(len(file) < 2 * 64 * 2 + 400 for file in files.values())


def test_a_training_that_was_stopped_and_goes_on_keeps_the_same_bits(tmp_path, whole):
    for stop in (49, 50, 399):
        folder = tmp_path / str(stop)
        _, saved = trained(folder, until=stop)
        trained(folder, until=min(stop + 60, STEPS))  # killed after its last checkpoint
        trained(folder, saved=saved)
        assert content(folder) == content(whole)


def test_a_training_that_ends_before_its_budget_ends_with_a_file(tmp_path):
    averages, _ = trained(tmp_path, until=120)
    assert sorted(content(tmp_path)) == ["power_0.125.safetensors", "power_0.25.safetensors"]
    averages.finish()
    assert sorted(content(tmp_path))[-1] == "power_1.0.safetensors"
    averages.finish()
    assert len(content(tmp_path)) == 3


def test_a_checkpoint_of_older_code_goes_on_without(tmp_path):
    averages, state = trained(tmp_path, saved={"step": 100})
    averages.finish()
    assert content(tmp_path) == {}
    assert state == {"step": STEPS}


def test_built_averages_are_never_chosen_by_themselves():
    assert default_weights(["raw", "ema_0.5", "ema_rel_0.05"], 1000) == "ema_0.5"


def test_what_cannot_be_built_is_said(tmp_path, whole):
    with pytest.raises(
        MistakeError,
        match=r"^ema_rel_0.02: the averages in .* with an error of \d+% of its profile; choose a length from",
    ):
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

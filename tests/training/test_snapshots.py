"""The weights of earlier moments: which step a share of the budget is, what is written there, and once."""

from types import SimpleNamespace

import torch
from safetensors import safe_open

from diffusion_lab.config.weight_files import read_training_progress
from diffusion_lab.models.budget import Clock
from diffusion_lab.models.trainable import TrainableModel
from diffusion_lab.store import ModelDirectory
from diffusion_lab.training.ema import EMA
from diffusion_lab.training.snapshots import Snapshots

BATCH = 64


class Model(TrainableModel):
    batches_trained = 0

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(2))
        self.register_buffer("seen", torch.zeros(1))


def trained(folder, at, steps, decays=(0.5,), from_step=0, is_global_zero=True, callbacks=(), used=None):
    """A training of 10 steps, of which `steps` are taken; the weights at step n are n."""
    trainer = SimpleNamespace(
        global_step=from_step,
        max_steps=10,
        callbacks=callbacks,
        is_global_zero=is_global_zero,
        should_stop=False,
        datamodule=SimpleNamespace(batch_size=BATCH),
    )
    model, ema = Model(), EMA(decays)
    model.batches_trained = 2 * from_step
    snapshots = Snapshots(at, lambda name: folder / f"{name}.safetensors")
    ema.on_fit_start(trainer, model)
    snapshots.on_train_start(trainer, model)
    for step in range(from_step + 1, steps + 1):
        model.w.data.fill_(step)
        trainer.global_step = step
        if used is not None:
            callbacks[0].elapsed = callbacks[0].limit * used(step)
        ema.on_train_batch_end(trainer, model, {}, None, 0)
        for _ in range(2):  # gradients are accumulated over two batches
            model.batches_trained = 2 * step
            snapshots.on_train_batch_end(trainer, model, {}, None, 0)
            model.w.data.add_(0.25)
    return model


def kept(folder):
    """name -> (step, the average, its first weight)."""
    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            assert list(file.keys()) == ["w"]
            facts = file.metadata()
            found[path.stem] = (int(facts["step"]), facts["weights"], float(file.get_tensor("w")[0]))
    return found


def test_a_moment_is_the_first_step_at_which_its_share_is_used(tmp_path):
    trained(tmp_path, [0.1, 0.25, 0.9], steps=10, decays=())
    assert kept(tmp_path) == {"at_0.1": (1, "raw", 1.0), "at_0.25": (3, "raw", 3.0), "at_0.9": (9, "raw", 9.0)}


def test_what_is_kept_is_what_would_have_been_scored_then(tmp_path):
    model = trained(tmp_path, [0.3], steps=3, decays=(0.1, 0.15, 0.999))
    (step, weights, value) = kept(tmp_path)["at_0.3"]
    assert (step, weights) == (3, "ema_0.15")
    assert value == float(model.averages["ema_0.15"]["w"][0]) != float(model.averages["ema_0.1"]["w"][0])


def test_a_share_of_time_counts_where_it_is_the_larger_one(tmp_path):
    time = Clock(100.0)
    trained(tmp_path, [0.5], steps=4, decays=(), callbacks=(time,), used=lambda step: step * 0.2)
    assert kept(tmp_path)["at_0.5"][0] == 3


def test_a_resumed_training_keeps_what_is_still_to_come(tmp_path):
    trained(tmp_path, [0.2, 0.5], steps=8, decays=(), from_step=4)
    trained(tmp_path, [0.2], steps=5, is_global_zero=False)  # one rank writes
    assert list(kept(tmp_path)) == ["at_0.5"]


def test_it_is_read_as_an_average(tmp_path):
    trained(tmp_path, [0.2], steps=5)
    model = Model()
    model.load_weights({"at_0.2": tmp_path / "at_0.2.safetensors"})
    with model.use_weights("at_0.2"):
        assert model.w.tolist()[0] == kept(tmp_path)["at_0.2"][2]


def test_a_moment_of_steps_of_images_and_of_time_is_the_first_step_that_reaches_it(tmp_path):
    time = Clock(100.0)
    at = ["3steps", f"{8 * BATCH + 1}images", "0.5m"]  # a step is two batches, and ten seconds
    trained(tmp_path, at, steps=10, decays=(), callbacks=(time,), used=lambda step: step / 10)
    steps = {name: step for name, (step, _, _) in kept(tmp_path).items()}
    assert steps == {"at_3steps": 3, f"at_{8 * BATCH + 1}images": 5, "at_0.5m": 3}


def test_time_without_a_limit(tmp_path):
    clock = Clock()
    clock.elapsed = 121.0
    trained(tmp_path, ["2m", "3m"], steps=4, decays=(), callbacks=(clock,))
    assert kept(tmp_path) == {}, "one moment was before this process began, the other did not come"


def test_a_file_says_what_training_had_taken(tmp_path):
    time = Clock(100.0)
    trained(tmp_path, ["4steps"], steps=5, decays=(), callbacks=(time,), used=lambda step: step / 10)
    found = read_training_progress(ModelDirectory(tmp_path), "at_4steps")
    assert found == {"step": 4, "seconds": 40, "images": 8 * BATCH}

"""What goes wrong while training ends in one sentence, and nothing that was there is lost."""

import errno

import pytest
import torch

from diffusion_lab.models.diffusion import DiffusionModel
from diffusion_lab.store.status_file import FAILED, read_status
from diffusion_lab.training.checkpoints import load_state

from .cluster import only_model
from .conftest import STRIDED, TINY

OPTIONS = [*TINY, *STRIDED, "score=false"]


def fill_disk(file):
    with open(file, "wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(1024))
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017 - it is how a disk is filled


def test_not_finite_again_and_again_stops(lab, monkeypatch):
    step = DiffusionModel.training_step

    def poisoned(self, batch, batch_idx):
        outputs = step(self, batch, batch_idx)
        nan = torch.nan if self.batches_trained >= 3 else 1.0
        return outputs | {"loss": outputs["loss"] * nan}

    monkeypatch.setattr(DiffusionModel, "training_step", poisoned)
    options = ["trainer.max_steps=20", "callbacks.checkpoint.every_n_steps=1", "callbacks.finite.stop_after=4"]
    code, _, err = lab("train", *OPTIONS, *options)
    assert (code, err.count("\n")) == (1, 1), err
    assert "not finite for 4 steps in a row, the last one step 7, batch 6;" in err
    directory = only_model(lab.folder)
    state = load_state(directory.resume)
    assert all(tensor.isfinite().all() for tensor in state["state_dict"].values() if tensor.is_floating_point())
    assert read_status(directory.path).state == FAILED
    assert not directory.finished


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_out_of_memory_names_batch(lab, monkeypatch, error):
    """And the precision, and the fix."""

    def too_big(self, batch, batch_idx):
        raise error

    monkeypatch.setattr(DiffusionModel, "training_step", too_big)
    code, _, err = lab("train", *OPTIONS, "trainer.precision=32-true")
    assert code == 1
    said = err.strip().splitlines()[-1]
    assert said.startswith("diffusion-lab train: out of memory at data.batch_size=8 and trainer.precision=32-true: ")
    for fix in ("trainer.accumulate_grad_batches=2", "network.activation_checkpointing=true"):
        assert fix in said


def test_a_dead_process_is_named_by_those_that_trained(lab, monkeypatch):
    """A dead process is named by those that trained with it."""

    def alone(self, batch, batch_idx):
        raise RuntimeError("[/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:15270")

    monkeypatch.setattr(DiffusionModel, "training_step", alone)
    code, _, err = lab("train", *OPTIONS)
    assert code == 1
    said = "another process of this command ended; its own log says why"
    assert err.strip().splitlines()[-1] == f"diffusion-lab train: {said}"
    assert read_status(only_model(lab.folder).path).reason == said


@pytest.mark.needs("mount")
def test_a_full_disk_keeps_the_last_checkpoint_and_says_so(lab, small_disk):
    """It fills while training: the checkpoint before is whole, and with room the same command goes on."""
    outputs = f"outputs={small_disk / 'outputs'}"
    options = [*OPTIONS, outputs, "trainer.max_steps=30", "callbacks.checkpoint.every_n_steps=1"]
    filler = small_disk / "filler"
    begin = DiffusionModel.training_step

    def fill(self, batch, batch_idx):
        if self.batches_trained == 3:
            fill_disk(filler)
        return begin(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DiffusionModel, "training_step", fill)
        code, _, err = lab("train", *options)
    assert code == 1
    assert "(No space left on device); earlier files are intact" in err
    assert "Traceback" not in err
    directory = only_model(small_disk)
    assert load_state(directory.resume)["global_step"] == 3
    assert not list(directory.path.glob(".*.staged"))
    filler.unlink()
    assert "resuming from" in lab.done("train", *options)

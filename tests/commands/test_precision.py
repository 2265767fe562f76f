"""trainer.precision=auto follows the machine, and a training keeps what it began with."""

import pytest

from diffusion_lab.store import newest_model
from diffusion_lab.training import devices

from .conftest import STRIDED, TINY

AUTO = [*TINY, *STRIDED, "score=false", "trainer.precision=auto", "trainer.max_steps=4"]
STOP = """
import os, signal
from lightning import Callback

class Stop(Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 2 and "GO_ON" not in os.environ:
            os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.parametrize("bf16", [True, False])
def test_auto_is_what_the_device_computes_in_hardware(monkeypatch, bf16):
    import torch

    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    for on_gpu in (False, True):
        assert devices.precision_of("auto", on_gpu) == ("bf16-mixed" if bf16 else "32-true")
        assert devices.precision_of("64-true", on_gpu) == "64-true"


@pytest.mark.thorough
def test_an_interrupted_training_keeps_its_precision(lab, monkeypatch):
    """An interrupted training goes on in the precision that it began with."""
    (lab.folder / "mine.py").write_text(STOP)
    options = [*AUTO, "+callbacks.stop._target_=mine.Stop"]
    monkeypatch.setattr(devices, "_has_bf16", lambda on_gpu: True)
    assert lab("train", *options)[0] != 0

    monkeypatch.setenv("GO_ON", "1")
    monkeypatch.setattr(devices, "_has_bf16", lambda on_gpu: False)
    code, _, err = lab("train", *options)
    assert code != 0
    assert "began with precision bf16-mixed, but trainer.precision=auto is 32-true on this machine" in " ".join(
        err.split()
    )
    assert "Traceback" not in err

    monkeypatch.setattr(devices, "_has_bf16", lambda on_gpu: True)
    lab.done("train", *options)
    training = newest_model(lab.folder / "outputs").read_training()
    assert (training["steps"], training["precision"]) == (4, "bf16-mixed")

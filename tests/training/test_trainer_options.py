"""Options of Lightning's Trainer: which are refused, and with which reason."""

import re

import pytest
from lightning import Trainer

from diffusion_lab.training.devices import DeviceRequest
from diffusion_lab.training.trainer_options import NOT_SUPPORTED, trainer_options

GIVEN = {"max_steps": 2, "precision": "32-true", "accumulate_grad_batches": 2, "strategy": "auto"}


def options(tmp_path, request=None, **more):
    return trainer_options(GIVEN | more, request, tmp_path, tmp_path / "metrics.csv", [], every=1)


@pytest.mark.parametrize("option", NOT_SUPPORTED)
def test_a_refused_option_says_why(tmp_path, option):
    with pytest.raises(
        ValueError, match=rf"trainer.{option}=1 is not supported: .*{re.escape(NOT_SUPPORTED[option])}$"
    ):
        options(tmp_path, **{option: 1})


def test_half_precision_needs_a_gpu(tmp_path):
    assert options(tmp_path, DeviceRequest(True, 1), precision="16-mixed")["precision"] == "16-mixed"
    with pytest.raises(ValueError, match=r"trainer\.precision=16-mixed needs a GPU"):
        options(tmp_path, DeviceRequest(False, 1), precision="16-mixed")


@pytest.mark.parametrize("given", [{}, {"deterministic": True}, {"benchmark": False}])
def test_a_gpu_times_its_kernels_unless_told_otherwise(tmp_path, given):
    assert options(tmp_path, DeviceRequest(on_gpu=True, size=1), **given).get("benchmark", False) == (not given)
    assert "benchmark" not in options(tmp_path, DeviceRequest(on_gpu=False, size=1))


@pytest.mark.parametrize(
    "strategy", ["ddp_spawn", "fsdp", {"_target_": "lightning.pytorch.strategies.ModelParallelStrategy"}], ids=str
)
def test_strategies_that_cannot_work_are_refused(tmp_path, strategy):
    for request in (None, DeviceRequest(on_gpu=True, size=2)):
        with pytest.raises(ValueError, match=r"trainer\.strategy=.*: choose one of auto, ddp"):
            options(tmp_path, request, strategy=strategy)
    for known in ("ddp", {"_target_": "lightning.pytorch.strategies.DDPStrategy", "gradient_as_bucket_view": True}):
        assert options(tmp_path, DeviceRequest(on_gpu=True, size=2), strategy=known)["strategy"] == known


def test_what_lightning_takes_reaches_it(tmp_path):
    given = {"gradient_clip_algorithm": "value", "gradient_clip_val": 0.1, "limit_train_batches": 4, "min_steps": 1}
    trainer = Trainer(**options(tmp_path, **given))
    assert {name: getattr(trainer, name) for name in given} == given | {"limit_train_batches": 8}, "of 2 parts each"

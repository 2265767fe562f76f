"""The endless stream inside Lightning's own loop: exact resumption, and no warning of ours (warnings are errors here)."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule

from diffusion_lab.data import DataError, DataModule
from diffusion_lab.data.digits import Digits
from diffusion_lab.data.image_folder import ImageFolder
from tests.models.stand_ins import quiet_trainer

# Lightning 2.6.6 meets torch 2.13 here, whatever the data loader; it has nothing to do with ours.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")


class Recorder(LightningModule):
    """Keeps the batches it is trained on; fails in the batch it is told to."""

    def __init__(self, fails_in_batch: int | None = None) -> None:
        super().__init__()
        self.layer = torch.nn.LazyLinear(1)
        self.fails_in_batch = fails_in_batch
        self.seen: list[torch.Tensor] = []

    def training_step(self, batch, batch_idx):
        if len(self.seen) == self.fails_in_batch:
            raise RuntimeError("the power went")
        self.seen.append(batch[0].clone())
        return self.layer(batch[0].flatten(1)).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


class SaveAfter(Callback):
    """A checkpoint when `step` batches are done, or when training fails."""

    def __init__(self, path: Path, step: int | None = None) -> None:
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer, *_) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)

    def on_exception(self, trainer, *_) -> None:
        trainer.save_checkpoint(self.path)


def fit(data: DataModule, steps: int, *callbacks: Callback, module: Recorder | None = None, resume=None, **options):
    module = module or Recorder()
    module.layer(torch.zeros(1, int(torch.tensor(data.shape).prod())))
    trainer = quiet_trainer(steps, *callbacks, use_distributed_sampler=False, **options)
    trainer.fit(module, datamodule=data, ckpt_path=resume)
    return torch.stack(module.seen)


def digits(on_device: str | bool = "auto") -> Digits:
    # 11.2 batches to an epoch, so that 30 batches cross two ends of epochs in the middle of a batch.
    data = Digits(batch_size=128, seed=0, flip=True)
    data.hold_on_device(on_device)
    data.prepare()
    return data


def test_training_sees_the_stream_from_its_beginning() -> None:
    """Which Lightning's epochs do not begin again."""
    stream = iter(digits().train_dataloader())
    expected = torch.stack([next(stream)[0] for _ in range(30)])
    assert torch.equal(fit(digits(), 30), expected)
    assert torch.equal(fit(digits(), 30, limit_train_batches=7), expected)


@pytest.mark.parametrize("on_device", [False, True])
def test_a_resumed_run_sees_what_the_uninterrupted_one_saw(tmp_path: Path, on_device: bool) -> None:
    whole = fit(digits(), 30, SaveAfter(tmp_path / "13.ckpt", step=13))
    assert torch.equal(fit(digits(on_device), 30, resume=tmp_path / "13.ckpt"), whole[13:])


def test_a_batch_that_failed_is_seen_again(tmp_path: Path) -> None:
    module = Recorder(fails_in_batch=13)
    with pytest.raises(RuntimeError, match="the power went"):
        fit(digits(), 30, SaveAfter(tmp_path / "failed.ckpt"), module=module)
    assert torch.equal(fit(digits(), 30, resume=tmp_path / "failed.ckpt"), fit(digits(), 30)[13:])


def test_a_finished_run_goes_on_and_can_be_resumed_again(tmp_path: Path) -> None:
    whole = fit(digits(), 30)
    fit(digits(), 10, SaveAfter(tmp_path / "10.ckpt", step=10))
    longer = fit(digits(), 20, SaveAfter(tmp_path / "15.ckpt", step=15), resume=tmp_path / "10.ckpt")
    assert torch.equal(longer, whole[10:20])
    assert torch.equal(fit(digits(), 30, resume=tmp_path / "15.ckpt"), whole[15:])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_workers_that_read_ahead_do_not_move_the_place_to_resume(
    image_root: Path, tmp_path: Path, num_workers: int
) -> None:
    def images() -> ImageFolder:
        return ImageFolder(4, 0, str(image_root), image_size=8, flip=True, num_workers=num_workers)

    whole = fit(images(), 9, SaveAfter(tmp_path / "3.ckpt", step=3))
    assert torch.equal(fit(images(), 9, resume=tmp_path / "3.ckpt"), whole[3:])


def test_a_batch_that_the_processes_cannot_share_is_refused() -> None:
    data = digits()
    data.batch_size = 127
    data.trainer = type("Trainer", (), {"global_rank": 0, "world_size": 2, "accumulate_grad_batches": 1})()
    with pytest.raises(DataError, match=r"data.batch_size=127 .* 2 processes: choose a multiple of 2"):
        data.train_dataloader()

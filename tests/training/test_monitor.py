"""Through a real Trainer, on made-up numbers."""

import csv
import os
import re
import socket
from pathlib import Path

import pytest
import torch
from lightning import LightningModule

from diffusion_lab.training import monitor
from diffusion_lab.training.finite import SkipNotFinite
from diffusion_lab.training.monitor import Monitor, ProgressBar
from diffusion_lab.training.record import CSVRecord
from tests.models.stand_ins import quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")


class Counted(LightningModule):
    """Batch k says: sum k of k + 1 losses in the first quarter, none in the second."""

    skipped_steps, batches_trained = 0, 0

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        k = batch_idx
        return {
            "loss": self.weight * 3,
            "terms": {"loss": torch.tensor(float(k))},
            "weighted": {
                "loss_quarter_1": (torch.full((k + 1,), k / (k + 1)), torch.ones(k + 1)),
                "loss_quarter_2": (torch.zeros(2), torch.zeros(2)),
            },
        }

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)


class Lazy(Counted):
    """The first batch has a penalty, the others have none. It is 1 on rank 0 and 2 on rank 1, as every loss."""

    def training_step(self, batch, batch_idx):
        loss = torch.tensor(self.global_rank + 1.0)
        weighted = {"penalty": (loss, torch.tensor(1))} if self.global_step == 0 else {}
        return {"loss": self.weight * 3, "terms": {"loss": loss}, "weighted": weighted}


def train(folder, model, max_steps, resumed=None, monitor=None, batches=None, **options):
    """Its Trainer, after a training that logs every second step."""
    callbacks, record = (SkipNotFinite(), monitor or Monitor()), CSVRecord(folder / "metrics.csv")
    trainer = quiet_trainer(
        max_steps, *callbacks, log_every_n_steps=2, logger=record, default_root_dir=folder, **options
    )
    batches = batches or torch.utils.data.DataLoader(torch.zeros(8, 1), num_workers=0)
    trainer.fit(model, batches, ckpt_path=resumed)
    return trainer


def trained(folder, **options):
    """What metrics.csv says: its header and its rows."""
    train(folder, Counted(), max_steps=4, **options)
    header, *rows = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    return header, [dict(zip(header, row, strict=True)) for row in rows]


def test_means_are_over_the_window_and_those_of_sums_over_summands(tmp_path):
    header, said = trained(tmp_path)
    assert [float(row["train/loss"]) for row in said] == [0.5, 2.5]
    assert [float(row["train/loss_quarter_1"]) for row in said] == pytest.approx([1 / 3, 5 / 7])
    assert "train/loss_quarter_2" not in header, "a mean of nothing is no number"
    assert [float(row["train/grad_norm"]) for row in said] == [3, 3]
    assert [float(row["train/lr"]) for row in said] == [0.5, 0.5]


def test_mfu_is_the_share_of_the_peak(tmp_path):
    monitor = Monitor()
    monitor.seconds_per_image = 1e-5
    _, said = trained(tmp_path, monitor=monitor)
    for row in said:
        assert float(row["train/mfu"]) == pytest.approx(1e-5 * float(row["train/images_per_second"]))


def test_where_gradients_are_accumulated_a_mean_is_over_all_batches_of_its_steps(tmp_path):
    _, said = trained(tmp_path, accumulate_grad_batches=2)
    assert [(row["step"], float(row["train/loss"])) for row in said] == [("2", 1.5), ("4", 5.5)]


def test_the_time_left_is_stated_early_and_corrected(tmp_path, monkeypatch, capsys):
    """The first step takes a minute, 30 take two seconds each, and the rest four seconds each."""
    clock = [0.0]

    class Timed(Counted):
        def training_step(self, batch, batch_idx):
            clock[0] += 60 if self.global_step == 0 else 2 if self.global_step < 31 else 4
            return super().training_step(batch, batch_idx)

    monkeypatch.setattr(monitor, "perf_counter", lambda: clock[0])
    train(tmp_path, Timed(), max_steps=41, monitor=ProgressBar())
    first, *tenths = capsys.readouterr().out.strip().splitlines()
    assert "78 seconds" in first
    left = [int(found[1]) for line in tenths if (found := re.search(r"(\d+) seconds left", line))]
    assert left == sorted(left, reverse=True)
    assert left[-1] == round(4 * (60 + 6 * 4) / 36), "the mean of the steps so far"
    assert "left" not in tenths[-1]


def interrupted(folder: str, rank: str, port: str) -> None:
    """One of two ranks of a training of `Lazy` that was saved after its first step and resumed. port: of rank 0."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    os.environ.update(address, WORLD_SIZE="2", RANK=rank, LOCAL_RANK=rank)
    options = {"strategy": "ddp", "devices": 2}
    file = Path(folder) / "resume.ckpt"
    train(Path(folder), Lazy(), max_steps=1, **options).save_checkpoint(file)
    train(Path(folder), Lazy(), max_steps=2, resumed=file, **options)


@pytest.mark.thorough
def test_a_resumed_training_logs_what_it_would_have_logged(tmp_path, zygote):
    """The means over two ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    started = [zygote.call(tmp_path / str(n), interrupted, str(tmp_path), str(n), port) for n in range(2)]
    for process in started:
        _, err = process.communicate()
        assert process.returncode == 0, err
    (row,) = csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines())
    assert (float(row["train/penalty"]), float(row["train/loss"])) == (1.5, 1.5)


class Losing(Counted):
    """The loss of every batch is 3, but for one that is no number."""

    def training_step(self, batch, batch_idx):
        loss = 0 * self.weight + (torch.nan if batch_idx == 12 else 3.0)
        return {"loss": loss, "terms": {"loss": loss.detach()}}


def test_the_loss_is_that_of_a_batch_and_a_skipped_step_leaves_it(tmp_path, capsys):
    batches = torch.utils.data.DataLoader(torch.zeros(20, 1), num_workers=0)
    train(tmp_path, Losing(), max_steps=10, monitor=ProgressBar(), batches=batches, accumulate_grad_batches=2)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("training")]
    assert len(lines) == 10
    assert all("loss 3.0000" in line for line in lines), lines

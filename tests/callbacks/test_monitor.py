"""Through a real Trainer, on made-up numbers."""

import pytest
import torch
from lightning import LightningModule, Trainer

from diffusion_lab.callbacks.finite import SkipNotFinite
from diffusion_lab.callbacks.monitor import Monitor
from diffusion_lab.callbacks.record import CSVRecord


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
            "sums": {
                "loss_quarter_1": (torch.tensor(float(k)), torch.tensor(k + 1)),
                "loss_quarter_2": (torch.tensor(0.0), torch.tensor(0)),
            },
        }

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)


def trained(folder, **options):
    """What metrics.csv says of a training that logs every second step: its header and its rows."""
    record = CSVRecord(folder / "metrics.csv")
    trainer = Trainer(
        max_steps=4,
        log_every_n_steps=2,
        accelerator="cpu",
        logger=record,
        callbacks=[SkipNotFinite(), Monitor()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **options,
    )
    trainer.fit(Counted(), torch.utils.data.DataLoader(torch.zeros(8, 1), num_workers=0))
    header, *rows = [line.split(",") for line in record.path.read_text().splitlines()]
    return header, [dict(zip(header, row, strict=True)) for row in rows]


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
def test_means_are_over_the_window_and_those_of_sums_over_summands(tmp_path):
    header, said = trained(tmp_path)
    assert [float(row["train/loss"]) for row in said] == [0.5, 2.5]
    assert [float(row["train/loss_quarter_1"]) for row in said] == pytest.approx([1 / 3, 5 / 7])
    assert "train/loss_quarter_2" not in header, "a mean of nothing is no number"
    assert [float(row["train/grad_norm"]) for row in said] == [3, 3]
    assert [float(row["train/lr"]) for row in said] == [0.5, 0.5]


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
def test_where_gradients_are_accumulated_a_mean_is_over_all_batches_of_its_steps(tmp_path):
    _, said = trained(tmp_path, accumulate_grad_batches=2)
    assert [(row["step"], float(row["train/loss"])) for row in said] == [("2", 1.5), ("4", 5.5)]

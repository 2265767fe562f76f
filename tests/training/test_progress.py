import pytest
import torch
from lightning import LightningModule, Trainer

from diffusion_lab.training.finite import SkipNotFinite
from diffusion_lab.training.monitor import ProgressBar


class Losing(LightningModule):
    """The loss of every batch is 3, but for one that is no number."""

    skipped_steps, batches_trained = 0, 0

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def training_step(self, batch, batch_idx):
        loss = self.weight * (torch.nan if batch_idx == 12 else 3.0)
        return {"loss": loss, "terms": {"loss": loss.detach()}}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
def test_the_loss_is_that_of_a_batch_and_a_skipped_step_leaves_it(tmp_path, capsys):
    trainer = Trainer(
        max_steps=10,
        accumulate_grad_batches=2,
        accelerator="cpu",
        logger=False,
        callbacks=[SkipNotFinite(), ProgressBar()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(Losing(), torch.utils.data.DataLoader(torch.zeros(20, 1), num_workers=0))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("training")]
    assert len(lines) == 10
    assert all("loss 3.0000" in line for line in lines), lines

"""Through a real Trainer; what the command says and keeps is in tests/commands/test_faults.py."""

import pytest
import torch
from lightning import LightningModule, Trainer

from diffusion_lab.training.finite import NotFiniteError, SkipNotFinite


class Line(LightningModule):
    """w -> w − 1 a step, but for the batches that are not finite."""

    skipped_steps = 0

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches_trained = 0

    def training_step(self, batch, batch_idx):
        self.batches_trained = batch_idx + 1
        losses = self.weight * batch
        return {"loss": losses.sum(), "losses": losses.detach(), "t": torch.arange(1, 1 + len(batch))}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def train(batches, stop_after=20):
    model = Line()
    trainer = Trainer(
        max_steps=len(batches),
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[SkipNotFinite(stop_after)],
    )
    trainer.fit(model, torch.utils.data.DataLoader(torch.tensor(batches), batch_size=None, num_workers=0))
    return model


GOOD, NAN, INF = [0.5, 0.5], [0.5, torch.nan], [torch.inf, 0.5]

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")


def test_only_finite_steps_move_the_weights():
    model = train([GOOD, NAN, INF, GOOD])
    assert model.weight.item() == -2
    assert model.skipped_steps == 2


def test_so_many_in_a_row_and_not_so_many_in_all():
    assert train([NAN, NAN, GOOD, NAN, NAN], stop_after=3).skipped_steps == 4
    with pytest.raises(NotFiniteError, match=r"not finite for 3 steps in a row, the last one step 4, batch 3, t = 2;"):
        train([GOOD, NAN, NAN, NAN, GOOD], stop_after=3)


def test_the_count_is_part_of_the_state():
    state = {"skipped_steps": 7, "in_a_row": 2}
    callback = SkipNotFinite()
    callback.load_state_dict(state)
    assert callback.state_dict() == state

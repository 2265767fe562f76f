"""Through a real Trainer; what the command says and keeps is in tests/commands/test_faults.py."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from lightning import LightningModule

from diffusion_lab.models.muon import Muon
from diffusion_lab.training import finite
from diffusion_lab.training.finite import NotFiniteError, SkipNotFinite, keep_state_on_device, undo_step_unless
from tests.models.stand_ins import quiet_trainer


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
        return {"loss": losses.sum()}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def train(batches, stop_after=20, log_every_n_steps=50, skip=None):
    model, skip = Line(), skip or SkipNotFinite(stop_after)
    trainer = quiet_trainer(len(batches), skip, log_every_n_steps=log_every_n_steps)
    trainer.fit(model, torch.utils.data.DataLoader(torch.tensor(batches), batch_size=None, num_workers=0))
    return model, skip


GOOD, NAN, INF = [0.5, 0.5], [0.5, torch.nan], [torch.inf, 0.5]

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")


def test_only_finite_steps_move_the_weights():
    model, _ = train([GOOD, NAN, INF, GOOD])
    assert model.weight.item() == -2
    assert model.skipped_steps == 2


def test_so_many_in_a_row_and_not_so_many_in_all():
    assert train([NAN, NAN, GOOD, NAN, NAN], stop_after=3)[0].skipped_steps == 4
    with pytest.raises(NotFiniteError, match=r"not finite for 3 steps in a row, the last one step 4, batch 3;"):
        train([GOOD, NAN, NAN, NAN, GOOD], stop_after=3)


# ---- a step on a GPU that nobody waits for: what it should not have changed is as it was. Here a CPU is taken for one ----


def muon(parameters):
    return Muon([("hidden", parameters[0]), ("bias", parameters[1])], weight_decay=0.1)


OPTIMIZERS = {
    "adamw": partial(torch.optim.AdamW, lr=0.1),
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    "muon": muon,
}


def walked(optimizer, steps):
    """Weights and state after steps, each True where its gradients are finite; those that are not are taken back."""
    parameters = [torch.nn.Parameter(torch.ones(3, 2)), torch.nn.Parameter(torch.ones(2))]
    optimizer = optimizer(parameters)
    random = torch.Generator().manual_seed(0)
    for is_finite in steps:
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, torch.nan)
            if is_finite:
                parameter.grad = torch.randn(parameter.shape, generator=random)
        undo_step_unless(torch.tensor(is_finite), optimizer)
        optimizer.step()
    return [*parameters, *(value for parameter in parameters for value in optimizer.state[parameter].values())]


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("steps", [[False, True, True], [True, False, False, True]])
def test_weights_moments_and_counts_are_those_of_the_steps_that_count(optimizer, steps):
    found, expected = walked(optimizer, steps), walked(optimizer, [step for step in steps if step])
    assert len(found) > 2
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("log_every_n_steps", [1, 3, 50])
def test_what_nobody_waited_for_is_skipped_and_counted_all_the_same(monkeypatch, log_every_n_steps):
    monkeypatch.setattr(finite, "is_on_host", lambda values: False)
    model, skip = train([GOOD, NAN, INF, GOOD, NAN], log_every_n_steps=log_every_n_steps)
    assert model.weight.item() == -2
    assert model.skipped_steps == 3
    assert skip.state_dict() == {"skipped_steps": 3, "in_a_row": 1}


def test_too_many_in_a_row_are_named_when_the_count_is_read(monkeypatch):
    monkeypatch.setattr(finite, "is_on_host", lambda values: False)
    with pytest.raises(NotFiniteError, match=r"not finite for 3 steps in a row, the last one step 4, batch 3;"):
        train([GOOD, NAN, NAN, NAN, GOOD], 3, log_every_n_steps=4)


def test_a_resumed_training_goes_on_counting():
    skip = SkipNotFinite(3)
    skip.load_state_dict({"skipped_steps": 7, "in_a_row": 2})
    with pytest.raises(NotFiniteError, match="not finite for 3 steps in a row"):
        train([NAN], skip=skip)
    assert skip.state_dict() == {"skipped_steps": 8, "in_a_row": 3}


@pytest.mark.parametrize(
    ("device", "given", "found"), [("cuda", None, True), ("cuda", False, False), ("cpu", None, None)]
)
def test_adamw_is_one_kernel_on_a_gpu(device, given, found):
    """Unless its options say otherwise, and whatever a checkpoint of the other kind of device says."""
    group = {"params": [SimpleNamespace(device=torch.device(device))], "fused": True if given is None else given}
    optimizer = SimpleNamespace(param_groups=[group], defaults={"fused": given, "foreach": None}, state={})
    keep_state_on_device(optimizer, fused=True)
    assert group["fused"] is found
    keep_state_on_device(optimizer, fused=False)  # a gradient scaler
    assert group["fused"] is (given and found)

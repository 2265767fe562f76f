"""Two processes train as one does where the loss holds a derivative in forward mode."""

import os
import socket
from pathlib import Path

import pytest
import torch
from torch.func import jvp
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from diffusion_lab.models.trainable import TrainableModel
from tests.models.stand_ins import quiet_trainer
from tests.networks.test_second_time import KINDS, denoiser

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
STEPS, BATCH, SIDES = 2, 4, (8, 8)


class WithResidual(TrainableModel):
    """MeanFlow's loss of a network of two times. gradients: of the jvp's own output, else of a plain evaluation beside it."""

    def __init__(self, kind, gradients):
        super().__init__()
        self.seed, self.gradients = 3, gradients
        self.network = denoiser(kind, SIDES, two_times=True, dropout=0.2)

    def training_step(self, batch, batch_idx):
        x, v, t, s = batch
        assert isinstance(self.trainer.strategy.model, DistributedDataParallel) == (self.trainer.world_size > 1)
        with torch.set_grad_enabled(self.gradients):
            u, du = jvp(lambda x, t: self.network(x, t, None, s), (x, t), (v, torch.ones_like(t)))
        u = u if self.gradients else self.network(x, t, None, s)
        return (u - (v - 0.5 * du.detach())).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def weights_after(kind, gradients, rank=0, ranks=1):
    """The weights after a training on this rank's rows of the same global batches."""
    generator = torch.Generator().manual_seed(4)
    x, v = torch.randn(2, STEPS, BATCH, 1, *SIDES, generator=generator)
    t, s = 10 * torch.rand(2, STEPS, BATCH, generator=generator)
    share = BATCH // ranks
    rows = slice(rank * share, (rank + 1) * share)
    batches = [tuple(part[k][rows] for part in (x, v, t, s)) for k in range(STEPS)]
    model = WithResidual(kind, gradients)
    options = {"strategy": "ddp", "devices": ranks} if ranks > 1 else {}
    trainer = quiet_trainer(STEPS, use_distributed_sampler=False, **options)
    trainer.fit(model, DataLoader(batches, batch_size=None))
    return dict(model.network.state_dict())


def in_ranks(folder: str, rank: str, port: str) -> None:
    """One of two processes that train each network both ways. port: of rank 0."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    os.environ.update(address, WORLD_SIZE="2", RANK=rank, LOCAL_RANK=rank)
    found = {(kind, way): weights_after(kind, way, int(rank), 2) for kind in KINDS for way in (True, False)}
    torch.save(found, Path(folder) / f"{rank}.pt")


@pytest.mark.thorough
def test_two_processes_train_as_one_does_through_a_jvp(tmp_path, zygote):
    """The step calls the network itself; the wrapper is around the step, and its hooks on the weights average their gradients."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    started = [zygote.call(tmp_path / str(n), in_ranks, str(tmp_path), str(n), port) for n in range(2)]
    for process in started:
        _, err = process.communicate()
        assert process.returncode == 0, err
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for (kind, way), weights in first.items():
        alone, start = weights_after(kind, way), denoiser(kind, SIDES, two_times=True).state_dict()
        for name, tensor in weights.items():
            assert torch.equal(tensor, second[kind, way][name]), name
            torch.testing.assert_close(tensor, alone[name], rtol=1e-4, atol=1e-6)
        assert any(not torch.allclose(tensor, start[name], atol=1e-3) for name, tensor in weights.items())

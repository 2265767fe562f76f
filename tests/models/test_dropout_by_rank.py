"""Each rank drops the same elements of its rows as a single process."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from diffusion_lab.models import trainable
from diffusion_lab.models.trainable import TrainableModel


class Model(TrainableModel):
    def __init__(self):
        super().__init__()
        self.seed, self.network = 3, nn.Sequential(nn.Dropout(0.3), nn.Linear(40, 40, bias=False), nn.Dropout(0.2))
        nn.init.eye_(self.network[1].weight)


def outputs(monkeypatch, rank, size, k, x):
    """The output of `rank`, one of so many ranks, in batch k, for its rows of the global batch x."""
    monkeypatch.setattr(trainable, "batches_trained", lambda trainer: k)
    model = Model()
    model._trainer = SimpleNamespace(global_rank=rank, world_size=size)
    own = x.chunk(size)[rank]
    model.on_train_batch_start((own, None), 0)
    return model.network(own)


@pytest.mark.parametrize("size", [2, 4, 8])
def test_ranks_drop_what_one_process_does(monkeypatch, size):
    x = torch.ones(8, 40)
    alone = outputs(monkeypatch, 0, 1, 5, x)
    together = torch.cat([outputs(monkeypatch, rank, size, 5, x) for rank in range(size)])
    torch.testing.assert_close(together, alone)
    assert not torch.allclose(outputs(monkeypatch, 0, 1, 6, x), alone)

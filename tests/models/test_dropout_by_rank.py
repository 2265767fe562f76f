"""Each rank, and each part of a batch, drops the same elements of its rows as a single process."""

import pytest
import torch
from torch import nn

from diffusion_lab.models.trainable import TrainableModel
from tests.models.stand_ins import at_batch


class Model(TrainableModel):
    def __init__(self):
        super().__init__()
        self.seed, self.network = 3, nn.Sequential(nn.Dropout(0.3), nn.Linear(40, 40, bias=False), nn.Dropout(0.2))
        nn.init.eye_(self.network[1].weight)


def outputs(k, x, ranks=1, parts=1):
    """The outputs for the global batch x, batch k of a training, by so many ranks in so many parts."""
    found = []
    for part in range(parts):
        for rank in range(ranks):
            model, own = Model(), x.chunk(ranks * parts)[part * ranks + rank]
            at_batch(model, parts * k + part, rank, ranks, accumulate_grad_batches=parts)
            model.on_train_batch_start((own, None), 0)
            found.append(model.network(own))
    return torch.cat(found)


@pytest.mark.parametrize(("ranks", "parts"), [(2, 1), (4, 1), (8, 1), (1, 4), (2, 2)])
def test_ranks_drop_what_one_process_does(ranks, parts):
    x = torch.ones(8, 40)
    alone = outputs(5, x)
    torch.testing.assert_close(outputs(5, x, ranks, parts), alone)
    assert not torch.allclose(outputs(6, x), alone)

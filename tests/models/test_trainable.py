"""Weights of a module, raw and averaged, and dropout whose masks do not depend on the number of ranks."""

import pytest
import torch
from torch import nn

from diffusion_lab.models.trainable import TrainableModel
from tests.models.stand_ins import at_batch, line_with_an_average


@pytest.fixture
def model():
    return line_with_an_average()


def value(model):
    """With the weights that the module has now."""
    return model.net(torch.ones(1, 1)).item()


def test_raw_weights_are_back(model):
    """Raw weights are back after an error and were never written over."""
    storage = model.net.weight.data_ptr()

    def fail():
        assert model.net.weight.data_ptr() != storage
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"), model.use_weights("ema_0.9"):
        fail()
    assert model.net.weight.data_ptr() == storage
    assert value(model) == 1.0


def test_blocks_may_be_nested(model):
    model.averages["ema_0.5"] = {"net.bias": torch.full((1,), 7.0)}
    with model.use_weights("ema_0.9"):
        with model.use_weights("ema_0.5"):
            assert value(model) == 9.0
        assert value(model) == 2.5
    assert value(model) == 1.0


def test_an_average_is_no_state_and_brought_to_the_type_of_weights(model):
    assert set(model.state_dict()) == {"net.weight", "net.bias"}
    model.double()
    with model.use_weights("ema_0.9"):
        assert model.net.weight.dtype == torch.float64


def test_unknown_weights_are_named_with_those_that_exist(model):
    assert model.weight_names == ["raw", "ema_0.9"]
    with pytest.raises(ValueError, match=r"'ema_0.99'; it has raw, ema_0.9"), model.use_weights("ema_0.99"):
        pass


@pytest.mark.parametrize("average", [{"net.weights": torch.zeros(1, 1)}, {"net.weight": torch.zeros(2, 1)}])
def test_weights_of_another_model_are_refused(model, average):
    """Weights of another model are refused before anything is swapped."""
    model.averages["other"] = {"net.bias": torch.full((1,), 9.0)} | average
    with pytest.raises(ValueError, match="do not fit"), model.use_weights("other"):
        pass
    assert value(model) == 1.0


class Dropping(TrainableModel):
    def __init__(self):
        super().__init__()
        self.seed, self.network = 3, nn.Sequential(nn.Dropout(0.3), nn.Linear(40, 40, bias=False), nn.Dropout(0.2))
        nn.init.eye_(self.network[1].weight)


def outputs(k, x, ranks=1, parts=1):
    """The outputs for the global batch x, batch k of a training, by so many ranks in so many parts."""
    found = []
    for part in range(parts):
        for rank in range(ranks):
            model, own = Dropping(), x.chunk(ranks * parts)[part * ranks + rank]
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

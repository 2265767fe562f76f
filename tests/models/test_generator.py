"""What a module hands out: it keeps its weights, and leaves the module alone."""

import pytest
import torch

from tests.models.stand_ins import line_with_an_average


@pytest.fixture
def model():
    return line_with_an_average()


def drawn(generator):
    return generator.sample(torch.ones(1, dtype=torch.int64), 0).item()


def test_a_generator_keeps_its_weights(model):
    """Whatever the module does next: a step in place, an update of its averages, a file, another place for its weights."""
    generators = {name: model.generator(name) for name in model.weight_names}
    assert {name: drawn(generator) for name, generator in generators.items()} == {"raw": 1.0, "ema_0.9": 2.5}
    with torch.no_grad():
        model.net.weight.add_(1)
    for tensor in model.averages["ema_0.9"].values():
        tensor.lerp_(torch.zeros(1), 0.5)
    model.load_state_dict({key: value + 3 for key, value in model.state_dict().items()})
    model.double()
    assert {name: drawn(generator) for name, generator in generators.items()} == {"raw": 1.0, "ema_0.9": 2.5}


def test_a_generator_leaves_the_module_alone(model):
    model.train()
    generator = model.generator("ema_0.9")
    assert (model.net.training, generator.net.training) == (True, False)
    with torch.no_grad():
        generator.net.weight.fill_(9)
    assert model.net.weight.item() == 1.0
    assert drawn(model.generator("ema_0.9")) == 2.5


def test_a_generator_of_unknown_weights_is_refused(model):
    with pytest.raises(ValueError, match=r"'ema_0.99'; it has raw, ema_0.9"):
        model.generator("ema_0.99")


def test_what_an_average_lacks_is_raw(model):
    model.averages["ema_0.5"] = {"net.bias": torch.full((1,), 7.0)}
    assert drawn(model.generator("ema_0.5")) == 8.0

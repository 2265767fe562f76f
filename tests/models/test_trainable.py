"""Weights of a module: raw, averaged, in files, and in what it hands out."""

from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from diffusion_lab.models.generator import Generator
from diffusion_lab.models.trainable import GenerativeModel


class Line(GenerativeModel):
    """Two parameters, and images that are their values at 1."""

    shape, num_levels, num_classes = (1,), None, None

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(1, 1)

    def generator(self, weights="raw"):
        facts = {name: getattr(self, name) for name in ("shape", "num_levels", "num_classes")}
        return LineGenerator(**facts, net=self.frozen(self.net, weights))


@dataclass(frozen=True, kw_only=True, eq=False)
class LineGenerator(Generator):
    net: nn.Module

    @property
    def networks(self):
        return {"network": self.net}

    def latents(self, indices, seed):
        return indices.float()[:, None]

    def decode(self, z, y=None):
        return self.net(z)

    def protocol(self):
        return {}


@pytest.fixture
def model():
    line = Line()
    nn.init.constant_(line.net.weight, 1.0)
    nn.init.constant_(line.net.bias, 0.0)
    line.averages["ema_0.9"] = {"net.weight": torch.full((1, 1), 2.0), "net.bias": torch.full((1,), 0.5)}
    return line


def value(model):
    """With the weights that the module has now."""
    return model.net(torch.ones(1, 1)).item()


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
    assert value(model) == 1.0
    assert drawn(model.generator("ema_0.9")) == 2.5


def test_a_generator_of_unknown_weights_is_refused(model):
    with pytest.raises(ValueError, match=r"'ema_0.99'; it has raw, ema_0.9"):
        model.generator("ema_0.99")


def test_what_an_average_lacks_is_raw(model):
    model.averages["ema_0.5"] = {"net.bias": torch.full((1,), 7.0)}
    assert drawn(model.generator("ema_0.5")) == 8.0


def test_weights_from_a_file_are_laid_out_as_trained(model, tmp_path):
    """The memory format decides rounding, and a file has none."""
    model.net = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    model.averages = {"ema_0.9": {name: p.detach().clone() for name, p in model.named_parameters()}}
    model.save_weights({"ema_0.9": tmp_path / "ema_0.9.safetensors"})
    model.load_weights({"ema_0.9": tmp_path / "ema_0.9.safetensors"})
    frozen = model.generator("ema_0.9").net
    assert frozen.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(frozen.weight, model.net.weight)


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


WRONG = {
    "half": lambda tensors: {"net.bias": tensors["net.bias"]},
    "more": lambda tensors: tensors | {"net.more": torch.zeros(1)},
    "inf": lambda tensors: tensors | {"net.bias": torch.full((1,), torch.inf)},
    "nan": lambda tensors: tensors | {"net.bias": torch.full((1,), torch.nan)},
    **{
        str(kind): lambda tensors, kind=kind: tensors | {"net.bias": torch.zeros(1).to(kind)}
        for kind in (torch.int32, torch.bool, torch.complex64, torch.float8_e4m3fn)
    },
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", ["raw", "ema_0.9", "at_0.2"])
def test_weights_must_be_complete_and_numbers(model, tmp_path, name, wrong):
    file = tmp_path / f"{name}.safetensors"
    save_file(WRONG[wrong](dict(model.averages["ema_0.9"])), file)
    for read in (lambda: model.load_weights({name: file}), lambda: model.start_from(file)):
        with pytest.raises(ValueError, match=rf"{name}.safetensors .*net\.(bias|weight|more)"):
            read()
    assert value(model) == 1.0
    assert model.weight_names == ["raw", "ema_0.9"]


def test_weights_of_half_precision_are_taken(model, tmp_path):
    file = tmp_path / "raw.safetensors"
    save_file({key: tensor.half() for key, tensor in model.averages["ema_0.9"].items()}, file)
    model.load_weights({"raw": file})
    assert value(model) == 2.5

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.models.stand_ins import line_with_an_average


@pytest.fixture
def model():
    return line_with_an_average()


def test_weights_from_a_file_are_laid_out_as_trained(model, tmp_path):
    """The memory format decides rounding, and a file has none."""
    model.net = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    model.averages = {"ema_0.9": {name: p.detach().clone() for name, p in model.named_parameters()}}
    model.save_weights({"ema_0.9": tmp_path / "ema_0.9.safetensors"})
    model.load_weights({"ema_0.9": tmp_path / "ema_0.9.safetensors"})
    frozen = model.generator("ema_0.9").net
    assert frozen.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(frozen.weight, model.net.weight)


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
    assert model.net(torch.ones(1, 1)).item() == 1.0
    assert model.weight_names == ["raw", "ema_0.9"]


def test_weights_of_half_precision_are_taken(model, tmp_path):
    file = tmp_path / "raw.safetensors"
    save_file({key: tensor.half() for key, tensor in model.averages["ema_0.9"].items()}, file)
    model.load_weights({"raw": file})
    assert model.net(torch.ones(1, 1)).item() == 2.5

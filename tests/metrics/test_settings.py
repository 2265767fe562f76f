import dataclasses
from pathlib import Path

import pytest
import yaml

from diffusion_lab.metrics.settings import MAX_DEFAULT_SAMPLES, Evaluation
from tests.metrics.stand_ins import TinyImages

CONF = Path(__file__).parents[2] / "conf" / "evaluation" / "default.yaml"


def test_the_yaml_names_every_setting_with_its_default():
    content = yaml.safe_load(CONF.read_text())
    assert content.pop("_target_") == f"{Evaluation.__module__}.{Evaluation.__name__}"
    assert content.pop("seed") == "${seed}"  # of the training
    assert content == {name: value for name, value in dataclasses.asdict(Evaluation()).items() if name != "seed"}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("num_samples", 1),
        ("batch_size", 0),
        ("seed", -1),
        ("seed", 2**64),
        ("reference", "held_out"),
        ("precision", "bf16"),
        ("reference_features", 0),
    ],
)
def test_an_impossible_number_is_named(setting, value):
    with pytest.raises(ValueError, match=rf"evaluation\.{setting}(=| must .* got ){value}"):
        Evaluation(**{setting: value})


def test_by_default_as_many_samples_as_the_floor_can_have():
    data = TinyImages()
    assert Evaluation().resolve_num_samples(data) == 40
    data.num_test = 10_000
    assert Evaluation().resolve_num_samples(data) == MAX_DEFAULT_SAMPLES == 2048
    assert Evaluation(num_samples=500).resolve_num_samples(data) == 500
    data.hold_back(30)
    assert Evaluation(reference="validation").resolve_num_samples(data) == 30

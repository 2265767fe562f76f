import dataclasses
from pathlib import Path

import pytest
import yaml

from diffusion_lab.evaluation.settings import MAX_DEFAULT_SAMPLES, Bound, Evaluation

CONF = Path(__file__).parents[2] / "conf" / "evaluation" / "default.yaml"


def test_the_yaml_names_every_setting_with_its_default():
    content = yaml.safe_load(CONF.read_text())
    for settings, node in ((Evaluation(), content), (Bound(), content["bound"])):
        node = {key: value for key, value in node.items() if key not in ("_target_", "bound")}
        assert node == {key: value for key, value in dataclasses.asdict(settings).items() if key != "bound"}
    assert content["_target_"] == f"{Evaluation.__module__}.{Evaluation.__name__}"
    assert content["bound"]["_target_"] == f"{Bound.__module__}.{Bound.__name__}"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("num_samples", 1),
        ("batch_size", 0),
        ("seed", -1),
        ("seed", 2**64),
        ("reference_split", "validation"),
        ("reference_features", 0),
        ("kid_subsets", 0),
        ("kid_subset_size", 1),
        ("neighbours", 0),
    ],
)
def test_an_impossible_number_is_named(setting, value):
    with pytest.raises(ValueError, match=rf"evaluation\.{setting} must .* got {value}"):
        Evaluation(**{setting: value})


@pytest.mark.parametrize(
    ("setting", "value"), [("num_images", 0), ("batch_size", 0), ("max_terms", 1), ("num_draws", 0)]
)
def test_an_impossible_number_of_the_bound_is_named(setting, value):
    with pytest.raises(ValueError, match=rf"evaluation\.bound\.{setting} must .* got {value}"):
        Bound(**{setting: value})


def test_by_default_as_many_samples_as_the_floor_can_have():
    assert Evaluation().resolve_num_samples(360) == 360
    assert Evaluation().resolve_num_samples(10_000) == MAX_DEFAULT_SAMPLES == 2048
    assert Evaluation(num_samples=500).resolve_num_samples(360) == 500


def test_the_floor_comes_from_the_other_split():
    assert Evaluation().held_out_split == "test"
    assert Evaluation(reference_split="test").held_out_split == "train"

"""The values of conditions that a user gives, and records of conditions from somebody else's folder."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from diffusion_lab.commands.library import _conditions
from diffusion_lab.config.drawn_conditions import drawn_conditions
from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.config.trained import trained_data
from diffusion_lab.store.records import RunError

SIZES = (3, (2,))
RECORDS = {"classes": {"names": ["ant", "bee", "cat"]}, "vector": {"shift": [10.0, 0.0], "scale": [2.0, 1.0]}}


def drawn(value, records=RECORDS, names=("classes", "vector")):
    """What a call from Python with these values draws."""
    directory = SimpleNamespace(path="folder", config="config.yaml", training="training.json")
    directory.read_training = lambda: {"conditions": records}
    option, arrays = _conditions(value)
    plain = OmegaConf.from_dotlist([text.replace(", ", ",") for text in option]) if option else {}
    cfg = OmegaConf.create({"condition": plain.get("condition"), "num_images": 4})
    saved = OmegaConf.create({"condition": dict.fromkeys(names)})
    model = SimpleNamespace(conditions=SIZES, num_classes=3)
    return drawn_conditions(cfg, saved, directory, model, lambda: None, arrays).of(torch.arange(4), 0)


@pytest.mark.parametrize(
    "classes", [1, "bee", np.int64(1), np.array([1]), torch.tensor(1), np.array(["bee"])], ids=repr
)
def test_a_class_is_given_in_any_form(classes):
    y, v = drawn({"classes": classes, "vector": np.array([12.0, 3.0])})
    assert y.tolist() == [1] * 4
    assert v.tolist() == [[1.0, 3.0]] * 4


@pytest.mark.parametrize("vector", [[np.inf, 0.0], [np.nan, 0.0], [1e300, 0.0]], ids=str)
def test_values_that_no_network_takes_are_refused(vector):
    with pytest.raises(MistakeError, match="an infinite value, or NaN in a part of it"):
        drawn({"classes": 1, "vector": np.array(vector)})


def test_nan_in_every_entry_is_no_condition():
    assert drawn({"classes": 1, "vector": np.full(2, np.nan)})[1].isnan().all()


def test_a_number_of_any_length_is_a_mistake():
    with pytest.raises(MistakeError, match=r"give FILE\.npy with a vector"):
        drawn({"classes": 1, "vector": [10**400, 0]})


def test_records_may_hold_more_but_must_fit():
    value = {"classes": 1, "vector": np.zeros(2)}
    drawn(value, {**RECORDS, "vector": RECORDS["vector"] | {"own": 3}})
    with pytest.raises(RunError, match="shift has 1 entries, but the model needs 2"):
        drawn(value, {**RECORDS, "vector": {"shift": [0.0], "scale": [1.0]}})
    with pytest.raises(RunError, match="an entry for each of the 2 conditions"):
        drawn(value, names=("classes",))


def test_data_with_other_conditions_are_refused():
    condition = SimpleNamespace(size=(2,))
    data = SimpleNamespace(name="own", training_identity="same", conditions={"vector": condition}, prepare=lambda: None)
    saved = OmegaConf.create({"data": {}, "facts": {"identity": "same", "conditions": [[2]]}})
    assert trained_data(saved, data) is data
    saved.facts.conditions = [[2], 3]
    with pytest.raises(MistakeError, match="its conditions have the sizes"):
        trained_data(saved, data)

"""The values of conditions that a user gives, and records of conditions from somebody else's folder."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from diffusion_lab.commands.library import _conditions
from diffusion_lab.config.drawn_conditions import drawn_conditions
from diffusion_lab.config.loading import check_worse, trained_data
from diffusion_lab.config.mistakes import MistakeError
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


def test_records_may_hold_more():
    value = {"classes": 1, "vector": np.zeros(2)}
    drawn(value, {**RECORDS, "vector": RECORDS["vector"] | {"own": 3}})
    with pytest.raises(RunError, match="an entry for each of the 2 conditions"):
        drawn(value, names=("classes",))


def test_held_out_values_of_the_folder_stand_for_the_data():
    held_out = {"classes": [2, 0], "vector": [[1.0, 2.0], [3.0, 4.0]]}
    records = {name: record | {"held_out": held_out[name]} for name, record in RECORDS.items()}
    y, v = drawn(None, records)
    assert (y.tolist(), v[:, 0].tolist()) == ([2, 0, 2, 0], [1.0, 3.0, 1.0, 3.0])
    y, v = drawn({"classes": 1}, records)
    assert (y.tolist(), v[:, 0].tolist()) == ([1] * 4, [1.0, 3.0, 1.0, 3.0])


def config(folder, condition):
    folder.mkdir()
    (folder / "config.yaml").write_text(
        OmegaConf.to_yaml({"model": None, "data": None, "facts": {}, "condition": condition})
    )
    return str(folder)


@pytest.mark.parametrize("option", ["model", "worse", "teacher"])
def test_another_model_of_other_conditions_is_told(tmp_path, option):
    """Their values have one size, so the network would take them."""
    vector = {"vector": {"_target_": "diffusion_lab.conditions.Vector"}}
    light = {"brightness_area": {"_target_": "diffusion_lab.conditions.computed.BrightnessArea", "threshold": 0.0}}
    same, other, none = (config(tmp_path / name, of) for name, of in (("a", vector), ("b", light), ("c", {})))

    def guided(by, condition):
        guidance = {"model": by} if option == "model" else {"worse": {"model": by}} if option == "worse" else {}
        objective = {"teacher": by if option == "teacher" else None}
        check_worse(OmegaConf.create({"guidance": guidance, "objective": objective, "condition": condition}))

    guided(same, vector)
    guided(none, vector)
    guided(other, {})
    for condition in (vector, {"brightness_area": light["brightness_area"] | {"threshold": 0.5}}):
        with pytest.raises(MistakeError, match=r"(model|objective\.teacher)=.*b was trained with another condition"):
            guided(other, condition)


def test_data_with_other_conditions_are_refused():
    condition = SimpleNamespace(size=(2,))
    data = SimpleNamespace(name="own", training_identity="same", conditions={"vector": condition}, prepare=lambda: None)
    saved = OmegaConf.create({"data": {}, "facts": {"identity": "same", "conditions": [[2]]}})
    assert trained_data(saved, data) is data
    saved.facts.conditions = [[2], 3]
    with pytest.raises(MistakeError, match="its conditions have the sizes"):
        trained_data(saved, data)

"""Names of trainings over the versions: equal for equal questions, whatever the spelling, and for these only."""

import json
import random
from copy import deepcopy

import pytest
import yaml
from hydra.utils import get_object

from diffusion_lab.conf_dir import CONF
from diffusion_lab.config import spelling
from diffusion_lab.config.spelling import TABLE, meanings, spelling_of_names, todays_spelling

CLASSES, OPTIONS, VALUES = ["Net", "Path", "Loss"], ["width", "depth", "rate"], [0, 1, 2.5, None, "word", [1, 2]]
KEPT = deepcopy(TABLE)


@pytest.fixture(autouse=True)
def table(monkeypatch):
    """A table to fill in place of that of the lab, which the test may restore."""
    empty = {kind: type(entries)() for kind, entries in KEPT.items()}
    monkeypatch.setattr(spelling, "TABLE", empty)
    spelling._spellings.cache_clear()
    yield empty
    spelling._spellings.cache_clear()


def digest(config):
    return json.dumps(spelling_of_names(config), sort_keys=True)


def question(rng):
    """A random config of version 0: groups of a class with options, some nested, and a plain option."""
    groups = {
        name: {"_target_": f"lab.{rng.choice(CLASSES)}0", **{f"{option}0": rng.choice(VALUES) for option in OPTIONS}}
        for name in ("network", "schedule")
    }
    groups["objective"] = {"_target_": "lab.Loss0", "inner": deepcopy(groups["schedule"])}
    return {**groups, "seed0": rng.choice(VALUES)}


def spelt_in(version, node, rng):
    """A config of version 0 as a later one writes it: each class and option has a name that ends in its version."""
    if not isinstance(node, dict):
        return node
    named = {
        (key if key in ("_target_", "network", "schedule", "objective", "inner") else f"{key[:-1]}{version}"): spelt_in(
            version, child, rng
        )
        for key, child in node.items()
    }
    if "_target_" in named:
        named["_target_"] = f"{named['_target_'][:-1]}{version}"
        if version:  # options that came later, at the value that changes nothing
            named |= {f"new{version}": 0.0} if rng.random() < 0.7 else {}
    return named


def rename_everything(table, versions=3):
    table["targets"] = [[f"lab.{name}{version}" for version in range(versions)] for name in CLASSES]
    table["options"] = [
        [f"lab.{name}0.{option}{version}" for version in range(versions)] for name in CLASSES for option in OPTIONS
    ]
    table["options"].append([f"seed{version}" for version in range(versions)])
    table["later"] = {f"lab.{name}0.new{version}": 0.0 for name in CLASSES for version in range(1, versions)}


def test_names_are_equal_exactly_for_equal_questions(table):
    """Random configs in random versions."""
    rename_everything(table)
    rng = random.Random(0)
    questions = [question(rng) for _ in range(40)]
    questions += [deepcopy(rng.choice(questions)) for _ in range(40)]
    spelt = [spelt_in(rng.randrange(3), asked, rng) for asked in questions]
    equal = 0
    for asked, config in zip(questions, spelt, strict=True):
        for other, other_config in zip(questions, spelt, strict=True):
            assert (digest(config) == digest(other_config)) == (asked == other)
            equal += asked == other
    assert equal > len(questions), "some questions were asked in two spellings"


def test_another_value_of_a_later_option_is_another_name(table):
    rename_everything(table)
    rng = random.Random(1)
    for _ in range(20):
        config = spelt_in(2, question(rng), rng)
        changed = deepcopy(config)
        rng.choice([changed["network"], changed["objective"]["inner"]])["new2"] = rng.choice([1.0, None, "0.0", False])
        assert digest(changed) != digest(config)


def test_a_config_of_any_version_is_read_in_todays_spelling(table):
    rename_everything(table)
    rng = random.Random(2)
    for version in range(3):
        asked = question(rng)
        read = todays_spelling(spelt_in(version, asked, rng))
        assert {read["network"]["_target_"][-1], read["objective"]["inner"]["_target_"][-1]} == {"2"}
        assert read["network"]["width2"] == asked["network"]["width0"]
        assert read["seed2"] == asked["seed0"]


def test_an_option_moves_to_another_group(table):
    table["options"] = [["trainer.rate", "optimizer.lr"]]
    assert todays_spelling({"trainer": {"rate": 1, "steps": 2}}) == {"trainer": {"steps": 2}, "optimizer": {"lr": 1}}
    assert spelling_of_names({"trainer": {"steps": 2}, "optimizer": {"lr": 1}}) == {
        "trainer": {"steps": 2, "rate": 1},
        "optimizer": {},
    }


def test_what_0_1_resolved_may_have_been_a_word(table):
    table |= {"filled": {"variant": None}, "resolved": {"trainer.precision": {"auto": ["bf16"]}}}
    old, new = {"trainer": {"precision": "bf16"}}, {"trainer": {"precision": "bf16"}, "variant": None}
    assert [config["trainer"]["precision"] for config in meanings(old)] == ["bf16", "auto"]
    assert meanings(new) == [new]


def test_the_table_leads_to_names_of_today():
    """Classes that are there, and options without two meanings."""
    for spellings in KEPT["targets"]:
        assert get_object(spellings[-1]) is not None
    for kind in ("targets", "options"):
        for spellings in KEPT[kind]:
            others = [other for other in KEPT[kind] if other is not spellings]
            assert not {*spellings} & {each for other in others for each in other}
    text = (CONF / "spellings.yaml").read_text()
    assert yaml.safe_load(text).keys() == KEPT.keys()

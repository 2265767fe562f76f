"""The types of options, from defaults, remarks and annotations."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from diffusion_lab.commands.main import COMMANDS
from diffusion_lab.conf_dir import CONF
from diffusion_lab.config.kinds import _declared, _is_reference, check_kinds
from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.store.option_names import flat


@pytest.mark.parametrize("command", [*COMMANDS, "evaluate_samples"])
def test_every_option_of_a_command_says_what_it_takes(command):
    defaults, remarks = _declared(command)
    own = {key: value for key, value in flat(defaults).items() if not key.startswith(("hydra.", "facts."))}
    silent = {key for key, value in own.items() if value is None or _is_reference(value)}
    assert {key for key in silent if key.rpartition(".")[2] not in remarks} == set()


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("port", "abc", "a whole number"),
        ("port", "true", "a whole number"),
        ("open", "'no'", "true or false"),
        ("open", "1", "true or false"),
        ("outputs", "3", "a string"),
        ("outputs", "{a: 1}", "a string"),
        ("model_dir", "[a]", "a string or null"),
        ("port", ".nan", "finite"),
        ("port", "null", "a whole number"),
    ],
)
def test_a_value_is_checked_against_its_yaml(option, value, said):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("demo")
    check_kinds(cfg, "demo")
    cfg[option] = OmegaConf.create(f"x: {value}").x
    with pytest.raises(MistakeError, match=rf"^{option}=.*{said}"):
        check_kinds(cfg, "demo")


class Made:
    def __init__(self, size: tuple[int, int], weight: float, names: list[str], part: MistakeError | None) -> None: ...


@pytest.mark.parametrize(
    ("option", "right", "wrong"),
    [
        ("size", [1, 2], [1]),
        ("weight", 1, "x"),
        ("names", ["a"], [1]),
        ("part", None, "x"),
        ("part", {"_target_": "x"}, 3),
    ],
)
def test_a_value_is_checked_against_its_class(option, right, wrong):
    node = {"_target_": f"{__name__}.Made"}
    check_kinds(OmegaConf.create({"made": {**node, option: right}}))
    with pytest.raises(MistakeError, match=rf"^made\.{option}="):
        check_kinds(OmegaConf.create({"made": {**node, option: wrong}}))


def test_a_list_is_named_beside_other_kinds():
    node = {"_target_": "diffusion_lab.data.arrays.Arrays", "normalize": ["a", 2]}
    with pytest.raises(MistakeError, match=r"a string or null or a list, such as \[1,2\]"):
        check_kinds(OmegaConf.create({"data": node}))


def test_a_group_of_options_has_no_value_of_its_own():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train")
    cfg.val = 3
    with pytest.raises(MistakeError, match=r"^val=3: .* a group of options, such as val\.every_n_steps="):
        check_kinds(cfg)


@pytest.mark.parametrize("option", ["compile=true", "compile=graphs", "data.on_device=true", "data.on_device=auto"])
def test_a_word_or_a_truth_value_is_taken(option):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        check_kinds(compose("train", [option]))

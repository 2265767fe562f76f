"""The types and ranges of options, from remarks and annotations."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from diffusion_lab.commands.main import COMMANDS
from diffusion_lab.conf_dir import CONF
from diffusion_lab.config.kinds import _declared, check_kinds
from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.store.options import flat


@pytest.mark.parametrize("command", [*COMMANDS, "evaluate_samples"])
def test_every_option_of_a_command_says_what_it_takes(command):
    written = OmegaConf.load(CONF / f"{command}.yaml")
    options = flat(OmegaConf.to_container(written, resolve=False)).keys() - {"defaults"}
    own = {option for option in options if not option.startswith(("hydra.", "facts."))}
    declared = {option for option, taken in _declared(command).items() if taken.annotation is not type(None)}
    assert own <= declared


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("port", "abc", "a whole number"),
        ("port", "65536", "at most 65535"),
        ("port", "true", "a whole number"),
        ("open", "'no'", "true or false"),
        ("open", "1", "true or false"),
        ("outputs", "3", "a string"),
        ("outputs", "{a: 1}", "a string"),
        ("model_dir", "[a]", "a string or null"),
        ("port", ".nan", "finite"),
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

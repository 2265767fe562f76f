"""Options that belong to every choice of a group are kept when a choice is named beside an experiment."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from diffusion_lab.conf_dir import CONF
from diffusion_lab.config.composing import drop_leftovers

pytestmark = pytest.mark.usefixtures("hydra_in_less_time")


@pytest.mark.parametrize("name", sorted(file.stem for file in (CONF / "trainer").glob("*.yaml")))
def test_a_trainer_beside_an_experiment_loses_nothing(name):
    options = ["experiment=ddpm_digits", f"trainer={name}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", options)
    assert drop_leftovers(cfg, OverridesParser.create().parse_overrides(options)) == []

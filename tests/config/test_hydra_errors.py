"""The texts that are read are those of the Hydra that is installed."""

from contextlib import contextmanager

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import IntegerNode, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffusion_lab.conf_dir import CONF
from diffusion_lab.config import hydra_errors


@contextmanager
def raising(kind):
    found = []
    with pytest.raises(kind) as caught:
        yield found
    found.append(caught.value)


def refused(*options):
    with initialize_config_dir(str(CONF), version_base="1.3"), raising(Exception) as found:
        compose("train", list(options))
    return found[0]


def test_an_option_that_does_not_exist():
    error = refused("network.nothing=1")
    assert hydra_errors.refused_option(error) == "network.nothing"
    assert hydra_errors.refused_option(hydra_errors.could_not_override("network.nothing")) == "network.nothing"
    assert hydra_errors.wrong_kind(error) is None


def test_a_group_that_is_null():
    assert hydra_errors.is_null_group(refused("callbacks=null"))
    assert not hydra_errors.is_null_group(refused("callbacks=nothing"))


def test_where_configs_were_searched_is_left_out():
    error = refused("network=nothing")
    assert str(CONF) in str(error)
    assert hydra_errors.one_line(error) == "In 'model/diffusion': Could not find 'network/nothing'"


def test_a_target_that_cannot_be_imported_and_its_place():
    with raising(InstantiationException) as found:
        instantiate(OmegaConf.create({"network": {"_target_": "nowhere.Net"}}))
    assert hydra_errors.missing_target(found[0]) == "nowhere.Net"
    assert hydra_errors.place(found[0]) == "network"


def test_a_reference_to_nothing():
    with raising(OmegaConfBaseException) as found:
        OmegaConf.create({"a": "${b.c}"}).a  # noqa: B018
    assert hydra_errors.missing_reference(found[0]) == "b.c"
    assert hydra_errors.place(found[0]) == "a"


def test_a_value_of_the_wrong_kind():
    node = OmegaConf.create({"a": IntegerNode(1)})
    with raising(OmegaConfBaseException) as found:
        node.a = "three"
    assert "three" in hydra_errors.wrong_kind(found[0])

"""The texts of Hydra's errors that become sentences are those of the Hydra that is installed."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import IntegerNode, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffusion_lab.conf_dir import CONF
from diffusion_lab.config.mistakes import mistake_in_job, mistake_in_options, refused_option


def refused(*options):
    with initialize_config_dir(str(CONF), version_base="1.3"), pytest.raises((HydraException, ValueError)) as caught:
        compose("train", list(options))
    GlobalHydra.instance().clear()
    return caught.value


@pytest.mark.parametrize(
    ("option", "key", "said"),
    [
        ("network.nothing=1", "network.nothing", "there is no option 'network.nothing'"),
        ("callbacks=null", None, "a group cannot be null"),
        ("callbacks=nothing", None, "callbacks=nothing: there is no such choice"),
        ("schedule@x=linear", "schedule@x", "schedule is not a part of the model that you chose"),
    ],
)
def test_an_option_that_hydra_refuses(option, key, said):
    error = refused(option)
    assert refused_option(error) == key
    assert mistake_in_options(error, "train").startswith(said)


def test_where_configs_were_searched_is_left_out():
    error = refused("network=nothing")
    assert str(CONF) in str(error)
    assert mistake_in_options(error, "train") == "In 'model/diffusion': Could not find 'network/nothing'"


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ({"network": {"_target_": "nowhere.Net"}}, "network._target_=nowhere.Net: Python cannot import this"),
        ({"_target_": "nowhere.Net"}, "_target_=nowhere.Net: Python cannot import this"),
        ({"a": {"_target_": "builtins.dict", "b": "${c.d}"}}, "c: this model needs d"),
    ],
)
def test_an_object_that_cannot_be_made(node, said):
    with pytest.raises((HydraException, OmegaConfBaseException)) as caught:
        instantiate(OmegaConf.create(node))
    assert mistake_in_job(caught.value).startswith(said)


def test_a_value_of_the_wrong_kind():
    node = OmegaConf.create({"a": IntegerNode(1)})
    with pytest.raises(OmegaConfBaseException) as caught:
        node.a = "three"
    assert mistake_in_options(caught.value, "train").startswith("a: ")
    assert "three" in mistake_in_options(caught.value, "train")

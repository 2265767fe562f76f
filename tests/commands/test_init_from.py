"""init_from: training starts from the weights of another model, which are known by their content."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from diffusion_lab.store import newest_model

from ..families.test_families import FAMILIES
from .test_families import COMMON, SMALL

STILL = ["optimizer=adamw", "optimizer.lr=1e-300", "trainer.max_steps=1", "val.every_n_steps=0", "score=false"]


def tiny(family):
    if family == "noisy_classifier":
        return [f"model={family}", *(option for option in SMALL["diffusion"] if "sampler" not in option), *COMMON]
    return [f"model={family}", *SMALL[family], *COMMON, "score=false"]


def models(lab) -> set:
    return {path.name for path in (lab.folder / "outputs" / "models").iterdir()}


@pytest.mark.parametrize(
    "family",
    ["gan", *(pytest.param(f, marks=pytest.mark.thorough) for f in [*FAMILIES, "noisy_classifier"] if f != "gan")],
)
def test_the_weights_are_those_of_the_other_model(lab, family):
    lab.given("train", *tiny(family))
    source = newest_model(lab.folder / "outputs")
    out = lab.done("train", *tiny(family), *STILL, f"init_from={source.path}")
    assert f"starting from the weights raw of {source.path}" in out
    new = newest_model(lab.folder / "outputs")
    assert new.path != source.path
    there, here = load_file(source.weights("raw")), load_file(new.weights("raw"))
    assert there.keys() == here.keys()
    for key, weights in there.items():
        torch.testing.assert_close(here[key], weights, rtol=0, atol=0)
    assert set(new.weight_names) == set(source.weight_names)


def test_they_count_by_their_content_and_may_be_an_average(lab):
    lab.given("train", *tiny("diffusion"))
    source = newest_model(lab.folder / "outputs")
    plain = models(lab)
    assert lab("train", *tiny("diffusion"), *STILL)[0] == 0
    assert lab("train", *tiny("diffusion"), *STILL, f"init_from={source.path}")[0] == 0
    assert len(models(lab) - plain) == 2
    lab.done("train", *tiny("diffusion"), *STILL, f"init_from={source.path}", "init_weights=ema_0.999")
    new, average = newest_model(lab.folder / "outputs"), load_file(source.weights("ema_0.999"))
    assert len(models(lab) - plain) == 3
    for key, weights in average.items():
        assert torch.equal(load_file(new.weights("raw"))[key], weights)

    shutil.move(source.path, lab.folder / "elsewhere")
    before = models(lab)
    assert "this model is already trained" in lab.done("train", *tiny("diffusion"), *STILL, "init_from=elsewhere")
    assert models(lab) == before


def test_a_model_of_another_network_is_one_sentence(lab):
    lab.given("train", *tiny("diffusion"))
    source = newest_model(lab.folder / "outputs")
    for options, said in (
        (
            [*tiny("diffusion"), "network.base_channels=16"],
            "(32,) in the file and (64,) in this model; the options of its network are in",
        ),
        (tiny("vae"), "is missing in the file and "),
        ([*tiny("diffusion"), "init_weights=ema_0.5"], "init_weights=ema_0.5"),
        ([*tiny("diffusion"), "init_from=nowhere"], "nowhere holds no weights"),
    ):
        lab.refused("train", f"init_from={source.path}", *options, said=said)

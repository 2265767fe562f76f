"""init_from: training starts from the weights of another model, which are known by their content."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from diffusion_lab.store import newest_model

from ..models.test_families import FAMILIES
from .conftest import STRIDED, TINY, files
from .test_families import COMMON, SMALL
from .test_resume import EVERYTHING, Training, assert_same_bits, interrupted

STILL = ["optimizer=adamw", "optimizer.lr=1e-300", "trainer.max_steps=1", "val.every_n_steps=0", "score=false"]


def tiny(family):
    if family == "noisy_classifier":
        return [f"model={family}", *(option for option in SMALL["diffusion"] if "sampler" not in option), *COMMON]
    return [f"model={family}", *SMALL[family], *COMMON, "score=false"]


def models(lab) -> set:
    return {path.name for path in (lab.folder / "outputs" / "models").iterdir()}


@pytest.mark.parametrize("family", [*FAMILIES, "noisy_classifier"])
def test_the_weights_are_those_of_the_other_model(lab, family):
    lab.given("train", *tiny(family))
    source = newest_model(lab.folder / "outputs")
    code, out, err = lab("train", *tiny(family), *STILL, f"init_from={source.path}")
    assert code == 0, err
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
    code, _, err = lab("train", *tiny("diffusion"), *STILL, f"init_from={source.path}", "init_weights=ema_0.999")
    assert code == 0, err
    new, average = newest_model(lab.folder / "outputs"), load_file(source.weights("ema_0.999"))
    assert len(models(lab) - plain) == 3
    for key, weights in average.items():
        assert torch.equal(load_file(new.weights("raw"))[key], weights)

    shutil.move(source.path, lab.folder / "elsewhere")
    before = models(lab)
    code, out, err = lab("train", *tiny("diffusion"), *STILL, "init_from=elsewhere")
    assert code == 0, err
    assert "this model is already trained" in out
    assert models(lab) == before


def test_a_model_of_another_network_is_one_sentence(lab):
    lab.given("train", *tiny("diffusion"))
    source = newest_model(lab.folder / "outputs")
    before = files(lab.folder)
    for options, said in (
        (
            [*tiny("diffusion"), "network.base_channels=16"],
            "(32,) in the file and (64,) in this model; the options of its network are in",
        ),
        (tiny("vae"), "is missing in the file and "),
        ([*tiny("diffusion"), "init_weights=ema_0.5"], "init_weights=ema_0.5"),
        ([*tiny("diffusion"), "init_from=nowhere"], "nowhere holds no weights"),
    ):
        code, _, err = lab("train", f"init_from={source.path}", *options)
        assert (code, err.count("\n")) == (1, 1), err
        assert said in err
    assert files(lab.folder) == before


@pytest.mark.thorough
def test_a_killed_training_that_started_so_is_the_training(tmp_path, zygote):
    source = Training(zygote.start, tmp_path / "source", *TINY, *STRIDED, "score=false")
    source.finish()
    start = newest_model(tmp_path / "source" / "outputs").path
    options = [*EVERYTHING, "trainer.max_steps=16", f"init_from={start}"]
    whole, torn = (Training(zygote.start, tmp_path / name, *options) for name in ("whole", "torn"))
    whole.finish()
    assert interrupted(torn, 2, 16) >= 1
    assert_same_bits(whole, torn)

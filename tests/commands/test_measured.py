"""variance=analytic as a user meets it: a choice of scoring for any trained diffusion model, measured once."""

from __future__ import annotations

import pytest
import yaml

from diffusion_lab.store import newest_model

from .conftest import STRIDED, TINY, files
from .test_scoring import scores, shards

IMAGES = "evaluation.statistics_images=40"  # two shards
SIMPLE = [*TINY, *STRIDED, "objective=simple", "variance=fixed_small"]


def passes(lab):
    return sorted((lab.folder / "outputs" / "cache" / "statistics").glob("*/*.safetensors"))


def variances(lab):
    return {run["protocol"]["model"]["variance"].partition("(")[0]: run for run in scores(lab.folder / "outputs")}


@pytest.mark.thorough
def test_any_number_of_steps_and_of_samplers_take_one_pass(lab):
    lab.given("train", *SIMPLE)
    for options in (["sampler=strided", "sampler.spacing.num_steps=10"], ["decoder=levels"], ["evaluation.seed=1"]):
        lab.done("evaluate", "variance=analytic", IMAGES, *options)
    first, second = passes(lab)
    assert first.parent == second.parent
    name = newest_model(lab.folder / "outputs").path.name
    assert first.parent.name.startswith(f"{name}-ema_0.999-40-")
    said = variances(lab)
    assert said["FixedSmall"]["values"]["bits_per_dim"] > said["Analytic"]["values"]["bits_per_dim"]
    assert said["Analytic"]["protocol"]["model"]["variance"].startswith("Analytic(statistics=40 training images, ")
    lab.done("evaluate", "variance=analytic", "evaluation.statistics_images=8")
    assert len(passes(lab)) == 3


@pytest.mark.thorough
def test_a_model_that_was_trained_with_it_is_scored(lab):
    """A model that was trained with it is scored with it unless the user says otherwise."""
    lab.given("train", *TINY, *STRIDED, "variance=analytic", IMAGES)
    assert "already scored" in lab.done("evaluate")
    lab.done("evaluate", "variance=fixed_large")
    assert set(variances(lab)) == {"FixedLarge", "Analytic"}


@pytest.mark.thorough
def test_a_model_with_a_learned_variance_takes_it_too(lab):
    lab.given("train", *TINY, *STRIDED, "sampler=strided")
    lab.done("evaluate", "variance=analytic", IMAGES)
    assert set(variances(lab)) == {"LearnedRange", "Analytic"}
    one, other = variances(lab).values()
    assert one["values"]["bits_per_dim"] != other["values"]["bits_per_dim"]
    assert one["values"]["fd_pixels"] != other["values"]["fd_pixels"]


@pytest.mark.thorough
def test_ddim_draws_the_same_with_it(lab):
    """Ddim draws the same with it and analytic ddim does not."""
    lab.given("train", *SIMPLE)
    drawn = set(shards(lab.folder / "outputs"))
    for sampler, more in (("ddim", 1), ("analytic_ddim", 3)):
        for variance in ("fixed_small", "analytic"):
            options = [f"sampler={sampler}", f"variance={variance}", *STRIDED, IMAGES]
            lab.done("evaluate", *options)
        assert len(set(shards(lab.folder / "outputs")) - drawn) == more
    ddim = [run for run in scores(lab.folder / "outputs") if "DDIM" in run["protocol"]["model"]["sampler"]]
    distances = {run["values"]["fd_pixels"] for run in ddim}
    assert len(ddim) == 4
    assert len({round(distance, 6) for distance in distances}) == 2  # analytic_ddim with fixed small is DDIM too


def test_sample_draws_with_it(lab):
    lab.given("train", *SIMPLE, IMAGES)
    drawn = {}
    for variance in ("fixed_small", "analytic"):
        options = ["sampler=strided", *STRIDED, f"variance={variance}", f"to={variance}"]
        lab.done("sample", "num_images=2", "format=png", *options)
        drawn[variance] = [(lab.folder / variance / name).read_bytes() for name in files(lab.folder / variance)]
    assert drawn["fixed_small"] != drawn["analytic"]
    assert len(passes(lab)) == 2  # as many images as the model was scored with


def test_sample_refuses_a_variance_that_its_sampler(lab):
    """Sample refuses a variance that its sampler does not use."""
    lab.given("train", *SIMPLE)
    lab.refused("sample", "num_images=2", "variance=fixed_large", said="variance: this sampler does not use it")
    assert not (lab.folder / "samples").exists()


@pytest.mark.parametrize("target", ["diffusion_lab.sampling.EvenSpacing"])
def test_a_file_from_others_names_no_other_class_for_it(lab, target):
    lab.given("train", *SIMPLE)
    config = newest_model(lab.folder / "outputs").config
    content = yaml.safe_load(config.read_text())
    content["measured_variance"] = {"_target_": target, "_partial_": True}
    config.write_text(yaml.safe_dump(content))
    lab.refused("evaluate", said=(f"measured_variance._target_={target}", "is not built"))


def test_a_family_without_a_variance_says_so(lab):
    tiny = ["model=flow", "network=flow/8x8", "trainer.max_steps=1", "score=false"]
    lab.given("train", *tiny)
    lab.refused("evaluate", "variance=analytic", said="is not a diffusion model and has no variance")


@pytest.mark.thorough
def test_optimal_steps_cost_fewer_bits(lab):
    lab.given("train", "sampler=strided", *SIMPLE)
    even = variances(lab)["FixedSmall"]["values"]["bits_per_dim"]
    optimal = ["sampler=strided", "sampler/spacing=optimal", *STRIDED, IMAGES]
    for variance, files_of_passes in (("fixed_small", 4), ("analytic", 4)):
        lab.done("evaluate", *optimal, f"variance={variance}")
        assert len(passes(lab)) == files_of_passes  # of the network and of its last steps, two shards each
    found = [run for run in scores(lab.folder / "outputs") if "OptimalSpacing" in run["protocol"]["model"]["sampler"]]
    assert max(run["values"]["bits_per_dim"] for run in found) < even
    assert {
        run["protocol"]["model"]["sampler"].partition(", costs=bits of ")[2].partition("(")[0] for run in found
    } == {
        "FixedSmall",
        "Analytic",
    }


@pytest.mark.thorough
def test_a_variance_by_dimension_is_measured_of_any_model(lab):
    lab.given("train", *TINY, *STRIDED, "variance=analytic", IMAGES)
    lab.done("evaluate", "variance=analytic_diagonal", IMAGES)
    said = variances(lab)
    bits = {name: said[name]["values"]["bits_per_dim"] for name in ("Analytic", "AnalyticDiagonal")}
    assert bits["Analytic"] != bits["AnalyticDiagonal"]

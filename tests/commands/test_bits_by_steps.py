"""metrics=bits_by_steps as a user meets it: one pass, the numbers of `bits_per_dim`, plots in the report."""

import json

import pytest

from diffusion_lab.metrics import BitsBySteps

from .conftest import STRIDED, TINY

BITS = [
    "metrics=[bits_per_dim,bits_by_steps]",
    "features=pixels",
    "evaluation.num_samples=8",
    "evaluation.statistics_images=16",
]
FEW = ["metrics.bits_by_steps.num_steps=[2,3,24,50]", "metrics.bits_by_steps.num_images=8"]


def scores_of(lab):
    return [json.loads(path.read_text()) for path in sorted(lab.folder.glob("outputs/runs/*/metrics.json"))]


def test_it_agrees_with_the_bound_of_each_chain_and_leaves_out_chains_that_are_too_long(lab):
    lab.given("train", *TINY, *STRIDED)
    code, _, err = lab("evaluate", *BITS, *FEW)
    assert code == 0, err
    (found,) = [one for one in scores_of(lab) if "bits_by_steps" in one["curves"]]
    assert found["curves"]["bits_by_steps"].keys() == {"num_steps", "even", "quadratic", "log_snr", "optimal"}
    assert found["curves"]["bits_by_steps"]["num_steps"] == [2, 3, 24]
    assert found["protocol"]["absent"]["bits_even_50"] == "the chain has 24 steps"
    assert len(found["sources"]["bits_even_3"]["test images"]) == 8
    assert len({found["values"][f"bits_{name}_24"] for name in ("even", "quadratic", "log_snr", "optimal")}) == 1
    code, _, err = lab("evaluate", *BITS, "metrics.bits_by_steps.num_steps=[50]")
    assert code == 0, err
    assert any(one["protocol"]["absent"].get("bits_optimal_50") == "the chain has 24 steps" for one in scores_of(lab))
    alone = ["metrics=bits_per_dim", "metrics.bits_per_dim.num_images=8"]
    code, _, err = lab("evaluate", *BITS[1:], *alone, "sampler=strided", *STRIDED)
    assert code == 0, err
    (bound,) = [one for one in scores_of(lab) if one["protocol"].get("bound", {}).get("num_images") == 8]
    assert found["values"]["bits_even_3"] == pytest.approx(bound["values"]["bits_per_dim"], abs=1e-5)


def test_the_table_has_eight_columns_at_most_the_first_and_the_last_among_them():
    few, many = (
        [measure.name for measure in BitsBySteps(num_steps=counts).measures([]) if measure.column]
        for counts in ([5, 10], list(range(5, 41)))
    )
    assert few == ["bits_even_5", "bits_even_10"]
    assert (len(many), many[0], many[-1]) == (8, "bits_even_5", "bits_even_40")
    with pytest.raises(ValueError, match="num_steps is empty"):
        BitsBySteps(num_steps=[])


@pytest.mark.thorough
def test_the_report_draws_a_plot_for_each_spacing_with_a_line_for_each_variance(lab):
    code, _, err = lab("train", "-m", *TINY, *STRIDED, *BITS, *FEW, "variance=fixed_small,learned,analytic", "seed=1,2")
    assert code == 0, err
    (page,) = lab.folder.glob("outputs/sweeps/*/report/report.html")
    text = page.read_text()
    assert all(f"bits/dim, {name} spacing" in text for name in ("even", "quadratic", "log snr", "optimal"))
    assert len(list(page.parent.glob("figures/bits_by_steps_*.pdf"))) == 4


@pytest.mark.thorough
def test_a_family_without_a_chain_has_the_reason(lab):
    lab.given("train", "model=flow", "network=flow/8x8", "trainer.max_steps=1", "score=false")
    code, _, err = lab("evaluate", *BITS)
    assert code == 0, err
    (found,) = scores_of(lab)
    assert found["protocol"]["absent"]["bits_even_5"] == "this family has no noisy chain"

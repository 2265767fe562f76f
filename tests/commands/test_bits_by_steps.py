"""metrics=bits_by_steps as a user meets it: one pass, the numbers of `bits_per_dim`, plots in the report."""

import pytest

from .conftest import STRIDED, TINY, scored

BITS = [
    "metrics=[bits_per_dim,bits_by_steps]",
    "features=pixels",
    "evaluation.num_samples=8",
    "evaluation.statistics_images=16",
]
FEW = ["metrics.bits_by_steps.num_steps=[2,3,24,50]", "metrics.bits_by_steps.num_images=8"]


@pytest.mark.thorough
def test_it_agrees_with_the_bound_of_each_chain(lab):
    """It agrees with the bound of each chain and leaves out chains that are too long."""
    lab.given("train", *TINY, *STRIDED)
    lab.done("evaluate", *BITS, *FEW)
    (found,) = [one for one in scored(lab.folder) if "bits_by_steps" in one["curves"]]
    assert found["curves"]["bits_by_steps"].keys() == {"num_steps", "even", "quadratic", "log_snr", "optimal"}
    assert found["curves"]["bits_by_steps"]["num_steps"] == [2, 3, 24]
    assert found["protocol"]["absent"]["bits_even_50"] == "the chain has 24 steps"
    assert len(found["sources"]["bits_even_3"]["test images"]) == 8
    assert len({found["values"][f"bits_{name}_24"] for name in ("even", "quadratic", "log_snr", "optimal")}) == 1
    lab.done("evaluate", *BITS, "metrics.bits_by_steps.num_steps=[50]")
    assert any(
        one["protocol"]["absent"].get("bits_optimal_50") == "the chain has 24 steps" for one in scored(lab.folder)
    )
    alone = ["metrics=bits_per_dim", "metrics.bits_per_dim.num_images=8"]
    lab.done("evaluate", *BITS[1:], *alone, "sampler=strided", *STRIDED)
    (bound,) = [one for one in scored(lab.folder) if one["protocol"].get("bound", {}).get("num_images") == 8]
    assert found["values"]["bits_even_3"] == pytest.approx(bound["values"]["bits_per_dim"], abs=1e-5)

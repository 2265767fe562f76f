"""What an older config lacks is added; what is none of ours, or is not as it was, stays for the checks behind."""

import pytest

from diffusion_lab.evaluation.older import upgraded

DIFFUSION = {"_target_": "diffusion_lab.models.diffusion.DiffusionModel"}


def test_a_diffusion_model_is_given_the_groups_that_it_did_not_have():
    config = upgraded({"model": DIFFUSION, "facts": {"num_levels": 17}, "bound": {"num_steps": 7}})
    assert config["facts"] == {"num_levels": 17, "end_shares": None}
    assert config["bound"] == {"num_steps": 7}
    assert config["rounding"] == {"_target_": "diffusion_lab.diffusion.NearestLevel"}
    assert config["model"]["bound_steps"] == "${bound.num_steps}"


@pytest.mark.parametrize("facts", [None, "a word", [1], 3])
def test_facts_that_are_none_stay_what_they_are(facts):
    assert upgraded({"model": DIFFUSION, "facts": facts})["facts"] == facts
    assert "facts" not in upgraded({"model": DIFFUSION})

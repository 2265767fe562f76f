"""metrics=schedule_advice as a user meets it: options to type, which do what was said of them."""

import json
import re

import pytest

from .conftest import STRIDED, TINY

ADVICE = ["metrics=schedule_advice", "features=pixels", "evaluation.statistics_images=16"]


def content(lab, metric):
    found = [json.loads(path.read_text()) for path in lab.folder.glob("outputs/runs/*/metrics.json")]
    return next(one for one in found if metric in one["values"] or metric in one["protocol"]["absent"])


@pytest.mark.thorough
def test_the_advised_options_can_be_typed_and_the_report_repeats_them(lab):
    lab.given("train", *TINY, *STRIDED, "variance=fixed_small")
    code, _, err = lab("evaluate", *ADVICE)
    assert code == 0, err
    found = content(lab, "advised_gain")
    (said,) = [measure["detail"] for measure in found["measures"] if measure["name"] == "advised_gain"]
    assert found["values"]["advised_gain"] > 0
    assert found["values"]["advised_steps"] <= 3
    options = re.findall(r"sampler\S*=\S+", said)
    assert options[:3] == ["sampler=strided", "sampler/spacing=optimal", "sampler.spacing.num_steps=3"]
    code, _, err = lab("evaluate", *ADVICE, *options)
    assert code == 0, err
    assert any(
        abs(json.loads(path.read_text())["values"].get("advised_gain", 1)) < 0.01
        for path in lab.folder.glob("outputs/runs/*/metrics.json")
    )
    code, _, err = lab("report", "runs=outputs/runs", "to=report")
    assert code == 0, err
    page = (lab.folder / "report" / "report.html").read_text()
    assert "Recommended steps" in page
    assert options[1] in page
    assert (lab.folder / "report" / "figures" / "bits_by_num_steps.pdf").is_file()


@pytest.mark.thorough
def test_a_family_without_a_chain_is_advised_nothing(lab):
    lab.given("train", "model=flow", "network=flow/8x8", "trainer.max_steps=1", "score=false")
    code, _, err = lab("evaluate", *ADVICE, "evaluation.num_samples=8")
    assert code == 0, err
    assert content(lab, "advised_gain")["protocol"]["absent"]["advised_gain"] == "this family has no noisy chain"

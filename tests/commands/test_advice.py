"""metrics=schedule_advice as a user meets it: options to type, which do what was said of them."""

import json
import re

import pytest

from .conftest import STRIDED, TINY, scored

ADVICE = ["metrics=schedule_advice", "features=pixels", "evaluation.statistics_images=16"]


def content(lab, metric):
    found = scored(lab.folder)
    return next(one for one in found if metric in one["values"] or metric in one["protocol"]["absent"])


@pytest.mark.thorough
def test_the_advised_options_can_be_typed(lab):
    """The advised options can be typed and the report repeats them."""
    lab.given("train", *TINY, *STRIDED, "variance=fixed_small")
    lab.done("evaluate", *ADVICE)
    found = content(lab, "advised_gain")
    (said,) = [measure["detail"] for measure in found["measures"] if measure["name"] == "advised_gain"]
    assert found["values"]["advised_gain"] > 0
    assert found["values"]["advised_steps"] <= 3
    options = re.findall(r"sampler\S*=\S+", said)
    assert options[:3] == ["sampler=strided", "sampler/spacing=optimal", "sampler.spacing.num_steps=3"]
    lab.done("evaluate", *ADVICE, *options)
    assert any(
        abs(json.loads(path.read_text())["values"].get("advised_gain", 1)) < 0.01
        for path in lab.folder.glob("outputs/runs/*/metrics.json")
    )
    lab.done("report", "runs=outputs/runs", "to=report")
    page = (lab.folder / "report" / "report.html").read_text()
    assert "Recommended steps" in page
    assert options[1] in page
    assert (lab.folder / "report" / "figures" / "bits_by_num_steps.pdf").is_file()

"""What README says of an hour of training is what the committed scores say."""

from pathlib import Path

import pytest

from diffusion_lab.report.cells import read_runs
from diffusion_lab.report.findings import curve_findings
from diffusion_lab.report.table import build_table

HOUR = Path(__file__).parents[2] / "benchmarks" / "results" / "hour"
AUTOGUIDED, GUIDED = "diffusion · autoguidance", "diffusion · classifier_free"
SAID = {
    "without_labels": {
        "fd_fashion_cnn": f"{AUTOGUIDED} overtakes gan after 19 minutes (one seed)",
        "fd_fashion_resnet": f"{AUTOGUIDED} overtakes gan after 24 minutes (one seed)",
    },
    "with_labels": {
        "fd_fashion_cnn": f"gan is better than {GUIDED} all the way from 2 to 56 minutes (one seed)",
        "fd_fashion_resnet": f"{GUIDED} overtakes gan after 8.1 minutes (one seed)",
    },
}


@pytest.mark.parametrize("labels", SAID)
def test_the_sentences_follow_from_the_scores(labels):
    gathered = read_runs(sorted((HOUR / labels).iterdir()), labels)
    assert gathered.skipped == []
    assert len(gathered.done) == 15
    table = build_table(gathered)
    (group,) = table.groups
    findings = curve_findings(table, group)
    for measure, sentence in SAID[labels].items():
        assert (f"{measure} against training time", sentence) in findings

"""What README says of an hour of training is what the committed scores say."""

import json
from pathlib import Path

import numpy as np
import pytest

from diffusion_lab.report.cells import read_runs
from diffusion_lab.report.findings import curve_findings
from diffusion_lab.report.page import _facts
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
    assert len(gathered.done) == 25
    table = build_table(gathered)
    (group,) = table.groups
    assert "trained for 540 to 20000 steps" in _facts(gathered, table)
    findings = curve_findings(table, group)
    for measure, sentence in SAID[labels].items():
        assert (f"{measure} against training time", sentence) in findings


def along_the_hour(labels, which, value):
    """The values of a model's five trainings, from the shortest to the longest."""
    runs = [json.loads(path.read_text())["values"] for path in (HOUR / labels).glob(f"{which}_*_steps/metrics.json")]
    return np.array([run[value] for run in sorted(runs, key=lambda run: run["training_steps"])])


@pytest.mark.parametrize("labels", SAID)
def test_the_flow_states_the_best_bits_of_every_length_and_flow_and_vae_have_the_worst_distances(labels):
    bits = {which: along_the_hour(labels, which, "bits_per_dim") for which in ("flow", "diffusion_unguided", "vae")}
    assert (bits["flow"] < np.minimum(bits["diffusion_unguided"], bits["vae"])).all()
    for ruler in ("fd_fashion_cnn", "fd_fashion_resnet"):
        better = [along_the_hour(labels, which, ruler) for which in ("gan", "diffusion_unguided")]
        worse = [along_the_hour(labels, which, ruler) for which in ("flow", "vae")]
        assert (np.maximum(*better) < np.minimum(*worse)).all()

"""What README says of an hour of training, without and with labels, is what the committed scores say."""

from functools import cache
from pathlib import Path

import pytest

from diffusion_lab.report.cells import read_runs
from diffusion_lab.report.findings import curve_findings
from diffusion_lab.report.table import build_table

HOUR = Path(__file__).parents[2] / "benchmarks" / "results" / "hour" / "without_mirrors"
GUIDED, UNGUIDED = (f"diffusion · {guidance} · gradient_clusters" for guidance in ("classifier_free", "none"))


@cache
def findings(labels):
    gathered = read_runs(sorted((HOUR / labels).iterdir()), "hour")
    assert gathered.skipped == []
    assert len(gathered.done) == 15
    table = build_table(gathered)
    (group,) = table.groups
    return curve_findings(table, group)


@pytest.mark.parametrize(
    ("labels", "ruler", "sentence"),
    [
        ("without_labels", "fd_fashion_cnn", f"gan overtakes {GUIDED} after 41 minutes (one seed)"),
        ("without_labels", "fd_fashion_cnn", f"gan overtakes {UNGUIDED} after 20 minutes (one seed)"),
        ("without_labels", "fd_fashion_resnet", f"gan overtakes {UNGUIDED} after 45 minutes (one seed)"),
        (
            "without_labels",
            "fd_fashion_resnet",
            f"{GUIDED} is better than {UNGUIDED} and gan all the way from 1.9 to 55 minutes (one seed)",
        ),
        ("with_labels", "fd_fashion_cnn", "gan overtakes diffusion · classifier_free after 13 minutes (one seed)"),
        ("with_labels", "fd_fashion_resnet", "gan overtakes diffusion · classifier_free after 22 minutes (one seed)"),
    ],
)
def test_the_sentences_follow_from_the_scores(labels, ruler, sentence):
    assert (f"{ruler} against training time", sentence) in findings(labels)

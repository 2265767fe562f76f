"""What README says of an hour of training, without and with labels, is what the committed scores say."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

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
        (
            "with_labels",
            "fd_fashion_cnn",
            "undecided between diffusion · classifier_free and gan: the lead changes several times (one seed)",
        ),
        ("with_labels", "fd_fashion_resnet", "gan overtakes diffusion · classifier_free after 29 minutes (one seed)"),
    ],
)
def test_the_sentences_follow_from_the_scores(labels, ruler, sentence):
    assert (f"{ruler} against training time", sentence) in findings(labels)


@pytest.mark.parametrize("ruler", ["fd_fashion_cnn", "fd_fashion_resnet"])
@pytest.mark.parametrize(("ours", "theirs"), [(1340, 1660), (2660, 3340), (5340, 6660)])
def test_three_seeds_with_labels_are_undecided_but_for_the_longest_by_the_second_ruler(ours, theirs, ruler):
    found = [
        np.array(
            [
                json.loads(
                    (
                        HOUR / "with_labels_three_seeds" / f"{family}_{steps}_steps_seed_{seed}" / "metrics.json"
                    ).read_text()
                )["values"][ruler]
                for seed in (1, 2, 3)
            ]
        )
        for family, steps in (("gan", theirs), ("diffusion", ours))
    ]
    interval = stats.ttest_ind(*found, equal_var=False).confidence_interval(0.95)
    assert interval.high > 0
    assert (interval.low > 0) == ((ours, ruler) == (5340, "fd_fashion_resnet"))

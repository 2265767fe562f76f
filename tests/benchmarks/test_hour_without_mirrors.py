"""What README says of an hour of training, without and with labels, is what the committed scores say."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

HOUR = Path(__file__).parents[2] / "benchmarks" / "results" / "hour" / "without_mirrors"


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

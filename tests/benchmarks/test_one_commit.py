"""README's table of ten minutes on Fashion-MNIST is what the committed scores of one commit say, and so are its leads."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

ROOT = Path(__file__).parents[2]
SCORES = ROOT / "benchmarks" / "results" / "one_commit"
SEARCH = ROOT / "benchmarks" / "results" / "guidance_interval"
README = (ROOT / "README.md").read_text()
RULERS = ("fd_fashion_cnn", "fd_fashion_resnet")
# In the order of the table.
ROWS = [
    (labels, contender)
    for labels in ("without_labels", "with_labels")
    for contender in ("diffusion_guided_5_steps", "diffusion_unguided_5_steps", "gan")
]


def scores(labels, contender):
    return [
        json.loads((SCORES / labels / f"{contender}_seed_{seed}" / "metrics.json").read_text()) for seed in (1, 2, 3)
    ]


def over_seeds(labels, contender, value):
    return np.array([score["values"][value] for score in scores(labels, contender)])


def lead(labels, ruler):
    """The interval of the GAN's mean less that of guided diffusion, at 95 %."""
    ours, theirs = (over_seeds(labels, contender, ruler) for contender in ("diffusion_guided_5_steps", "gan"))
    return stats.ttest_ind(theirs, ours, equal_var=False).confidence_interval(0.95)


def with_error(values):
    return f"{values.mean():.2f} ± {values.std(ddof=1) / len(values) ** 0.5:.2f}"


def test_the_table_has_the_means_of_the_committed_scores():
    lines = [
        line.replace("*", "").split("|")[2:5] for line in README.splitlines() if re.match(r"\|.*±.*\| \d+ \|", line)
    ]
    for line, row in zip(lines, ROWS, strict=True):
        *rulers, evaluations = (cell.strip() for cell in line)
        assert rulers == [with_error(over_seeds(*row, ruler)) for ruler in RULERS]
        assert (over_seeds(*row, "nfe") == int(evaluations)).all()


@pytest.mark.parametrize("labels", ["without_labels", "with_labels"])
def test_guided_diffusion_leads_the_gan_beyond_the_interval_by_what_readme_says(labels):
    leads = [lead(labels, ruler) for ruler in RULERS]
    assert all(interval.low > 0 for interval in leads)
    said = " and ".join(f"{(at.high + at.low) / 2:.2f} ± {(at.high - at.low) / 2:.2f}" for at in leads)
    assert f" by {said}" in README


@pytest.mark.parametrize("labels", ["without_labels", "with_labels"])
def test_its_distance_is_below_half_of_that_of_the_gan_by_what_readme_says(labels):
    shares = []
    for ruler in RULERS:
        ours, theirs = (over_seeds(labels, contender, ruler) for contender in ("diffusion_guided_5_steps", "gan"))
        shares.append(ours.mean() / theirs.mean())
    assert max(shares) < 0.5
    assert "{:.2f} and {:.2f} times".format(*shares) in README


def test_guidance_that_acts_later_is_better_than_at_nearly_every_noise_level():
    for labels, before in (("without_labels", "clusters_guided_2"), ("with_labels", "classes_guided_1.5")):
        for ruler in RULERS:
            files = SEARCH.glob(f"{before}_between_-4_and_4_5_steps_from_-3_to_5_seed_?.json")
            earlier = np.array([json.loads(file.read_text())["values"][ruler] for file in sorted(files)])
            later = over_seeds(labels, "diffusion_guided_5_steps", ruler)
            assert (later < earlier).all()  # of the same three models


@pytest.mark.parametrize("ruler", RULERS)
def test_ten_evaluations_are_closer_than_fifty_and_five_than_ten(ruler):
    five, ten, ancestral, ddim = (
        over_seeds("without_labels", f"diffusion_unguided_{steps}_steps_1000_samples", ruler)
        for steps in ("5", "10", "ancestral_50", "ddim_50")
    )
    fifty = min(ancestral.mean(), ddim.mean())
    assert five.mean() < ten.mean() < 0.85 * fifty


def test_on_clusters_digits_are_within_what_was_asked():
    scored = scores("default_on_clusters", "diffusion")
    assert all(score["protocol"]["samples"]["num_images"] == 360 for score in scored)
    distance = over_seeds("default_on_clusters", "diffusion", "fd_digits_cnn")
    assert distance.max() < 1.1
    assert f"(`labels=clusters`) it has {with_error(distance)}" in README
    assert over_seeds("default_on_clusters", "diffusion", "bits_per_dim").mean() < 1.9


def test_without_clusters_it_was_not_on_every_machine():
    assert over_seeds("default", "diffusion", "fd_digits_cnn").mean() < 1.1
    without = over_seeds("another_machine", "default", "fd_digits_cnn")
    assert without.mean() > 1.1
    assert f"`fd_digits_cnn` {with_error(without)}" in README


def test_all_were_scored_alike():
    protocols = [score["protocol"] for row in ROWS for score in scores(*row)]
    for part in ("data", "reference", "features", "features_fashion_resnet", "versions"):
        assert len({json.dumps(protocol[part], sort_keys=True) for protocol in protocols}) == 1
    assert {protocol["samples"]["num_images"] for protocol in protocols} == {2048}

"""What README says of peers after equal minutes is what the committed results say."""

import json
from pathlib import Path

import numpy as np
import pytest

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "peers"
OURS, PEER, OTHER = "ours", "ddpm-pytorch-16-best", "diffusers-16-best"
README = (Path(__file__).parents[2] / "README.md").read_text()


def over_seeds(contender):
    results = [json.loads((RESULTS / f"{contender}_one_commit_seed_{seed}.json").read_text()) for seed in (1, 2, 3)]
    assert [result["asked"]["seed"] for result in results] == [1, 2, 3]
    return results


def values(contender, sampler, value):
    return np.array(
        [score[value] for result in over_seeds(contender) for score in result["scores"] if score["sampler"] == sampler]
    )


@pytest.mark.parametrize("ruler", ["fd_fashion_cnn", "fd_fashion_resnet"])
def test_ours_is_at_less_than_a_tenth_of_the_best_peers_distance(ruler):
    ours = values(OURS, "own", ruler)
    theirs = min((values(peer, sampler, ruler) for peer in (PEER, OTHER) for sampler in ("own", "shared")), key=np.mean)
    assert ours.mean() < theirs.mean() / 10
    assert ours.max() < theirs.min() / 10
    assert values(OURS, "shared", ruler).max() < theirs.min() / 4


def test_readme_has_the_means_and_their_errors():
    def said(contender, sampler):
        found = values(contender, sampler, "fd_fashion_cnn")
        return f"{found.mean():.2f} ± {found.std(ddof=1) / 3**0.5:.2f}"

    assert f"`fast_fashion` has {said(OURS, 'own')}" in README
    assert all(said(*cell) in README for cell in ((PEER, "own"), (OTHER, "shared"), (OURS, "shared")))


def test_a_thousand_images_of_the_fast_recipe_take_twenty_cpu_seconds():
    assert values(OURS, "own", "seconds_per_1000").max() < 20


def test_they_were_asked_the_same():
    asked = [
        {k: v for k, v in r["asked"].items() if k not in ("name", "ours", "seed")}
        for c in (OURS, PEER, OTHER)
        for r in over_seeds(c)
    ]
    assert all(a == asked[0] for a in asked)
    assert asked[0]["minutes"] == 10
    assert len({json.dumps(r["floors"]) for c in (OURS, PEER, OTHER) for r in over_seeds(c)}) == 1

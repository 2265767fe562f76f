"""What README says of samplers on digits is what the committed scores say."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

FEW = Path(__file__).parents[2] / "benchmarks" / "results" / "few"
DRAWS = FEW.parent / "digits_draws"
RULERS = ("fd_digits_cnn", "fd_digits_resnet")


def of_2048(sampler, value):
    """Of the models of seeds 1, 2 and 3."""
    scores = [
        json.loads((FEW / f"digits_{sampler}_2048_samples_fp32_seed_{seed}.json").read_text()) for seed in (1, 2, 3)
    ]
    assert {score["protocol"]["samples"]["num_images"] for score in scores} == {2048}
    return np.array([score["values"][value] for score in scores])


@pytest.mark.parametrize("ruler", RULERS)
def test_ten_evaluations_are_not_behind_fifty(ruler):
    ten, fifty = of_2048("fast_10_data_moments", ruler), of_2048("ancestral_50", ruler)
    assert (of_2048("fast_10_data_moments", "nfe") == 10).all()
    assert stats.ttest_rel(ten, fifty).confidence_interval(0.95).low < 0
    assert ten.mean() < 1.1 * fifty.mean()


def test_five_are_behind_ten_and_fifty_by_the_second_ruler_in_every_seed():
    five = of_2048("fast_digits_5", RULERS[1])
    for others in ("fast_10_data_moments", "ancestral_50"):
        assert (five > 1.5 * of_2048(others, RULERS[1])).all()


@pytest.mark.parametrize("other", ["ancestral_100", "ancestral_50_quadratic"])
def test_two_rulers_do_not_agree_on_what_is_better_than_fifty_even_ancestral_steps(other):
    ahead = [(of_2048(other, ruler) < of_2048("ancestral_50", ruler)).all() for ruler in RULERS]
    assert not all(ahead)


def drawn(sampler, value, draws):
    """(3 models, draws), from one machine, the same noise for all."""
    files = [[DRAWS / f"{sampler}_seed_{seed}_draw_{draw}.json" for draw in draws] for seed in (1, 2, 3)]
    return np.array([[json.loads(file.read_text())["values"][value] for file in row] for row in files])


@pytest.mark.parametrize("on_clusters", ["default_on_clusters", "clusters_30_dpmsolver_sde_5_from_moments_-3_to_4"])
def test_on_clusters_every_draw_is_closer_than_without(on_clusters):
    without = "plain_dpmsolver_sde_25_from_noise_-8.0_to_8.0"
    assert (
        drawn(on_clusters, RULERS[0], range(5)).mean(axis=0) < drawn(without, RULERS[0], range(5)).mean(axis=0)
    ).all()
    for ruler, share in zip(RULERS, (0.3, 0.6), strict=True):
        of_clusters, plain = (drawn(f"{name}_2048_samples", ruler, range(2)) for name in (on_clusters, without))
        assert (of_clusters < plain).all()
        assert of_clusters.mean() < share * plain.mean()


@pytest.mark.parametrize("ruler", ["pixels", "digits_cnn", "digits_resnet"])
def test_the_default_draws_no_copies(ruler):
    assert (drawn("default_on_clusters_copying", f"copying_{ruler}_low", [0]) < 0.5).all()


def test_fast_digits_takes_five_evaluations():
    assert (drawn("fast_digits", "nfe", [0]) == 5).all()
    assert drawn("fast_digits", "bits_per_dim", [0]).mean() < 1.85


def read(name, value):
    return np.array([json.loads((FEW / f"{name}_seed_{seed}.json").read_text())["values"][value] for seed in (1, 2, 3)])


@pytest.mark.parametrize("ruler", ["fd_fashion_cnn", "fd_fashion_resnet"])
def test_the_default_sampler_is_better_than_fifty_ancestral_steps_in_every_seed_of_fashion(ruler):
    assert (read("classes_dpm_solver_sde_25", ruler) < read("classes_ancestral_50", ruler)).all()
    assert (read("classes_dpm_solver_sde_25", "nfe") == 25).all()
    assert (read("classes_dpm_solver_sde_25", "recall") > read("classes_ancestral_50", "recall")).all()


def test_on_digits_the_default_sampler_is_not_behind_in_half_the_evaluations():
    first, second = RULERS
    names = [("dpm_solver_sde_25", "ancestral_50", f"draw_{draw}_bf16") for draw in (0, 1, 2)]
    pairs = [read(f"digits_{new}_{draw}", first) < read(f"digits_{old}_{draw}", first) for new, old, draw in names]
    assert np.sum(pairs) == 6
    many = [f"digits_{sampler}_2048_samples_draw_0_bf16" for sampler in ("dpm_solver_sde_25", "ancestral_50")]
    assert (read(many[0], first) < read(many[1], first)).all()
    for ruler in RULERS:
        assert stats.ttest_rel(*(read(name, ruler) for name in many)).confidence_interval(0.95).low < 0
    assert np.sum(read(many[0], second) > read(many[1], second)) == 2


def test_the_default_command_reaches_what_was_asked_of_it():
    assert read("digits_dpm_solver_sde_25_two_threads", "fd_digits_cnn").mean() <= 1.1
    assert read("digits_dpm_solver_sde_25_two_threads", "bits_per_dim").max() <= 1.9
    assert read("digits_dpm_solver_sde_25_two_threads", "training_seconds").max() < 180

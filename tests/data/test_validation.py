"""data.validation: images that nothing in training may see. `test_contract.py` tests the division of every data set."""

from functools import partial

import pytest
import torch

from diffusion_lab.analysis import Analytic
from diffusion_lab.conditions import Clusters
from diffusion_lab.data import DataError
from diffusion_lab.data.digits import Digits
from diffusion_lab.diffusion import CosineSchedule, FixedSmall, Simple
from diffusion_lab.metrics.network_measurements import Measurements, data_moments
from diffusion_lab.sampling import AncestralSampler
from diffusion_lab.store import CacheDirectory
from tests.models.stand_ins import of_digits

N = 200


def digits(held_back=N, **conditions):
    """(the data, the numbers of the training images that are shown from now on)"""
    data, shown = Digits(batch_size=32, seed=1), []
    show = data._show

    def recorded(split, picks):
        for pick in picks:
            if split == "train":
                shown.extend(pick.tolist())
            yield from show(split, [pick])

    data._show = recorded
    data.hold_back(held_back)
    data.condition_on(conditions)
    data.prepare()
    return data, shown


@pytest.fixture(scope="module")
def held_back():
    data, shown = digits()
    for _ in data.batches("validation", 100):
        pass
    assert len({*shown}) == N
    return {*shown}


def batches_of(data, cache):
    stream = iter(data.train_dataloader())
    for _ in range(2 * data.num_train // 32):
        next(stream)


def clusters_of(data, cache):
    return data.clusters.of(next(data.batches("train", 5))[0], {})


def moments_of(data, cache):
    return data_moments(data, True, cache)


def measured(data, cache, **wanted):
    """A generator with what is measured of it on so many images."""
    asked = {"data_moments": False, "variance": None, "step_costs": False} | wanted
    measurements = Measurements(**asked, num_images=10_000, identity="mine", about="digits")
    diffusion = of_digits(FixedSmall(), Simple(), schedule=CosineSchedule(5), sampler=AncestralSampler()).generator()
    return measurements.applied(diffusion, data, cache)


def variance_of(data, cache):
    measured(data, cache, variance=partial(Analytic))


def ends_of(data, cache):
    return data.end_shares


@pytest.mark.parametrize("look", [batches_of, clusters_of, moments_of, variance_of, ends_of])
def test_what_is_trained_on_or_measured_for_it_sees_none(tmp_path, held_back, look):
    data, shown = digits(**({"clusters": Clusters(5, 8, 10_000)} if look is clusters_of else {}))
    look(data, CacheDirectory(tmp_path))
    assert shown
    assert not held_back & {*shown}


def test_the_held_out_loss_is_of_validation_images(held_back):
    data, shown = digits()
    data.hold_out(10_000, 64, 0)
    assert sum(len(x) for x, _, _ in data.val_dataloader()) == N
    assert {*shown} == held_back
    whole, shown = digits(0)
    whole.hold_out(10_000, 64, 0)
    assert sum(len(x) for x, _, _ in whole.val_dataloader()) == 360
    assert not shown


def test_steps_are_chosen_on_validation_images(tmp_path, held_back):
    data, shown = digits()
    cache = CacheDirectory(tmp_path)
    of_train = measured(data, cache, variance=partial(Analytic)).reverse.variance.statistics
    shown.clear()
    of_validation = measured(data, cache, step_costs=True).steps.statistics
    assert {*shown} == held_back
    assert of_validation.of.startswith(f"{N} validation images")
    assert not torch.equal(of_train.x_0_mse, of_validation.x_0_mse)


def test_fewer_images_are_trained_on():
    data, _ = digits()
    assert data.num_trained_on == data.num_train == 1437 - N
    data.train_on(0.1)
    assert data.num_trained_on == 124


@pytest.mark.parametrize(("number", "why"), [(1437, "has 1437 training images"), (-1, "must be"), (0.5, "must be")])
def test_what_cannot_be_held_back_is_refused(number, why):
    with pytest.raises(DataError, match=rf"data\.validation={number}.*{why}"):
        digits(number)


def test_a_number_above_the_validation_split_is_noted():
    data, _ = digits(100)
    data.hold_out(200, 128, 0)
    assert [note for note in data.notes() if "the validation split has 100 images" in note]
    data.hold_out(100, 128, 0)
    assert not data.notes()

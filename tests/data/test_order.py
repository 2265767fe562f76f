"""The order of training batches, and which images a subset or a validation split holds."""

import numpy as np
import pytest
import torch

from diffusion_lab.data.order import BatchOrder, evenly_spaced, fixed_subset, without_validation


def shown(order: BatchOrder, num_batches: int) -> tuple[torch.Tensor, torch.Tensor]:
    batches = [order.batch(k) for k in range(num_batches)]
    return torch.cat([indices for indices, _ in batches]), torch.cat([mirrored for _, mirrored in batches])


@pytest.mark.parametrize("batch_size", [1, 4, 10, 23])
def test_every_epoch_shows_every_image_once(batch_size: int) -> None:
    indices, _ = shown(BatchOrder(10, batch_size, seed=3), num_batches=60)
    epochs = indices[: len(indices) // 10 * 10].view(-1, 10)
    assert len(epochs) >= 6
    assert torch.equal(epochs.sort(dim=1).values, torch.arange(10).expand_as(epochs))


def test_the_sequence_does_not_depend_on_the_batch_size() -> None:
    one_by_one = shown(BatchOrder(10, 1, seed=3, flip=True), num_batches=92)
    for batch_size in (4, 23):
        in_batches = shown(BatchOrder(10, batch_size, seed=3, flip=True), num_batches=92 // batch_size)
        assert torch.equal(in_batches[0], one_by_one[0])
        assert torch.equal(in_batches[1], one_by_one[1])


def test_epochs_and_seeds_have_orders_and_coins_of_their_own() -> None:
    indices, mirrored = shown(BatchOrder(1000, 1000, seed=0, flip=True), num_batches=2)
    other_indices, other_mirrored = shown(BatchOrder(1000, 1000, seed=1, flip=True), num_batches=2)
    for values in (indices, mirrored):
        assert not torch.equal(values[:1000], values[1000:])
    assert not torch.equal(indices, other_indices)
    assert not torch.equal(mirrored, other_mirrored)


def test_a_batch_does_not_depend_on_what_was_asked_before() -> None:
    order = BatchOrder(10, 4, seed=0, flip=True)
    backwards = [order.batch(k) for k in reversed(range(20))][::-1]
    fresh = [BatchOrder(10, 4, seed=0, flip=True).batch(k) for k in range(20)]
    for (a, b), (c, d) in zip(backwards, fresh, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_ranks_share_out_each_global_batch(world_size: int) -> None:
    for k in range(5):
        ranks = [BatchOrder(10, 6, 0, True, rank, world_size).batch(k) for rank in range(world_size)]
        for together, alone in zip(zip(*ranks, strict=True), BatchOrder(10, 6, 0, True).batch(k), strict=True):
            assert torch.equal(torch.cat(together), alone)


def test_half_of_the_positions_are_mirrored_and_an_image_not_always_alike() -> None:
    indices, mirrored = shown(BatchOrder(100, 100, seed=0, flip=True), num_batches=100)
    # Five standard deviations of 10,000 fair coins.
    assert abs(mirrored.double().mean() - 0.5) < 0.025
    by_image = np.bincount(indices, weights=mirrored, minlength=100)
    assert by_image.min() > 20
    assert by_image.max() < 80


def test_flip_changes_no_order_and_its_absence_mirrors_nothing() -> None:
    plain, mirrored = shown(BatchOrder(10, 4, seed=0, flip=False), num_batches=20)
    assert not mirrored.any()
    assert torch.equal(plain, shown(BatchOrder(10, 4, seed=0, flip=True), num_batches=20)[0])


# ---- splits ----


def test_a_subset_is_random_begins_with_a_smaller_one_and_all_is_in_order() -> None:
    large, small = fixed_subset(1000, 400), fixed_subset(1000, 30)
    assert len(large.unique()) == 400
    assert large.min() >= 0
    assert large.max() < 1000
    assert torch.equal(large[:30], small)
    # Of the first half of a set sorted by class, a sample of 400 holds half: 200 ± 5·8.
    assert abs((large < 500).sum() - 200) < 40
    for count in (None, 10, 11):
        assert torch.equal(fixed_subset(10, count), torch.arange(10))


def test_evenly_spaced_takes_the_same_share_of_each_class() -> None:
    labels = torch.repeat_interleave(torch.arange(5), torch.tensor([10, 20, 30, 40, 51]))
    chosen = labels[evenly_spaced(len(labels), 30)].bincount()
    assert (chosen - torch.tensor([2, 4, 6, 8, 10])).abs().max() <= 1
    assert torch.equal(evenly_spaced(7, 7), torch.arange(7))


def test_a_larger_validation_set_holds_a_smaller() -> None:
    (train, small), (_, large) = without_validation(1000, 30), without_validation(1000, 400)
    assert torch.equal(torch.cat([train, small]).sort().values, torch.arange(1000))
    assert {*small.tolist()} < {*large.tolist()}
    # Of a set sorted by class it is no part alone: 200 ± 5·8.
    assert abs((large < 500).sum() - 200) < 40

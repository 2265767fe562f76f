import torch

from diffusion_lab.data.order import evenly_spaced, fixed_subset, without_validation


def test_a_subset_holds_different_indices_and_begins_with_the_smaller_one() -> None:
    large, small = fixed_subset(1000, 400), fixed_subset(1000, 30)
    assert len(large.unique()) == 400
    assert large.min() >= 0
    assert large.max() < 1000
    assert torch.equal(large[:30], small)


def test_a_subset_is_not_the_beginning_of_the_set() -> None:
    # Of the first half of a set sorted by class, a sample of 400 holds half: 200 ± 5·8.
    assert abs((fixed_subset(1000, 400) < 500).sum() - 200) < 40


def test_all_of_a_set_is_in_order() -> None:
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

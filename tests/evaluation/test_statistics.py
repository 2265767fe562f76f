import numpy as np
import pytest
import torch

from diffusion_lab.evaluation.statistics import FeatureStatistics, UnmeasurableError, merge


def moments(x, batches=1):
    statistics = FeatureStatistics(x.shape[1])
    for part in x.chunk(batches):
        statistics.update(part)
    return statistics.compute()


@pytest.mark.parametrize("batches", [1, 7, 100])
def test_mean_and_unbiased_covariance_however_the_images_are_batched(batches):
    x = torch.randn(100, 5, generator=torch.Generator().manual_seed(0)).double() * torch.arange(1, 6) + 3
    n, mean, covariance = moments(x, batches)
    assert n == 100
    np.testing.assert_allclose(mean, x.mean(0), rtol=1e-13)
    np.testing.assert_allclose(covariance, np.cov(x.numpy(), rowvar=False, ddof=1), rtol=1e-11)


def test_a_mean_far_from_zero_costs_no_digits():
    # Sums of x·x^T lose the covariance altogether here: 1e8² has no room for a 1 in float64.
    x = torch.randn(1000, 3, generator=torch.Generator().manual_seed(1)).double()
    np.testing.assert_allclose(moments(x + 1e8, 9).covariance, moments(x, 9).covariance, rtol=0, atol=1e-6)


def test_float32_features_are_summed_in_float64():
    x = torch.rand(5000, 2, generator=torch.Generator().manual_seed(2))
    np.testing.assert_allclose(moments(x, 50).mean, x.double().mean(0), rtol=1e-14)


def test_merging_is_what_torchmetrics_does_between_ranks_and_a_rank_may_be_idle():
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(3))
    ranks = [FeatureStatistics(4) for _ in range(3)]
    ranks[0].update(x[:10])
    ranks[2].update(x[10:])
    together = merge(torch.stack([rank.state for rank in ranks]))
    whole = FeatureStatistics(4)
    whole.update(x)
    np.testing.assert_allclose(together, whole.state, rtol=1e-12, atol=1e-12)
    ranks[0].merge_state(ranks[2])
    np.testing.assert_allclose(ranks[0].compute().covariance, whole.compute().covariance, rtol=1e-12, atol=1e-13)


def test_an_empty_batch_changes_nothing():
    statistics = FeatureStatistics(2)
    statistics.update(torch.ones(3, 2))
    before = statistics.state.clone()
    statistics.update(torch.empty(0, 2))
    assert torch.equal(statistics.state, before)


def test_one_image_has_no_covariance():
    with pytest.raises(UnmeasurableError, match="at least 2 feature vectors, got 1"):
        moments(torch.ones(1, 3))


def _rank(rank, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/sync", rank=rank, world_size=2)
    x = torch.arange(20, dtype=torch.float64).reshape(10, 2).sin()
    statistics = FeatureStatistics(2)
    statistics.update(x[:3] if rank == 0 else x[3:])
    torch.save(tuple(statistics.compute()), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.thorough
def test_two_real_ranks_agree_on_the_moments_of_all_images(tmp_path):
    torch.multiprocessing.spawn(_rank, args=(str(tmp_path),), nprocs=2)
    whole = moments(torch.arange(20, dtype=torch.float64).reshape(10, 2).sin())
    for rank in range(2):
        for mine, all_of_it in zip(torch.load(tmp_path / f"{rank}.pt"), whole, strict=True):
            np.testing.assert_allclose(mine, all_of_it, rtol=1e-12)

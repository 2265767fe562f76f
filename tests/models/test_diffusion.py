from types import SimpleNamespace

import pytest
import torch

from diffusion_lab.diffusion import (
    AncestralSampler,
    CosineSchedule,
    DDIMSampler,
    EvenSpacing,
    FixedLarge,
    FixedSmall,
    Hybrid,
    LearnedRange,
    LossAwareTimesteps,
    PredictNoise,
    Simple,
    StratifiedTimesteps,
    UniformTimesteps,
)
from diffusion_lab.models.diffusion import DiffusionModel
from diffusion_lab.models.optimization import Constant, Optimization
from diffusion_lab.networks import UNet

SHAPE = (1, 8, 8)


def model(variance=None, objective=None, timesteps=None, sampler=None, seed=1):
    torch.manual_seed(0)

    def network(out_channels):
        net = UNet(
            1, out_channels, 8, base_channels=8, channel_multipliers=(1,), attention_resolutions=(), head_channels=8
        )
        torch.nn.init.normal_(net.output.weight, std=0.1)
        return net

    return DiffusionModel(
        SHAPE,
        17,
        CosineSchedule(30),
        network,
        PredictNoise(),
        variance or LearnedRange(),
        objective or Hybrid(17),
        timesteps or StratifiedTimesteps(30),
        sampler or AncestralSampler(EvenSpacing(5)),
        Optimization(torch.optim.AdamW, Constant()),
        clip_x_0=True,
        seed=seed,
    ).eval()


def step(diffusion, x_0, k=0, rank=0, ranks=1):
    """training_step as rank `rank` of `ranks`, on its rows of the global batch x_0."""
    progress = SimpleNamespace(total=SimpleNamespace(processed=k))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
    diffusion._trainer = SimpleNamespace(world_size=ranks, global_rank=rank, fit_loop=loop)
    rows = len(x_0) // ranks
    return diffusion.training_step((x_0[rank * rows : (rank + 1) * rows], None), 0)


def digits(n):
    return (torch.randint(0, 17, (n, *SHAPE), generator=torch.Generator().manual_seed(0)) / 8 - 1).float()


def test_training_is_a_function_of_the_seed_and_the_batch_number():
    x_0 = digits(8)
    losses = [float(step(model(seed=s), x_0, k)["loss"].detach()) for s, k in ((1, 0), (1, 0), (1, 1), (2, 0))]
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_see_the_rows_of_the_global_batch(ranks):
    x_0 = digits(8)
    whole = float(step(model(), x_0)["loss"].detach())
    parts = [float(step(model(), x_0, rank=rank, ranks=ranks)["loss"].detach()) for rank in range(ranks)]
    assert sum(parts) / ranks == pytest.approx(whole, rel=1e-5)
    assert len(set(parts)) == ranks


def test_the_loss_is_the_weighted_mean_and_quarters_add_up():
    out = step(model(timesteps=UniformTimesteps(30)), digits(16))
    total = sum(float(s) for s, _ in out["by_quarter"].values())
    assert sum(int(n) for _, n in out["by_quarter"].values()) == 16
    assert total / 16 == pytest.approx(float(out["loss"].detach()), rel=1e-6)
    mse, vlb = (float(out["terms"][name]) for name in ("mse", "vlb"))
    assert float(out["terms"]["loss"]) == pytest.approx(mse + 0.001 * vlb, rel=1e-6)


def test_loss_aware_timesteps_learn_from_unweighted_losses():
    diffusion = model(timesteps=LossAwareTimesteps(30, history_per_timestep=1))
    diffusion.all_gather = lambda value: value
    step(diffusion, digits(16))
    assert int(diffusion.timesteps.counts.sum()) == 16
    assert "timesteps.history" in diffusion.state_dict()


@pytest.mark.parametrize("sampler", [AncestralSampler(EvenSpacing(5)), DDIMSampler(EvenSpacing(5), eta=0.5)], ids=str)
def test_a_sample_depends_on_seed_and_index_and_evaluations_are_counted(sampler):
    diffusion = model(sampler=sampler)
    with torch.no_grad():
        whole = diffusion.sample(torch.arange(7), seed=3)
        assert diffusion.nfe == 5
        parts = torch.cat([diffusion.sample(i, seed=3) for i in torch.arange(7).split(3)])
        other = diffusion.sample(torch.arange(7), seed=4)
    torch.testing.assert_close(parts, whole, rtol=0, atol=2e-5)
    assert float((other - whole).abs().max()) > 0.1
    assert whole.shape == (7, *SHAPE)
    assert float(whole.abs().max()) <= 1
    states = list(diffusion.trajectory(torch.arange(7), seed=3))
    assert len(states) == 6
    torch.testing.assert_close(states[-1], whole, rtol=0, atol=2e-5)


def test_the_likelihood_is_of_the_samplers_chain_and_its_parts_add_up():
    x_0 = digits(4)
    for sampler, kind, terms in (
        (AncestralSampler(), "bound of the full chain", 30),
        (AncestralSampler(EvenSpacing(5)), "bound of a strided chain", 5),
        (DDIMSampler(EvenSpacing(5)), "bound of a strided chain: the ancestral one on this sampler's steps", 5),
    ):
        likelihood = model(sampler=sampler).likelihood(x_0, None, 0, torch.arange(4), None)
        assert likelihood.kind == kind
        assert likelihood.curve["bits_per_dim"].shape == (4, terms)
        torch.testing.assert_close(sum(likelihood.parts.values()), likelihood.bits_per_dim)
        assert likelihood.curve["t"].tolist() == sorted(likelihood.curve["t"].tolist())
        assert likelihood.curve["t"][-1] == 30


def test_the_same_bound_with_fewer_terms_says_what_each_stands_for():
    likelihood = model(sampler=AncestralSampler()).likelihood(digits(4), None, 0, torch.arange(4), 6)
    assert float(likelihood.curve["steps"].sum()) == 30
    assert likelihood.curve["bits_per_dim"].shape == (4, 6)
    assert likelihood.curve["t"][0] == 1
    assert (likelihood.curve["t"].diff() > 0).all()


def test_a_pair_that_cannot_work_is_refused_with_the_fix():
    with pytest.raises(ValueError, match=r"would never be trained.*objective=hybrid"):
        model(objective=Simple())
    with pytest.raises(ValueError, match="num_steps = 31"):
        model(sampler=AncestralSampler(EvenSpacing(31)))
    assert model(variance=FixedLarge(), objective=Simple()).network.output.out_channels == 1


def test_a_variance_decides_samples_only_where_the_sampler_reads_it():
    """Two models of the same weights: what they state decides whether their samples are drawn once or twice."""
    for sampler, differs in ((AncestralSampler(EvenSpacing(5)), True), (DDIMSampler(EvenSpacing(5)), False)):
        small, large = (model(variance, Simple(), sampler=sampler) for variance in (FixedSmall(), FixedLarge()))
        images = [m.sample(torch.arange(2), seed=0) for m in (small, large)]
        assert torch.equal(*images) != differs
        assert (small.sampling_protocol() == large.sampling_protocol()) != differs
        assert small.protocol() != large.protocol()

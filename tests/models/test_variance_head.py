"""A head is trained beside a frozen model, which stays what it was, bit for bit."""

import copy
from functools import partial

import pytest
import torch

from diffusion_lab.analysis import Regressed
from diffusion_lab.data.densities import RingMixture
from diffusion_lab.diffusion import (
    FixedSmall,
    Hybrid,
    LearnedRange,
)
from diffusion_lab.models.base import GenerativeModel
from diffusion_lab.models.optimization import Constant, Optimization
from diffusion_lab.models.variance_head import VarianceHead
from diffusion_lab.networks import MLP
from diffusion_lab.sampling import AncestralSampler, Autoguidance, ClassifierFree, EvenSpacing, Worse

from .stand_ins import of_points, step

OPTIMIZATION = Optimization(torch.optim.AdamW, Constant())
INDICES = torch.arange(6)


def diffusion(num_classes=None, **parts):
    parts = {"variance": FixedSmall(), "sampler": AncestralSampler(EvenSpacing(4))} | parts
    model = of_points(num_classes, partial(MLP, 2, hidden=16, num_layers=1, dropout=0.2), **parts)
    torch.nn.init.normal_(model.network.output.weight, std=0.1)
    return model


def head_for(base):
    torch.manual_seed(1)
    head = VarianceHead((2,), lambda **more: MLP(hidden=16, num_layers=1, **more), OPTIMIZATION, seed=1)
    head.attach_base(base)
    return head


def trained(head, data, num_steps=30):
    optimizer, batches = torch.optim.Adam(head.parameters(), lr=3e-3), iter(data.train_dataloader())
    for k in range(num_steps):
        x_0, y = next(batches)
        out = step(head.train(), x_0, k, y=y)
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
    return head.eval()


def ring():
    return RingMixture(64, 0, num_components=3, num_train=2000, num_test=50)


@pytest.mark.parametrize("base", [diffusion, lambda: diffusion(3)], ids=["plain", "conditional"])
def test_the_frozen_model_stays_and_is_no_part_of_the_head(base):
    model = base()
    before = copy.deepcopy(model.state_dict())
    head = head_for(model)
    first = {name: weights.clone() for name, weights in head.state_dict().items()}
    trained(head, ring())
    assert all(torch.equal(weights, before[name]) for name, weights in model.state_dict().items())
    assert all(weights.grad is None for weights in model.parameters())
    assert not model.training  # so that its dropout does nothing, though the head trains
    assert set(head.state_dict()) == {f"network.{name}" for name in head.network.state_dict()}
    assert set(head.averaged_parameters()) == {f"network.{name}" for name, _ in head.network.named_parameters()}
    assert any(not torch.equal(weights, first[name]) for name, weights in head.state_dict().items())
    assert not isinstance(head, GenerativeModel)


def use(model, head):
    model.use_head(lambda x, timesteps: head(x, timesteps), Regressed(head="h"))
    return model


def test_a_model_draws_and_is_scored_with_it():
    model, other = diffusion(), diffusion()
    head = trained(head_for(diffusion()), ring(), 200)
    use(model, head)
    x_0 = torch.cat([x for x, _ in ring().batches("test", 50)])
    bits = [float(m.likelihood(x_0, None, 0, torch.arange(50), None).bits_per_dim.mean()) for m in (model, other)]
    assert bits[0] < bits[1]
    drawn = [m.sample(INDICES, 3) for m in (model, other)]
    assert drawn[0].isfinite().all()
    assert not torch.allclose(*drawn)
    assert model.protocol()["variance"] == "Regressed(head='h')"
    assert model.nfe == other.nfe
    assert set(model.state_dict()) == set(other.state_dict())
    with model.use_weights("raw"):
        torch.testing.assert_close(model.sample(INDICES, 3), drawn[0])


def test_a_network_with_a_learned_variance():
    """Takes it too, and keeps its mean."""
    model = diffusion(variance=LearnedRange(), objective=Hybrid(num_levels=None))
    learned, x_t, t = model.reverse, torch.randn(4, 2), torch.tensor([1, 5, 20, 40])
    look = learned(model.process, x_t, t)
    use(model, head_for(diffusion(variance=LearnedRange(), objective=Hybrid(num_levels=None))))
    again = model.reverse(model.process, x_t, t)
    assert torch.equal(look.x_0, again.x_0)
    assert torch.equal(look.distribution.mean, again.distribution.mean)
    before, after = (each.distribution.log_variance for each in (look, again))
    assert not torch.allclose(before, after.expand_as(before))


@pytest.mark.parametrize("guidance", [ClassifierFree(2.0), Autoguidance(Worse(0.2), 2.0)], ids=str)
def test_a_guided_model_takes_it(guidance):
    model = diffusion(3, guidance=guidance)
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    before = model.sample(INDICES, 0, y)
    use(model, trained(head_for(diffusion(3)), ring(), 5))
    drawn = model.sample(INDICES, 0, y)
    assert drawn.isfinite().all()
    assert not torch.allclose(drawn, before)
    likelihood = model.likelihood(0.1 * torch.randn(6, 2), y, 0, INDICES, None)
    assert likelihood.bits_per_dim.isfinite().all()

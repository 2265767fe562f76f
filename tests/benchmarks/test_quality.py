"""benchmarks/quality.py without the peers: networks with a peer's conventions, in place of theirs."""

import sys
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import torch
from torch import nn

from diffusion_lab.data.digits import Digits
from diffusion_lab.diffusion import (
    FixedLarge,
    GaussianDiffusion,
    LinearSchedule,
    PredictNoise,
    PredictVelocity,
    ReverseProcess,
    SampleNoise,
)
from diffusion_lab.metrics.features.self_supervised import SelfSupervisedFeatures
from diffusion_lab.models.optimization import Constant
from diffusion_lab.sampling import DDIMSampler, EvenSpacing

SHAPE, STEPS = (1, 2, 2), 7
MEAN, STD = 0.2, 0.3  # of the data, N(MEAN, STD²), of which the best prediction is known


@pytest.fixture(scope="module", autouse=True)
def benchmarks():
    """Its parts can be imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        yield
        for name in [name for name in sys.modules if name.partition(".")[0] == "contenders"]:
            del sys.modules[name]


def best(x_t, alpha_bar):
    """E[ε|x_t] and E[v|x_t]."""
    alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    eps = sigma * (x_t - alpha * MEAN) / (alpha_bar * STD**2 + 1 - alpha_bar)
    x_0 = (x_t - sigma * eps) / alpha
    return eps, alpha * eps - sigma * x_0


@pytest.mark.parametrize(("prediction", "part"), [(PredictNoise(), 0), (PredictVelocity(), 1)])
def test_a_peers_network_draws_what_ours_does(prediction, part):
    """Its steps count from 0, and its schedule is a float32 table of them."""
    from contenders import contender

    noise = SampleNoise(0, torch.arange(64))
    process = GaussianDiffusion(LinearSchedule(1000))

    def network(x_t, timesteps, y):
        return best(x_t, process.alpha_bar(timesteps + 1)[:, None, None, None].float())[0]

    mine = DDIMSampler(EvenSpacing(STEPS))(
        process, ReverseProcess(network, PredictNoise(), FixedLarge()), noise.initial(SHAPE)
    )

    alphas_cumprod = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    seen = []

    def peer(x_t, k):
        seen.append(int(k[0]))
        return best(x_t, alphas_cumprod[k][:, None, None, None])[part]

    theirs = contender.draw(*contender.in_our_terms(peer, alphas_cumprod, prediction), noise, SHAPE, STEPS)
    assert (seen[0], seen[-1], len(seen)) == (999, 0, STEPS)
    assert (theirs - mine).abs().max() < 1e-4


def test_a_peer_trains_until_its_budget_is_used_and_never_twice(tmp_path, monkeypatch):
    """A step takes a second of ten; a moment has the averaged weights of the step that reached it."""
    from contenders import contender, images, peers

    @dataclass(frozen=True)
    class Seconds(contender.Budget):
        ticks: count = field(default_factory=count)

        def clock(self):
            return next(self.ticks)

    class Fake(peers.Peer):
        """Its only weight falls by lr a step: the gradient of its loss is 1."""

        def build(self, shape):
            return nn.Linear(1, 1, bias=False).apply(lambda part: nn.init.zeros_(part.weight))

        def loss(self, module, x_0):
            return module.weight.sum()

        def network(self, module):
            return lambda x_t, k: module.weight.sum() * torch.ones_like(x_t)

        def conventions(self, module):
            return torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0), PredictNoise()

        def own(self, module, shape, generator, num_steps):
            return module.weight.sum().expand(shape[0])

    class Raw:
        def __init__(self, module):
            self.weights = lambda: list(module.parameters())

        def update(self):
            pass

    class Zeros:
        def __init__(self, *_, **__):
            self.train_dataloader = lambda: iter([(torch.zeros(1), None)] * 10)

    recipe = peers.Recipe(1, lambda weights: torch.optim.SGD(weights, lr=1.0), Constant(), Raw)
    zeros = images.Images(Zeros, (1, 2, 2), ())
    budget = Seconds(10.0, (0.25, 0.5), seed=0, threads=1, device="cpu", data=zeros)
    facts = Fake(16, recipe).train(tmp_path, budget)
    assert facts.steps == {0.25: 3, 0.5: 5, 1.0: 10}
    for moment, steps in facts.steps.items():
        with Fake(16, recipe).at(tmp_path, moment, budget, 50) as trained:
            assert trained.own(torch.arange(1), 0).item() == pytest.approx(-steps, rel=1e-5)  # clipped to 1 - 1e-6

    by_steps = Seconds(10.0, (0.5,), seed=0, threads=1, device="cpu", steps=4, data=zeros)
    assert Fake(16, recipe).train(tmp_path / "steps", by_steps).steps == {0.5: 2, 1.0: 4}

    monkeypatch.setattr(Zeros, "__init__", None)
    assert Fake(16, recipe).train(tmp_path, budget) == facts


@pytest.mark.thorough
def test_ours_draws_classes_in_proportion_and_starts_where_its_recipe_says(tmp_path, monkeypatch):
    """Classes are drawn in the proportions of the clusters, for the shared sampler too, which starts from noise."""
    from contenders.contender import END, Budget, draw
    from contenders.images import DATA, Images
    from contenders.job import SHARED, Job
    from contenders.ours import Ours

    monkeypatch.setitem(DATA, "digits", Images(Digits, (1, 8, 8), ()))
    clusters = "condition=clusters condition.clusters.num_clusters=3"
    options = f"data=digits {clusters} start=data_moments sampler=few guidance=classifier_free"
    budget = Budget(0.5, (), seed=1, threads=torch.get_num_threads(), device="cpu")
    ours = Ours(f"{options} network.base_channels=8 network.head_channels=8")
    facts = ours.train(tmp_path, budget)
    assert facts.steps[END] >= 1
    indices = torch.arange(3600)
    with ours.at(tmp_path, END, budget, 50) as trained:
        classes = trained.classes(indices, 1)
        assert trained.own(indices[:4], 0).shape == (4, 1, 8, 8)
        assert trained.own_evaluations == 10
        asked = Job("ours", 1, 1.0, None, (), 4, 2, 1, "cpu", "", tmp_path, "digits")
        shared = asked._sampler(trained, SHARED)(indices[:4])
        process, reverse, noise = trained.process, trained.reverse, SampleNoise(1, indices[:4])
        told, untold = (draw(process, reverse, noise, (1, 8, 8), 2, y) for y in (classes[:4], None))
    assert shared.equal(told)
    assert not told.equal(untold)
    sizes = clusters_of(tmp_path).bincount(minlength=3)
    expected, error = len(indices) * sizes / sizes.sum(), 4 * (len(indices) / 3) ** 0.5
    assert (expected - len(indices) / 3).abs().max() > error  # as many of each would be seen
    assert (classes.bincount(minlength=3) - expected).abs().max() < error


def clusters_of(outputs):
    """The cluster of each training image, of the model in `outputs`."""
    from omegaconf import OmegaConf

    from diffusion_lab.config.loading import trained_config, trained_data
    from diffusion_lab.store import newest_model

    asked = OmegaConf.create({"model_dir": str(newest_model(outputs).path), "data": {}})
    data = trained_data(trained_config(asked)[1])
    return torch.cat([y for _, y in data.batches("train", 256)])


def test_real_images_have_the_distance_of_their_floor(tmp_path):
    """Test images are at no distance from themselves; training images, and no others, count as copies."""
    from contenders.images import Images
    from contenders.job import COPIES, Measures

    measures = Measures(Images(Digits, (1, 8, 8), (partial(SelfSupervisedFeatures, "digits_ssl"),)), tmp_path / "cache")
    test, train = (measures._images(split, 360) for split in ("test", "train"))
    own, floors = measures.distances(test), measures.floors(360)
    assert own["fd_digits_ssl"] == pytest.approx(0, abs=1e-4)
    assert all(own[name] < floors[name] for name in floors)
    assert measures.distances(train) == floors
    assert measures.scores(train)[COPIES] == 1
    assert measures.scores(test)[COPIES] < 0.05

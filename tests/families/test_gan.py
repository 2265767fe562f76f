"""Through a real Trainer: whose step moves what, what is counted, what is skipped, and that a resumed training is the training."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from diffusion_lab.data.digits import Digits
from diffusion_lab.families.gan.adversarial import (
    R1,
    GradientPenalty,
    Hinge,
    NonSaturating,
    NoRegularizer,
    Wasserstein,
)
from diffusion_lab.families.gan.gan import GAN
from diffusion_lab.families.gan.networks import Discriminator, Generator, PointDiscriminator, PointGenerator
from diffusion_lab.models.optimization import Constant, CosineDecay, Optimization
from diffusion_lab.training.checkpoints import load_state
from diffusion_lab.training.ema import EMA
from diffusion_lab.training.finite import SkipNotFinite
from diffusion_lab.training.monitor import Monitor
from diffusion_lab.training.record import CSVRecord
from tests.models import stand_ins
from tests.models.stand_ins import quiet_trainer, step

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
ADAM = partial(torch.optim.Adam, lr=1e-3, betas=(0.0, 0.99))


def gan(loss=None, regularizer=None, num_classes=None, optimizer=ADAM, learning_rate=None, **more):
    torch.manual_seed(0)
    sizes = {"base_channels": 8, "channel_multipliers": (1, 2)}
    options = {"spectral_norm": None, "max_grad_norm": None, "seed": 1} | more
    return GAN(
        (1, 8, 8),
        17,
        num_classes,
        partial(Generator, 1, 8, latent_size=5, **sizes),
        partial(Discriminator, 1, 8, **sizes),
        loss or NonSaturating(),
        regularizer or R1(gamma=0.5, every=2),
        Optimization(optimizer, learning_rate or Constant()),
        **options,
    )


def digits(n):
    return DataLoader(TensorDataset(stand_ins.digits(n), torch.arange(n) % 3), batch_size=4, num_workers=0)


def copied(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(map(torch.equal, a.values(), b.values()))


def trainer(steps, folder=None):
    logger = CSVRecord(folder / "metrics.csv") if folder else False
    return quiet_trainer(steps, SkipNotFinite(), EMA([0.9]), Monitor(), logger=logger, log_every_n_steps=1)


def test_each_step_moves_one_network():
    model, changes = gan(), []
    move = model._take_step

    def watched(network, loss, step):
        before = copied(model.network), copied(model.discriminator)
        move(network, loss, step)
        after = copied(model.network), copied(model.discriminator)
        changes.append("".join(name for name, b, a in zip("GD", before, after, strict=True) if not same(b, a)))
        assert all(parameter.grad is None for parameter in model.parameters()), "a gradient was left behind"

    model._take_step = watched
    trainer(3).fit(model, digits(12))
    assert changes == ["D", "G"] * 3


def test_a_batch_is_one_step_of_the_budget():
    model = gan(learning_rate=CosineDecay())
    fit = trainer(4)
    fit.fit(model, digits(40))
    assert fit.global_step == model.batches_trained == 4
    assert [scheduler.last_epoch for scheduler in model.lr_schedulers()] == [4, 4]
    assert [group["lr"] for o in fit.optimizers for group in o.param_groups] == pytest.approx([0, 0], abs=1e-12)


def test_averages_are_of_the_generator_alone():
    model = gan()
    trainer(2).fit(model, digits(12))
    assert {name.partition(".")[0] for name in model.averages["ema_0.9"]} == {"network"}
    assert model.averages["ema_0.9"].keys() == {f"network.{name}" for name, _ in model.network.named_parameters()}
    raw = copied(model.network)
    with model.use_weights("ema_0.9"):
        assert not same(copied(model.network), raw)


def test_what_is_logged(tmp_path):
    model = gan()
    trainer(2, folder=tmp_path).fit(model, digits(12))
    header, first, second = [line.split(",") for line in (tmp_path / "metrics.csv").read_text().splitlines()]
    first, second = (dict(zip(header, row, strict=False)) for row in (first, second))
    for name in ("loss", "loss_discriminator", "accuracy_real", "accuracy_fake", "grad_norm", "lr"):
        assert f"train/{name}" in header
    assert 0 <= float(first["train/accuracy_real"]) <= 1
    assert float(first["train/penalty"]) > 0
    assert second.get("train/penalty", "") == "", "a lazy penalty has no value at a step that does not look"


@pytest.mark.parametrize("broken", ["discriminator", "generator"])
def test_a_gradient_that_is_not_finite_skips_one_step(broken):
    model = gan()
    move, moves = model._take_step, []

    def poisoned(network, loss, step):
        moves.append(network)
        second = len(moves) in (3, 4)  # the second batch
        wanted = network is (model.discriminator if broken == "discriminator" else model.network)
        move(network, loss * torch.nan if second and wanted else loss, step)

    model._take_step = poisoned
    states, networks = [], (model.network, model.discriminator)
    model.on_train_batch_start = lambda batch, batch_idx: states.append([*map(copied, networks)])
    fit = trainer(3)
    fit.fit(model, digits(12))
    assert model.skipped_steps == 1
    assert fit.global_step == 3
    part = 1 if broken == "discriminator" else 0
    assert same(states[1][part], states[2][part])
    assert not same(states[1][1 - part], states[2][1 - part]), "the other network's step is its own"
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_images_that_are_not_finite_skip_one_step():
    """Of both networks, which counts once."""
    model, loader = gan(), digits(12)
    loader.dataset.tensors[0][5] = torch.nan
    trainer(3).fit(model, loader)
    assert model.skipped_steps == 1


@pytest.mark.parametrize(
    "options",
    [{}, {"regularizer": NoRegularizer(), "loss": Hinge()}, {"regularizer": GradientPenalty(), "loss": Wasserstein()}],
    ids=["r1", "spectral norm", "gradient penalty"],
)
def test_a_resumed_training_is_the_training(tmp_path, options):
    """Weights, power iterations, averages and moments, bit for bit."""
    whole, fit = gan(num_classes=10, **options), trainer(6)
    fit.fit(whole, Digits(batch_size=4, seed=0))
    first = trainer(3)
    first.fit(gan(num_classes=10, **options), Digits(batch_size=4, seed=0))
    first.save_checkpoint(tmp_path / "resume.ckpt")
    state = load_state(tmp_path / "resume.ckpt")
    assert state["global_step"] == 3
    assert len(state["optimizer_states"]) == len(state["lr_schedulers"]) == 2
    torn, second = gan(num_classes=10, **options), trainer(6)
    with torch.no_grad():
        for parameter in torn.parameters():
            parameter.add_(1)  # everything comes from the checkpoint
    second.fit(torn, Digits(batch_size=4, seed=0), ckpt_path=tmp_path / "resume.ckpt", weights_only=True)
    assert second.global_step == 6
    assert same(copied(torn), copied(whole))
    assert same(torn.averages["ema_0.9"], whole.averages["ema_0.9"])
    moments = [
        [v for o in f.optimizers for s in o.state_dict()["state"].values() for v in s.values()] for f in (fit, second)
    ]
    assert len(moments[0]) > 10
    assert all(map(torch.equal, *moments))


def alone(model, k, rank=0, ranks=1, x=None, y=None):
    """The gradients that `training_step` gives rank `rank` of `ranks` for its rows, before they are averaged."""
    found = {}

    def move(network, loss, step):
        found[network] = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)

    model._take_step = move
    stub = SimpleNamespace(optimizer=None, step=None)
    model.optimizers, model.lr_schedulers = lambda: (stub, stub), list
    step(model, x, k, rank, ranks, y, strategy=SimpleNamespace(optimizer_step=lambda optimizer, closure: None))
    return [gradient for network in (model.discriminator, model.network) for gradient in found[network]]


@pytest.mark.parametrize("regularizer", [R1(gamma=0.5), GradientPenalty()], ids=["r1", "gradient penalty"])
def test_ranks_see_the_rows_of_the_global_batch(regularizer):
    """The mean of the ranks' gradients is the gradient of the whole batch: z and u are the global batch's."""
    x, y = digits(8).dataset.tensors
    model = gan(num_classes=3, regularizer=regularizer)
    whole = alone(model, 5, x=x, y=y)
    parts = [alone(model, 5, rank, 2, x, y) for rank in range(2)]
    for together, *shares in zip(whole, *parts, strict=True):
        torch.testing.assert_close(sum(shares) / 2, together, rtol=1e-3, atol=1e-6)
    assert not torch.equal(alone(model, 6, x=x, y=y)[0], whole[0]), "z is a function of the batch number"
    assert not torch.equal(alone(gan(num_classes=3, regularizer=regularizer, seed=2), 5, x=x, y=y)[0], whole[0])


def test_gradients_are_scaled_down_to_the_norm():
    model = gan(max_grad_norm=1e-3, optimizer=partial(torch.optim.SGD, lr=1.0))
    before = [copied(network) for network in (model.network, model.discriminator)]
    trainer(1).fit(model, digits(4))
    for network, start in zip((model.network, model.discriminator), before, strict=True):
        moved = [(p.detach() - start[name]).flatten() for name, p in network.named_parameters()]
        assert float(torch.cat(moved).norm()) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.thorough
def test_a_gan_learns_a_gaussian():
    """The mean and the spread of N((0.3, −0.2), 0.2²), up to a few per cent."""
    torch.manual_seed(0)
    generator = partial(PointGenerator, 2, latent_size=4, hidden=32, num_layers=1)
    discriminator = partial(PointDiscriminator, 2, hidden=32, num_layers=1)
    optimization = Optimization(partial(torch.optim.Adam, lr=2e-3, betas=(0.0, 0.99)), CosineDecay())
    parts = generator, discriminator, NonSaturating(), R1(gamma=0.1), optimization
    model = GAN((2,), None, None, *parts, None, None, 1)
    x = torch.tensor([0.3, -0.2]) + 0.2 * torch.randn(128 * 300, 2)
    loader = DataLoader(TensorDataset(x, torch.zeros(len(x))), batch_size=128, num_workers=0)
    trainer(300).fit(model, loader)
    drawn = model.generator("ema_0.9").sample(torch.arange(4000), 0)
    torch.testing.assert_close(drawn.mean(0), torch.tensor([0.3, -0.2]), rtol=0, atol=0.04)
    torch.testing.assert_close(drawn.std(0), torch.full((2,), 0.2), rtol=0, atol=0.06)


def test_spectral_norm_is_there_where_no_penalty_is():
    def normalised(model):
        return any("parametrizations" in name for name in model.discriminator.state_dict())

    assert normalised(gan(regularizer=NoRegularizer()))
    assert not normalised(gan())
    assert normalised(gan(spectral_norm=True))
    assert not normalised(gan(loss=Hinge(), regularizer=NoRegularizer(), spectral_norm=False))

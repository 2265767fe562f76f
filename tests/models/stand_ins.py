"""What models are built from and trained with where no command runs: configs, small models and data, a Trainer at a batch."""

from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import torch
from hydra import compose, initialize_config_dir
from lightning import Trainer
from torch import nn

from diffusion_lab.conf_dir import CONF
from diffusion_lab.diffusion import (
    CosineSchedule,
    FixedLarge,
    Hybrid,
    LearnedRange,
    PredictNoise,
    PredictVelocity,
    Simple,
    StratifiedTimesteps,
)
from diffusion_lab.models.diffusion import DiffusionModel
from diffusion_lab.models.generator import Generator
from diffusion_lab.models.optimization import Constant, Optimization
from diffusion_lab.models.trainable import GenerativeModel
from diffusion_lab.networks import MLP, UNet
from diffusion_lab.sampling import AncestralSampler, DDIMSampler, EvenSpacing, Unguided

SHAPE = (1, 8, 8)  # of the digits


def quiet_trainer(max_steps, *callbacks, **options):
    """A Trainer on the CPU that prints nothing and writes no checkpoint by itself."""
    quiet = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    usual = {"max_epochs": -1, "accelerator": "cpu", "logger": False}
    return Trainer(max_steps=max_steps, callbacks=[*callbacks], **quiet, **usual | options)


def at_batch(model, k=0, rank=0, ranks=1, **more):
    """The model, as if a Trainer were at batch k on rank `rank` of `ranks`."""
    progress = SimpleNamespace(total=SimpleNamespace(processed=k))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
    facts = {"accumulate_grad_batches": 1, "world_size": ranks, "global_rank": rank, "fit_loop": loop}
    model._trainer = SimpleNamespace(**facts | more)
    return model


def step(model, x_0, k=0, rank=0, ranks=1, y=None, **more):
    """training_step of batch k as rank `rank` of `ranks`, on its rows of the global batch x_0."""
    rows = slice(rank * len(x_0) // ranks, (rank + 1) * len(x_0) // ranks)
    batch = x_0[rows], None if y is None else y[rows]
    return at_batch(model, k, rank, ranks, **more).training_step(batch, 0)


def loss(model, x_0, *place, **where):
    return float(step(model, x_0, *place, **where)["loss"].detach())


def configured(*options, shape, num_levels=None, num_classes=None):
    """The config of `train` with these options, for data of such a shape."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=[*options])
    cfg.facts = {
        "shape": [*shape],
        "channels": shape[0],
        "size": shape[-1],
        "num_levels": num_levels,
        "bounded": num_levels is not None,
        "num_classes": num_classes,
        "conditions": [],
        "missing": False,
        "identity": "0" * 64,
    }
    return cfg


def of_points(num_classes, network, **parts):
    """A diffusion model of points in the plane, of 40 steps, in the mode of evaluation."""
    torch.manual_seed(0)
    usual = {
        "variance": FixedLarge(),
        "objective": Simple(),
        "sampler": DDIMSampler(EvenSpacing(4)),
        "guidance": Unguided(),
        "condition_dropout": 0.5,
    }
    return DiffusionModel(
        shape=(2,),
        num_levels=None,
        num_classes=num_classes,
        schedule=CosineSchedule(40),
        network=network,
        prediction=PredictVelocity(),
        timesteps=StratifiedTimesteps(40),
        optimization=Optimization(torch.optim.AdamW, Constant()),
        clip_x_0=False,
        seed=1,
        **usual | parts,
    ).eval()


def of_digits(
    variance=None,
    objective=None,
    timesteps=None,
    sampler=None,
    num_classes=None,
    guidance=None,
    schedule=None,
    network=None,
    **more,
):
    """A diffusion model of the digits, of 30 steps, in the mode of evaluation."""
    torch.manual_seed(0)

    def small(out_channels, num_classes, **of_network):
        sizes = {"base_channels": 8, "channel_multipliers": (1,), "attention_resolutions": (), "head_channels": 8}
        net = UNet(1, out_channels, 8, num_classes, **sizes, **of_network)
        generator = torch.Generator().manual_seed(1)
        for channel in net.output.weight:  # the first is the same, whatever their number
            torch.nn.init.normal_(channel, std=0.1, generator=generator)
        return net

    options = {"clip_x_0": True, "condition_dropout": 0.1, "seed": 1} | more
    return DiffusionModel(
        SHAPE,
        17,
        num_classes,
        schedule or CosineSchedule(30),
        network or small,
        PredictNoise(),
        variance or LearnedRange(),
        objective or Hybrid(17),
        timesteps or StratifiedTimesteps(30),
        sampler or AncestralSampler(EvenSpacing(5)),
        guidance or Unguided(),
        Optimization(torch.optim.AdamW, Constant()),
        **options,
    ).eval()


def inputs_of(network):
    """A list that grows by (x_t, timesteps, y) at each evaluation of the network."""
    seen, forward = [], network.forward
    network.forward = lambda *inputs: (seen.append(inputs), forward(*inputs))[1]
    return seen


def digits(n):
    """Noise on the 17 levels of the digits, (n, 1, 8, 8)."""
    return (torch.randint(0, 17, (n, 1, 8, 8), generator=torch.Generator().manual_seed(0)) / 8 - 1).float()


def woken(network, std=0.1):
    """With no layer that starts at zero."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=std)
    return network


class Line(GenerativeModel):
    """Two parameters, and images that are their values at 1."""

    shape, num_levels, num_classes = (1,), None, None

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(1, 1)

    def generator(self, weights="raw"):
        facts = {name: getattr(self, name) for name in ("shape", "num_levels", "num_classes")}
        return LineGenerator(**facts, net=self.frozen(self.net, weights))


@dataclass(frozen=True, kw_only=True, eq=False)
class LineGenerator(Generator):
    net: nn.Module

    @property
    def networks(self):
        return {"network": self.net}

    def latents(self, indices, seed):
        return indices.float()[:, None]

    def decode(self, z, y=None):
        return self.net(z)

    def protocol(self):
        return {}


def line_with_an_average():
    line = Line()
    nn.init.constant_(line.net.weight, 1.0)
    nn.init.constant_(line.net.bias, 0.0)
    line.averages["ema_0.9"] = {"net.weight": torch.full((1, 1), 2.0), "net.bias": torch.full((1,), 0.5)}
    return line


def guided_points(guidance, num_classes=None, hidden=16):
    """A diffusion model of points whose first outputs are not zero."""
    network = partial(MLP, in_channels=2, hidden=hidden, num_layers=1)
    made = of_points(num_classes, network, guidance=guidance, condition_dropout=0.1)
    for number, parameter in enumerate(made.parameters()):
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    return made.requires_grad_(False)

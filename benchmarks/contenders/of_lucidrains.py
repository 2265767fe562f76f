"""denoising-diffusion-pytorch: Unet and GaussianDiffusion, trained as its Trainer does."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Adam

from contenders.contender import SHAPE
from contenders.peer import Peer, Recipe
from diffusion_lab.diffusion import Prediction, PredictVelocity
from diffusion_lab.models.optimization import Constant


class ItsAverage:
    """ema_pytorch's EMA as Trainer sets it up."""

    def __init__(self, module: nn.Module) -> None:
        from ema_pytorch import EMA

        self._average = EMA(module, beta=0.995, update_every=10)

    def update(self) -> None:
        self._average.update()

    def weights(self) -> list[Tensor]:
        return list(self._average.ema_model.parameters())


# The README's Trainer with its defaults; without amp, which is fp16 there and needs a GPU.
AS_SHIPPED = Recipe(
    batch_size=32,
    accumulate=2,
    optimizer=lambda parameters: Adam(parameters, lr=8e-5, betas=(0.9, 0.99)),
    learning_rate=Constant(),
    average=ItsAverage,
    flip=True,
)


class Lucidrains(Peer):
    """Sigmoid schedule, velocity prediction, images in [0, 1] outside. Its own sampler: the DDIM of `sampling_timesteps`."""

    requires = "denoising_diffusion_pytorch"

    def build(self) -> nn.Module:
        from denoising_diffusion_pytorch import GaussianDiffusion, Unet

        unet = Unet(dim=self.base, dim_mults=(1, 2, 4), channels=SHAPE[0])
        return GaussianDiffusion(unet, image_size=SHAPE[1], timesteps=1000)

    def loss(self, module: nn.Module, x_0: Tensor) -> Tensor:
        return module((x_0 + 1) / 2)

    def network(self, module: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
        return module.model

    def conventions(self, module: nn.Module) -> tuple[Tensor, Prediction]:
        return module.alphas_cumprod, PredictVelocity()

    def own(self, module: nn.Module, size: int, generator: torch.Generator, num_steps: int) -> Tensor:
        module.sampling_timesteps = num_steps
        torch.manual_seed(generator.initial_seed())  # it draws from the global generator
        return 2 * module.ddim_sample((size, *SHAPE)) - 1

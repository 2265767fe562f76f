"""diffusers: UNet2DModel with its schedulers, trained as in its examples/unconditional_image_generation."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import AdamW

from contenders.contender import SHAPE
from contenders.peer import BEST, Peer, Recipe
from diffusion_lab.diffusion import Prediction, PredictNoise
from diffusion_lab.models.optimization import CosineDecay

if TYPE_CHECKING:
    from diffusers import DDPMScheduler


class ItsAverage:
    """EMAModel as the example sets it up."""

    def __init__(self, module: nn.Module) -> None:
        from diffusers.training_utils import EMAModel

        self._parameters = list(module.parameters())
        self._average = EMAModel(self._parameters, decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=3 / 4)

    def update(self) -> None:
        self._average.step(self._parameters)

    def weights(self) -> list[Tensor]:
        return self._average.shadow_params


# The README's command with the script's defaults: batches of 16, fp32, a warm-up of 500 steps, cosine decay over the training.
AS_SHIPPED = Recipe(
    batch_size=16,
    optimizer=lambda parameters: AdamW(parameters, lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8),
    learning_rate=CosineDecay(warmup_steps=500),
    average=ItsAverage,
    flip=True,
)


class Diffusers(Peer):
    """Linear schedule, noise prediction. Its own sampler: the example's DDPMScheduler; at its best, DDIMScheduler from T on.

    The network has our blocks: 28, 14 and 7 pixels of base, 2·base and 4·base channels, one block a level, attention at 7.
    """

    requires = "diffusers"

    def build(self) -> nn.Module:
        from diffusers import UNet2DModel

        return UNet2DModel(
            sample_size=SHAPE[1],
            in_channels=SHAPE[0],
            out_channels=SHAPE[0],
            layers_per_block=1,
            block_out_channels=(self.base, 2 * self.base, 4 * self.base),
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
            norm_num_groups=min(32, self.base),
            attention_head_dim=64,
            resnet_time_scale_shift="scale_shift",
        )

    def loss(self, module: nn.Module, x_0: Tensor) -> Tensor:
        eps = torch.randn_like(x_0)
        steps = torch.randint(0, self._ddpm.config.num_train_timesteps, (len(x_0),), device=x_0.device)
        return functional.mse_loss(module(self._ddpm.add_noise(x_0, eps, steps), steps).sample.float(), eps)

    def network(self, module: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda x_t, steps: module(x_t, steps).sample

    def conventions(self, module: nn.Module) -> tuple[Tensor, Prediction]:
        return self._ddpm.alphas_cumprod, PredictNoise()

    def own(self, module: nn.Module, size: int, generator: torch.Generator, num_steps: int) -> Tensor:
        from diffusers import DDIMScheduler

        scheduler = self._ddpm
        if self.recipe is BEST:
            scheduler = DDIMScheduler.from_config(scheduler.config, timestep_spacing="trailing")
        scheduler.set_timesteps(num_steps)
        x = torch.randn(size, *SHAPE, generator=generator, device=generator.device)
        for t in scheduler.timesteps:
            x = scheduler.step(module(x, t).sample, t, x, generator=generator).prev_sample
        return x.clamp(-1, 1)

    @cached_property
    def _ddpm(self) -> DDPMScheduler:
        from diffusers import DDPMScheduler

        return DDPMScheduler(num_train_timesteps=1000)

"""A generative adversarial network: a generator and the discriminator that trains it, each with its optimizer.

Each batch is one step: D is updated on x_0 and G(z), then G on the same z with the updated D (Goodfellow et al. 2014,
algorithm 1 with k = 1). Gradients are taken only for the network that is updated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer

from diffusion_lab.diffusion import SampleNoise
from diffusion_lab.diffusion.shapes import Conditions
from diffusion_lab.diffusion.streams import TRAINING
from diffusion_lab.families.gan.adversarial import AdversarialLoss, Regularizer
from diffusion_lab.families.gan.networks import LatentNetwork
from diffusion_lab.models.generator import Generator
from diffusion_lab.models.optimization import Optimization, parameters_of
from diffusion_lab.models.shape_checks import check_bounded, check_network
from diffusion_lab.models.trainable import RAW, GenerativeModel
from diffusion_lab.models.tuning import merged_parameters


class GAN(GenerativeModel):
    """G(z, y) and D(x, y), an adversarial loss, and a regularizer of the slope of D. It has no likelihood.

    Parameters
    ----------
    shape: (C, H, W) of images, or (D,) of points. num_levels: the data's levels; None for continuous data.
    num_classes: of the condition of both networks; None without.
    network, discriminator: given num_classes, and the latter spectral_norm, build the two.
    spectral_norm: of the weights of D; None: only if the regularizer does not bound its slope.
    max_grad_norm: upper bound of each network's gradient norm; None: no bound.
    seed: training's z at batch k is a function of (seed, k).
    """

    network: LatentNetwork
    term_names = ("loss", "loss_discriminator", "accuracy_real", "accuracy_fake")
    needs_whole_batches = "a GAN takes a step every batch"

    def __init__(
        self,
        shape: tuple[int, ...],
        num_levels: int | None,
        num_classes: int | None,
        network: Callable[..., LatentNetwork],
        discriminator: Callable[..., nn.Module],
        loss: AdversarialLoss,
        regularizer: Regularizer,
        optimization: Optimization,
        spectral_norm: bool | None,
        max_grad_norm: float | None,
        seed: int,
    ) -> None:
        super().__init__()
        check_bounded(shape, num_levels)
        if spectral_norm is None:
            spectral_norm = not regularizer.penalises
        if loss.needs_bounded_slope and not (regularizer.bounds_slope or spectral_norm):
            raise ValueError(
                f"adversarial_loss {type(loss).__name__} has no minimum unless the slope of the discriminator is bounded, and "
                f"regularizer {type(regularizer).__name__} does not bound it: use regularizer=gradient_penalty, or "
                "model.spectral_norm=true"
            )
        if max_grad_norm is not None and max_grad_norm <= 0:
            raise ValueError(f"model.max_grad_norm={max_grad_norm} must be above 0; use null for no limit")
        self.automatic_optimization = False
        self.shape, self.num_levels, self.num_classes = tuple(shape), num_levels, num_classes
        self.seed, self.optimization, self.max_grad_norm = seed, optimization, max_grad_norm
        self.network = network(num_classes=num_classes)
        check_network(self.network, self.shape)
        self.discriminator = discriminator(num_classes=num_classes, spectral_norm=spectral_norm)
        self.loss, self.regularizer = loss, regularizer
        self.weighted_names = ("penalty",) if regularizer.penalises else ()

    def training_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> dict[str, Any]:
        """One step of D and one of G. Every rank draws z of the global batch and takes its rows."""
        x_0, y = batch[0], self.own_classes(batch[1])
        size, rows = self.global_batch(len(x_0))
        generator = self.random_stream(TRAINING, x_0.device)
        z = torch.randn(size, self.network.latent_size, generator=generator, device=x_0.device)[rows]
        u = torch.rand(size, generator=generator, device=x_0.device)[rows]
        by_generator, by_discriminator = self.optimizers()  # type: ignore[attr-defined]  # a list, as there are two

        drawn = self.network(z, y)
        fake = drawn.detach()
        labels = None if y is None else torch.cat([y, y])
        on_real, on_fake = self.discriminator(torch.cat([x_0, fake]), labels).chunk(2)
        loss = self.loss.discriminator(on_real, on_fake).mean()
        penalty = self.regularizer(partial(self.discriminator, y=y), x_0, fake, u, self.batches_trained)
        # Lightning counts each optimizer step as a training step, so only the generator's step is made through it.
        step = partial(self.trainer.strategy.optimizer_step, by_discriminator.optimizer, lambda: None)
        self._take_step(self.discriminator, loss if penalty is None else loss + penalty.mean(), step)

        loss_generator = self.loss.generator(self.discriminator(drawn, y)).mean()
        self._take_step(self.network, loss_generator, by_generator.step)
        for scheduler in self.lr_schedulers():  # type: ignore[union-attr]  # likewise
            scheduler.step()

        real, unreal = self.loss.accuracy(on_real.detach(), on_fake.detach())
        values = loss_generator.detach(), loss.detach(), real, unreal
        terms = dict(zip(self.term_names, values, strict=True))
        outputs: dict[str, Any] = {"loss": terms["loss"], "terms": terms}
        if penalty is not None:
            outputs["weighted"] = {"penalty": (penalty.detach() / self.regularizer.every, torch.ones_like(penalty))}
        return outputs

    def held_out_terms(self, x_0: Tensor, y: Conditions, noise: SampleNoise) -> dict[str, Tensor]:
        """D on held-out images and on images from other noise: the gap to training shows how far D has memorised its images."""
        y = self.own_classes(y)
        fake = self.network(noise.initial((self.network.latent_size,)).to(x_0), y)
        on_real, on_fake = self.discriminator(x_0, y), self.discriminator(fake, y)
        real, unreal = self.loss.accuracy(on_real, on_fake)
        losses = self.loss.generator(on_fake), self.loss.discriminator(on_real, on_fake)
        return dict(zip(self.term_names, (*losses, real, unreal), strict=True))

    def _take_step(self, network: nn.Module, loss: Tensor, step: Callable[[], Any]) -> None:
        """Take one optimizer step of `network` along its gradient of `loss`, averaged over all ranks.

        Uses autograd.grad: `backward` would also fill the other network's gradients, and trigger DDP's hooks, which expect a
        gradient of every parameter.
        """
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(loss, parameters)
        if self.trainer.world_size > 1:
            own = torch.cat([gradient.flatten() for gradient in gradients])
            mean = self.trainer.strategy.reduce(own, reduce_op="mean")
            gradients = mean.split([parameter.numel() for parameter in parameters])
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.view_as(parameter)
        step()
        for parameter in parameters:
            parameter.grad = None

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Runs after the callbacks, so that they measure and skip the unclipped gradient."""
        if self.max_grad_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters_of(optimizer), self.max_grad_norm, self.gradient_norm)

    def configure_optimizers(self) -> list[OptimizerLRSchedulerConfig]:
        """The norm of the generator."""
        return [
            self.optimization.configure(n.named_parameters(), self.trainer) for n in (self.network, self.discriminator)
        ]

    def check_trainer(self, trainer: Trainer) -> None:
        if trainer.gradient_clip_val:
            raise ValueError(
                f"trainer.gradient_clip_val={trainer.gradient_clip_val}: a GAN takes two steps per batch and scales its gradients "
                "itself; use trainer.gradient_clip_val=null and model.max_grad_norm"
            )
        super().check_trainer(trainer)
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            raise ValueError(
                f"trainer.precision={trainer.precision} scales one loss, but a GAN has two; use bf16-mixed or 32-true"
            )

    def averaged_parameters(self) -> dict[str, Tensor]:
        """The generator, because the discriminator generates no images."""
        return {f"network.{name}": parameter for name, parameter in merged_parameters(self.network).items()}

    def generator(self, weights: str = RAW) -> GANGenerator:
        return GANGenerator(
            shape=self.shape,
            num_levels=self.num_levels,
            num_classes=self.num_classes,
            network=self.frozen(self.network, weights),
            training={"adversarial_loss": repr(self.loss), "regularizer": repr(self.regularizer)},
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class GANGenerator(Generator):
    """G(z, y). It has no likelihood. training: the loss and the regularizer, for the record."""

    network: LatentNetwork
    training: Mapping[str, str]

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        return {"network": self.network}

    def latents(self, indices: Tensor, seed: int) -> Tensor:
        return SampleNoise(seed, indices).initial((self.network.latent_size,))

    def decode(self, z: Tensor, y: Conditions = None) -> Tensor:
        return self.network(z, self.own_classes(y))

    def protocol(self) -> dict[str, Any]:
        return {"family": "gan", **self.training, "conditional": self.num_classes is not None}

    def sampling_protocol(self) -> dict[str, Any]:
        """Samples depend on the weights only."""
        return {"family": "gan", "conditional": self.num_classes is not None}

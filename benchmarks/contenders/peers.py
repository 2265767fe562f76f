"""Two peers, each trained by a loop like its own example's, for a budget, on the images of our data module.

A peer's network is one of our size (base 16) or a wider one, trained as it ships or at its best.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam, AdamW, Optimizer

from contenders.contender import END, Budget, Contender, Facts, Trained, in_our_terms
from diffusion_lab.diffusion import Prediction, PredictNoise, PredictVelocity
from diffusion_lab.models.optimization import Constant, CosineDecay, LearningRate
from diffusion_lab.store.files import write_whole
from diffusion_lab.training.devices import auto_precision

if TYPE_CHECKING:
    from diffusers import DDPMScheduler

MAX_GRAD_NORM = 1.0  # of both peers' examples, and ours


class Average(Protocol):
    """An average of the weights of a module, as a peer takes it."""

    def update(self) -> None:
        """After each step of the optimizer."""

    def weights(self) -> list[Tensor]:
        """In the order of module.parameters()."""


class WarmAverage:
    """θ̄ ← d·θ̄ + (1 − d)·θ, d = min(decay, (1 + n)/(10 + n)) after n steps: ours."""

    def __init__(self, module: nn.Module, decay: float = 0.995) -> None:
        self._raw, self._decay, self._updates = list(module.parameters()), decay, 0
        self._averages = [parameter.detach().clone() for parameter in self._raw]

    @torch.no_grad()
    def update(self) -> None:
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        torch._foreach_lerp_(self._averages, self._raw, 1 - decay)

    def weights(self) -> list[Tensor]:
        return self._averages


@dataclass(frozen=True)
class Recipe:
    """How a peer is trained. batch_size: images of one backward pass, of which `accumulate` make a step. flip: mirror images."""

    batch_size: int
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    learning_rate: LearningRate
    average: Callable[[nn.Module], Average]
    accumulate: int = 1
    bf16: bool = False
    flip: bool = False


def adamw(lr: float) -> Callable[[Iterable[nn.Parameter]], Optimizer]:
    return lambda parameters: AdamW(parameters, lr=lr, betas=(0.9, 0.99), weight_decay=0.0)


BEST = Recipe(
    batch_size=32,
    optimizer=adamw(1e-3),
    learning_rate=CosineDecay(warmup_steps=100),
    average=WarmAverage,
    bf16=True,
)


class Peer(Contender):
    """A subclass defines the module, its loss and its sampler. num_steps: of that sampler; None: as many as for all contenders."""

    def __init__(self, base: int, recipe: Recipe, num_steps: int | None = None) -> None:
        self.base, self.recipe, self.num_steps = base, recipe, num_steps

    @abstractmethod
    def build(self, shape: Sequence[int]) -> nn.Module:
        """What is trained, for images of this shape."""

    @abstractmethod
    def loss(self, module: nn.Module, x_0: Tensor) -> Tensor:
        """Of a batch of images in [−1, 1], with noise and steps drawn as the peer does."""

    @abstractmethod
    def network(self, module: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
        """(x_t, steps from 0) -> the prediction."""

    @abstractmethod
    def conventions(self, module: nn.Module) -> tuple[Tensor, Prediction]:
        """(ᾱ of steps 0 … T − 1, what the network predicts)."""

    @abstractmethod
    def own(self, module: nn.Module, shape: Sequence[int], generator: torch.Generator, num_steps: int) -> Tensor:
        """Samples in [−1, 1], (B, C, H, W), by the peer's own sampler, with one look at the network a step."""

    def train(self, folder: Path, budget: Budget) -> Facts:
        done = folder / "training.json"
        if not done.is_file():
            torch.manual_seed(budget.seed)
            module = self.build(budget.data.shape).to(budget.device)
            steps = {}
            for moment, step, weights in self._train(module, budget):
                write_whole(_file(folder, moment), save({str(i): w.cpu().contiguous() for i, w in enumerate(weights)}))
                steps[moment] = step
            parameters = sum(parameter.numel() for parameter in module.parameters())
            write_whole(done, json.dumps({"parameters": parameters, "steps": list(steps.items())}).encode())
        found = json.loads(done.read_text())
        batch_size = self.recipe.batch_size * self.recipe.accumulate
        return Facts(found["parameters"], batch_size, dict(map(tuple, found["steps"])))

    def _train(self, module: nn.Module, budget: Budget) -> Iterator[tuple[float, int, list[Tensor]]]:
        """(moment, steps, averaged weights) when a moment is reached, the end too."""
        recipe, device = self.recipe, torch.device(budget.device)
        precision = auto_precision(device.type == "cuda") if recipe.bf16 else "32-true"
        optimizer, average = recipe.optimizer(module.parameters()), recipe.average(module)
        rates = [group["lr"] for group in optimizer.param_groups]
        batches = iter(budget.data.module(recipe.batch_size, budget.seed, flip=recipe.flip).train_dataloader())
        module.train()
        start, step, used = budget.clock(), 0, 0.0
        while used < END:
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * recipe.learning_rate(step, used)
            for _ in range(recipe.accumulate):
                x_0, _ = next(batches)
                with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
                    loss = self.loss(module, x_0.to(device)) / recipe.accumulate
                loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), MAX_GRAD_NORM)
            optimizer.step()
            optimizer.zero_grad()
            average.update()
            step += 1
            before, used = used, min(END, budget.used(budget.clock() - start, step))
            for moment in (*budget.moments, END):
                if before < moment <= used:
                    yield moment, step, [weights.detach() for weights in average.weights()]

    @contextmanager
    def at(self, folder: Path, moment: float, budget: Budget, num_steps: int) -> Iterator[Trained]:
        module = self.build(budget.data.shape).to(budget.device).eval()
        weights, own_steps = load_file(_file(folder, moment), budget.device), self.num_steps or num_steps
        with torch.no_grad():
            for i, parameter in enumerate(module.parameters()):
                parameter.copy_(weights[str(i)])

        def own(indices: Tensor, seed: int) -> Tensor:
            # A peer keys no image by its index: a batch is keyed by its first. A CPU's generator reads 32 bits of its seed.
            generator = torch.Generator(budget.device).manual_seed(seed * 1_000_003 + int(indices[0]))
            return self.own(module, (len(indices), *budget.data.shape), generator, own_steps)

        yield Trained(*in_our_terms(self.network(module), *self.conventions(module)), own, own_steps)


def _file(folder: Path, moment: float) -> Path:
    return folder / f"at_{moment:g}.safetensors"


class DiffusersAverage:
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
DIFFUSERS_SHIPPED = Recipe(
    batch_size=16,
    optimizer=lambda parameters: AdamW(parameters, lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8),
    learning_rate=CosineDecay(warmup_steps=500),
    average=DiffusersAverage,
    flip=True,
)


# Its own samplers: the scheduler of that name with these options. DDPMScheduler is its example's.
_SDE = {"algorithm_type": "sde-dpmsolver++"}
DIFFUSERS_SAMPLERS: dict[str, tuple[str, dict]] = {
    "ddpm": ("DDPMScheduler", {}),
    "ddim": ("DDIMScheduler", {"timestep_spacing": "trailing"}),  # from T on
    "dpm_solver": ("DPMSolverMultistepScheduler", {}),
    "dpm_solver_sde": ("DPMSolverMultistepScheduler", _SDE),
    "dpm_solver_sde_log_snr": ("DPMSolverMultistepScheduler", _SDE | {"use_lu_lambdas": True}),  # even in log SNR
}


class Diffusers(Peer):
    """prediction: "epsilon", the example's default, or "v_prediction". betas: "linear", its default, or "squaredcos_cap_v2", the
    cosine. sampler: a name in DIFFUSERS_SAMPLERS.

    The network has our blocks: three levels of base, 2·base and 4·base channels, one block a level, attention at the coarsest.
    """

    requires = "diffusers"

    def __init__(
        self,
        base: int,
        recipe: Recipe,
        prediction: str = "epsilon",
        betas: str = "linear",
        sampler: str = "ddim",
        num_steps: int | None = None,
    ) -> None:
        super().__init__(base, recipe, num_steps)
        self.prediction, self.betas, self.sampler = prediction, betas, sampler

    def build(self, shape: Sequence[int]) -> nn.Module:
        from diffusers import UNet2DModel

        return UNet2DModel(
            sample_size=shape[1],
            in_channels=shape[0],
            out_channels=shape[0],
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
        wanted = eps if self.prediction == "epsilon" else self._ddpm.get_velocity(x_0, eps, steps)
        return functional.mse_loss(module(self._ddpm.add_noise(x_0, eps, steps), steps).sample.float(), wanted)

    def network(self, module: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda x_t, steps: module(x_t, steps).sample

    def conventions(self, module: nn.Module) -> tuple[Tensor, Prediction]:
        prediction = PredictNoise() if self.prediction == "epsilon" else PredictVelocity()
        return self._ddpm.alphas_cumprod, prediction

    def own(self, module: nn.Module, shape: Sequence[int], generator: torch.Generator, num_steps: int) -> Tensor:
        import diffusers

        name, options = DIFFUSERS_SAMPLERS[self.sampler]
        scheduler = getattr(diffusers, name).from_config(self._ddpm.config, **options)
        scheduler.set_timesteps(num_steps)
        x = torch.randn(*shape, generator=generator, device=generator.device)
        for t in scheduler.timesteps:
            x = scheduler.step(module(x, t).sample, t, x, generator=generator).prev_sample
        return x.clamp(-1, 1)

    @cached_property
    def _ddpm(self) -> DDPMScheduler:
        from diffusers import DDPMScheduler

        return DDPMScheduler(1000, beta_schedule=self.betas, prediction_type=self.prediction)


class LucidrainsAverage:
    """ema_pytorch's EMA as Trainer sets it up."""

    def __init__(self, module: nn.Module) -> None:
        from ema_pytorch import EMA

        self._average = EMA(module, beta=0.995, update_every=10)

    def update(self) -> None:
        self._average.update()

    def weights(self) -> list[Tensor]:
        return list(self._average.ema_model.parameters())


# The README's Trainer with its defaults; without amp, which is fp16 there and needs a GPU.
LUCIDRAINS_SHIPPED = Recipe(
    batch_size=32,
    accumulate=2,
    optimizer=lambda parameters: Adam(parameters, lr=8e-5, betas=(0.9, 0.99)),
    learning_rate=Constant(),
    average=LucidrainsAverage,
    flip=True,
)


class Lucidrains(Peer):
    """Velocity prediction, images in [0, 1] outside. Its own sampler: the DDIM of `sampling_timesteps`.

    betas: "sigmoid", its default, or "cosine". heads: of attention, which it has at each level. eta: of DDIM; 1 is ancestral.
    """

    requires = "denoising_diffusion_pytorch"

    def __init__(
        self,
        base: int,
        recipe: Recipe,
        betas: str = "sigmoid",
        heads: int = 4,
        eta: float = 0.0,
        num_steps: int | None = None,
    ) -> None:
        super().__init__(base, recipe, num_steps)
        self.betas, self.heads, self.eta = betas, heads, eta

    def build(self, shape: Sequence[int]) -> nn.Module:
        from denoising_diffusion_pytorch import GaussianDiffusion, Unet

        unet = Unet(dim=self.base, dim_mults=(1, 2, 4), channels=shape[0], attn_heads=self.heads)
        about = {"beta_schedule": self.betas, "ddim_sampling_eta": self.eta}
        return GaussianDiffusion(unet, image_size=shape[1], timesteps=1000, **about)

    def loss(self, module: nn.Module, x_0: Tensor) -> Tensor:
        return module((x_0 + 1) / 2)

    def network(self, module: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
        return module.model

    def conventions(self, module: nn.Module) -> tuple[Tensor, Prediction]:
        return module.alphas_cumprod, PredictVelocity()

    def own(self, module: nn.Module, shape: Sequence[int], generator: torch.Generator, num_steps: int) -> Tensor:
        module.sampling_timesteps = num_steps
        torch.manual_seed(generator.initial_seed())  # it draws from the global generator
        return 2 * module.ddim_sample(tuple(shape)) - 1


PEERS: dict[str, Peer] = {
    f"{library}-{base}-{setting}": peer
    for base in (16, 32)
    for library, setting, peer in (
        ("diffusers", "shipped", Diffusers(base, DIFFUSERS_SHIPPED, sampler="ddpm")),
        ("diffusers", "best", Diffusers(base, BEST)),
        ("diffusers", "velocity", Diffusers(base, BEST, "v_prediction")),
        ("ddpm-pytorch", "shipped", Lucidrains(base, LUCIDRAINS_SHIPPED)),
        ("ddpm-pytorch", "best", Lucidrains(base, BEST)),
    )
} | {
    # by peer_recipes.py, on validation images of Fashion-MNIST
    "diffusers-16-chosen": Diffusers(
        16, replace(BEST, optimizer=adamw(2e-3)), "v_prediction", sampler="dpm_solver_sde", num_steps=50
    ),
    "ddpm-pytorch-16-chosen": Lucidrains(16, replace(BEST, optimizer=adamw(2e-3)), heads=1, eta=1.0, num_steps=100),
}

"""Denoising diffusion: the theory's five parts held by one LightningModule.

Training is Ho et al. 2020, algorithm 1: x_0 -> (t, w), ε -> objective -> (w·loss).mean(). Sampling and likelihood are those of
the *sampler's* respaced chain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_lab.diffusion import (
    GaussianDiffusion,
    Objective,
    Prediction,
    ReverseProcess,
    SampleNoise,
    Sampler,
    Schedule,
    TimestepSampler,
    Variance,
    derive_seed,
    variational_bound,
)
from diffusion_lab.models.base import GenerativeModel, Likelihood
from diffusion_lab.models.optimization import Optimization

_TRAINING, _BOUND = 1, 2  # streams of a seed


class DiffusionModel(GenerativeModel):
    """q(x_t|x_0), p_θ(x_{t−1}|x_t), an objective, and a sampler that may be replaced at any time.

    Parameters
    ----------
    shape: (C, H, W) of images, or (D,) of points. num_levels: the data's levels; None for continuous data.
    network: given out_channels, builds the network.
    clip_x_0: clamp x̂_0 to [−1, 1] in sampling and scoring; for data that lie there.
    seed: training's t and ε at batch k are functions of (seed, k).
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        num_levels: int | None,
        schedule: Schedule,
        network: Callable[..., nn.Module],
        prediction: Prediction,
        variance: Variance,
        objective: Objective,
        timesteps: TimestepSampler,
        sampler: Sampler,
        optimization: Optimization,
        clip_x_0: bool,
        seed: int,
    ) -> None:
        super().__init__()
        if variance.outputs_per_channel and not objective.trains_variance:
            raise ValueError(
                f"variance {type(variance).__name__} would never be trained: objective {type(objective).__name__} gives it no "
                "gradient; use objective=hybrid or objective=vlb, or variance=fixed"
            )
        self.shape, self.num_levels, self.num_classes = tuple(shape), num_levels, None
        self.seed, self.optimization = seed, optimization
        self.process = GaussianDiffusion(schedule)
        self.network = network(out_channels=self.shape[0] * (1 + variance.outputs_per_channel))
        self.reverse = ReverseProcess(self._evaluate_network, prediction, variance, clip_x_0)
        self.objective = objective
        self.timesteps = timesteps
        self.sampler = sampler
        sampler.spacing(self.process.num_timesteps)  # says at once if the chain is too short for it
        self._evaluations = 0
        self._nfe = 0

    def training_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> dict[str, Any]:
        """L at one t a sample. Every rank draws t and ε of the global batch and takes its rows."""
        x_0, _ = batch
        ranks, rank, local = self.trainer.world_size, self.trainer.global_rank, len(x_0)
        seed = derive_seed(self.seed, _TRAINING, self.batches_trained)
        generator = torch.Generator(x_0.device).manual_seed(seed)
        t, w = self.timesteps(ranks * local, generator)
        eps = torch.randn(ranks * local, *x_0.shape[1:], generator=generator, device=x_0.device)
        rows = slice(rank * local, (rank + 1) * local)

        terms = self.objective(self.process, self.reverse, x_0, t[rows], eps[rows])
        if self.timesteps.learns_from_losses:
            self.timesteps.update(t, self.all_gather(terms["loss"].detach()).flatten())
        return {
            "loss": (w[rows] * terms["loss"]).mean(),
            "terms": {name: (w[rows] * term).mean().detach() for name, term in terms.items()},
            "by_quarter": self._loss_by_quarter(t[rows], terms["loss"].detach()),
            "t": t[rows],
            "losses": terms["loss"].detach(),
        }

    def sample(self, indices: Tensor, seed: int, y: Tensor | None = None) -> Tensor:
        noise = SampleNoise(seed, indices)
        self._evaluations = 0
        x_0 = self.sampler(self.process, self.reverse, noise.initial(self.shape), noise=noise)
        self._nfe = self._evaluations
        return x_0

    def trajectory(self, indices: Tensor, seed: int) -> Iterator[Tensor]:
        """x_T, …, x_0 of the samples that `sample` draws."""
        noise = SampleNoise(seed, indices)
        for _, x_t in self.sampler.trajectory(self.process, self.reverse, noise.initial(self.shape), noise=noise):
            yield x_t

    @property
    def nfe(self) -> int:
        """Counted while the last samples were drawn; one evaluation for each step of the spacing if none were."""
        return self._nfe or len(self.sampler.spacing(self.process.num_timesteps))

    def likelihood(
        self, x_0: Tensor, y: Tensor | None, seed: int, indices: Tensor, max_terms: int | None
    ) -> Likelihood:
        """The variational bound of the sampler's own chain, with its variance."""
        chain = self.process.respace(self.sampler.spacing(self.process.num_timesteps))
        noise = SampleNoise(derive_seed(seed, _BOUND), indices)
        bound = variational_bound(
            chain, self.reverse, x_0, num_levels=self.num_levels, noise=noise, max_terms=max_terms
        )
        ends = bound.weights.cumsum(0)
        return Likelihood(
            bits_per_dim=bound.bits_per_dim,
            kind=self._bound_kind(chain.num_timesteps),
            parts={"prior": bound.prior, "decoder": bound.terms[:, 0], "steps": bound.terms[:, 1:] @ bound.weights[1:]},
            curve={
                # The middle of the run of steps that a term stands for, counted in the original chain.
                "t": (chain.timesteps.to(ends.device)[((2 * ends - bound.weights) / 2).long()] + 1).double(),
                "steps": bound.weights,
                "bits_per_dim": bound.terms,
                "x_0_mse": bound.x_0_mse,
                "eps_mse": bound.eps_mse,
            },
        )

    def protocol(self) -> dict[str, Any]:
        return {
            "family": "diffusion",
            "schedule": repr(self.process.schedule),
            "prediction": repr(self.reverse.prediction),
            "variance": repr(self.reverse.variance),
            "sampler": repr(self.sampler),
            "clip_x_0": self.reverse.clip_x_0,
        }

    def sampling_protocol(self) -> dict[str, Any]:
        unread = set() if self.sampler.reads_variance else {"variance"}
        return {name: fact for name, fact in self.protocol().items() if name not in unread}

    def _bound_kind(self, num_steps: int) -> str:
        kind = "bound of the full chain" if num_steps == self.process.num_timesteps else "bound of a strided chain"
        if not self.sampler.draws_from_reverse_process:
            return f"{kind}: the ancestral one on this sampler's steps"
        return kind

    def _evaluate_network(self, x_t: Tensor, timesteps: Tensor, y: Tensor | None) -> Tensor:
        self._evaluations += 1
        return self.network(x_t, timesteps, y)

    def _loss_by_quarter(self, t: Tensor, loss: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Sum and number of the losses in each quarter of 1 … T."""
        quarter = (t - 1) * 4 // self.process.num_timesteps
        sums = torch.zeros(4, dtype=loss.dtype, device=loss.device).index_add(0, quarter, loss)
        counts = torch.bincount(quarter, minlength=4)
        return {f"loss_quarter_{q + 1}": (sums[q], counts[q]) for q in range(4)}

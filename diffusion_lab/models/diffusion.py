"""Denoising diffusion: the five parts of the theory in one LightningModule.

Training is Ho et al. 2020, algorithm 1: x_0 -> (t, w), ε -> objective -> (w·loss).mean(). Samples are drawn by the
`DiffusionGenerator` that this module returns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from diffusion_lab.conditions.condition import Size, has_classes, null_of
from diffusion_lab.data.loading import sent
from diffusion_lab.diffusion import (
    Clipping,
    Decoder,
    ForwardProcess,
    GaussianDecoder,
    GaussianDiffusion,
    NoiseStart,
    Objective,
    Pairs,
    Prediction,
    ReverseProcess,
    Rows,
    SampleNoise,
    Schedule,
    Start,
    TimestepSampler,
    Variance,
)
from diffusion_lab.diffusion.condition_parts import rows as rows_of
from diffusion_lab.diffusion.given_schedules import AlphaBar, as_schedule
from diffusion_lab.diffusion.shapes import Conditions
from diffusion_lab.diffusion.streams import SECOND_TIME
from diffusion_lab.diffusion.timesteps import by_quarter, quarters
from diffusion_lab.models.budget import budget_used
from diffusion_lab.models.compatibility import (
    can_hold_back,
    check_checkpointing,
    check_guidance,
    check_parts,
    check_sampler,
    check_velocities,
    conditions_for,
    two_times_for,
)
from diffusion_lab.models.condition_dropout import with_dropped_conditions
from diffusion_lab.models.diffusion_generator import DiffusionGenerator
from diffusion_lab.models.optimization import Optimization
from diffusion_lab.models.shape_checks import check_network
from diffusion_lab.models.trainable import RAW, GenerativeModel
from diffusion_lab.networks.dropout import keys_of_rows
from diffusion_lab.networks.sizes import check_counts
from diffusion_lab.sampling import Guidance, NearestLevel, Rounding, Sampler, Unguided
from diffusion_lab.store.weight_names import snapshot_name

Terms = Callable[..., dict[str, Tensor]]  # an objective, perhaps compiled
_KEPT_FOR = 20  # batches; the noise at t = 1 changes little in this time


class DiffusionModel(GenerativeModel):
    """q(x_t|x_0), p_θ(x_{t−1}|x_t), an objective, and the choices of its generator: sampler, guidance, start, rounding, decoder.

    Parameters
    ----------
    shape: (C, H, W) of images, or (D,) of points. num_levels: the data's levels; None for continuous data.
    num_classes: of the condition; None without classes, or with further conditions.
    conditions: the sizes of several or other conditions: K of classes, (D,) of a vector, (C, …) of a field.
    schedule: (α_t, σ_t). prediction: the quantity that the network predicts. variance: Σ_θ. objective: the training loss.
    timesteps: draws t and its weight. optimization: optimizer and learning rate.
    network: called with out_channels and num_classes, or conditions, builds the network. An option held_channels of it is set for a
    variance that stops gradients; without that option variance and mean are trained jointly.
    sampler, guidance: of the generator.
    condition_dropout: the probability that a sample loses its conditions in training, which also trains an unconditional
    model.
    clip_x_0: clipping of x̂_0 in sampling and scoring; True clamps it to [−1, 1], for data in that range.
    decoder: p(x_0|x_1) of the reported bound; None: the reverse process itself.
    rounding: of the last x̂_0. start: the distribution at the start of the sampler's chain, and of its bound.
    bound_steps: steps of the bound for a sampler without its own, or T if that is fewer.
    missing: whether x_0 is NaN for missing values, which are 0 in the input and left out of the loss.
    seed: training's t, ε and dropped conditions at batch k are functions of (seed, k).
    """

    weighted_names = quarters("loss")

    def __init__(
        self,
        shape: tuple[int, ...],
        num_levels: int | None,
        num_classes: int | None,
        schedule: Schedule | AlphaBar,
        network: Callable[..., nn.Module],
        prediction: Prediction,
        variance: Variance,
        objective: Objective,
        timesteps: TimestepSampler,
        sampler: Sampler,
        guidance: Guidance,
        optimization: Optimization,
        clip_x_0: bool | Clipping,
        condition_dropout: float,
        seed: int,
        decoder: Decoder | None = None,
        rounding: Rounding = NearestLevel(),  # noqa: B008 - frozen
        bound_steps: int = 50,
        start: Start = NoiseStart(),  # noqa: B008 - frozen
        conditions: Sequence[Size] = (),
        missing: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= condition_dropout <= 1:
            raise ValueError(f"model.condition_dropout={condition_dropout} must be a probability between 0 and 1")
        self.conditions = tuple(size if isinstance(size, int) else tuple(size) for size in conditions)
        sizes = self.conditions or (() if num_classes is None else (num_classes,))
        check_counts("bound", num_steps=bound_steps)
        schedule = as_schedule(schedule)
        check_parts(schedule, variance, objective, timesteps)
        check_guidance(guidance, sizes, condition_dropout)
        check_velocities(objective, sizes, condition_dropout, schedule, prediction)
        check_sampler(sampler, objective, guidance)
        self.shape, self.num_levels = tuple(shape), num_levels
        # A guiding classifier provides the classes for a network without any.
        self.num_classes = next(filter(has_classes, sizes), guidance.num_classes)
        self.seed, self.optimization, self.condition_dropout = seed, optimization, condition_dropout
        self.schedule, self.trained_schedule = schedule, schedule.trained  # trained with the model
        self._process = GaussianDiffusion(schedule)
        mean_channels, variance_channels = self.shape[0], self.shape[0] * variance.outputs_per_channel
        self.network = network(
            out_channels=mean_channels + variance_channels,
            **conditions_for(network, sizes),
            **two_times_for(network, objective),
            **({"held_channels": variance_channels} if variance.stop_gradient and can_hold_back(network) else {}),
        )
        check_network(self.network, self.shape)
        check_checkpointing(self.network, objective)
        self.needs_condition = bool(sizes) and not getattr(self.network, "null_class", True)
        if self.needs_condition and condition_dropout > 0:
            raise ValueError(
                f"model.condition_dropout={condition_dropout}: the network has no null class to drop classes to; use "
                "model.condition_dropout=0"
            )
        nulls = tuple(map(null_of, sizes))
        null = nulls if len(nulls) > 1 else nulls[0] if nulls else None
        self.reverse = ReverseProcess(self.network, prediction, variance, clip_x_0, null)
        self.guidance = guidance
        self.term_names = objective.term_names
        self.objective, self.decoder = objective, GaussianDecoder() if decoder is None else decoder
        self.training_evaluations = objective.evaluations
        self._terms: Terms = objective  # of a training step
        self.rounding, self.bound_steps, self.start = rounding, bound_steps, start
        self.timesteps, self.missing = timesteps, missing
        self._seen = list[tuple[Tensor, Tensor]]()  # t and losses of the parts of a batch so far
        self.sampler = sampler
        sampler.spacing(self.process)  # fails here if the chain is too short for it

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        if self.timesteps.real and self.device.type != "cpu" and self.batches_trained % _KEPT_FOR == 0:
            self.schedule.keep_first_std()  # reading it would make the host wait for the device at every batch

    def training_step(self, batch: tuple[Tensor, Conditions], batch_idx: int) -> dict[str, Any]:
        """The loss at one t per sample."""
        x_0, y = batch
        x_0, known = self._known(x_0)
        t, w, eps = self.times_and_noise(x_0, self.timesteps)
        given_y = with_dropped_conditions(self, y, self.condition_dropout, self.reverse.null)
        if self.objective.two_times:
            rows, pairs = self._pairs(t)
            t, terms = pairs.t, self._terms_of_pairs(self._terms, rows, pairs, x_0, eps, given_y, known)
        else:
            terms = self._terms(self.forward_process, self.reverse, x_0, t, eps, given_y, known)
        losses = terms["loss"].detach()
        if self.timesteps.learns_from_losses:
            self._learn(self.of_all_ranks(t).flatten(), self.of_all_ranks(losses).flatten())
        return {
            "loss": (w * terms["loss"]).mean(),
            "terms": {name: (w * term).mean().detach() for name, term in terms.items()},
            "weighted": by_quarter("loss", t, self.schedule.num_timesteps, w, losses),
        }

    def _pairs(self, t: Tensor) -> tuple[Rows, Pairs]:
        """The times (t, s) of this rank's samples, with a second draw of t for each sample of the global batch."""
        size, own = self.global_batch(len(t))
        other, _ = self.timesteps(size, self.random_stream(SECOND_TIME, t.device))
        progress = budget_used(self.trainer, self.batches_trained)
        numbers = self.batches_trained * size + torch.arange(own.start, own.stop)
        # On the host, which does not wait for their number.
        rows = Rows(*(sent(part, t.device) for part in self.objective.rows(numbers)))
        return rows, self.objective.pairs(t, other[own], rows, progress)

    def _terms_of_pairs(
        self, terms: Terms, rows: Rows, pairs: Pairs, x_0: Tensor, eps: Tensor, y: Conditions, known: Tensor | None
    ) -> dict[str, Tensor]:
        """The terms of an objective of two times, evaluated at the rows where s = t and at those where s < t."""
        dropouts = (self._dropouts or []) if self.training else []

        def at(index: Tensor, **end: Tensor) -> dict[str, Tensor]:
            given = rows_of(y, index), None if known is None else known[index]
            with keys_of_rows(dropouts, index):
                return terms(self.forward_process, self.reverse, x_0[index], pairs.t[index], eps[index], *given, **end)

        found = [at(rows.together)] if len(rows.together) else []
        found += [at(rows.apart, s=pairs.s)] if len(rows.apart) else []
        order = torch.cat([rows.together, rows.apart]).argsort()
        return {name: torch.cat([part[name] for part in found])[order] for name in self.term_names}

    def check_compile(self, how: bool | str, trained: bool) -> None:
        if how and self.objective.two_times and not trained:
            # torch 2.13: "ZeroTensors are immutable" in the backward pass; the group norm is traced again for each layer.
            raise ValueError(
                f"compile={how}: torch.compile cannot train through the forward derivatives of objective "
                f"{type(self.objective).__name__}; use compile=false"
            )

    def compile_step(self, compiled: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """The objective, with the process and the network in it; a schedule that is trained is another chain at every step."""
        if self.trained_schedule is None:
            self._terms = compiled(self.objective.__call__)

    def _learn(self, t: Tensor, losses: Tensor) -> None:
        """Update the timestep sampler after all parts of a batch, because this changes the t of the next batch."""
        self._seen.append((t, losses))
        if len(self._seen) == self.trainer.accumulate_grad_batches:
            self.timesteps.update(*(torch.cat(parts) for parts in zip(*self._seen, strict=True)))
            self._seen.clear()

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip a trained schedule's gradient to its own norm, because its scale differs from the network's."""
        if self.trained_schedule is None or not gradient_clip_val or gradient_clip_algorithm == "value":
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        for part in (self.network, self.trained_schedule):
            nn.utils.clip_grad_norm_(part.parameters(), gradient_clip_val)

    def held_out_terms(self, x_0: Tensor, y: Conditions, noise: SampleNoise) -> dict[str, Tensor]:
        """Terms at one t per image, with t weighted as in the loss; given the class, with y."""
        x_0, known = self._known(x_0)
        t = self.timesteps.spread(noise.uniform(0)).to(x_0.device)
        eps = noise.initial(self.shape).to(x_0)
        given_y = None if self.reverse.null is None else y
        if self.objective.two_times:
            other = self.timesteps.spread(noise.uniform(1)).to(x_0.device)
            rows = self.objective.rows(noise.indices.to(x_0.device))
            pairs = self.objective.pairs(t, other, rows)
            return self._terms_of_pairs(self.objective, rows, pairs, x_0, eps, given_y, known)
        return self.objective(self.forward_process, self.reverse, x_0, t, eps, given_y, known)

    def _known(self, x_0: Tensor) -> tuple[Tensor, Tensor | None]:
        """(x_0 with 0 for missing values, mask of known values); (x_0, None) if none can be missing."""
        return (x_0.nan_to_num(0), (~x_0.isnan()).to(x_0)) if self.missing else (x_0, None)

    @property
    def process(self) -> GaussianDiffusion:
        """q(x_t|x_0); rebuilt for a schedule with parameters, which training, an average or a file may have changed."""
        return self._process if self.trained_schedule is None else GaussianDiffusion(self.schedule)

    @property
    def forward_process(self) -> ForwardProcess:
        """The schedule if training draws real t, else the chain of all steps."""
        return self.schedule if self.timesteps.real else self.process

    @property
    def guiding_snapshots(self) -> tuple[float | str, ...]:
        worse = self.guidance.worse
        return () if worse is None or worse.moment is None else (worse.moment,)

    def generator(self, weights: str = RAW) -> DiffusionGenerator:
        return DiffusionGenerator(
            shape=self.shape,
            num_levels=self.num_levels,
            num_classes=self.num_classes,
            conditions=self.conditions,
            needs_condition=self.needs_condition,
            process=GaussianDiffusion(self.frozen(self.schedule, weights)),
            reverse=self._reverse_at(weights),
            sampler=self.sampler,
            guidance=self._own_guidance(),
            start=self.start,
            rounding=self.rounding,
            decoder=self.decoder,
            bound_steps=self.bound_steps,
        )

    def _reverse_at(self, weights: str) -> ReverseProcess:
        return replace(self.reverse, network=self.frozen(self.network, weights))

    def _own_guidance(self) -> Guidance:
        """The guidance with the earlier snapshot that it names; until this training has kept it, the guidance without it."""
        worse = self.guidance.worse
        if worse is None or worse.moment is None:
            return self.guidance
        earlier = snapshot_name(worse.moment)
        if earlier not in self.averages:
            return replace(self.guidance, worse=None) if self.guidance.needs_null else Unguided()
        return replace(self.guidance, worse=replace(worse, reverse=self._reverse_at(earlier)))

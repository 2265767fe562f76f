"""Estimates of the duration of a plan's trainings and scores on this CPU.

The operations of a training are counted, and for a score those of sampling and of bits/dim. The time per operation is measured on a
network of the plan, in about a second. Jobs share the processor, so their times add up however many run at once. There are no
estimates for a GPU, for another machine, or for families that train several networks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from time import perf_counter

import torch
from hydra.utils import instantiate
from torch.utils.benchmark import Timer

from diffusion_lab.config.training import Training
from diffusion_lab.models.diffusion import DiffusionModel
from diffusion_lab.models.trainable import TrainableModel
from diffusion_lab.sweeps.plan import Operations, Plan
from diffusion_lab.terminal import in_words
from diffusion_lab.training.trainer_options import checked_precision

_LEAST = 5e12  # operations, about a minute; shorter plans are not measured
_SECONDS = 0.4  # minimal duration of each of the two measurements
_MOST_AT_ONCE = 64
_BESIDE = 1.1  # ratio of a step of `train` to its objective and optimizer: 1.04 to 1.08, at 256×256 pixels 1.22


def operations(training: Training, model: TrainableModel) -> Operations | None:
    """The operations of a training and of its first score; None if they cannot be counted."""
    cfg, (score, *_) = training.cfg, training.scores
    if not isinstance(model, DiffusionModel) or cfg.trainer.max_steps < 1:
        return None
    # An earlier snapshot that guides is not there yet, but its evaluations count.
    generator = replace(model.generator(), guidance=model.guidance)
    bound, forward, steps = (
        score.metrics.get("bits_per_dim") or {},
        generator.cost().forward_flops,
        generator.bound_steps,
    )
    terms = bound.get("num_images", 0) * min(bound.get("max_terms") or steps, steps)
    samples = instantiate(score.evaluation, at=None).resolve_num_samples(training.data)
    shown = cfg.trainer.max_steps * cfg.data.batch_size
    return Operations(shown * model.training_evaluations * forward, (samples * generator.nfe + terms) * forward)


def in_a_sentence(plan: Plan, training: Training, model: TrainableModel) -> str | None:
    """One sentence on the duration of a plan; None if it is unknown, or nothing is to be done.

    training, model: of one cell, for the measurement. Its optimizer changes the weights, so the model is of no use afterwards.
    """
    missing = {work.folder for work in plan.work}
    trained = {cell.model.path: cell.operations for cell in plan.cells if cell.model.path in missing}
    scored = [cell.operations for cell in plan.cells if cell.run.path in missing]
    if not isinstance(model, DiffusionModel) or None in (*trained.values(), *scored):
        return None
    to_train = sum(count.training for count in trained.values() if count)
    to_score = sum(count.score for count in scored if count)
    if to_train + to_score == 0:
        return None
    if to_train + to_score < _LEAST:
        return "a few minutes at most on this machine"
    size = min(training.data.batch_size, _MOST_AT_ONCE)
    step, evaluation = time_step_and_evaluation(
        model, size, checked_precision(training.cfg.trainer.precision, on_gpu=False)
    )
    forward = size * model.cost().forward_flops
    train, score = to_train * step / (3 * forward), to_score * evaluation / forward
    parts = f"{in_words(train)} of training and {in_words(score)} of scoring"
    return f"about {in_words(train + score)} on this machine, estimated: {parts}"


def time_step_and_evaluation(
    model: DiffusionModel, size: int, precision: str, clock: Callable[[], float] = perf_counter
) -> tuple[float, float]:
    """Seconds of a training step and of an evaluation of the network for `size` images."""
    optimizer, generator = model.optimization.optimizer(model.named_parameters()), model.generator()
    x, t = torch.zeros(size, *model.shape), model.timesteps.spread(torch.linspace(0, 1, size + 2)[1:-1])
    y = generator.own_conditions(generator.conditions_in_turn(torch.arange(size)))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
            terms = model.objective(model.forward_process, model.reverse, x, t, torch.randn_like(x), y)
        terms["loss"].mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    @torch.no_grad()
    def evaluate() -> None:
        model.reverse.evaluate(model.forward_process, x, t, y)

    def seconds(work: Callable[[], None]) -> float:
        timer = Timer("work()", globals={"work": work}, timer=clock, num_threads=torch.get_num_threads())
        return float(timer.blocked_autorange(min_run_time=_SECONDS).mean)

    with torch.random.fork_rng([]):
        return _BESIDE * seconds(step), seconds(evaluate)

"""The steps with the least bound for a trained model, and their gain over its own steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from diffusion_lab.analysis import ScheduleAdvice
from diffusion_lab.diffusion import GaussianDiffusion
from diffusion_lab.metrics.bits_per_dim import label_bits
from diffusion_lab.metrics.metric import Metric, Naming, Need, Scores, Subject
from diffusion_lab.metrics.reference import UnmeasurableError
from diffusion_lab.models.measured import schedule_advice
from diffusion_lab.store.measures import Measure


@dataclass(frozen=True)
class StepAdvice(Metric):
    """The gain in bits/dim of the best times with equally many steps, and the fewest steps that reach the sampler's bound.

    Both are for the unguided chain and the images of the measurement (evaluation.statistics_images): validation images or,
    if training held none out, training images.
    """

    needs = (Need.CHAIN, Need.STEP_COSTS, Need.REAL_IMAGES)

    def measures(self, namings: Sequence[Naming]) -> Iterable[Measure]:
        gain = "bits/dim saved by the best times with the same number of steps"
        few = "the fewest steps that, at the best times, reach the bound of the sampler's own steps"
        yield Measure("advised_gain", "advised gain", "bits/dim", meaning=gain, agrees=("data",), column=False)
        yield Measure("advised_steps", "steps that are enough", meaning=few, agrees=("data",), column=False, decimals=0)

    def score(self, subject: Subject) -> Scores:
        scores = Scores()
        generator, data, size = subject.diffusion, subject.data, subject.settings.statistics_images
        split = data.choosing_split
        x_0, y, _ = next(subject.batches(split, size, size))
        try:
            with torch.no_grad():
                advice = schedule_advice(generator, x_0, y)
        except ValueError as error:
            raise UnmeasurableError(str(error)) from error
        if y is not None:
            advice = advice.with_more(float(label_bits(data, y).mean()))
        scores.record("advised_gain", advice.gain)
        scores.record("advised_steps", advice.fewest)
        scores.details["advised_gain"] = _advice(generator.process, advice)
        wasted = len(advice.times) - advice.fewest
        few = f", of which {wasted} are wasted" if wasted else ""
        scores.details["advised_steps"] = (
            f"at the best times they reach the bound of ancestral steps at the sampler's {len(advice.times)} times{few}"
        )
        scores.protocol["advice"] = {"split": split, "num_images": len(x_0)}
        scores.curves["bits_by_num_steps"] = {
            "num_steps": advice.num_steps,
            "bits_per_dim": advice.optimal,
            "even_bits_per_dim": advice.even,
        }
        return scores


def _advice(process: GaussianDiffusion, advice: ScheduleAdvice) -> str:
    """The options that set the advised steps."""
    if advice.gain <= 0:
        return f"no times of {len(advice.times)} ancestral steps have a lower bound than the sampler's"
    high, low = process.log_snr(advice.times[torch.tensor([0, -1])]).tolist()
    early = f" sampler.spacing.log_snr_min={low:.4g}" if int(advice.times[-1]) < process.num_timesteps else ""
    steps = f"sampler=strided sampler/spacing=optimal sampler.spacing.num_steps={len(advice.times)}{early}"
    beyond = f"; {advice.beyond} of the sampler's own steps lie outside" if advice.beyond else ""
    own = f"the {advice.own:.4f} of ancestral steps at the sampler's own times"
    return f"{steps} has {advice.bits:.4f} instead of {own}, at log SNRs from {high:.3g} to {low:.3g}{beyond}"

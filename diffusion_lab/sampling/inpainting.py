"""Inpainting: draw the unknown part of an image, given the known part.

Each step keeps the known part on the forward chain and lets the model continue the rest.

    x_s = known·x^k_s + (1 − known)·x^u_s,   x^k ~ q(x_s|x_0),  x^u ~ p_θ(x_s|x_t)

After one such step the two parts do not fit, because x^u was drawn without x^k. So the step is undone, x_t ~
q(x_t|x_s), and repeated, until they fit (RePaint: Lugmayr et al. 2022, algorithm 1, with jumps of one step).

The fillings are not distributed as p(hole|known). Of two pixels, an equal mixture of N((m, m), s²) and N((−m, −m), s²), one is
known so that the other belongs to the first mode with probability 0.886. With the exact score and 25 steps of DPM-Solver++ with
noise, the share of fillings above 0 after 1, 10, 30 and 100 repeats is

    m = 0.5, s = 0.4    exact 0.80    0.64  0.81  0.85  0.87
    m = 0.5, s = 0.3    exact 0.85    0.63  0.84  0.87  0.92
    m = 0.5, s = 0.2    exact 0.88    0.60  0.74  0.77  0.90
    m = 0.8, s = 0.2    exact 0.89    0.53  0.60  0.64  0.69

Far modes need many repeats; with near ones, many give the likelier mode too often. Thirty repeats take three times the evaluations
of ten and hardly reduce the mean error, a hundred reduce it by a sixth: ten are the default.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from diffusion_lab.diffusion.noise import SampleNoise, StepNoise
from diffusion_lab.diffusion.process import GaussianDiffusion
from diffusion_lab.diffusion.reverse import ReverseStep
from diffusion_lab.diffusion.shapes import Images, Labels
from diffusion_lab.diffusion.streams import BACK, KNOWN, UNKNOWN

from .samplers import Draw, Memory, Reverse, Sampler, full


def inpaint(
    sampler: Sampler,
    process: GaussianDiffusion,
    reverse: Callable[..., ReverseStep],
    x_0: Images,
    known: Bool[Tensor, "..."],
    noise: SampleNoise,
    y: Labels = None,
    repeats: int = 10,
) -> Images:
    """Images that are x_0 (B, …), exactly, where `known` (broadcasting against x_0), and drawn by the model elsewhere.

    repeats: how often each step is taken; 1 never goes back. Evaluations grow in proportion. The fillings are an
    approximation, as the module says. With nothing known and repeats = 1 it is the sampler itself.
    """
    if repeats < 1:
        raise ValueError(f"repeats = {repeats} must be at least 1")
    rule = _Inpainting(
        sampler.spacing, sampler=sampler, x_0=x_0, known=known.to(x_0.device), repeats=repeats, noise=noise
    )
    return rule(process, reverse, noise.initial(x_0.shape[1:]).to(x_0), y, noise)


@dataclass(frozen=True, kw_only=True)
class _Inpainting(Sampler):
    """A step rule around a step rule."""

    sampler: Sampler
    x_0: Images
    known: Bool[Tensor, "..."]
    repeats: int
    noise: SampleNoise

    def step(
        self, process: GaussianDiffusion, reverse: Reverse, x_t: Images, t: int, s: int, noise: Draw, memory: Memory
    ) -> tuple[Images, Memory]:
        last = self.repeats - 1 if s > 0 else 0
        for repeat in range(last + 1):
            drawn = noise if repeat == 0 else self._more(noise, UNKNOWN, repeat)
            unknown, memory = self.sampler.step(process, reverse, x_t, t, s, drawn, memory)
            kept = process.q_sample(self.x_0, full(s, x_t), self._more(noise, KNOWN, repeat)(x_t))
            x_s = torch.where(self.known, kept, unknown)
            if repeat < last:
                x_t = process.q_step(x_s, full(t, x_t), self._more(noise, BACK, repeat)(x_t))
                memory = ()  # a step that remembers the one before it has lost it
        return x_s, memory

    def _more(self, noise: Draw, stream: int, repeat: int) -> Draw:
        """Independent noise for the same step."""
        return StepNoise(self.noise.fork(stream).fork(repeat), noise.key) if isinstance(noise, StepNoise) else noise

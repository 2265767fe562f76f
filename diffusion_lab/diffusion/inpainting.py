"""What belongs into the hole? Each step keeps the known part on the forward chain and lets the model continue the rest.

    x_{t−1} = known·x^k_{t−1} + (1 − known)·x^u_{t−1},   x^k ~ q(x_{t−1}|x_0),  x^u ~ p_θ(x_{t−1}|x_t)

One such step leaves the two parts strangers, because x^u was drawn before it could see x^k. So the step is taken back, x_t ~
q(x_t|x_{t−1}), and repeated, until they fit (RePaint: Lugmayr et al. 2022, algorithm 1, with jumps of one step).
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool
from torch import Tensor

from .noise import SampleNoise
from .process import GaussianDiffusion
from .reverse import ReverseStep
from .samplers import Sampler
from .shapes import Images, Labels, Steps

_KNOWN, _BACK, _UNKNOWN = 1, 2, 3  # noises beside the sampler's own


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

    repeats: how often each step is taken; 1 never goes back. With nothing known and repeats = 1 it is the sampler itself.
    """
    if repeats < 1:
        raise ValueError(f"repeats = {repeats}: every step is taken at least once")
    strided = process.respace(sampler.spacing(process.num_timesteps))
    known = known.to(x_0.device)

    def conditioned(process: GaussianDiffusion, x_t: Images, t: Steps) -> ReverseStep:
        return reverse(process, x_t, t, y)

    x, memory = noise.initial(x_0.shape[1:]).to(x_0), None
    for t in range(strided.num_timesteps, 0, -1):
        steps = torch.full((len(x_0),), t, device=x_0.device)
        original = int(strided.timesteps[t - 1]) + 1
        for repeat in range(repeats):
            drawn = noise if repeat == 0 else noise.fork(_UNKNOWN).fork(repeat)
            unknown, memory = sampler.step(strided, conditioned, x, t, t - 1, drawn, memory)
            eps = noise.fork(_KNOWN).fork(repeat)(original, x_0)
            kept = x_0 if t == 1 else strided.q_sample(x_0, steps - 1, eps)
            x_prev = torch.where(known, kept, unknown)
            if t == 1 or repeat == repeats - 1:
                break
            x = strided.q_step(x_prev, steps, noise.fork(_BACK).fork(repeat)(original, x_0))
            memory = None  # a step that remembers the one before it has lost it
        x = x_prev
    return x

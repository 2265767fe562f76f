"""Editing with a trained model: noise that is added and taken away again, points between two images, and inpainting."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diffusion_lab.diffusion.forward import per_sample
from diffusion_lab.diffusion.noise import SampleNoise
from diffusion_lab.diffusion.process import GaussianDiffusion
from diffusion_lab.diffusion.shapes import Conditions, Images
from diffusion_lab.diffusion.streams import BACK, KNOWN, START, UNKNOWN

from .samplers import Reverse, Sampler, Walk, last

PARALLEL = 1e-4  # radians between directions below which a straight line is as good as the arc


def slerp(start: Images, end: Images, weight: Float[Tensor, " b"]) -> Images:
    """sin((1 − w)·θ)/sin θ·start + sin(w·θ)/sin θ·end, θ the angle between them; row by row, w in [0, 1].

    A straight line would pass through shorter vectors than any that N(0, I) draws: in D dimensions they all have a length of about
    √D. θ near 0 falls back to the line, which is then the arc.
    """
    a, b, w = start.double().flatten(1), end.double().flatten(1), weight.double()
    cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    angle = cosine.clamp(-1, 1).acos()
    straight = angle < PARALLEL
    safe = torch.where(straight, torch.ones_like(angle), angle)
    of_start = torch.where(straight, 1 - w, ((1 - w) * safe).sin() / safe.sin())
    of_end = torch.where(straight, w, (w * safe).sin() / safe.sin())
    return per_sample(of_start, start) * start + per_sample(of_end, end) * end


def denoise_from(
    sampler: Sampler,
    process: GaussianDiffusion,
    reverse: Reverse,
    x_0: Images,
    t: int,
    noise: SampleNoise,
    y: Conditions = None,
) -> Images:
    """x̂_0 of a noisy x_t of each image, t in 0 … T, through t and the steps of the sampler's spacing below it."""
    if not 0 <= t <= process.num_timesteps:
        raise ValueError(f"t = {t}: choose a step from 0 to {process.num_timesteps}")
    if t == 0:
        return x_0
    visited = sampler.spacing(process)
    chain = process.respace(torch.cat([visited[visited < t], torch.tensor([t])]))
    x_t = process.q_sample(x_0, process.full(t, x_0), noise.fork(START)(t, x_0))
    return last(sampler.walk(chain, reverse, x_t, y, noise))


def inpaint(
    sampler: Sampler,
    process: GaussianDiffusion,
    reverse: Reverse,
    x_0: Images,
    known: Bool[Tensor, "..."],
    noise: SampleNoise,
    y: Conditions = None,
    repeats: int = 10,
) -> Images:
    """Images that are x_0 (B, …), exactly, where `known` (broadcasting against x_0), and drawn by the model elsewhere.

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

    Far modes need many repeats; with near ones, many give the likelier mode too often. Thirty repeats take three times the
    evaluations of ten and hardly reduce the mean error, a hundred reduce it by a sixth: ten are the default.

    repeats: how often each step is taken; 1 never goes back. Evaluations grow in proportion. With nothing known and repeats = 1
    it is the sampler itself.
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

    @property
    def remembers(self) -> int:
        return self.sampler.remembers

    def step(self, walk: Walk, x_t: Images, t: int) -> Images:
        last = self.repeats - 1 if t > 1 else 0
        chain, here, before = walk.chain, walk.chain.full(t, x_t), walk.chain.full(t - 1, x_t)
        for repeat in range(last + 1):
            known, back, more = (
                replace(walk, source=self.noise.fork(stream).fork(repeat)) for stream in (KNOWN, BACK, UNKNOWN)
            )
            unknown = self.sampler.step(walk if repeat == 0 else more, x_t, t)
            x_s = torch.where(self.known, chain.q_sample(self.x_0, before, known.noise(t, x_t)), unknown)
            if repeat < last:
                x_t = chain.q_step(x_s, here, back.noise(t, x_t))
                walk.past.clear()  # a step that remembers the one before it has lost it
        return x_s

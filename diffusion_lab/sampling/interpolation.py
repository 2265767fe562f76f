"""Interpolation between two images: the images of the latents between theirs.

    x_T ← encode(x_0),  x_T′ ← encode(x_0′),  image(w) = decode(slerp(x_T, x_T′; w))        Song et al. 2020, DDIM

Encoding is the deterministic sampler run backwards, so both ends come back up to its error of first order in the stride.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from diffusion_lab.diffusion.process import per_sample
from diffusion_lab.diffusion.shapes import Images

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

"""What does the model see in a noisy version of an image? Down from a chosen t instead of from T.

    x_t ~ q(x_t|x_0),  then the sampler's steps below t                                     SDEdit: Meng et al. 2022

t = 0 changes nothing, t = T keeps next to nothing of the image.
"""

from collections.abc import Callable

import torch

from diffusion_lab.diffusion.noise import SampleNoise
from diffusion_lab.diffusion.process import GaussianDiffusion
from diffusion_lab.diffusion.reverse import ReverseStep
from diffusion_lab.diffusion.shapes import Images, Labels
from diffusion_lab.diffusion.streams import START

from .samplers import Sampler, full, last


def denoise_from(
    sampler: Sampler,
    process: GaussianDiffusion,
    reverse: Callable[..., ReverseStep],
    x_0: Images,
    t: int,
    noise: SampleNoise,
    y: Labels = None,
) -> Images:
    """x̂_0 of a noisy x_t of each image, t in 0 … T, through t and the steps of the sampler's spacing below it."""
    if not 0 <= t <= process.num_timesteps:
        raise ValueError(f"t = {t}: choose a step from 0 to {process.num_timesteps}")
    if t == 0:
        return x_0
    visited = sampler.spacing(process)
    chain = process.respace(torch.cat([visited[visited < t], torch.tensor([t])]))
    x_t = process.q_sample(x_0, full(t, x_0), noise.fork(START)(t, x_0))
    return last(sampler.walk(chain, reverse, x_t, y, noise))

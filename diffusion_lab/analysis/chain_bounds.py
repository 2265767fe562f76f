"""Bounds of many chains in one pass. Chains over subsets of the steps share q(x_t|x_0) and the network:

    bits(t_1 < … < t_K) = L_T(t_K) + Σ_k L(t_k, t_{k−1}) + L_0(t_1)

so x_t and the network's output are computed once for each t that any chain visits, and each chain adds its own term.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from diffusion_lab.diffusion.bound import NOISE, in_bits, last_term, step_term
from diffusion_lab.diffusion.chain import GaussianDiffusion
from diffusion_lab.diffusion.decoders import GAUSSIAN, Decoder
from diffusion_lab.diffusion.noise import SampleNoise
from diffusion_lab.diffusion.reverse import ReverseProcess
from diffusion_lab.diffusion.shapes import Conditions, Images
from diffusion_lab.diffusion.starts import Start


@torch.no_grad()
def chain_bounds(
    process: GaussianDiffusion,
    reverse: ReverseProcess,
    x_0: Images,
    y: Conditions,
    times: Sequence[Int64[Tensor, " _"]],
    noise: SampleNoise,
    num_levels: int | None,
    decoder: Decoder = GAUSSIAN,
    start: Start = NOISE,
) -> Float64[Tensor, "b c"]:
    """The bound of each image x_0 (B, *shape) for the chains over each of `times`, steps of `process`, in bits per dimension.

    This equals the first draw of `variational_bound` for each chain with all its terms, with one evaluation of the network per
    distinct t. It works for any variance, also a learned one, and for a reverse process without guidance.

    y: the classes, for the start, and for a network that uses them. noise: keyed by t. num_levels: of the data; None: a density.
    decoder: p(x_0|x_1). start: the distribution of x_T.
    """
    known = None if reverse.null is None else y
    noise, chains = noise.fork(0), [process.respace(kept) for kept in times]
    bits = torch.stack([in_bits(start.kl(chain, x_0, y)).double() for chain in chains], dim=1)
    steps = [{int(t): k for k, t in enumerate(kept, start=1)} for kept in times]
    for t in torch.cat(list(times)).unique().tolist():
        whole = process.full(t, x_0)
        x_t = process.q_sample(x_0, whole, noise(t, x_0))
        output, v = reverse.evaluate(process, x_t, whole, known)
        for c, chain in enumerate(chains):
            if t in steps[c]:
                k = steps[c][t]
                whole = chain.full(k, x_0)
                step = reverse.from_output(chain, output, v, x_t, whole).distribution
                bits[:, c] += (
                    last_term(chain, step, x_0, x_t, num_levels, decoder)
                    if k == 1
                    else step_term(chain, step, x_0, x_t, whole)
                )
    return bits

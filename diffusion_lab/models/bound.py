"""The variational bound as the likelihood of a diffusion model: its parts, and its terms over t."""

from __future__ import annotations

from diffusion_lab.diffusion import Bound, GaussianDiffusion
from diffusion_lab.models.base import Likelihood


def as_likelihood(bound: Bound, chain: GaussianDiffusion, kind: str) -> Likelihood:
    """−log p ≤ L_T + L_0 + Σ L_{t−1}, of the chain that the bound is of; kind: which one that is."""
    ends = bound.weights.cumsum(0)
    return Likelihood(
        bits_per_dim=bound.bits_per_dim,
        kind=kind,
        parts={"prior": bound.prior, "decoder": bound.terms[:, 0], "steps": bound.terms[:, 1:] @ bound.weights[1:]},
        curve={
            # The middle of the run of steps that a term represents, counted in the original chain.
            "t": (chain.timesteps.to(ends.device)[((2 * ends - bound.weights) / 2).long()] + 1).double(),
            "steps": bound.weights,
            "bits_per_dim": bound.terms,
            "x_0_mse": bound.x_0_mse,
            "eps_mse": bound.eps_mse,
        },
    )


def bound_kind(own: bool, chain: GaussianDiffusion, labelled: bool, guided: bool) -> str:
    """Which chain a bound is of, in words. own: the sampler's."""
    num_steps, given = chain.num_timesteps, " given the class" if labelled else ""
    if not own:
        return f"bound of {num_steps} ancestral steps even in log SNR{given}; this sampler has no bound of its own"
    kind = "bound of the full chain" if num_steps == chain.schedule.num_timesteps else "bound of a strided chain"
    return kind + given + (", guided" if guided else "")

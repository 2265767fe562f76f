"""The ideal denoiser of a finite data set: E[x_0|x_t] where x_0 is one of its images, each as likely (Karras et al. 2022, EDM).

No network has a smaller error on these images. It recalls them where the noise is weak, so a network that reaches it there has
memorised them.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from diffusion_lab.diffusion.condition_parts import classes_in
from diffusion_lab.diffusion.shapes import Conditions


def ideal_denoiser(
    x_t: Tensor,
    signal: Tensor,
    sigma: Tensor,
    y: Tensor | None,
    images: Iterable[tuple[Tensor, Conditions]],
) -> Tensor:
    """E[x_0|x_t] = Σ_i w_i·x_i, w_i ∝ exp(−‖x_t − α·x_i‖²/(2σ²)), float64, shaped like x_t (K, B, D); signal, sigma (K,): α, σ.

    images: blocks (x, y) of the x_i. y: restricts to images of this class. One pass, for any number of images.
    """
    rows = x_t.flatten(0, 1)
    scale = (signal / sigma.square()).repeat_interleave(x_t.shape[1])[:, None]
    half = (signal.square() / sigma.square()).repeat_interleave(x_t.shape[1])[:, None] / 2
    classes = None if y is None else y.repeat(len(x_t))
    most = torch.full((len(rows), 1), -torch.inf, dtype=torch.float64)
    total, mean = torch.zeros_like(most), torch.zeros_like(rows)
    for x, conditions in images:
        labels = classes_in(conditions)
        log_weight = scale * (rows @ x.T) - half * x.square().sum(dim=1)
        if classes is not None and labels is not None:
            log_weight = log_weight.masked_fill(classes[:, None] != labels[None, :], -torch.inf)
        highest = torch.maximum(most, log_weight.max(dim=1, keepdim=True).values)
        kept = torch.nan_to_num((most - highest).exp())  # before the first image of a class both are −∞
        weight = torch.nan_to_num((log_weight - highest).exp())
        total = kept * total + weight.sum(dim=1, keepdim=True)
        mean, most = kept * mean + weight @ x, highest
    return (mean / total).view_as(x_t)

"""Guidance by the gradient of a classifier of noisy images, p(y|x_t) (Dhariwal & Nichol 2021, algorithms 1 and 2).

μ̂ = μ_θ + s·Σ_θ·∇ log p(y|x_t),   ε̂ = ε_θ − s·σ_t·∇ log p(y|x_t)
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from diffusion_lab.diffusion.chain import GaussianDiffusion
from diffusion_lab.diffusion.condition_parts import classes_in
from diffusion_lab.diffusion.forward import per_sample
from diffusion_lab.diffusion.gaussian import Gaussian
from diffusion_lab.diffusion.predictions import eps_from_x_0, x_0_from_eps
from diffusion_lab.diffusion.reverse import ReverseProcess, ReverseStep
from diffusion_lab.diffusion.shapes import Conditions, Images, Number, Steps

from .guidance import Guidance, Interval


@dataclass(frozen=True)
class ClassifierGuidance(Guidance):
    """μ̂ = μ_θ + s·Σ_θ·g and ε̂ = ε_θ − s·σ_t·g, g = ∇ log p(y|x_t) (Dhariwal & Nichol 2021).

    Ancestral steps use the first, all others the second. x̂_0 follows ε̂, and is clipped again if the reverse process
    clips it. The network may also be conditioned on classes, or not.

    Parameters
    ----------
    classifier: (x_t (B, …), timesteps int64 (B,)) -> logits (B, num_classes), differentiable. It sees the 0-based index of the
        step in the original chain, like the network.
    scale: s ≥ 0; 0 leaves the process as it is and evaluates no classifier.
    name: of the classifier, for the record.
    """

    classifier: Callable[[Tensor, Tensor], Tensor] = field(repr=False)
    num_classes: int
    scale: Number = 1.0
    name: str = ""
    interval: Interval = None
    log_snr_interval: Interval = None

    neutral = 0.0

    def step(
        self, reverse: ReverseProcess, process: GaussianDiffusion, x_t: Images, t: Steps, y: Conditions = None
    ) -> ReverseStep:
        plain, classes = reverse(process, x_t, t, None if reverse.null is None else y), classes_in(y)
        if classes is None or self.scale == 0:
            return plain
        shift = self.scale * self._gradient(x_t, process.network_time(t), classes)
        mean, log_variance = plain.distribution.mean, plain.distribution.log_variance
        eps = plain.eps - per_sample(process.sigma(t), x_t) * shift
        guess = x_0_from_eps(process, eps, x_t, t)
        x_0 = reverse.clipping(guess)
        eps = eps if x_0 is guess else eps_from_x_0(process, x_0, x_t, t)
        return replace(plain, distribution=Gaussian(mean + log_variance.exp() * shift, log_variance), x_0=x_0, eps=eps)

    def _gradient(self, x_t: Images, timesteps: Steps, y: Int64[Tensor, " b"]) -> Float[Tensor, "b *dims"]:
        """∇ log p(y|x_t) with respect to x_t, nats."""
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            # A view, because torch's FLOP counter rejects gradients of a module's own input tensor.
            log_p = self.classifier(x.view_as(x), timesteps).log_softmax(dim=1)
            return torch.autograd.grad(log_p.gather(1, y[:, None]).sum(), x)[0]

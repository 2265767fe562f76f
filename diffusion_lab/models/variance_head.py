"""E[(x_0 − x̂_0)²|x_t]: a head on a frozen diffusion model, for variance=regressed. It is trained like a family, but generates
nothing.

L = E_t ½·((x_0 − x̂_0)²/r + log r),   x_t ~ q(x_t|x_0)                     `residual_terms`
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from diffusion_lab.analysis import Regressed, WithHead, residual_terms
from diffusion_lab.diffusion import ForwardProcess, SampleNoise, StratifiedTimesteps
from diffusion_lab.diffusion.shapes import Conditions
from diffusion_lab.models.diffusion import DiffusionModel
from diffusion_lab.models.optimization import Optimization
from diffusion_lab.models.trainable import QUARTERS, TrainableModel, step_outputs
from diffusion_lab.networks.flops import NetworkCost, network_cost


class VarianceHead(TrainableModel):
    """v of `Regressed`, at every t of the process of its base (see `attach_base`).

    Parameters
    ----------
    shape: (C, H, W) of images, or (D,) of points.
    network: given in_channels, 2·C, and out_channels, C, builds the head.
    seed: training's t, ε and dropped conditions at batch k are functions of (seed, k).
    """

    needs_base = True
    term_names = ("loss", "fit")
    sum_names = QUARTERS

    def __init__(
        self, shape: tuple[int, ...], network: Callable[..., nn.Module], optimization: Optimization, seed: int
    ) -> None:
        super().__init__()
        self.shape, self.num_classes = tuple(shape), None
        self.seed, self.optimization = seed, optimization
        self.network = network(in_channels=2 * self.shape[0], out_channels=self.shape[0])

    def attach_base(self, base: DiffusionModel) -> None:
        """Train beside `base` from now on. Its weights are not part of this model: they are neither trained nor saved here."""
        base.requires_grad_(False).eval()
        self._base = (base,)  # in a tuple, because a module would become a submodule
        network = WithHead(base.network, self.network)
        self._reverse = replace(base.reverse, network=network, variance=Regressed())
        # Real times if samplers may visit them.
        real = not base.schedule.tabulated
        self._process: ForwardProcess = base.schedule if real else base.process
        self._timesteps = StratifiedTimesteps(base.schedule.num_timesteps, real)

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """x (B, 2·C, …), the image and the mean part of the frozen network's output -> v (B, C, …) float32."""
        return self.network(x, timesteps)

    def on_fit_start(self) -> None:
        self._base[0].to(self.device)

    def training_step(self, batch: tuple[Tensor, Conditions], batch_idx: int) -> dict[str, Any]:
        """The loss at one t per sample."""
        x_0, y = batch
        t, w, eps = self.times_and_noise(x_0, self._timesteps)
        known = self.with_dropped_conditions(y, self._base[0].condition_dropout, self._reverse.null)
        terms = residual_terms(self._process, self._reverse, x_0, t, eps, known)
        return step_outputs(terms, t, w, self._process.num_timesteps)

    def held_out_terms(self, x_0: Tensor, y: Conditions, noise: SampleNoise) -> dict[str, Tensor]:
        """Terms at one uniform t per image; given its class, with y."""
        t = self._timesteps.spread(noise.uniform(0)).to(x_0.device)
        eps = noise.initial(self.shape).to(x_0)
        return residual_terms(self._process, self._reverse, x_0, t, eps, self._base[0].own_conditions(y))

    def cost(self) -> NetworkCost:
        """The cost of the head alone."""
        return network_cost(self.network, (2 * self.shape[0], *self.shape[1:]))

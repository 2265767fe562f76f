"""A residual multilayer perceptron for densities in a few dimensions, conditioned on time and class by FiLM.

h = W_in x_t,   h <- h + W_2 SiLU((1 + scale(e)) · LayerNorm(W_1 SiLU(h)) + shift(e))   for every layer,   output =
W_out SiLU(h)
"""

from collections.abc import Sequence

from torch import Tensor, nn

from diffusion_lab.conditions.condition import Size, has_field
from diffusion_lab.diffusion.shapes import Conditions
from diffusion_lab.networks.blocks import held_back, zero
from diffusion_lab.networks.embeddings import Conditioning
from diffusion_lab.networks.sizes import check_counts, check_dropout


class MLP(nn.Module):
    """network(x_t (B, in_channels) float32, timesteps int64 (B,), y=None, s=None) -> (B, out_channels) float32.

    hidden: width of every layer; num_layers: residual layers; y, s, num_classes, conditions, two_times, timestep_scale,
    held_channels: as for the U-Net. The output layer starts at zero, so the network's first output is exactly 0. Raises ValueError
    where a size is not a positive whole number.
    """

    takes_points = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_classes: int | None = None,
        hidden: int = 128,
        num_layers: int = 3,
        dropout: float = 0.0,
        held_channels: int = 0,
        conditions: Sequence[Size] = (),
        two_times: bool = False,
        timestep_scale: float = 1.0,
    ):
        super().__init__()
        check_counts(in_channels=in_channels, out_channels=out_channels, hidden=hidden, num_layers=num_layers)
        check_dropout(dropout)
        self.held_channels = held_channels
        if any(map(has_field, conditions)):
            raise ValueError(
                "condition=field: points have no pixels that a field could lie beside; use condition=vector"
            )
        self.conditioning = Conditioning(
            hidden, hidden, num_classes, timestep_scale, conditions=conditions, two_times=two_times
        )
        self.input = nn.Linear(in_channels, hidden)
        self.layers = nn.ModuleList(ResidualLayer(hidden, dropout) for _ in range(num_layers))
        self.output = zero(nn.Linear(hidden, out_channels))

    def forward(self, x_t: Tensor, timesteps: Tensor, y: Conditions = None, s: Tensor | None = None) -> Tensor:
        e = nn.functional.silu(self.conditioning(timesteps, y, s))
        h = self.input(x_t)
        for layer in self.layers:
            h = layer(h, e)
        return held_back(self.output, nn.functional.silu(h), self.held_channels).float()

    def classifier(self) -> "MLP":
        """This network, whose outputs are one logit each."""
        return self


class ResidualLayer(nn.Module):
    """h + W_2 dropout(SiLU((1 + scale(e)) · LayerNorm(W_1 SiLU(h)) + shift(e))): h, e (B, hidden); W_2 starts at zero."""

    def __init__(self, hidden: int, dropout: float):
        super().__init__()
        self.first = nn.Linear(hidden, hidden)
        self.norm = nn.LayerNorm(hidden, elementwise_affine=False)
        self.modulation = nn.Linear(hidden, 2 * hidden)
        self.dropout = nn.Dropout(dropout)
        self.last = zero(nn.Linear(hidden, hidden))

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        scale, shift = self.modulation(e).chunk(2, dim=1)
        z = self.norm(self.first(nn.functional.silu(h)))
        z = nn.functional.silu((1 + scale) * z + shift)
        return h + self.last(self.dropout(z))

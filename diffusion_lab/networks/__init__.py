"""The networks: tensors in, tensors out. network(x_t, timesteps, y) -> (B, out_channels, …) float32."""

from diffusion_lab.networks.mlp import MLP
from diffusion_lab.networks.unet import UNet

__all__ = ["MLP", "UNet"]

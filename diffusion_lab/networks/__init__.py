"""The networks: tensors in, tensors out. A denoiser's network(x_t, timesteps, y) -> (B, out_channels, …) float32.

A denoiser's network.classifier() turns a fresh one into a classifier of x_t: (x_t, timesteps) -> (B, out_channels) logits.
"""

from diffusion_lab.networks.mlp import MLP
from diffusion_lab.networks.unet import UNet

__all__ = ["MLP", "UNet"]
